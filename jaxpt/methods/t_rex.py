"""t-ReX: a cosine softmax on a projector, with multi-crop (Sariyildiz et al., ICLR 2023).

``prototypes_from = "memory"`` are online class means (OCM): the prototype of a class is the mean
of its keys in a memory of the target encoder. t-ReX is OCM with three hidden layers in the
projector, t-ReX* OCM with one and with other crops. ``"learnt"`` has one learnt vector per class
and no memory, which the authors call plain t-ReX. As in jaxpt's other losses over a memory, keys of
the query's own image are left out, keys have length one, and they come from a view of their own.
"""

import math

import jax
from flax.core import meta

from jaxpt import losses
from jaxpt.errors import require
from jaxpt.methods import Method, Setup, encoding, memory_contrast, updating

SOURCES = ("memory", "learnt")


def make(setup: Setup) -> Method:
    config = setup.config
    encoding.check_temperature(config)
    source = config.t_rex.prototypes_from
    require(source in SOURCES, f"t_rex.prototypes_from must be one of {SOURCES}, got {source!r}.")
    return _learnt(setup) if source == "learnt" else _of_memory(setup)


def _learnt(setup):
    config = setup.config
    encoder = encoding.projected_encoder(setup)

    def prototypes(key):
        return {"prototypes": jax.random.normal(key, (setup.classes, config.model.projector.dim))}

    def step(state, batch):
        def loss_of(params):
            queries = encoding.queries(encoder, params, state, batch, config)
            per_query = losses.cosine_softmax(
                queries.output,
                meta.unbox(params["prototypes"]),
                queries.labels,
                temperature=config.temperature,
            )
            return per_query, (queries, {})

        return updating.descend(setup, state, loss_of)

    init = updating.make_init(setup, encoder, more_params=prototypes)
    return Method(encoder, init, step, chance=math.log(setup.classes))


def _of_memory(setup):
    config, axis = setup.config, updating.memory_axis(setup)

    def loss_of(queries, own, memory):
        per_query = losses.prototype_softmax(
            queries.output,
            memory.keys,
            queries.labels,
            memory.labels,
            classes=setup.classes,
            query_ids=queries.ids,
            key_ids=memory.ids,
            key_mask=memory.valid,
            axis_name=axis,
            temperature=config.temperature,
        )
        return per_query, {}

    return memory_contrast.contrast_with_memory(setup, loss_of, chance=math.log(setup.classes))
