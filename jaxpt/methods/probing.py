"""Linear probe trained alongside any method, on features without gradient into the encoder.

Its optimizer is its own, so it does not change the run that it watches.
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxpt import losses, models
from jaxpt.errors import require
from jaxpt.methods import Method, encoding
from jaxpt.train.state import measured

LABELS = ("", "coarse", "fine")


@flax.struct.dataclass
class Probe:
    """Parameters of the classifier, and the state of their optimizer."""

    params: Any
    opt_state: Any


def check(config) -> None:
    """Raises InputError if a setting of the probe is invalid."""
    require(
        config.probe.labels in LABELS,
        f"probe.labels must be one of {LABELS}, got {config.probe.labels!r}.",
    )
    require(
        config.probe.learning_rate > 0,
        f"probe.learning_rate must be positive, got {config.probe.learning_rate}.",
    )


def probed(method: Method, config, labels: np.ndarray, classes: int, axis_name: str) -> Method:
    """Adds a probe to a method.

    The probe sees the first view of each image and the encoder in evaluation mode, after its
    update, with the weights that ``config.evaluated_weights`` names.

    Args:
      method: the method.
      config: the pre-training config.
      labels: int [examples], in the order of the training set.
      classes: number of classes.
      axis_name: the mapped axis over the devices.

    Returns:
      A method whose state has a ``Probe`` and whose metrics have "probe_loss".
    """
    classifier = models.Classifier(classes)
    optimizer = optax.adam(config.probe.learning_rate)
    labels = np.asarray(labels, np.int32)

    def features_of(state, images):
        params, stats = measured(state, config.evaluated_weights)
        encoded = encoding.encode(method.encoder, params, stats, images, config, train=False)
        return jax.lax.stop_gradient(encoded.features)

    def init(key, images):
        state = method.init(key, images)
        features = jax.eval_shape(features_of, state, images)
        params = classifier.init(key, jnp.zeros(features.shape), False)["params"]
        return state.replace(probe=Probe(params, optimizer.init(params)))

    def step(state, batch):
        new, metrics = method.step(state, batch)
        features = features_of(new, encoding.first_view(config, batch))

        def loss_of(params):
            logits = classifier.apply({"params": params}, features, True)
            return jnp.mean(losses.cross_entropy(logits, jnp.asarray(labels)[batch.index]))

        loss, gradients = jax.value_and_grad(loss_of)(state.probe.params)
        loss, gradients = jax.lax.pmean((loss, gradients), axis_name)
        updates, opt_state = optimizer.update(gradients, state.probe.opt_state)
        params = optax.apply_updates(state.probe.params, updates)
        return new.replace(probe=Probe(params, opt_state)), metrics | {"probe_loss": loss}

    return method._replace(init=init, step=step)


def predict(probe: Probe, features: np.ndarray) -> np.ndarray:
    """Classes int [n] that the probe predicts for features [n, dim]."""
    layer = jax.device_get(probe.params)["Dense_0"]
    return np.argmax(features @ layer["kernel"] + layer["bias"], axis=1)
