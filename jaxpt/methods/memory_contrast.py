"""MoCo's scheme, which several methods are a loss in: queries against a memory of target keys."""

import jax.numpy as jnp

from jaxpt.methods import Method, Setup, encoding, updating


def contrast_with_memory(setup: Setup, loss_of) -> Method:
    """The method of that scheme with a loss of its own; ``look.py`` shows the same written out.

    Args:
      setup: the method's.
      loss_of: (queries, own, memory) → (float32 losses, dict of scalar metrics).
        ``queries`` are ``encoding.Queries``, ``own`` float32 [queries, dim] the target's key of
        each query's own image, ``memory`` as it was before the step.

    Raises:
      InputError: where target or memory make no sense.
    """
    config = setup.config
    encoding.check_target(config)
    updating.check_memory(config)
    encoder = encoding.projected_encoder(setup)

    def step(state, batch):
        keys, target_stats = encoding.target_keys(encoder, state.target, batch, config)

        def loss_of_params(params):
            queries = encoding.queries(encoder, params, state, batch, config)
            per_query, metrics = loss_of(queries, encoding.each_view(keys, config), state.memory)
            return jnp.mean(per_query), (queries.batch_stats, metrics)

        state, metrics = updating.descend(setup, state, loss_of_params)
        state = updating.follow(setup, state, target_stats)
        return updating.remember(setup, state, keys, batch), metrics

    return Method(
        encoder,
        updating.make_init(setup, encoder, target=True, memory=True),
        step,
        updating.make_fill(setup, encoder),
    )
