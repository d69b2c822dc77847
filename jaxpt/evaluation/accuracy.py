"""Evaluators of classification and retrieval accuracy: functions of a task and constants."""

import numpy as np

from jaxpt.errors import require
from jaxpt.evaluation.few_shot import episodes as mean_of_episodes
from jaxpt.evaluation.few_shot import few_shot as few_shot_accuracies
from jaxpt.evaluation.knn import knn_classify
from jaxpt.evaluation.linear import linear_probe
from jaxpt.evaluation.metrics import METRICS, top1
from jaxpt.evaluation.multi_label import multi_label_probe
from jaxpt.evaluation.retrieval import retrieval as rank_gallery
from jaxpt.evaluation.task import Measured, Task, some_rows


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
