"""Evaluators: functions of a task and constants. ``suites`` names them and holds the constants.

First come those of the accuracy of classification and retrieval, then those of feature geometry,
then those for figures: confusion matrix, nearest neighbours and feature map.

All evaluators measure the scored images except neural collapse and RankMe, which use the images
that are fitted on, as in their papers. Classes in geometry are the coarse ones (those of
pre-training) unless the name says fine; without a label map they are the fine ones. The details for
figures are plain JSON values from which the report draws; docs/evaluation.md has the formats.
"""

import base64
import io

import jax.numpy as jnp
import numpy as np
from PIL import Image

from jaxpt.errors import require
from jaxpt.evaluation import geometry, logistic
from jaxpt.evaluation.cka import cka_matrix
from jaxpt.evaluation.few_shot import episodes as mean_of_episodes
from jaxpt.evaluation.few_shot import few_shot as few_shot_accuracies
from jaxpt.evaluation.knn import knn_classify
from jaxpt.evaluation.linear import linear_probe, multi_label_probe
from jaxpt.evaluation.metrics import METRICS, top1
from jaxpt.evaluation.neural_collapse import neural_collapse as collapse_of
from jaxpt.evaluation.projection import project
from jaxpt.evaluation.retrieval import retrieval as rank_gallery
from jaxpt.evaluation.task import Measured, Task, some_rows
from jaxpt.ops import knn as nearest
from jaxpt.ops.similarity import unit_vectors

SMALL_PICTURE = 48  # pixels per side


def knn(task: Task, *, k: int, temperature: float) -> Measured:
    """Top-1 accuracy of the weighted kNN vote, as fine_knn and coarse_knn."""
    return Measured(
        {
            f"{prefix}knn": top1(
                knn_classify(
                    task.fit.features, known, task.score.features, k=k, temperature=temperature
                ),
                wanted,
            )
            for prefix, known, wanted in task.sides()
        }
    )


def classifier(task: Task) -> Measured:
    """Top-1 accuracy of the classifier that the network was trained with, as classifier.

    Raises:
      InputError: if the network has none, or one of other classes.
    """
    layer = task.classifier
    require(
        layer is not None,
        "this network has no linear classifier of its own: cross_entropy with classifier=linear "
        "trains one.",
    )
    classes = layer["bias"].shape[0]
    require(
        classes == len(task.coarse_names),
        f"the network's classifier has {classes} classes, but the set has "
        f"{len(task.coarse_names)}: measure it on the set that it was trained on.",
    )
    logits = task.score.features @ layer["kernel"] + layer["bias"]
    return Measured({"classifier": top1(np.argmax(logits, axis=1), task.score.coarse)})


def linear(task: Task, *, l2_grid) -> Measured:
    """Linear probe in the set's metric, as fine_linear, its linear_l2, and coarse_linear.

    If the metric is not top-1, the accuracies are also given as fine_linear_top1 and
    coarse_linear_top1. For a multi-label set, fine_linear is the 11-point mAP.
    """
    if task.multi_label:
        found = multi_label_probe(
            task.fit.features,
            task.fit.fine,
            task.score.features,
            task.score.fine,
            validation=task.validation,
            l2_grid=l2_grid,
            train_difficult=task.fit.difficult,
            test_difficult=task.score.difficult,
        )
        return Measured({"fine_linear": found.map, "linear_l2": found.l2})
    values = {}
    for prefix, known, wanted in task.sides():
        probe = linear_probe(
            task.fit.features,
            known,
            task.score.features,
            wanted,
            validation=task.validation,
            l2_grid=l2_grid,
        )
        values[f"{prefix}linear"] = METRICS[task.metric](probe.predictions, wanted)
        if task.metric != "top1":
            values[f"{prefix}linear_top1"] = top1(probe.predictions, wanted)
        if prefix == "fine_":
            values["linear_l2"] = probe.l2
    return Measured(values)


def few_shot(task: Task, *, shots, draws: int, l2: float) -> Measured:
    """Accuracy of ridge regression on few shots, mean over draws: fine_1shot, coarse_5shot, …"""
    return _few_shot(task, shots, "", draws=draws, l2=l2, head="ridge")


def few_shot_logistic(task: Task, *, shots, draws: int) -> Measured:
    """Accuracy of logistic regression on the shots of ``few_shot``: fine_1shot_logistic, …"""
    return _few_shot(task, shots, "_logistic", draws=draws, head="logistic")


def _few_shot(task, shots, suffix, **how) -> Measured:
    """Accuracies for the numbers of shots that every class can supply; notes name the others."""
    values, notes = {}, []
    for prefix, known, wanted in task.sides():
        classes, counts = np.unique(known, return_counts=True)
        names = task.coarse_names if prefix == "coarse_" else task.class_names
        for n in shots:
            name = f"{prefix}{n}shot{suffix}"
            if n > counts.min():
                notes.append(
                    f"no {name}: class {names[classes[np.argmin(counts)]]} has {counts.min()} "
                    "examples to draw from."
                )
            else:
                values[name] = float(
                    np.mean(
                        few_shot_accuracies(
                            task.fit.features, known, task.score.features, wanted, shots=n, **how
                        )
                    )
                )
    return Measured(values, notes=tuple(notes))


def episodes(task: Task, *, ways: int, shots, queries: int, count: int) -> Measured:
    """Accuracy over episodes of few fine classes of scored images: fine_5way1shot, …"""
    values, notes = {}, []
    classes, counts = np.unique(task.score.fine, return_counts=True)
    for n in shots:
        name = f"fine_{ways}way{n}shot"
        if len(classes) < ways:
            notes.append(f"no {name}: there are {len(classes)} classes.")
        elif counts.min() < n + queries:
            notes.append(
                f"no {name} with {queries} queries: class "
                f"{task.class_names[classes[np.argmin(counts)]]} "
                f"has {counts.min()} examples."
            )
        else:
            values[name] = mean_of_episodes(
                task.score.features,
                task.score.fine,
                ways=ways,
                shots=n,
                queries=queries,
                count=count,
            ).accuracy
    return Measured(values, notes=tuple(notes))


def retrieval(task: Task, *, at, examples: int) -> Measured:
    """Recall at k and mAP of each scored image among the others: fine_r1, fine_map, coarse_r1, …"""
    rows = some_rows(len(task.score.ids), examples)
    values = {}
    for prefix, _, wanted in task.sides():
        found = rank_gallery(task.score.features[rows], wanted[rows], at=at)
        values |= {f"{prefix}r{k}": recall for k, recall in found.recall.items()}
        values[f"{prefix}map"] = found.map
    return Measured(values)


def class_separation(task: Task) -> Measured:
    """R² of the coarse classes, as class_separation."""
    return Measured(
        {"class_separation": geometry.class_separation(task.score.features, task.score.coarse)}
    )


def alignment_uniformity(task: Task, *, power: float, t: float, examples: int) -> Measured:
    """Alignment of pairs of one fine class, and uniformity of all, as alignment and uniformity.

    Each example is paired with another of its fine class, in a fixed draw; an example that is alone
    in its class is in no pair.
    """
    rows = some_rows(len(task.score.ids), examples)
    features, other = task.score.features[rows], _partners(task.score.fine[rows])
    paired = other != np.arange(len(rows))
    values = {"uniformity": geometry.uniformity(features, t)}
    if not paired.any():
        return Measured(values, notes=("no alignment: no class has two images.",))
    alignment = geometry.alignment(features[paired], features[other[paired]], power)
    return Measured({"alignment": alignment} | values)


def _partners(labels) -> np.ndarray:
    """Index of another example of the same class for each example, or its own if it is alone."""
    rng = np.random.default_rng(0)
    partner = np.arange(len(labels))
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        partner[members] = np.roll(members, 1)
    return partner


def cdnv(task: Task) -> Measured:
    """Class-distance normalised variance of the coarse classes, as cdnv."""
    return Measured({"cdnv": geometry.cdnv(task.score.features, task.score.coarse)})


def neural_collapse(task: Task, *, classifier_l2: float, examples: int) -> Measured:
    """NC1 to NC4 of the coarse classes on images that are fitted on: nc1, nc2_equinorm, …, nc4.

    The classifier of NC3 and NC4 is a logistic regression on the same features, neither centred
    nor scaled. It is not the classifier of pre-training, because not every method has one.
    """
    rows = some_rows(len(task.fit.ids), examples)
    features, labels = task.fit.features[rows], task.fit.coarse[rows]
    classes, targets = np.unique(labels, return_inverse=True)
    classifier = logistic.fit(features, targets, len(classes), [classifier_l2])
    found = collapse_of(features, labels, weights=classifier.weights[0], bias=classifier.bias[0])
    return Measured({name: float(value) for name, value in found._asdict().items()})


def rank_me(task: Task, *, examples: int) -> Measured:
    """RankMe of the images that are fitted on, as rank_me."""
    rows = some_rows(len(task.fit.ids), examples)
    return Measured({"rank_me": geometry.rank_me(task.fit.features[rows])})


def effective_rank(task: Task) -> Measured:
    """Effective rank within coarse classes, as effective_rank."""
    return Measured(
        {"effective_rank": geometry.effective_rank(task.score.features, task.score.coarse)}
    )


def fine_purity(task: Task, *, k: int) -> Measured:
    """Fine-label purity of the nearest neighbours in the coarse class, as fine_purity."""
    return Measured(
        {
            "fine_purity": geometry.fine_purity(
                task.score.features, task.score.coarse, task.score.fine, k=k
            )
        }
    )


def cka(layers, other_layers, *, batch_size: int, seed: int) -> Measured:
    """CKA of all pairs of layers of two networks on the same images, as cka_features.

    Args:
      layers, other_layers: name → float [n, channels], the last layer last.

    Returns:
      the value cka_features, of the last layers; details layers, other_layers and matrix.
    """
    matrix = cka_matrix(layers, other_layers, batch_size=batch_size, seed=seed)
    return Measured(
        {"cka_features": float(matrix[-1, -1])},
        {"layers": list(layers), "other_layers": list(other_layers), "matrix": matrix.tolist()},
    )


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
    if max(picture.size) <= SMALL_PICTURE:
        picture.save(file, "PNG", optimize=True)
    else:
        picture.save(file, "JPEG", quality=85)
    return base64.b64encode(file.getvalue()).decode()


def _rounded(points, decimals):
    return np.round(points, decimals).tolist()
