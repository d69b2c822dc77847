"""LOOK: leave-one-out k-nearest-neighbour pre-training (Feng et al., ICLR 2022).

    queries ← projector(backbone(view)) of the online encoder
    keys    ← projector(backbone(another view)) of the EMA target encoder
    loss    ← losses.look: classifies each query by its k nearest keys in the memory
    update  ← optimizer step; then target ← EMA of the online encoder; memory ← the new keys

The formula is a reconstruction from the paper's abstract, the start of its introduction, the
caption of its figure 1, and what other papers say of it. We had no access to its sections on method
and experiments, and found no code of its authors. k, temperature, memory and head are jaxpt's
defaults, not the paper's.

Extensions, all off by default: ``own_view``, ``gate``, ``balanced``, ``robustness``,
``k_by_class``, ``local_views`` (multi-crop) and ``memory_kind = "bank"`` (one key per training
example).
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxpt import losses
from jaxpt.errors import require
from jaxpt.methods import Method, Setup, encoding, updating
from jaxpt.ops import knn
from jaxpt.ops.similarity import sources_of, unit_vectors

NEIGHBORS = ("exact", "approximate")
RECALL = 0.95  # recall requested of the approximate search
MEASURED = 8  # queries per device on which the recall is measured


def make(setup: Setup) -> Method:
    config, settings = setup.config, setup.config.look
    check(config)
    encoder = encoding.projected_encoder(setup)
    axis, most = updating.memory_axis(setup), min(settings.k, updating.memory_size(setup))
    approximate = settings.neighbors == "approximate"
    one_k = not settings.k_by_class and setup.steps(settings.k_warmup) == 0
    require(
        not approximate or (one_k and not settings.gate),
        "look.neighbors approximate needs the hard edge and one k: set look.gate to 0, "
        'look.k_by_class to False and look.k_warmup to "0 steps", or look.neighbors to exact.',
    )
    # Only the streamed form of the loss has an approximate search.
    how = {"form": "streamed", "recall": RECALL} if approximate else {}
    require(
        not settings.own_view or setup.label_sources is None,
        "look.own_view compares with the keys of all sources: set it to 0, or other_sources to "
        "negatives.",
    )
    k_at = k_schedule(config, setup.steps, updating.memory_size(setup))

    def step(state, batch):
        memory, k = state.memory, k_at(state.step)
        # Outside ``loss_of``: no gradient flows into the target encoder or its keys.
        keys, target_stats = encoding.target_keys(encoder, state.target, batch, config)

        def loss_of(params):
            queries = encoding.queries(encoder, params, state, batch, config)
            ids = {
                "query_ids": queries.ids,
                "key_ids": memory.ids,
                "key_mask": memory.valid,
                "axis_name": axis,
            }
            k_of_query = (
                k_of_labels(k, queries.labels, memory, setup.classes, axis)
                if settings.k_by_class
                else k
            )
            per_query, neighbors = losses.look(
                queries.output,
                memory.keys,
                queries.labels,
                memory.labels,
                **ids,
                k=k_of_query,
                temperature=config.temperature,
                no_positive=settings.no_positive,
                gate=settings.gate or None,
                label_sources=setup.label_sources,
                balanced=settings.balanced,
                robustness=settings.robustness,
                workspace=updating.workspace(config),
                **how,
            )
            if settings.own_view:  # the query's own key as positive, the whole memory as negatives
                own = losses.info_nce(
                    queries.output,
                    encoding.each_view(keys, config),
                    memory.keys,
                    **ids,
                    temperature=config.temperature,
                )
                per_query = (1 - settings.own_view) * per_query + settings.own_view * own
            metrics = {"k": k, **neighbors._asdict()}
            if approximate:
                metrics["recall"] = recall_on_a_few(
                    queries, memory, most, axis, label_sources=setup.label_sources
                )
            return per_query, (queries, metrics)

        state, metrics = updating.descend(setup, state, loss_of)
        state = updating.follow(setup, state, target_stats)
        # The keys enter the memory only now: the loss must not see keys of its own batch.
        return updating.remember(setup, state, keys, batch), metrics

    return Method(
        encoder,
        updating.make_init(setup, encoder, target=True, memory=True),
        step,
        updating.make_fill(setup, encoder),
        setup.chance(lambda classes, _: chance_of(most, classes)),
    )


def chance_of(k: int, classes: int) -> float:
    """LOOK's loss if all similarities are equal and classes are equally frequent.

    The number of same-class keys among the k neighbours is then binomial. A query without any gets
    one more neighbour, its nearest same-class key (``no_positive = "nearest"``).
    """
    if classes == 1:
        return 0.0
    p, found = 1 / classes, np.arange(1, k + 1)
    log_gamma = np.frompyfunc(math.lgamma, 1, 1)
    log_binomial = log_gamma(k + 1) - log_gamma(found + 1) - log_gamma(k - found + 1)
    log_binomial += found * math.log(p) + (k - found) * math.log1p(-p)
    with_positive = np.sum(np.exp(log_binomial.astype(float)) * np.log(k / found))
    return float(with_positive + (1 - p) ** k * math.log(k + 1))


def check(config) -> None:
    """Raises InputError if a setting that LOOK reads is invalid."""
    settings = config.look
    require(
        isinstance(settings.k, int) and settings.k >= 1,
        f"look.k must be a whole number of at least 1, got {settings.k}.",
    )
    require(
        settings.no_positive in losses.NO_POSITIVE,
        f"look.no_positive must be one of {losses.NO_POSITIVE}, got {settings.no_positive!r}.",
    )
    require(
        settings.gate >= 0,
        f"look.gate must not be negative (0 is the hard edge), got {settings.gate}.",
    )
    require(
        settings.neighbors in NEIGHBORS,
        f"look.neighbors must be one of {NEIGHBORS}, got {settings.neighbors!r}.",
    )
    encoding.check_shares(config, "look.own_view", "look.robustness")
    encoding.check_temperature(config)
    encoding.check_target(config)
    updating.check_memory(config)
    updating.check_workspace(config)


def recall_on_a_few(queries, memory, k: int, axis_name=None, *, label_sources=None):
    """Recall of the approximate search, measured on the first few queries of the batch.

    Measured without ``balanced``, which shifts similarities but does not change how candidates are
    chosen. With ``axis_name``, ``memory`` is this device's shard.
    """
    few = jax.lax.stop_gradient(unit_vectors(queries.output[:MEASURED]))
    return knn.measured_recall(
        few,
        memory.keys,
        k,
        recall=RECALL,
        axis_name=axis_name,
        query_ids=queries.ids[:MEASURED],
        key_ids=memory.ids,
        key_mask=memory.valid,
        query_labels=sources_of(label_sources, queries.labels[:MEASURED]),
        key_labels=sources_of(label_sources, memory.labels),
        normalize=True,
        block_size=knn.choose_block_size(queries.output.shape[0]),
    )


def k_schedule(config, steps, memory_size: int):
    """Returns the schedule step → k: geometric decay from the memory's size to ``look.k``.

    The decay lasts ``look.k_warmup``. With "0 steps", k is ``look.k`` throughout, a Python int, so
    the loss may choose the streamed form for large memories. Otherwise k is traced: the step
    compiles once and the loss takes the dense form.
    """
    settings = config.look
    duration = steps(settings.k_warmup)
    if duration == 0:
        return lambda step: settings.k
    start = jnp.log(float(max(memory_size, settings.k)))
    end = jnp.log(float(settings.k))

    def k_at(step):
        share = jnp.minimum(step / duration, 1.0)
        return jnp.round(jnp.exp(start + share * (end - start))).astype(jnp.int32)

    return k_at


def k_of_labels(k, labels, memory, classes: int, axis_name=None):
    """Per-query k, proportional to the number of keys that the query's class has in the memory.

    The mean over the classes that have keys is k, up to rounding; every k is at least 1. With
    ``axis_name``, ``memory`` is this device's shard.
    """
    counts = jnp.zeros(classes).at[memory.labels].add(memory.valid, mode="drop")
    if axis_name is not None:
        counts = jax.lax.psum(counts, axis_name)
    share = counts * jnp.sum(counts > 0) / jnp.maximum(jnp.sum(counts), 1)
    return jnp.maximum(jnp.round(k * share[labels]), 1).astype(jnp.int32)
