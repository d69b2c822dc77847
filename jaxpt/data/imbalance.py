"""Class imbalance: long-tailed draws of a training set, and sampling that evens classes out."""

import numpy as np

from jaxpt.data.dataset import Split
from jaxpt.data.feed import Strata
from jaxpt.errors import require

PROFILES = ("exponential", "pareto")
# Exponent q of each sampling: a class with n images has a share proportional to n^q of the batches.
SAMPLINGS = {"instance": 1.0, "square_root": 0.5, "class_balanced": 0.0}


def long_tailed(split: Split, config) -> Split:
    """Draws the long-tailed training set that a data config asks for.

    Classes are the set's own (fine) ones. Which of them are rare, and which images of a class are
    drawn, depends only on ``long_tail_seed``: every run gets the same images, and a class that is
    larger in one draw than in another has the same images there and more.

    Args:
      split: the examples to draw from.
      config: data config with ``long_tail`` ("PROFILE:RATIO", see ``profile``, or "" for all
        examples), ``long_tail_images`` (their number; 0: as many as the smallest class allows) and
        ``long_tail_seed``.

    Returns:
      The drawn examples, in the order of ``split``.

    Raises:
      InputError: for an invalid field, or if a class has too few images, or would get none.
    """
    text, images, seed = config.long_tail, config.long_tail_images, config.long_tail_seed
    require(images >= 0, f"data.long_tail_images must not be negative, got {images}.")
    require(0 <= seed < 2**31, f"data.long_tail_seed must lie in 0 … 2147483647, got {seed}.")
    if not text:
        require(
            not images,
            f"data.long_tail_images {images} needs a profile: set data.long_tail, such as "
            "exponential:100.",
        )
        return split
    present, labels = np.unique(split.labels, return_inverse=True)
    available = np.bincount(labels)
    shares = np.empty(len(present))
    shares[by_size(len(present), seed)] = profile(text, len(present))
    largest = images / shares.sum() if images else (available / shares).min()
    wanted = shares * largest
    short = np.argmax(wanted - available)
    require(
        wanted[short] <= available[short] + 1e-6,
        f"data.long_tail {text!r} of {images} images needs {wanted[short]:.0f} of class "
        f"{present[short]}, which has {available[short]}: set data.long_tail_images to at most "
        f"{int((available / shares).min() * shares.sum())}.",
    )
    require(
        wanted.min() >= 1,
        f"data.long_tail {text!r} would leave {wanted.min():.2g} images of the rarest of "
        f"{len(present)} classes: lower the ratio"
        + (", or raise data.long_tail_images." if images else "."),
    )
    drawn = [
        np.random.default_rng((seed, label)).permutation(np.flatnonzero(labels == i))[:size]
        for i, (label, size) in enumerate(zip(present.tolist(), whole(wanted)))
    ]
    return split.take(np.sort(np.concatenate(drawn)))


def by_size(classes: int, seed: int) -> np.ndarray:
    """Classes of a long-tailed draw, from the most frequent to the rarest: int [classes]."""
    return np.random.default_rng(seed).permutation(classes)


def thirds(labels: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """The third of the classes that a long-tailed draw makes frequent, the next, and the rarest.

    Args:
      labels: int [any] in which all classes occur that are drawn from.
      seed: ``long_tail_seed``.

    Returns:
      The classes by "many", "medium" and "few", whatever the ratio of the draw.
    """
    present = np.unique(labels)
    parts = np.array_split(present[by_size(len(present), seed)], 3)
    return dict(zip(("many", "medium", "few"), parts))


def profile(text: str, classes: int) -> np.ndarray:
    """Sizes of classes relative to the largest, in descending order: float [classes].

    With rank r = 0 … C − 1: "exponential:RATIO" is RATIO^(−r / (C − 1)) and "pareto:RATIO" is
    (r + 1)^(−log RATIO / log C). In both the largest class is RATIO times the smallest.

    Raises:
      InputError: for other text, or a ratio below 1.
    """
    name, _, number = text.partition(":")
    try:
        ratio = float(number)
    except ValueError:
        ratio = np.nan
    require(
        name in PROFILES and 1 <= ratio < np.inf,
        f"data.long_tail must be empty or PROFILE:RATIO, with a profile of {PROFILES} and a ratio "
        f"of at least 1, such as exponential:100, got {text!r}.",
    )
    ranks, last = np.arange(classes), max(classes - 1, 1)
    if name == "exponential":
        return ratio ** (-ranks / last)
    return (ranks + 1.0) ** (-np.log(ratio) / np.log(last + 1))


def whole(parts: np.ndarray) -> np.ndarray:
    """Rounds numbers up or down, so that their sum is rounded too: int, same shape."""
    return np.diff(np.floor(np.cumsum(parts) + 0.5 + 1e-9), prepend=0).astype(int)


def by_class(sampling: str, labels: np.ndarray) -> Strata | None:
    """Makes strata of the classes; None for "instance", which shows every example equally often.

    Args:
      sampling: a key of ``SAMPLINGS``.
      labels: int [n], the labels to train with.

    Raises:
      InputError: for another name.
    """
    require(
        sampling in SAMPLINGS, f"data.sampling must be one of {tuple(SAMPLINGS)}, got {sampling!r}."
    )
    if SAMPLINGS[sampling] == 1:
        return None
    counts = np.unique(labels, return_counts=True)[1]
    members = np.split(np.argsort(labels, kind="stable"), np.cumsum(counts)[:-1])
    return Strata.by_weight(members, counts ** SAMPLINGS[sampling])
