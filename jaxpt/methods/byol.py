"""BYOL: predicts the target encoder's output for the other view (Grill et al., NeurIPS 2020).

Neither labels nor negatives are used. In the paper the two views pass through BatchNorm one after
the other: set ``separate_views``.
"""

from jaxpt import losses
from jaxpt.methods import Method, Setup, encoding, updating


def make(setup: Setup) -> Method:
    config = setup.config
    encoding.check_two_views(config)
    encoding.check_target(config)
    encoder = encoding.projected_encoder(setup, predictor=True)

    def step(state, batch):
        # Outside ``loss_of``: no gradient flows into the target encoder.
        views = encoding.apart(encoding.global_images(config, batch), config)
        targets, target_stats = encoding.target_outputs(encoder, state.target, views, config)

        def loss_of(params):
            queries = encoding.queries(encoder, params, state, batch, config)
            per_view = losses.cosine_regression(queries.prediction, encoding.other_view(targets))
            return 2 * per_view, (queries, {})  # the sum over the two orders

        state, metrics = updating.descend(setup, state, loss_of)
        return updating.follow(setup, state, target_stats), metrics

    init = updating.make_init(setup, encoder, target=True)
    return Method(encoder, init, step, chance=4.0)  # of orthogonal vectors, in both orders
