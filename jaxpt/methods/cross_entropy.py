"""Cross-entropy: trains the backbone together with a linear classifier.

With ``classifier = "mlp"`` a projector precedes the classifier and is discarded for transfer
(SL-MLP: Wang et al., CVPR 2022). With ``mixup`` or ``cutmix``, images are mixed with other images
of the batch, and their labels likewise.

The classifier of several sources is one layer, of which each source has its columns: its head. With
``other_sources = "ignored"`` the softmax is over the head of an image's source.
"""

import math

import jax.numpy as jnp

from jaxpt import losses, models
from jaxpt.data import mixup
from jaxpt.errors import require
from jaxpt.losses.classification import head_of
from jaxpt.methods import Method, Setup, encoding, updating

CLASSIFIERS = ("linear", "mlp")


def make(setup: Setup) -> Method:
    config, axis = setup.config, setup.axis_name
    settings = config.cross_entropy
    require(
        0 <= settings.label_smoothing < 1,
        "cross_entropy.label_smoothing must be at least 0 and below 1, got "
        f"{settings.label_smoothing}.",
    )
    require(
        settings.classifier in CLASSIFIERS,
        f"cross_entropy.classifier must be one of {CLASSIFIERS}, got {settings.classifier!r}.",
    )
    for name in "mixup", "cutmix":
        require(
            0 <= settings[name] <= 100,
            f"cross_entropy.{name} must lie between 0 (none) and 100, got {settings[name]}.",
        )
    head = (
        models.Classifier(setup.classes)
        if settings.classifier == "linear"
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
                    queries.output,
                    labels,
                    label_smoothing=settings.label_smoothing,
                    label_sources=setup.label_sources,
                )

            # Cross-entropy is linear in the target, so mixing labels equals mixing losses.
            per_example = (
                loss(queries.labels)
                if share is None
                else mixup.mix(
                    share,
                    loss(queries.labels),
                    loss(mixup.next_example(queries.labels, len(batch.label), axis)),
                )
            )
            logits = queries.output
            if setup.label_sources is not None:
                of_head = head_of(setup.label_sources, queries.labels, setup.classes)
                logits = jnp.where(of_head, logits, -jnp.inf)
            accuracy = jnp.mean(jnp.argmax(logits, axis=-1) == queries.labels)
            return per_example, (queries, {"accuracy": accuracy})

        return updating.descend(setup, state, loss_of)

    chance = setup.chance(lambda classes, _: math.log(classes))
    return Method(encoder, updating.make_init(setup, encoder), step, chance=chance)


def _mixed(config, state, batch, axis):
    """Returns (mixed views, share of each row's own image), or (None, None) without mixing."""
    settings = config.cross_entropy
    if not (settings.mixup or settings.cutmix):
        return None, None
    drawn = mixup.draw(batch.seed, state.step, mixup=settings.mixup, cutmix=settings.cutmix)
    images, shares = zip(
        *(
            mixup.mix_views(drawn, views, len(batch.label), axis)
            for views in encoding.view_images(config, batch)
        ),
        strict=True,
    )
    return images, jnp.concatenate(shares)
