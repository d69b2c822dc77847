"""Class counts of a config's images, and a sheet of examples with their augmented views."""

import os
import pathlib
from typing import NamedTuple

import jax
import numpy as np
import rich.table
from PIL import Image, ImageDraw, ImageFont

from jaxpt import pretrain
from jaxpt.data import sources
from jaxpt.data.crops import Cropping
from jaxpt.data.feed import Batch
from jaxpt.errors import InputError, require
from jaxpt.methods import encoding

TILE, LEAST, GAP, MARGIN, LABEL = 96, 48, 4, 16, 132  # pixels of the sheet
INK, QUIET, PAPER, LINE = "#1f2933", "#6b7682", "#f3f5f7", "#d5dade"
CLASSES_SHOWN = 40


class Sheet(NamedTuple):
    """A written contact sheet and its table of counts.

    Attributes:
      path: of the picture.
      table: number of images per class and split.
    """

    path: pathlib.Path
    table: rich.table.Table


def run(
    config, out: str | os.PathLike = "sheet.png", *, examples: int = 8, epoch: int = 0
) -> Sheet:
    """Writes a contact sheet of the views that training would draw, and counts images per class.

    Args:
      config: the pre-training config.
      out: the picture's file, .png.
      examples: rows of the sheet, over as many classes as possible.
      epoch: epoch whose views are shown.

    Raises:
      InputError: for an invalid config, invalid data, or a file that cannot be written.
    """
    require(
        pathlib.Path(out).suffix.lower() == ".png",
        f"--out must be a file that ends in .png, got {os.fspath(out)!r}.",
    )
    require(1 <= examples <= 100, f"--examples must lie between 1 and 100, got {examples}.")
    dataset = sources.load(config.data)
    method, _ = pretrain.prepare(config, dataset)
    train = pretrain.train_split(config, dataset)
    rows = of_all_classes(train.labels, min(examples, len(train.ids)))
    split, (config, cropping) = train.take(rows), pretrain.choose_crops(config, train.images)
    columns = views_of(config, split, rows, epoch, cropping, keys=method.fill is not None)
    names = [_row_name(dataset, label) for label in split.labels]
    title = f"{dataset.name} · {config.method} · {config.views} view" + "s" * (config.views > 1)
    if config.local_views:
        title += f" and {config.local_views} small crops"
    picture = draw(title, names, split.ids, columns)
    try:
        picture.save(out)
    except OSError as error:
        raise InputError(
            f"--out {os.fspath(out)!r} cannot be written ({error.strerror or error}): choose "
            "another file."
        ) from error
    return Sheet(pathlib.Path(out), counts(config, dataset, train))


def of_all_classes(labels: np.ndarray, n: int) -> np.ndarray:
    """Positions of n examples, taken from each class in turn, sorted by class."""
    turns = np.empty(len(labels), int)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        turns[members] = np.arange(len(members))
    chosen = np.lexsort((labels, turns))[:n]
    return chosen[np.lexsort((turns[chosen], labels[chosen]))]


def views_of(
    config,
    split: sources.Split,
    index: np.ndarray,
    epoch: int,
    cropping: Cropping | None = None,
    *,
    keys: bool,
) -> list[tuple[str, np.ndarray]]:
    """Columns of the sheet: heading and uint8 images [n, height, width, 1 or 3].

    Args:
      config: the pre-training config.
      split: the examples.
      index: int [n], their positions among the training examples.
      epoch: epoch whose views are drawn.
      cropping: the views that the host takes from whole pictures, if it does.
      keys: whether to add the view from which a memory's keys are made.
    """
    n, squares = len(split.ids), np.asarray(split.images)
    crops = {}
    if cropping:
        crops = cropping.empty(n, squares.shape[-1])
        for place, example in enumerate(split.ids.tolist()):
            taken = cropping.take(split.images, place, epoch=epoch, example=example)
            for view, crop in taken.items():
                crops[view][place] = crop
    batch = Batch(
        crops or squares,
        split.labels,
        split.ids,
        index.astype(np.int32),
        np.full(n, epoch, np.int32),
        np.int32(config.seed),
    )

    @jax.jit
    def images(batch):
        key = encoding.key_images(config, batch) if keys else None
        return encoding.view_images(config, batch), key

    views, key = jax.device_get(images(batch))
    columns = [("original", squares)]
    columns += [(f"view {v + 1}", part) for v, part in enumerate(_parts(views[0], n))]
    if keys:
        columns.append(("key view", to_pixels(key)))
    if config.local_views:
        columns += [(f"crop {v + 1}", part) for v, part in enumerate(_parts(views[1], n))]
    return columns


def to_pixels(images: np.ndarray) -> np.ndarray:
    """Converts views in −1 … 1 to uint8, with values outside clipped."""
    return np.round((np.clip(images, -1, 1) + 1) * 127.5).astype(np.uint8)


def counts(config, dataset: sources.Dataset, train: sources.Split) -> rich.table.Table:
    """Table of the number of images per class in each split and in training."""
    parts = {
        "train": dataset.train,
        "validation": dataset.validation,
        "test": dataset.test,
        "seen in training": train,
    }
    table = rich.table.Table(title=f"{dataset.name}: images of each class")
    for name, justify in (
        ("class", "left"),
        ("trained as", "left"),
        *((part, "right") for part in parts),
    ):
        table.add_column(name, justify=justify)
    numbers = np.stack(
        [np.bincount(part.labels, minlength=len(dataset.class_names)) for part in parts.values()],
        axis=1,
    )
    coarse = dataset.coarse(np.arange(len(dataset.class_names)))
    for i, row in enumerate(numbers[:CLASSES_SHOWN]):
        table.add_row(
            dataset.class_names[i], dataset.coarse.names[coarse[i]], *(f"{n:,}" for n in row)
        )
    if len(numbers) > CLASSES_SHOWN:
        table.add_row(
            f"… {len(numbers) - CLASSES_SHOWN} more",
            "",
            *(f"{n:,}" for n in numbers[CLASSES_SHOWN:].sum(axis=0)),
        )
    table.add_section()
    table.add_row(
        f"{len(numbers)} classes",
        f"{len(dataset.coarse.names)} classes",
        *(f"{n:,}" for n in numbers.sum(axis=0)),
    )
    return table


def draw(title: str, names, ids, columns) -> Image.Image:
    """Draws the sheet: one row per example, one column per view, small crops to scale."""
    largest = max(max(images.shape[1:3]) for _, images in columns)
    scale = max(1, TILE // largest) if largest <= TILE else TILE / largest
    tile = round(largest * scale)
    head = MARGIN + 56
    widths = [max(LEAST, round(images.shape[2] * scale)) for _, images in columns]
    # A wider gap after the original, from which the other columns are made.
    lefts = MARGIN + LABEL + np.cumsum([0, widths[0] + 3 * GAP, *(w + GAP for w in widths[1:])])
    sheet = Image.new(
        "RGB", (int(lefts[-1]) + MARGIN, head + len(names) * (tile + GAP) + MARGIN), PAPER
    )
    pen = ImageDraw.Draw(sheet)
    large, small = (ImageFont.load_default(size) for size in (18, 12))
    pen.text((MARGIN, MARGIN - 4), title, INK, large)
    for (heading, images), left, width in zip(columns, lefts.tolist(), widths):
        pen.text((left + width / 2, head - 8), heading, QUIET, small, anchor="ms")
        for r, image in enumerate(images):
            size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
            shown = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).resize(
                size, Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
            )
            sheet.paste(
                shown,
                (left + (width - size[0]) // 2, head + r * (tile + GAP) + (tile - size[1]) // 2),
            )
    for r, (name, example) in enumerate(zip(names, ids, strict=True)):
        top = head + r * (tile + GAP)
        for i, line in enumerate(name):
            pen.text((MARGIN, top + tile / 2 - 20 + 15 * i), _cut(pen, line, small), INK, small)
        pen.text((MARGIN, top + tile / 2 - 20 + 15 * len(name)), f"id {example}", QUIET, small)
        if r:
            pen.line((MARGIN, top - GAP // 2, MARGIN + LABEL - 8, top - GAP // 2), LINE)
    return sheet


def _parts(images, n):
    return to_pixels(images).reshape(-1, n, *images.shape[1:])


def _row_name(dataset, label) -> list[str]:
    """The class and, if its name differs, the class that it is trained as."""
    fine = dataset.class_names[label]
    coarse = dataset.coarse.names[dataset.coarse(np.array([label]))[0]]
    return [fine] if coarse == fine else [fine, f"as {coarse}"]


def _cut(pen, text, font) -> str:
    """Shortens a line to the available width."""
    if pen.textlength(text, font) <= LABEL - 8:
        return text
    while pen.textlength(text + "…", font) > LABEL - 8:
        text = text[:-1]
    return text + "…"
