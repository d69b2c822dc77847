"""Opens backbones from the checkpoint of a run, a weight file, or scratch."""

import dataclasses
import hashlib
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from jaxpt import models, records, weights
from jaxpt.data import sources
from jaxpt.errors import require
from jaxpt.evaluation.features import extract, extract_layers
from jaxpt.train import checkpoint
from jaxpt.train.parallel import AXIS
from jaxpt.train.state import WEIGHTS
from jaxpt.train.workdir import open_run
from jaxpt.weights import header

SCRATCH = "scratch"
FINETUNED = "finetune"  # method of runs that ``jaxpt transfer`` keeps


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A backbone with its variables and their origin.

    Attributes:
      label: name in tables.
      method: method of pre-training; "weights" for a weight file, "scratch" without pre-training.
      seed: seed of pre-training, or of the initial parameters of scratch; 0 for a weight file.
      config: config of pre-training; None if it does not come from a run.
      step: step of the checkpoint; 0 if it does not come from a run.
      checkpoint: first 16 hex digits of a SHA-256 of all arrays, equal exactly for equal backbones.
      encoder: ``models.Encoder`` without head; it also prepares the images.
      params, batch_stats: the encoder's variables, host arrays under the key "backbone".
      model: ConfigDict that names the network, see ``models.make_backbone``.
      classifier: parameters of its ``models.Classifier``, or None.
      made: recorded facts about its training: "data" (name, images, shape and classes of the
        training set), "packages", "device", "date" and others, each only if recorded; "weights" is
        "target" for a run's target encoder.
    """

    label: str
    method: str
    seed: int
    config: ml_collections.ConfigDict | None
    step: int
    checkpoint: str
    encoder: models.Encoder
    params: Any
    batch_stats: Any
    model: ml_collections.ConfigDict | None = None
    classifier: dict[str, Any] | None = None
    made: dict[str, Any] = dataclasses.field(default_factory=dict)

    def features(self, images: np.ndarray) -> np.ndarray:
        """Computes features, float32 [n, dim], of uint8 images [n, height, width, channels].

        Raises:
          InputError: for colour images if the network takes grey ones.
        """
        return extract(self.encoder, self.params, self.batch_stats, images)

    def layers(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Computes the outputs of all layers, each averaged over positions.

        ``cka_matrix`` compares those of two networks.

        Returns:
          name → float32 [n, channels], the first layer first.

        Raises:
          InputError: as in ``features``.
        """
        return extract_layers(self.encoder, self.params, self.batch_stats, images)


def open_backbone(
    source: str | os.PathLike, *, model: ml_collections.ConfigDict | None = None, encoder: str = ""
) -> Backbone:
    """Opens a backbone and checks that its parameters are exactly those of the network.

    Args:
      source: workdir of a pre-training run, whose latest checkpoint is used; a weight file of
        torchvision or timm; a folder of ``jaxpt export`` or of the Hugging Face hub; "scratch" or
        "scratch:SEED" for initial parameters of ``model``. Each may have the prefix "LABEL="; the
        default label is the method, or the name of the weight file.
      model: ConfigDict with ``name``, ``norm``, ``dtype``, ``options``, ``normalisation`` and
        ``state`` as in a transfer config, for weight files and scratch; runs and exports have
        their own. For a weight file, empty fields are inferred from its tensors, and the
        normalisation from the file or its architecture; see ``weights.open_file``. The default
        normalisation of scratch is "unit".
      encoder: "online" or "target" (EMA), which of a run's encoders; "" means that of its config,
        ``evaluated_weights``, which is that of the method's source.

    Returns:
      a ``Backbone``.

    Raises:
      InputError: if there is no checkpoint or no such network, if the parameters are not exactly
        those of the network, or if they are not finite.
    """
    label, source = _split_label(str(source))
    path = pathlib.Path(source)
    seed = source.partition(":")[2]
    if _is_scratch(source):
        require(not seed or seed.isdecimal(), f"{source!r}: write scratch:SEED, SEED a number.")
        opened = _from_scratch(model, int(seed or 0))
    elif not (path / checkpoint.FOLDER).is_dir() and (
        weights.find(path).is_file() or (path.suffix in weights.SUFFIXES and not path.is_dir())
    ):
        opened = _from_weights(path, model)
    else:
        _report_unused(source, model)
        return _labelled(_from_run(source, encoder), label)
    if encoder:
        print(
            f"jaxpt: {source}: --weights={encoder} not used: only runs have several encoders.",
            file=sys.stderr,
        )
    return _labelled(opened, label)


def open_backbones(
    given: Sequence[str | os.PathLike],
    *,
    model: ml_collections.ConfigDict | None = None,
    encoder: str = "",
) -> list[Backbone]:
    """Opens several backbones; scratch has the network of the first other one unless model has one.

    Args:
      given: sources, and the arguments, as in ``open_backbone``.

    Raises:
      InputError: as ``open_backbone``.
    """
    named = bool(model and model.get("name"))
    later = [] if named else [i for i, source in enumerate(given) if _is_scratch(source)]
    opened = {
        i: open_backbone(source, model=model, encoder=encoder)
        for i, source in enumerate(given)
        if i not in later
    }
    first = next(iter(opened.values()), None)
    if first is not None:
        model = first.model.copy_and_resolve_references()
        with model.unlocked():
            model.normalisation = first.encoder.normalisation
    for i in later:
        opened[i] = open_backbone(given[i], model=model, encoder="" if first else encoder)
    return [opened[i] for i in range(len(given))]


def _is_scratch(source) -> bool:
    _, source = _split_label(str(source))
    return source.partition(":")[0] == SCRATCH and not pathlib.Path(source).exists()


def _labelled(opened: Backbone, label: str) -> Backbone:
    return dataclasses.replace(opened, label=label or opened.label)


def _report_unused(source, model) -> None:
    """Reports flags that have no effect on a run or an export."""
    flags = {"state": "state", "normalisation": "normalisation", "options": "option"}
    unused = [f"--{flag}" for field, flag in flags.items() if model and model.get(field)]
    if unused:
        print(
            f"jaxpt: {source}: {', '.join(unused)} not used: its own config already has this.",
            file=sys.stderr,
        )


def report_other_data(
    label: str, trained_on: dict[str, Any], config: ml_collections.ConfigDict, digest: str
) -> None:
    """Warns on stderr if the pre-training set of a run has changed since.

    Args:
      label: of the run.
      trained_on: "data" of ``Backbone.made``; without an identity, or with one of another kind
        (files or arrays), nothing can be compared.
      config: data config of the set as it is now.
      digest: of the identity of that set.
    """
    before = trained_on.get("identity", "")
    if not before or before.partition("-")[0] == digest.partition("-")[0]:
        return
    if trained_on.get("kind") == sources.identify(config).kind:
        print(
            f"jaxpt: {label} was pre-trained on other data than {config.path or config.source!r} "
            "holds now: images that it was trained on may be among those it is measured on.",
            file=sys.stderr,
            flush=True,
        )


def _split_label(text):
    """Splits ``LABEL=source`` unless the whole text is an existing path with an equals sign."""
    label, equals, source = text.partition("=")
    return (label, source) if equals and not pathlib.Path(text).exists() else ("", text)


def _from_run(workdir, which) -> Backbone:
    config, step = open_run(workdir)
    usual = config.get("evaluated_weights", "online")
    which = which or usual
    require(which in WEIGHTS, f"weights must be one of {WEIGHTS}, got {which!r}.")
    saved = checkpoint.read_arrays(workdir, step)
    chosen = saved if which == "online" else saved.get("target")
    require(
        chosen is not None,
        f"{str(workdir)!r} has no target encoder: --weights=target is for methods that have one, "
        "and for runs with weight_ema.",
    )
    params, stats = (
        {name: tree for name, tree in (chosen.get(part) or {}).items() if name == "backbone"}
        for part in ("params", "batch_stats")
    )
    arrays = header.flat({"params": params, "batch_stats": stats})
    weights.require_finite(arrays, repr(str(workdir)))
    encoder = _fitting(
        models.make_encoder(config.model, axis_name=AXIS), (params, stats), repr(str(workdir))
    )
    about = checkpoint.about(workdir, step)
    made = {name: about[name] for name in ("data", *records.SURROUNDINGS) if name in about}
    made |= {"weights": which} if which == "target" else {}
    return _backbone(
        encoder,
        params,
        stats,
        label=about.get("label")
        or (config.method if which == usual else f"{config.method} ({which})"),
        method=config.method,
        seed=config.seed,
        config=config,
        step=step,
        model=config.model,
        made=made,
        classifier=_classifier(config, chosen["params"]),
    )


def _classifier(config, params):
    """Classifier of a run by cross-entropy that is directly on the backbone, or None."""
    linear = (
        config.method in ("cross_entropy", FINETUNED)
        and config.get("cross_entropy", {}).get("classifier", "linear") == "linear"
    )
    return jax.device_get(params["head"]) if linear else None


def _from_weights(path, model) -> Backbone:
    read = weights.read(path)
    if header.OWN in read.metadata:
        _report_unused(path, model)
        state = weights.cast(read.states[""])
        weights.require_finite(state, repr(str(path)))
        return _from_export(path, state)
    opened = weights.open_file(path, read, model)
    encoder = models.Encoder(
        models.make_backbone(opened.model, axis_name=AXIS),
        channels=3,
        normalisation=opened.model.normalisation,
    )
    return _backbone(
        encoder,
        {"backbone": opened.imported.params},
        {"backbone": opened.imported.batch_stats},
        label=_name_of(path),
        method="weights",
        seed=0,
        config=None,
        step=0,
        model=opened.model,
        classifier=opened.imported.classifier,
        made={"framing": opened.framing} if opened.framing else {},
    )


def _name_of(path) -> str:
    """Name of a weight file, or of its folder if the file has a standard name."""
    path = weights.find(path)
    return path.absolute().parent.name if path.name in weights.IN_FOLDER else path.stem


def _from_export(path, state) -> Backbone:
    """Opens a file of ``jaxpt export``, whose header has the contents of a run's config."""
    about = header.read_about(weights.find(path))
    model, config = (
        about[name] and ml_collections.ConfigDict(about[name]) for name in ("model", "config")
    )
    network = models.make_backbone(model, axis_name=AXIS)
    if about["layout"] == header.OWN:
        tree = header.nested(state)
        params, stats = tree.get("params", {}), tree.get("batch_stats", {})
        classifier = tree.get("classifier")
        encoder = _fitting(models.Encoder(network), (params, stats), repr(str(path)))
    else:
        params, stats, classifier, *_ = weights.import_state(state, network)
        params, stats = {"backbone": params}, {"backbone": stats}
        encoder = models.Encoder(network, channels=3)
    opened = _backbone(
        encoder.clone(normalisation=about["normalisation"]),
        params,
        stats,
        label=about["method"] if config else _name_of(path),
        method=about["method"],
        seed=about["seed"],
        config=config,
        step=about["step"],
        model=model,
        classifier=classifier,
        made=about["made"],
    )
    require(
        opened.checkpoint == about["fingerprint"],
        f"{str(path)!r} was damaged or edited: the fingerprint of its weights is "
        f"{opened.checkpoint}, but its header has {about['fingerprint']}; export or download it "
        "again.",
    )
    return opened


def _from_scratch(model, seed) -> Backbone:
    require(
        model is not None and bool(model.name),
        f"scratch needs a network: set model.name to one of {sorted(models.BACKBONES)}.",
    )
    model, given_norm = model.copy_and_resolve_references(), model.get("norm")
    with model.unlocked():
        model.norm = given_norm or "batch"
        model.normalisation = model.get("normalisation") or "unit"
    encoder = models.Encoder(
        models.make_backbone(model, axis_name=AXIS), channels=3, normalisation=model.normalisation
    )
    if unused := weights.unused_norm(encoder.backbone, given_norm):
        print(f"jaxpt: {SCRATCH}: {unused}.", file=sys.stderr)
    variables = jax.jit(lambda key: models.init(encoder, key, models.sample(encoder.backbone, 3)))(
        jax.random.key(seed)
    )
    return _backbone(
        encoder,
        *variables,
        label=SCRATCH,
        method=SCRATCH,
        seed=seed,
        config=None,
        step=0,
        model=model,
    )


def _backbone(encoder, params, stats, **origin) -> Backbone:
    params, stats = jax.device_get((params, stats))
    return Backbone(
        encoder=encoder,
        params=params,
        batch_stats=stats,
        checkpoint=fingerprint((params, stats)),
        **origin,
    )


def fingerprint(tree: Any) -> str:
    """First 16 hex digits of a SHA-256 of names, dtypes, shapes and bytes of a tree's arrays."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:16]


def _fitting(encoder, variables, where) -> models.Encoder:
    """Returns the encoder, for grey or colour images, that matches the variables exactly."""
    wrong = {}
    for channels in 1, 3:
        encoder = encoder.clone(channels=channels)
        wanted = jax.eval_shape(
            lambda key: models.init(encoder, key, models.sample(encoder.backbone, channels)),
            jax.random.key(0),
        )
        wrong[channels] = _differences(variables, wanted)
        if not wrong[channels]:
            return encoder
    fewest = min(wrong.values(), key=len)
    require(False, f"{where} does not contain the network of its config: {'; '.join(fewest)}.")


def _differences(saved, wanted) -> list[str]:
    """One sentence per array that is missing, unexpected or of the wrong shape."""
    there, here = (
        {
            jax.tree_util.keystr(path[1:]): tuple(leaf.shape)
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        }
        for tree in (saved, wanted)
    )
    return [
        f"{name} has shape {there.get(name)}, but the network needs {here.get(name)}"
        for name in sorted(there.keys() | here.keys())
        if there.get(name) != here.get(name)
    ]
