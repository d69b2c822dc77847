"""Cross-entropy: a linear classifier on the backbone, trained with it.

With ``classifier = "mlp"`` the projector stands before the classifier and is left behind in
transfer (SL-MLP: Wang et al., CVPR 2022).
"""

import jax.numpy as jnp

from jaxpt import losses, models
from jaxpt.errors import require
from jaxpt.methods import encoding, updating
from jaxpt.methods.setup import Method, Setup

CLASSIFIERS = ("linear", "mlp")


def make(setup: Setup) -> Method:
    config, axis = setup.config, setup.axis_name
    require(0 <= config.label_smoothing < 1,
            f"label_smoothing must be at least 0 and below 1, got {config.label_smoothing}.")
    require(config.classifier in CLASSIFIERS,
            f"classifier must be one of {CLASSIFIERS}, got {config.classifier!r}.")
    head = (models.Classifier(setup.classes) if config.classifier == "linear" else
            models.MlpClassifier(models.make_projector(config.model, axis_name=axis),
                                 setup.classes))
    encoder = models.Encoder(models.make_backbone(config.model, axis_name=axis), head)

    def step(state, batch):
        def loss_of(params):
            queries = encoding.queries(encoder, params, state, batch, config)
            per_example = losses.cross_entropy(queries.output, queries.labels,
                                               label_smoothing=config.label_smoothing)
            accuracy = jnp.mean(jnp.argmax(queries.output, axis=-1) == queries.labels)
            return jnp.mean(per_example), (queries.batch_stats, {"accuracy": accuracy})

        return updating.descend(setup, state, loss_of)

    return Method(encoder, updating.make_init(setup, encoder), step)
