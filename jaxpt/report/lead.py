"""The result in plain sentences, for the top of the page."""

import math
from typing import NamedTuple

import numpy as np

from jaxpt.report import statistics
from jaxpt.report.metrics import COARSE_KNN, FINE, FINETUNE, Metric
from jaxpt.report.results import Results, join

HOW = {
    "fine_knn": "a vote of its nearest neighbours",
    "fine_linear": "a linear classifier of its features",
    "fine_5shot": "a classifier that saw five images per class",
    "fine_finetune": "the fine-tuned network",
    "coarse_knn": "a vote of its nearest neighbours",
}


class Guess(NamedTuple):
    """The accuracy of a guess: always the most frequent of ``classes`` classes.

    Attributes:
      classes: number of classes.
      share: of the scored images in the most frequent class.
      images: number of scored images, 0 if unknown.
    """

    classes: int
    share: float
    images: int


def guess(results: Results, metric: Metric) -> Guess | None:
    """The guess to compare an accuracy with; None if the records do not determine it."""
    kind = "coarse" if metric.key.startswith("coarse_") else "fine"
    for run in results.runs:
        for source in run["sources"]:
            if kind in source.get("guess", {}):
                return Guess(*(source["guess"][kind][name] for name in Guess._fields))
        for details in run["details"].get("confusion", []):
            counts = np.asarray(details["matrix"]).sum(axis=1)
            if kind == "coarse":
                counts = np.bincount(details["coarse_of"], counts)
            if counts.sum() > 0:
                return Guess(len(counts), float(counts.max() / counts.sum()), int(counts.sum()))
    return None


def sentences(results: Results) -> list[str]:
    """What was measured, the highest method, chance level, and how far to trust it.

    [] for results without an accuracy.
    """
    scores = [m for m in (*FINE, FINETUNE, COARSE_KNN) if results.has(m)]
    if not scores:
        return []
    metric, *others = scores
    ranked = _ranked(results, metric)
    by_chance = guess(results, metric)
    (first, mean), *rest = ranked
    classes = "class"
    if results.coarse:
        classes = "coarse class" if metric == COARSE_KNN else "fine class"
    number = f"one of {by_chance.classes} {_plural(classes)}" if by_chance else classes
    text = (
        f"On {results.data}, {results.name(first)}"
        f"{' has the highest accuracy' if rest else ''}: {HOW[metric.key]} names the right "
        f"{number} for {metric.text(mean)} % of the {results.part} images"
    )
    if by_chance:
        text += f" (always guessing the most frequent class: {metric.text(by_chance.share)} %)"
    found = [text + "."]
    if rest:
        listed = join([f"{results.name(label)} {metric.text(value)} %" for label, value in rest])
        found[0] += f" Then {'come' if len(rest) > 1 else 'comes'} {listed}."
    trust = _trust(results, metric, first, [label for label, _ in rest], by_chance, mean)
    found[0] += f" {trust}" * bool(trust)
    if others and rest:
        found.append(f"Highest in the others: {join([_top(results, m) for m in others])}.")
    return [text.replace(" %", "\N{NO-BREAK SPACE}%") for text in found]


def _top(results, metric):
    ranked = _ranked(results, metric)
    highest = metric.text(ranked[0][1])
    names = [results.name(label) for label, value in ranked if metric.text(value) == highest]
    return f"{results.plain(metric).title} ({join(names)}, {highest} %)"


def _ranked(results, metric):
    """Labels with their means, highest first."""
    found = {label: results.summary(label, metric.key) for label in results.methods}
    known = [(label, summary.mean) for label, summary in found.items() if summary]
    return sorted(known, key=lambda item: -item[1])


def _trust(results, metric, first, rest, by_chance, mean):
    values = {label: results.values(label, metric.key) for label in (first, *rest)}
    peers = {
        label: of
        for label, of in values.items()
        if label != first and len(of.keys() & values[first].keys()) >= statistics.MIN_SEEDS
    }
    if not peers:
        if len(values[first]) > 1:
            return ""
        text = "One seed"
        if rest:
            text = "One seed per method, so this is a single draw"
            if by_chance and by_chance.images:
                # 95 % of the difference of two accuracies on as many images.
                margin = 196 * math.sqrt(2 * max(mean * (1 - mean), 0.01) / by_chance.images)
                text += (
                    f": on {by_chance.images:,} images, differences below about "
                    f"{max(margin, 0.1):.0f} points may be chance"
                )
            return text + ". Several seeds would show which differences are real."
        return text + ": another training run may differ by some points."
    verdicts = statistics.against(values[first], peers)
    parts = []
    for word, phrase in (
        (statistics.ABOVE, "is significantly above"),
        (statistics.OPEN, "shows no clear difference from"),
    ):
        named = [results.name(label) for label, verdict in verdicts.items() if verdict.word == word]
        if named:
            parts.append(f"{phrase} {join(named)}")
    if not parts:
        return ""
    return f"Over {results.seeds}, {results.name(first)} {join(parts)} in this accuracy."


def _plural(word):
    return word[:-5] + "classes"
