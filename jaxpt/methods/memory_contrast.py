"""The MoCo step shared by methods that differ only in the loss: queries against a key memory."""

from jaxpt.methods import Method, Setup, encoding, updating


def contrast_with_memory(setup: Setup, loss_of, *, chance: float | None = None) -> Method:
    """Builds a method that runs the MoCo step with the given loss; ``look.py`` has it in full.

    Args:
      setup: the setup of the method.
      loss_of: (queries, own, memory) → (float32 losses, dict of scalar metrics), where ``queries``
        is ``encoding.Queries``, ``own`` is float32 [queries, dim] with the target's key of each
        query's own image, and ``memory`` is the memory before the step.
      chance: the loss without any signal, or None, see ``Method``.

    Raises:
      InputError: if a setting of the target encoder or the memory is invalid.
    """
    config = setup.config
    encoding.check_target(config)
    updating.check_memory(config)
    encoder = encoding.projected_encoder(setup)

    def step(state, batch):
        # Outside the differentiated function: no gradient flows into the target encoder.
        keys, target_stats = encoding.target_keys(encoder, state.target, batch, config)

        def loss_of_params(params):
            queries = encoding.queries(encoder, params, state, batch, config)
            per_query, metrics = loss_of(queries, encoding.each_view(keys, config), state.memory)
            return per_query, (queries, metrics)

        state, metrics = updating.descend(setup, state, loss_of_params)
        state = updating.follow(setup, state, target_stats)
        # After the loss, which must not see keys of its own batch in the memory.
        return updating.remember(setup, state, keys, batch), metrics

    return Method(
        encoder,
        updating.make_init(setup, encoder, target=True, memory=True),
        step,
        updating.make_fill(setup, encoder),
        chance,
    )
