"""DINO: matches the target's sharpened softmax for another view (Caron et al., ICCV 2021).

Labels are not used. The target encoder sees the ``views`` large crops; the online encoder also sees
the ``local_views`` small crops. The paper measures the target encoder, and so does
``evaluated_weights = "target"``, the default. The prototypes are a weight-normalised layer; the
authors' code does not train them in the first epoch (``optimizer.freeze``).
"""

import math

import jax.numpy as jnp
import optax

from jaxpt import losses, models
from jaxpt.errors import require
from jaxpt.methods import Method, Setup, encoding, updating


def make(setup: Setup) -> Method:
    config, settings = setup.config, setup.config.dino
    require(
        config.views + config.local_views >= 2,
        "method dino compares different views: set views to 2 or local_views above 0.",
    )
    require(
        settings.prototypes >= 2, f"dino.prototypes must be at least 2, got {settings.prototypes}."
    )
    require(
        0 <= settings.centre_momentum < 1,
        f"dino.centre_momentum must be at least 0 and below 1, got {settings.centre_momentum}.",
    )
    encoding.check_temperature(config)
    encoding.check_temperature(config, "dino.target_temperature")
    encoding.check_temperature(config, "dino.target_temperature_start")
    encoding.check_target(config)
    head = models.PrototypeHead(
        models.make_projector(config.model, axis_name=setup.axis_name),
        settings.prototypes,
        settings.learnt_norms,
    )
    warmup = setup.steps(settings.target_temperature_warmup)
    target_temperature = (
        optax.linear_schedule(
            settings.target_temperature_start, settings.target_temperature, warmup
        )
        if warmup
        else optax.constant_schedule(settings.target_temperature)
    )
    encoder = models.make_encoder(config.model, head, axis_name=setup.axis_name)
    init_encoders = updating.make_init(setup, encoder, target=True)

    def init(key, images):
        return init_encoders(key, images).replace(centre=jnp.zeros(settings.prototypes))

    def step(state, batch):
        # Outside ``loss_of``: no gradient flows into the target encoder.
        large = encoding.apart(encoding.global_images(config, batch), config)
        outputs, target_stats = encoding.target_outputs(encoder, state.target, large, config)
        targets = outputs.reshape(config.views, -1, settings.prototypes)

        temperature = target_temperature(state.step)

        def loss_of(params):
            queries = encoding.queries(encoder, params, state, batch, config)
            views = queries.output.reshape(
                config.views + config.local_views, -1, settings.prototypes
            )
            per_image = losses.dino(
                views,
                targets,
                state.centre,
                student_temperature=config.temperature,
                teacher_temperature=temperature,
            )
            return per_image, (queries, {})

        # The loss uses the old centre; the new one is for the next step.
        centre = losses.move_centre(
            state.centre, targets, momentum=settings.centre_momentum, axis_name=setup.axis_name
        )
        state, metrics = updating.descend(setup, state, loss_of)
        return updating.follow(setup, state.replace(centre=centre), target_stats), metrics

    return Method(encoder, init, step, chance=math.log(settings.prototypes))
