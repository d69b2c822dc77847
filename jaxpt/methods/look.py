"""LOOK: leave-one-out k-nearest-neighbour pre-training (Feng et al., ICLR 2022).

    queries ← projector(backbone(views)), keys ← the same by the EMA target on another view
    loss    ← losses.look: each query is classified by its k nearest keys in the memory
    update  ← optimizer step; target ← EMA of the online encoder; memory ← the keys

The paper's k, temperature, memory and head are not public: the values here are jaxpt's defaults.
Beyond the paper, and off by default: ``own_view``, ``gate``, ``balanced``, ``robustness``,
``k_by_class``, ``local_views`` (multi-crop) and ``memory_kind = "bank"`` (the whole training set).
"""

import jax
import jax.numpy as jnp

from jaxpt import losses
from jaxpt.errors import require
from jaxpt.methods import Method, Setup, encoding, updating
from jaxpt.ops import knn
from jaxpt.ops.similarity import unit_vectors

NEIGHBORS = ("exact", "approximate")
RECALL = 0.95  # that "approximate" asks for
MEASURED = 8  # queries of a device on which it is measured


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
    how = {"form": "streamed", "recall": RECALL} if approximate else {}
    k_at = k_schedule(config, setup.steps, updating.memory_size(setup))

    def step(state, batch):
        memory, k = state.memory, k_at(state.step)
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
                balanced=settings.balanced,
                robustness=settings.robustness,
                **how,
            )
            if settings.own_view:  # the own second view as a positive, against the whole memory
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
                metrics["recall"] = recall_on_a_few(queries, memory, most, axis)
            return jnp.mean(per_query), (queries.batch_stats, metrics)

        state, metrics = updating.descend(setup, state, loss_of)
        state = updating.follow(setup, state, target_stats)
        return updating.remember(setup, state, keys, batch), metrics

    return Method(
        encoder,
        updating.make_init(setup, encoder, target=True, memory=True),
        step,
        updating.make_fill(setup, encoder),
    )


def check(config) -> None:
    """Raises InputError where LOOK's own settings make no sense."""
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


def recall_on_a_few(queries, memory, k: int, axis_name=None):
    """The share of their exact neighbours that the first few queries' search finds.

    Of those without ``balanced``, which moves similarities but not how candidates are chosen.
    With ``axis_name`` the memory is each device's part of it.
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
        key_rows=unit_vectors,
        block_size=knn.choose_block_size(queries.output.shape[0]),
    )


def k_schedule(config, steps, memory_size: int):
    """k over the steps: from the whole memory down to ``look.k``, geometrically.

    ``look.k_warmup`` is the duration of the way down; "0 steps" is ``look.k`` throughout, a
    number known when compiling, so that the loss may take the form for large memories. A schedule
    is traced: it compiles once, and takes the dense form.
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
    """k for each query, in proportion to how many keys of its class the memory holds.

    The mean over the classes that have keys is k; at least 1. With ``axis_name`` the memory is
    each device's part of it.
    """
    counts = jnp.zeros(classes).at[memory.labels].add(memory.valid, mode="drop")
    if axis_name is not None:
        counts = jax.lax.psum(counts, axis_name)
    share = counts * jnp.sum(counts > 0) / jnp.maximum(jnp.sum(counts), 1)
    return jnp.maximum(jnp.round(k * share[labels]), 1).astype(jnp.int32)
