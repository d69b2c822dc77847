"""Small pre-training configs on real digits, and single steps, for the tests of methods."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import oracles
from jaxpt.configs.pretrain import digits

from jaxpt import methods, models, pretrain
from jaxpt.data.feed import Batch
from jaxpt.methods import encoding
from jaxpt.ops import memory
from jaxpt.train.parallel import AXIS

METHODS = methods.METHODS
WITH_MEMORY = [name for name, entry in METHODS.items() if "memory" in entry.reads]
WITH_TARGET = [name for name, entry in METHODS.items() if "target" in entry.reads]
WITH_TEMPERATURE = [name for name, entry in METHODS.items() if "temperature" in entry.reads]
TWO_VIEWS = [name for name, entry in METHODS.items() if "crops" not in entry.reads]

BATCH, IMAGES, STEPS = 60, 300, 80
AUGMENT = {
    "crop_area": (1.0, 1.0),
    "crop_size": 0,
    "shift": 0,
    "flip": False,
    "contrast": 0.0,
    "brightness": 0.0,
    "noise": 0.0,
    "erase": 0.0,
}
# Small, so that compiling is quick; the learning rate suits so few steps.
RUN = {
    "data.label_map": "fine",
    "data.limit": IMAGES,
    "batch_size": BATCH,
    "devices": 1,
    "duration": f"{STEPS} steps",
    "log_every": "1 steps",
    "knn_every": f"{STEPS} steps",
    "augment": AUGMENT | {"shift": 1},
    "key_augment": AUGMENT | {"shift": 1},
    "model.norm": "batch",
    "model.options": {"widths": (16, 32), "strides": (2, 1)},
    "model.projector": {"hidden": (32,), "dim": 16},
    "model.predictor": {"hidden": (32,)},
    "optimizer.learning_rate": 1e-2,
    "look.k": 10,
    "look.k_warmup": "20 steps",
    "ema": 0.9,
    "dino.prototypes": 64,
    "memory": 250,
}  # no multiple of the batch: batches wrap round its end
OF_METHOD = {
    "look": {"memory": IMAGES + BATCH * STEPS},  # so that what it was filled with stays
    "nca": {"temperature": 0.1},
    "cross_entropy": {"optimizer.learning_rate": 3e-2},  # it has no temperature
    "sup_con": {"temperature": 0.1},
    "t_rex": {"local_views": 2},
    "dino": {"local_views": 2, "optimizer.learning_rate": 1e-3, "ema": 0.98},
}

# One step small enough to be made by hand.
HAND = RUN | {
    "augment": AUGMENT | {"flip": True},
    "key_augment": AUGMENT | {"flip": True},
    "batch_size": 8,
    "memory": 24,
    "look.k": 5,
    "look.k_warmup": "0 steps",
    "ema": 0.5,
    "ema_end": -1.0,
    "views": 2,
    "local_views": 0,
    "temperature": 0.2,
    "cross_entropy.label_smoothing": 0.1,
    "duration": "1 steps",
    "dino.prototypes": 12,
    "optimizer.name": "sgd",
    "optimizer.learning_rate": 0.1,
    "optimizer.weight_decay": 0.0,
    "model.norm": "group",
    "model.options": {"widths": (8,), "strides": (2,)},
    "model.projector": {"hidden": (), "dim": 6},
    "model.predictor": {"hidden": ()},
}


def config_of(method, changes):
    config = digits.get_config(method)
    config.model.options.unlock()
    config.update_from_flattened_dict(changes)
    return config


def batch_of(dataset, rows, *, epoch=0, seed=0):
    split = dataset.trainval.take(np.asarray(rows))
    return Batch(
        split.images,
        dataset.coarse(split.labels),
        split.ids,
        np.asarray(rows, np.int32),
        np.full(len(rows), epoch, np.int32),
        np.int32(seed),
    )


def over_one_device(function):
    """A function of one device, with the axis that its collectives need, of length one."""

    def run(state, batch):
        out = jax.vmap(function, in_axes=(None, 0), axis_name=AXIS)(
            state, jax.tree.map(lambda x: jnp.asarray(x)[None], batch)
        )
        return jax.tree.map(lambda x: x[0], out)

    return run


def some_state(method, config, dataset, batch):
    """A state in the middle of things: the target is not the online encoder, and the memory is
    partly filled, with keys of the batch's own examples among the others."""
    rng = np.random.default_rng(0)

    def some(params):
        return jax.tree.map(lambda p: np.float32(0.3 * rng.normal(size=p.shape)), params)

    shapes = jax.eval_shape(method.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    state = state.replace(params=some(shapes.params))
    if state.target is not None:
        state = state.replace(target=state.target.replace(params=some(shapes.target.params)))
    if state.centre is not None:
        state = state.replace(centre=some(shapes.centre))
    if state.memory is None:
        return state
    dim = config.model.projector.dim
    keys = oracles.unit(rng.normal(size=(20, dim)))
    ids = np.concatenate([batch.id[:4], dataset.trainval.ids[100:116]])
    labels = np.concatenate([batch.label[:4], rng.integers(0, 10, 16)])
    return state.replace(
        memory=memory.push(
            memory.create(config.memory, dim),
            jnp.asarray(keys),
            jnp.asarray(labels),
            jnp.asarray(ids),
        )
    )


def step_of(name, dataset, **changes):
    """One step of a method, and what went into it and came out.

    Outputs are those of the online encoder on the two views, predictions its predictor's; keys
    those of the target on its own view, targets those of the target on the two views.
    """
    config = config_of(name, HAND | changes)
    method, _ = pretrain.prepare(config, dataset)
    batch = batch_of(dataset, range(8), epoch=3, seed=5)
    before = some_state(method, config, dataset, batch)
    after, metrics = jax.jit(over_one_device(method.step))(before, batch)

    @jax.jit
    def ingredients():
        images = encoding.global_images(config, batch)
        encoded = models.encode(method.encoder, before.params, {}, images, train=True)
        if before.target is None:
            return encoded.output, encoded.prediction, None, None
        return (
            encoded.output,
            encoded.prediction,
            encoding.target_keys(method.encoder, before.target, batch, config)[0],
            encoding.target_outputs(method.encoder, before.target, images, config)[0],
        )

    outputs, predictions, keys, targets = jax.device_get(ingredients())
    return types.SimpleNamespace(
        config=config,
        method=method,
        batch=batch,
        before=before,
        after=after,
        metrics=metrics,
        outputs=outputs,
        predictions=predictions,
        keys=keys,
        targets=targets,
        labels=np.tile(batch.label, 2),
        ids=np.tile(batch.id, 2),
    )


def assert_close(a, b, atol=1e-5):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=atol)
