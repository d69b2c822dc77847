"""Frozen networks on an image set: their features, taken once, and the tasks made of them."""

import functools
from typing import Any, Callable, NamedTuple

import ml_collections
import numpy as np

from jaxpt import __version__
from jaxpt.backbones import Backbone
from jaxpt.data import sources
from jaxpt.errors import InputError, require
from jaxpt.evaluation.feature_cache import FeatureCache, fingerprint
from jaxpt.evaluation.features import BATCH_SIZE, extract, extract_layers
from jaxpt.evaluation.task import Task, make_task
from jaxpt.train.parallel import Devices


class Model(NamedTuple):
    """Anything that makes features of images, and what records call it.

    Attributes:
      label: what tables call it.
      features: function from uint8 images [n, height, width, channels] to float [n, dim].
      layers: function from the same images to name → float [n, channels], the last layer last; or
        None, and there is no CKA.
      checkpoint: a name that changes whenever the features do. It goes into records and into the
        names of kept features; without one none are kept.
      method, seed, step, config: of pre-training; config None where there is none.
      network: what else the features depend on.
    """

    label: str
    features: Callable[[np.ndarray], np.ndarray]
    layers: Callable[[np.ndarray], dict[str, np.ndarray]] | None = None
    checkpoint: str = ""
    method: str = "other"
    seed: int = 0
    step: int = 0
    config: ml_collections.ConfigDict | None = None
    network: str = ""


def of_backbone(backbone: Backbone, devices: Devices) -> Model:
    """A backbone as a model whose images are shared by all of these devices."""
    arguments = backbone.encoder, backbone.params, backbone.batch_stats
    return Model(
        backbone.label,
        functools.partial(extract, *arguments, devices=devices),
        functools.partial(extract_layers, *arguments, devices=devices),
        backbone.checkpoint,
        backbone.method,
        backbone.seed,
        backbone.step,
        backbone.config,
        f"{backbone.encoder!r} {BATCH_SIZE}",
    )


class FrozenSet:
    """One image set, loaded when it is first needed, and tasks of models on it."""

    def __init__(self, config, *, part: str, metric: str, cache: FeatureCache):
        """``config``: the data config; ``part`` and ``metric``: see ``make_task``."""
        self._config, self._part, self._metric, self._cache = config, part, metric, cache
        self._dataset: sources.Dataset | InputError | None = None
        self._latest: tuple[Model, Task] | None = None
        self._layers: dict[tuple, dict[str, np.ndarray]] = {}
        self._fingerprints: dict[str, str] = {}

    @property
    def dataset(self) -> sources.Dataset:
        """The set.

        Raises:
          InputError: where it cannot be had; the second time without another attempt.
        """
        if self._dataset is None:
            try:
                self._dataset = sources.load(self._config)
            except InputError as error:
                self._dataset = error
        if isinstance(self._dataset, InputError):
            raise self._dataset
        return self._dataset

    def task(self, model: Model) -> Task:
        """The task of a model; that of the latest model stays in memory.

        Raises:
          InputError: where the set cannot be had, or the model's features of it are not sound.
        """
        if self._latest is None or self._latest[0] is not model:
            self._latest = None  # before the next features come
            self._latest = (
                model,
                make_task(
                    lambda name: self._features(model, name),
                    self.dataset,
                    part=self._part,
                    metric=self._metric,
                ),
            )
        return self._latest[1]

    def layers(self, model: Model) -> dict[str, np.ndarray]:
        """The model's layers of the images that are scored; those of all models stay in memory.

        Raises:
          InputError: where the set cannot be had, or the model has no layers.
        """
        require(model.layers is not None, f"{model.label} has no layers to compare.")
        what = model.label, model.seed
        if what not in self._layers:
            self._layers[what] = self._kept(model, self._part, "layers", model.layers)
        return self._layers[what]

    def _features(self, model, name):
        return self._kept(
            model, name, "features", lambda images: {"features": model.features(images)}
        )["features"]

    def _kept(self, model, name, kind, make) -> dict[str, Any]:
        images = getattr(self.dataset, name).images
        if not model.checkpoint:
            return make(images)
        return self._cache.get(
            {
                "kind": kind,
                "checkpoint": model.checkpoint,
                "network": model.network,
                "images": self._fingerprint(name),
                "jaxpt": __version__,
            },
            lambda: make(images),
        )

    def _fingerprint(self, name) -> str:
        if name not in self._fingerprints:
            self._fingerprints[name] = fingerprint(getattr(self.dataset, name).images)
        return self._fingerprints[name]
