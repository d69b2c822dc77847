"""Evaluators for figures: confusion matrix, nearest neighbours and feature map.

Their details are plain JSON values from which the report draws; docs/evaluation.md has the formats.
"""

import base64
import io

import jax.numpy as jnp
import numpy as np
from PIL import Image

from jaxpt.errors import require
from jaxpt.evaluation.knn import knn_classify
from jaxpt.evaluation.projection import project
from jaxpt.evaluation.task import Measured, Task
from jaxpt.ops import knn as nearest
from jaxpt.ops.similarity import unit_vectors

SMALL = 48  # pixels per side


def confusion(task: Task, *, k: int, temperature: float) -> Measured:
    """Confusion of fine classes by the weighted kNN vote: the matrix and confused_within.

    confused_within is the share of all errors that stay inside the true coarse class. It is absent
    if there are no errors or no label map.

    Returns:
      the value confused_within; details class_names, coarse_of, coarse_names, and matrix: int
      [true, predicted].
    """
    predicted = knn_classify(
        task.fit.features, task.fit.fine, task.score.features, k=k, temperature=temperature
    )
    n, coarse = len(task.class_names), np.asarray(task.coarse_of)
    matrix = np.zeros((n, n), np.int64)
    np.add.at(matrix, (task.score.fine, predicted), 1)
    wrong = matrix - np.diag(np.diag(matrix))
    values, notes = {}, ()
    if "coarse" in task.labels and wrong.any():
        values["confused_within"] = float(wrong[coarse[:, None] == coarse].sum() / wrong.sum())
    elif "coarse" in task.labels:
        notes = ("no confused_within: there are no errors.",)
    return Measured(
        values,
        {
            "matrix": matrix.tolist(),
            "class_names": list(task.class_names),
            "coarse_of": coarse.tolist(),
            "coarse_names": list(task.coarse_names),
        },
        notes,
    )


def neighbors(task: Task, *, queries: int, k: int, side: int) -> Measured:
    """A sample of scored images, each with its k nearest fitted images by cosine.

    Queries are drawn class by class in turn and are the same for all networks.

    Returns:
      no values; details class_names, queries, average_cosine (of a query and any fitted image, to
      compare the cosines of neighbours with), and images: id → PNG in base64 (JPEG if larger than
      48 pixels), scaled down if a side is longer than ``side``.
    """
    require(
        task.score.images is not None and task.fit.images is not None,
        "neighbors are shown as images, but the task has no images.",
    )
    rows = _in_turn(task.score.fine, queries)
    asked = unit_vectors(jnp.asarray(task.score.features[rows]))
    keys = unit_vectors(jnp.asarray(task.fit.features))
    cosines, index = nearest.search(asked, keys, min(k, len(task.fit.ids)))
    shown, found = {}, []
    for row, near, places in zip(rows, np.asarray(cosines), np.asarray(index)):
        found.append(
            {
                **_named(task.score, row, shown, side),
                "neighbors": [
                    {**_named(task.fit, place, shown, side), "cosine": round(float(c), 4)}
                    for c, place in zip(near, places)
                ],
            }
        )
    return Measured(
        {},
        {
            "class_names": list(task.class_names),
            "images": shown,
            "queries": found,
            # Of any pair: the mean of all products is the product of the means.
            "average_cosine": round(float(asked.mean(axis=0) @ keys.mean(axis=0)), 4),
        },
    )


def feature_map(task: Task, *, examples: int, perplexity: float, seed: int) -> Measured:
    """PCA and t-SNE maps of a sample of scored images, the same sample for all networks.

    Returns:
      no values; details fine, coarse, class_names, coarse_names, pca, pca_share and tsne.
    """
    # Shuffled, so that no class is drawn on top of the others.
    order = np.random.default_rng(0).permutation(len(task.score.ids))[:examples]
    fine, coarse = task.score.fine[order], task.score.coarse[order]
    found = project(
        task.score.features, order, coarse == coarse.min(), perplexity=perplexity, seed=seed
    )
    return Measured(
        {},
        {
            "fine": fine.tolist(),
            "coarse": coarse.tolist(),
            "class_names": list(task.class_names),
            "coarse_names": list(task.coarse_names),
            "pca": _rounded(found.pca, 5),
            "pca_share": found.pca_share,
            "tsne": _rounded(found.tsne, 3),
        },
    )


def _in_turn(labels, most) -> np.ndarray:
    """At most ``most`` rows of a shuffled order, one of each class in turn."""
    shuffled = np.random.default_rng(0).permutation(len(labels))
    turn = np.zeros(len(labels), int)
    for label in np.unique(labels):
        members = np.flatnonzero(labels[shuffled] == label)
        turn[members] = np.arange(len(members))
    return shuffled[np.lexsort((labels[shuffled], turn))[:most]]


def _named(examples, row, shown, side) -> dict:
    """Id, label and, if there is one, file of a row; adds its picture to ``shown``."""
    name = str(examples.ids[row])
    if name not in shown:
        shown[name] = _encoded(examples.images[row], side)
    named = {"id": name, "label": int(examples.fine[row])}
    return named if examples.files is None else named | {"file": str(examples.files[row])}


def _encoded(image, side) -> str:
    """Encodes a uint8 image [height, width, 1 or 3] in base64.

    As PNG if it is small, where JPEG would blur the few pixels; else as JPEG, a fifth of the bytes.
    """
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    picture.thumbnail((side, side), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    if max(picture.size) <= SMALL:
        picture.save(file, "PNG", optimize=True)
    else:
        picture.save(file, "JPEG", quality=85)
    return base64.b64encode(file.getvalue()).decode()


def _rounded(points, decimals):
    return np.round(points, decimals).tolist()
