"""What depends on how deep a parameter lies: learning rates that fall towards the images, and
parts that stay as they are.

The parts of a backbone are told by the names of its modules: the number after "stage", "block" or
"layer", or else at the end, is the depth. Names without number are the stem, at depth 0, but for
a last normalisation, which lies as deep as the last part.
"""

import re
from typing import Any

import jax
import optax

from jaxpt.errors import require


def depths(params) -> Any:
    """Depth of every parameter of an encoder: 0 … n − 1 in the backbone, n in the head.

    Args:
      params: of an ``Encoder``, {"backbone": …, "head": …}.

    Returns:
      int for each parameter, in a tree of the same structure.
    """
    numbers = {name: _number(name) for name in params["backbone"]}
    deepest = max(n for n in numbers.values() if n is not None)
    numbers = {name: deepest if n is None else n for name, n in numbers.items()}
    return {
        "backbone": {
            name: jax.tree.map(lambda _: numbers[name], part)
            for name, part in params["backbone"].items()
        },
        **{
            name: jax.tree.map(lambda _: deepest + 1, part)
            for name, part in params.items()
            if name != "backbone"
        },
    }


def parts_of(params) -> int:
    """How many parts of different depth a backbone has, its stem included."""
    return max(jax.tree.leaves(depths({"backbone": params["backbone"]}))) + 1


def rates(params, *, decay: float, frozen: int) -> Any:
    """Factor of the learning rate of every parameter.

    decay^(n − depth) (Howard and Ruder 2018; Clark et al. 2020 across blocks): 1 in the head, and 0
    where the depth is below ``frozen``.

    Raises:
      InputError: for a decay outside (0, 1], or more frozen parts than there are.
    """
    require(0 < decay <= 1, f"layer_decay must be above 0 and at most 1, got {decay}.")
    parts = parts_of(params)
    require(
        0 <= frozen <= parts,
        f"freeze must lie between 0 and the {parts} parts of this "
        f"backbone (or be -1 for all of them), got {frozen}.",
    )
    return jax.tree.map(
        lambda depth: decay ** (parts - depth) if depth >= frozen else 0.0, depths(params)
    )


def scale_by_depth(factors) -> optax.GradientTransformation:
    """Multiplies every parameter's update by its factor; behind an optimizer, that of its rate."""
    return optax.stateless(lambda updates, _: jax.tree.map(lambda u, f: u * f, updates, factors))


def _number(name: str) -> int | None:
    found = re.search(r"(?:stage|block|layer)s?_?(\d+)", name) or re.search(r"_(\d+)$", name)
    if found:
        return int(found[1])
    return None if re.search(r"final|last|head|post|^(encoder_)?norm$", name) else 0
