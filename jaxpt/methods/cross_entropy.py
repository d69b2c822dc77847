"""Cross-entropy: a linear classifier on the backbone, trained with it.

With ``classifier = "mlp"`` the projector stands before the classifier and is left behind in
transfer (SL-MLP: Wang et al., CVPR 2022). With ``mixup`` or ``cutmix`` images are mixed with
others of the batch, and labels with theirs.
"""

import jax.numpy as jnp

from jaxpt import losses, models
from jaxpt.data import mixup
from jaxpt.errors import require
from jaxpt.methods import Method, Setup, encoding, updating

CLASSIFIERS = ("linear", "mlp")


def make(setup: Setup) -> Method:
    config, axis = setup.config, setup.axis_name
    require(
        0 <= config.label_smoothing < 1,
        f"label_smoothing must be at least 0 and below 1, got {config.label_smoothing}.",
    )
    require(
        config.classifier in CLASSIFIERS,
        f"classifier must be one of {CLASSIFIERS}, got {config.classifier!r}.",
    )
    head = (
        models.Classifier(setup.classes)
        if config.classifier == "linear"
        else models.MlpClassifier(
            models.make_projector(config.model, axis_name=axis), setup.classes
        )
    )
    encoder = models.make_encoder(config.model, head, axis_name=axis)

    def step(state, batch):
        images, share = _mixed(config, state, batch, axis)

        def loss_of(params):
            queries = encoding.queries(encoder, params, state, batch, config, images=images)

            def loss(labels):
                return losses.cross_entropy(
                    queries.output, labels, label_smoothing=config.label_smoothing
                )

            # Cross-entropy is linear in the target, so mixed labels are mixed losses.
            per_example = (
                loss(queries.labels)
                if share is None
                else mixup.mix(
                    share,
                    loss(queries.labels),
                    loss(mixup.next_example(queries.labels, len(batch.label), axis)),
                )
            )
            accuracy = jnp.mean(jnp.argmax(queries.output, axis=-1) == queries.labels)
            return jnp.mean(per_example), (queries.batch_stats, {"accuracy": accuracy})

        return updating.descend(setup, state, loss_of)

    return Method(encoder, updating.make_init(setup, encoder), step)


def _mixed(config, state, batch, axis):
    """The mixed views and the share of each row that is its own; neither without mixing."""
    if not (config.mixup or config.cutmix):
        return None, None
    drawn = mixup.draw(batch.seed, state.step, mixup=config.mixup, cutmix=config.cutmix)
    images, shares = zip(
        *(
            mixup.mix_views(drawn, views, len(batch.label), axis)
            for views in encoding.view_images(config, batch)
        ),
        strict=True,
    )
    return images, jnp.concatenate(shares)
