"""Replay of the step at which a run produced NaN or inf."""

import contextlib
import functools
import os

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from jaxpt import models, pretrain
from jaxpt.configs.pretrain import defaults
from jaxpt.data import augment, imbalance, mixture, sources
from jaxpt.data.feed import make_feed, rows_of_step
from jaxpt.errors import require
from jaxpt.train import checkpoint, parallel
from jaxpt.train.parallel import AXIS, Devices
from jaxpt.train.workdir import require_same_data

SHOWN = 5  # most arrays and images that are listed


def run(workdir: str | os.PathLike) -> str:
    """Repeats the step from the state that was saved before it, and reports what is not finite.

    Args:
      workdir: of a run that stopped because a number was not finite.

    Returns:
      Lines of text: the metrics, the arrays of the new state that are not finite, and the images of
      the batch with the longest features.

    Raises:
      InputError: if the folder holds no such run, or the data are no longer those of the run.
    """
    kept = os.path.join(workdir, pretrain.NOT_FINITE)
    step = checkpoint.newest(kept)
    require(
        step is not None,
        f"{os.fspath(workdir)!r} holds nothing to replay: no run there stopped at NaN or inf.",
    )
    saved = checkpoint.about(kept, step)["config"]
    saved["data"] = pretrain.EARLIER | saved["data"]
    config = ml_collections.ConfigDict(defaults.completed(saved))
    devices = Devices(config.mapping, config.devices)
    require_same_data(workdir, sources.identify(config.data))
    dataset = sources.load(config.data)
    method, _ = pretrain.prepare(config, dataset)
    split = pretrain.train_split(config, dataset)
    shapes = pretrain.state_shapes(method, config, split.images.shape[1:])
    axes = pretrain.axes_of(shapes, config, devices.count)
    before = checkpoint.restore(kept, step, devices.placed(shapes, axes))
    _, cropping = pretrain.choose_crops(config, split.images)
    labels = dataset.coarse(split.labels)
    strata = mixture.strata(dataset, split, imbalance.by_class(config.data.sampling, labels))
    with contextlib.closing(make_feed(config, split, labels, devices, cropping)) as feed:
        order = {"n": feed.n, "seed": config.seed, "strata": strata}
        rows = rows_of_step(step, config.batch_size, **order)
        placed = next(feed.batches(iter([rows])))
        batch = parallel.on_host(jax.jit(feed.gather)(feed.data, placed))
        lengths = _feature_lengths(method.encoder, config, before, batch)
        step_fn = devices.map(
            lambda state, data, rows: method.step(state, feed.gather(data, rows)), like=before
        )
        after, metrics = step_fn(before, feed.data, placed)
    return "\n".join(
        [
            f"step {step + 1} repeated, from {kept}",
            *(f"  {name:24} {float(value):.6g}" for name, value in metrics.items()),
            *_broken(after),
            *_longest(lengths, split, rows, dataset.class_names),
        ]
    )


def _broken(state) -> list[str]:
    leaves = [
        (jax.tree_util.keystr(path), np.asarray(leaf))
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
        if jnp.issubdtype(leaf.dtype, jnp.floating)
    ]
    broken = [
        (name, int((~np.isfinite(x)).sum()), x.size)
        for name, x in leaves
        if not np.isfinite(x).all()
    ]
    if not broken:
        return ["all arrays are finite after the step: it does not fail here"]
    more = [f"  … and {len(broken) - SHOWN} more"] if len(broken) > SHOWN else []
    return [
        f"not finite after the step: {len(broken)} of {len(leaves)} arrays",
        *(f"  {name}: {bad:,} of {size:,} values" for name, bad, size in broken[:SHOWN]),
        *more,
    ]


@functools.partial(jax.jit, static_argnums=0)
def _lengths(encoder, params, batch_stats, images):
    encoded = models.encode(encoder, params, batch_stats, images, train=True)
    return jnp.linalg.norm(encoded.features.astype(jnp.float32), axis=-1)


def _feature_lengths(encoder, config, state, batch):
    """Norms of the features of the batch's first views, in training mode."""
    images = augment.draw_view(config.augment, batch, view=0)
    # vmap over one device provides the axis that synchronised batch statistics need.
    over_axis = jax.vmap(
        functools.partial(_lengths, encoder, state.params, state.batch_stats), axis_name=AXIS
    )
    return np.asarray(over_axis(images[None])[0])


def _longest(lengths, split, rows, class_names) -> list[str]:
    order = np.argsort(-np.nan_to_num(lengths, nan=np.inf))[:SHOWN]
    finite = lengths[np.isfinite(lengths)]
    median = f"{np.median(finite):.3g}" if finite.size else "not finite"
    return [
        f"largest feature norms of the batch's {len(lengths)} images, median {median}",
        *(
            f"  image {split.ids[rows.index[i]]} ({class_names[split.labels[rows.index[i]]]}): "
            f"{lengths[i]:.3g}"
            for i in order
        ),
    ]
