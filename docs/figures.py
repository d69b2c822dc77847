"""Draws the figures of docs/images.

    python docs/figures.py [neighborhood] [host_memory]

neighborhood: which keys a loss pulls a query towards, and away from. LOOK is trained on digits as
``jaxpt demo`` does (seed 0). The query is that training image whose neighbourhood in the last
memory is the most mixed. Each panel has the gradient of one of jaxpt's losses by the query's
similarity to each key.
host_memory: memory of a process that streams pictures, after each epoch, from the latest record of
``benchmarks/input.py``.
"""

import argparse
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from jaxpt.configs.pretrain import digits

from jaxpt import losses, pretrain, records
from jaxpt.data import sources
from jaxpt.evaluation.features import extract
from jaxpt.evaluation.geometry import unit_rows
from jaxpt.report import figures

HERE = pathlib.Path(__file__).parent
PICTURE, MEMORY = (HERE / "images" / f"{name}.png" for name in ("neighborhood", "host_memory"))
INPUT = HERE.parent / "benchmarks" / "records" / "input.jsonl"
TEMPERATURE = 0.1  # the same for all three, so that they differ in their form alone
EVERY = 3  # neighbour is drawn as an image


def train():
    """(set, unit rows of all training images by the online encoder, the memory, k)."""
    config = digits.get_config("look")
    dataset = sources.load(config.data)
    trained = pretrain.run(config, quiet=True, dataset=dataset)
    params, stats = jax.device_get((trained.state.params, trained.state.batch_stats))
    output = extract(trained.encoder, params, stats, dataset.trainval.images, what="output")
    return dataset, unit_rows(output), jax.device_get(trained.state.memory), config.look.k


def forces(cosines, label, key_labels, k: int) -> dict[str, np.ndarray]:
    """By loss, minus its gradient by the similarities of one query: positive pulls.

    The loss of a vector of similarities is that of a query that has them as coordinates, with
    the unit vectors along the axes as keys.
    """
    keys = jnp.eye(len(cosines))
    labels = jnp.array([label])
    shared = {"temperature": TEMPERATURE, "normalize": False}
    of_loss = {
        f"LOOK, k = {k}": lambda s: losses.look(s, keys, labels, key_labels, k=k, **shared)[0],
        "NCA": lambda s: losses.nca(s, keys, labels, key_labels, **shared)[0],
        "SupCon over the memory": lambda s: losses.sup_con(
            s, labels, keys=keys, key_labels=key_labels, **shared
        ),
    }
    return {
        name: -np.asarray(jax.grad(lambda s, loss=loss: loss(s[None])[0])(cosines))
        for name, loss in of_loss.items()
    }


def draw(dataset, rows, memory, k: int):
    """The figure."""
    coarse = dataset.coarse(dataset.trainval.labels)
    cosines = rows @ memory.keys.T
    cosines[dataset.trainval.ids[:, None] == memory.ids] = -2.0  # the image's own key
    nearest = np.argsort(-cosines, axis=1, kind="stable")
    purity = np.mean(memory.labels[nearest[:, :k]] == coarse[:, None], axis=1)
    query = int(np.argmin(np.abs(purity - 0.5)))
    others = np.flatnonzero(cosines[query] > -2.0)
    found = forces(cosines[query, others], coarse[query], memory.labels[others], k)

    centre = memory.keys.mean(axis=0)
    axes_2d = np.linalg.svd(memory.keys - centre, full_matrices=False)[2][:2].T
    points, here = (memory.keys[others] - centre) @ axes_2d, (rows[query] - centre) @ axes_2d
    with figures.panel(9, 4.4) as figure:
        figure.set_facecolor("white")
        top, bottom = figure.subfigures(2, 1, height_ratios=(1, 3.6))
        _strip(top, dataset, query, nearest[query, :k:EVERY], memory, coarse[query])
        for axis, (name, force) in zip(bottom.subplots(1, len(found)), found.items()):
            _panel(axis, name, force, points, here)
        figure.savefig(PICTURE, dpi=150)


def _strip(figure, dataset, query, nearest, memory, label):
    """The query, and keys as the images that they were made from."""
    figure.set_facecolor("white")
    position = {int(id_): i for i, id_ in enumerate(dataset.trainval.ids)}
    shown = [query, *(position[int(i)] for i in memory.ids[nearest])]
    right = [None, *(memory.labels[nearest] == label)]
    figure.suptitle(
        f"A query (left) and every {EVERY}rd of its neighbours, the nearest first: "
        "of its coarse class (blue) or not (orange)",
        fontsize=10,
    )
    for axis, i, same in zip(figure.subplots(1, len(shown)), shown, right):
        axis.imshow(dataset.trainval.images[i, ..., 0], cmap="gray_r")
        axis.set(xticks=[], yticks=[])
        color = figures.GREY if same is None else figures.BLUE if same else figures.VERMILLION
        axis.spines[:].set(visible=True, color=color, linewidth=2.5)


def _panel(axis, name, force, points, here):
    """Keys in the memory's principal plane; the area of a dot is the size of its force."""
    area = 500 * np.abs(force) / np.abs(force).max()
    axis.scatter(*points.T, s=2, color="#c4c8cc", linewidths=0)
    for sign, color in ((-1, figures.VERMILLION), (1, figures.BLUE)):
        of_sign = sign * force > 0
        axis.scatter(*points[of_sign].T, s=area[of_sign], color=color, alpha=0.35, linewidths=0)
    axis.plot(*here, "k*", markersize=11)
    pulled, pushed = np.sum(force > 1e-6), np.sum(force < -1e-6)
    axis.set_title(f"{name}\npulled by {pulled:,} keys, pushed by {pushed:,}")
    axis.set(xticks=[], yticks=[], box_aspect=1)


def draw_memory():
    """Memory by epoch, from zero on: a leak of one batch per epoch would be a steep line."""
    found = [record for record in records.read(INPUT) if record["part"] == "memory"][-1]
    mib = found["mib"]
    with figures.panel(6, 2.6) as figure:
        figure.set_facecolor("white")
        axis = figure.subplots()
        axis.plot(range(1, len(mib) + 1), mib, "o-", color=figures.BLUE, markersize=4)
        axis.set(xlim=(0, len(mib) + 0.5), ylim=(0, 1.25 * max(mib)))
        axis.set(xlabel="epoch", ylabel="resident memory, MiB")
        axis.set_xticks(range(0, len(mib) + 1, 5))
        axis.set_title(f"Two crops of each of {found['images']:,} JPEGs per epoch")
        figure.savefig(MEMORY, dpi=150)


FIGURES = {"neighborhood": lambda: draw(*train()), "host_memory": draw_memory}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="draws the figures of docs/images")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(FIGURES)}")
    for name in parser.parse_args().names or FIGURES:
        FIGURES[name]()
