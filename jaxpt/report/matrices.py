"""Heat maps: confusion between classes, and CKA between the layers of two networks."""

from typing import Any

import numpy as np
from matplotlib.colors import to_rgb

from jaxpt.errors import require
from jaxpt.report import drawing
from jaxpt.report.drawing import panel, short, to_svg
from jaxpt.report.markup import Markup
from jaxpt.report.results import NAMES, Results

WRITTEN_CELLS = 12  # rows up to which numbers are written into cells
NAMED_ROWS = 40  # rows up to which classes are named
WORST = 5  # errors listed per method
_STRONGEST = 0.8  # opacity of a full cell, on which text can still be read


def confusion(results: Results, label: str, details: dict[str, Any]) -> Markup:
    """Confusion matrix of one method, in shares of each row, with classes grouped by coarse class.

    Errors inside and outside the true coarse class have different colours. Opacity grows with the
    square root of the share, so that rare errors are visible next to frequent hits.
    """
    shares, order, coarse = _ordered(details)
    inside = coarse[:, None] == coarse[None]
    strength = np.sqrt(shares) * np.where(np.eye(len(shares), dtype=bool), 0.5, 1.0)
    colors = np.where(inside[..., None], to_rgb(drawing.VERMILLION), to_rgb(drawing.BLUE))
    colors[np.diag_indices(len(shares))] = to_rgb("#7f7f7f")
    names = [short(str(details["class_names"][i])) for i in order]
    side = float(np.clip(1.0 + 0.23 * len(names), 2.6, 4.2))
    with panel(side, side + 0.2) as figure:
        axis = figure.subplots()
        _heat_map(axis, colors, strength)
        _write_cells(axis, 100 * shares, "{:.0f}", least=0.5)
        for edge in np.flatnonzero(np.diff(coarse) * has_coarse(details)) + 0.5:
            axis.axhline(edge, color="black", lw=0.8)
            axis.axvline(edge, color="black", lw=0.8)
        if len(names) <= NAMED_ROWS:
            upright = max(map(len, names)) <= 2
            axis.set_xticks(range(len(names)), names, rotation=0 if upright else 90, fontsize=8)
            axis.set_yticks(range(len(names)), names, fontsize=8)
        else:
            axis.set(xticks=[], yticks=[])
        axis.set(title=short(results.name(label)), xlabel="predicted", ylabel="true")
        return to_svg(figure, f"confusion matrix of {results.name(label)}")


def has_coarse(details: dict[str, Any]) -> bool:
    """Whether the classes of a confusion matrix are grouped into coarse classes."""
    return len(details["coarse_names"]) < len(details["class_names"])


def worst_confusions(details: dict[str, Any]) -> list[str]:
    """The largest errors (within coarse classes, if any), such as "shirt → T-shirt 12.3 %"."""
    shares, order, coarse = _ordered(details)
    names = [str(details["class_names"][i]) for i in order]
    outside = (coarse[:, None] != coarse[None]) & has_coarse(details)
    errors = np.where(outside, 0, shares)
    np.fill_diagonal(errors, 0)
    largest = np.argsort(-errors, axis=None, kind="stable")[:WORST]
    pairs = [np.unravel_index(i, errors.shape) for i in largest]
    return [
        f"{names[i]} → {names[j]} {100 * errors[i, j]:.1f} %" for i, j in pairs if errors[i, j] > 0
    ]


def cka(results: Results, label: str, details: dict[str, Any]) -> Markup:
    """Heat map of linear CKA between all layers of one network and all layers of another."""
    matrix = np.asarray(details["matrix"], float)
    layers, others = ([short(str(x)) for x in details[name]] for name in ("layers", "other_layers"))
    require(
        matrix.shape == (len(layers), len(others)),
        f"the CKA matrix of {label!r} is "
        f"{list(matrix.shape)}, but it has {len(layers)} × {len(others)} layers: measure it "
        "again.",
    )
    other = NAMES.get(details["other_label"], str(details["other_label"]))
    with panel(max(2.4, 1.3 + 0.42 * len(others)), max(2.3, 1.2 + 0.36 * len(layers))) as figure:
        axis = figure.subplots()
        colors = np.broadcast_to(to_rgb(drawing.BLUE), (*matrix.shape, 3))
        _heat_map(axis, colors, np.clip(matrix, 0, 1))
        _write_cells(axis, matrix, "{:.2f}", least=-np.inf)
        axis.set_xticks(
            range(len(others)), others, rotation=40, ha="right", rotation_mode="anchor", fontsize=8
        )
        axis.set_yticks(range(len(layers)), layers, fontsize=8)
        axis.set(
            xlabel=f"{short(other)}, seed {details['other_seed']}",
            ylabel=short(results.name(label)),
        )
        return to_svg(figure, f"CKA of the layers of {results.name(label)} with those of {other}")


def _ordered(details):
    """Row shares sorted by coarse class, the order of the classes, and each row's coarse class."""
    counts = np.asarray(details["matrix"], float)
    coarse = np.asarray(details["coarse_of"])
    classes = len(details["class_names"])
    require(
        counts.shape == (classes, classes) and coarse.shape == (classes,),
        f"a confusion matrix of {classes} classes must be [{classes}, {classes}] with a coarse "
        f"class for each, got {list(counts.shape)} and {list(coarse.shape)}: measure it again.",
    )
    order = np.argsort(coarse, kind="stable")
    counts = counts[order][:, order]
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1), order, coarse[order]


def _heat_map(axis, colors, strength):
    """Draws cells whose opacity is the value, legible on light and on dark pages."""
    cells = np.concatenate([colors, _STRONGEST * strength[..., None]], axis=-1)
    axis.imshow(cells, interpolation="none", aspect="equal")
    axis.tick_params(length=0)
    for spine in axis.spines.values():
        spine.set(visible=True, lw=0.8)


def _write_cells(axis, values, form, least):
    if max(values.shape) > WRITTEN_CELLS:
        return
    for (row, column), value in np.ndenumerate(values):
        if value >= least:
            axis.text(column, row, form.format(value), ha="center", va="center", fontsize=7.5)
