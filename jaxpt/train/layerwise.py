"""Layer-wise learning-rate decay, and freezing of the first layers.

The depth of a backbone's modules is read from their names: the number after "stage", "block" or
"layer", or else at the end. Names without a number are the stem, at depth 0, except for a final
normalization, which has the depth of the last part.
"""

import re
from typing import Any

import jax
import optax

from jaxpt.errors import require


def depths(params) -> Any:
    """Depth of every parameter of an encoder: 0 … n − 1 in the backbone, n in the head.

    Args:
      params: parameters of an ``Encoder``, {"backbone": …, "head": …}.

    Returns:
      An int for each parameter, in a tree of the same structure.
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
    """Number of depths in a backbone, including its stem."""
    return max(jax.tree.leaves(depths({"backbone": params["backbone"]}))) + 1


def rates(params, *, decay: float, frozen: int) -> Any:
    """Learning-rate factor of every parameter: decay^(n − depth), 1 in the head.

    See Howard and Ruder 2018; Clark et al. 2020 across blocks.

    Args:
      params: parameters of an ``Encoder``.
      decay: factor per depth, above 0 and at most 1.
      frozen: number of depths, from the stem on, whose factor is 0.

    Raises:
      InputError: for a decay outside (0, 1], or more frozen depths than there are.
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
    """Multiplies every update by its factor; after an optimizer, this scales the learning rate."""
    return optax.stateless(lambda updates, _: jax.tree.map(lambda u, f: u * f, updates, factors))


def _number(name: str) -> int | None:
    found = re.search(r"(?:stage|block|layer)s?_?(\d+)", name) or re.search(r"_(\d+)$", name)
    if found:
        return int(found[1])
    return None if re.search(r"final|last|head|post|^(encoder_)?norm$", name) else 0
