"""What pre-training starts from where that is not chance: a weight file."""

import os

import jax
import ml_collections

from jaxpt import models, weights
from jaxpt.errors import require
from jaxpt.train import checkpoint
from jaxpt.train import workdir as workdirs
from jaxpt.train.state import TrainState, copy


def open_weights(
    config: ml_collections.ConfigDict, workdir: str | os.PathLike | None
) -> tuple[ml_collections.ConfigDict, weights.Opened | None]:
    """Opens ``config.model.weights``, unless the run in ``workdir`` goes on.

    Returns:
      The config with the normalisation that belongs to the weights (a run that goes on keeps its
      own), and the weights, or None.

    Raises:
      InputError: for a file that cannot be read, or whose tensors are not exactly the network's.
    """
    if not config.model.weights:
        return config, None
    if workdir is not None and checkpoint.newest(workdir) is not None:
        saved, opened = workdirs.read_config(workdir), None
        normalisation = saved.model.get("normalisation", "") if saved else ""
    else:
        path, network = config.model.weights, models.make_backbone(config.model)
        opened = weights.open_file(
            path, weights.read(path), config.model, network=network, quiet=jax.process_index() > 0
        )
        normalisation = opened.model.normalisation
    config = config.copy_and_resolve_references()
    config.model.normalisation = config.model.normalisation or normalisation
    return config, opened


def from_weights(state: TrainState, opened: weights.Opened) -> TrainState:
    """The first state with the backbone's variables from a file, in the target encoder too.

    Heads keep their initial parameters; a classifier in the file is not used.
    """
    parts = {"params": opened.imported.params, "batch_stats": opened.imported.batch_stats}

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
