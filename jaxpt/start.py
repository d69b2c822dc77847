"""What pre-training starts from where that is not chance: a weight file."""

import jax

from jaxpt import weights
from jaxpt.errors import require
from jaxpt.train.state import TrainState, copy


def from_weights(state: TrainState, network, path: str) -> TrainState:
    """The first state with the backbone's variables from a file, in the target encoder too.

    Heads keep their initial parameters; a classifier in the file is not used.

    Args:
      state: before the first step.
      network: the backbone of its encoder.
      path: see ``weights.load_torch``.

    Raises:
      InputError: for a file that cannot be read, or whose tensors are not exactly the network's.
    """
    imported = weights.import_state(weights.load_torch(path), network)
    weights.tell_resized(imported, path)
    parts = {"params": imported.params, "batch_stats": imported.batch_stats}

    def started(holder):
        return holder.replace(
            **{
                name: {**getattr(holder, name), "backbone": copy(part)}
                for name, part in parts.items()
                if jax.tree.leaves(part)
            }
        )

    state = started(state)
    return state if state.target is None else state.replace(target=started(state.target))


def check_image_size(network, config, images) -> None:
    """Raises InputError where learnt positions are not those of the images that views show."""
    side = config.augment.crop_size or images.shape[1]
    learnt = getattr(network, "positions", "") == "learnt"
    require(
        not learnt or side == network.image_size,
        f"this ViT's positions are for images of "
        f"{learnt and network.image_size} pixels, but views have {side}: set "
        f"model.options.image_size to {side}, and model.options.patch to a divisor of it.",
    )
