"""Export of a backbone to a folder, and of the folder to a repository on the Hugging Face hub.

The folder is built in memory and then written atomically.
"""

import importlib
import json
import os
import pathlib
import re
import shutil
from typing import Any, NamedTuple, Sequence

import jax
import ml_collections
import numpy as np
from jax import export as jax_export

from jaxpt import __version__, models, records, weights
from jaxpt.backbones import Backbone, open_backbone
from jaxpt.data.augment import to_float
from jaxpt.errors import InputError, RunError, require
from jaxpt.export import card
from jaxpt.export.counterparts import counterpart, timm_config
from jaxpt.files import is_remote, unwritable
from jaxpt.weights import header

LAYOUTS = ("timm", "torchvision", header.OWN)
FORMATS = ("safetensors", "stablehlo")
CONFIG, CARD = "config.json", "README.md"
SIDE = 224  # side of images if neither the run nor the network defines it
_PLATFORMS = ("cpu", "cuda", "tpu")  # that the StableHLO runs on
TOKEN = "HF_TOKEN"  # the environment variable; the token is never an argument, written or printed
_REPO_PART = re.compile(r"[A-Za-z0-9](?:[\w.-]{0,94}[A-Za-z0-9_])?", re.ASCII)


class Exported(NamedTuple):
    """Result of an export.

    Attributes:
      folder: the folder written.
      layout: layout of the weights' names.
      notes: sentences to report to the user.
      url: URL of the repository that the folder was pushed to, or "".
    """

    folder: pathlib.Path
    layout: str
    notes: list[str]
    url: str


def run(
    source: str | os.PathLike,
    out: str | os.PathLike,
    *,
    layout: str = "timm",
    formats: Sequence[str] = FORMATS[:1],
    classifier: bool = False,
    image_size: int = 0,
    record_files: Sequence[str | os.PathLike] = (),
    push: str = "",
    model: ml_collections.ConfigDict | None = None,
    encoder: str = "",
) -> Exported:
    """Exports a backbone to a folder and, with ``push``, to the Hugging Face hub.

    Args:
      source: a source accepted by ``open_backbone``.
      out: the folder, which must not exist or be empty. An interruption leaves a complete folder or
        none.
      layout: layout of the weights' names, one of ``LAYOUTS``. A network without a counterpart
        there is written in jaxpt's own names, and a note reports it.
      formats: of ``FORMATS``: "safetensors" writes ``model.safetensors`` (and timm's
        ``config.json``), "stablehlo" writes the whole encoder as ``encoder.stablehlo``.
      classifier: whether to include the linear classifier of the run or of the weight file.
      image_size: side of the input images in pixels; 0 for that of training.
      record_files: files of records; those of this backbone become the tables of the model card.
      push: "USER/REPO" on the Hugging Face hub to push the folder to, or "".
      model: ConfigDict with the network of scratch, and of weight files that do not identify it.
      encoder: which of the encoders of a run, see ``open_backbone``.

    Returns:
      an ``Exported``.

    Raises:
      InputError: for bad arguments, before anything is written.
      RunError: if the hub rejects the upload; the folder has been written then.
    """
    require(layout in LAYOUTS, f"layout must be one of {LAYOUTS}, got {layout!r}.")
    require(
        bool(formats) and set(formats) <= set(FORMATS),
        f"format must be of {FORMATS}, got {','.join(formats)!r}.",
    )
    require(
        0 <= image_size <= 4096,
        f"image_size must lie between 1 and 4096, or be 0 (as trained), got {image_size}.",
    )
    api = connect_hub(push) if push else None
    out = _free(out)
    backbone = open_backbone(source, model=model, encoder=encoder)
    require(
        not classifier or backbone.classifier is not None,
        f"{str(source)!r} has no linear classifier on its backbone (cross_entropy with "
        "classifier=linear trains one): leave --classifier out.",
    )
    encoder = backbone.encoder
    found = counterpart(backbone.model.name, encoder.backbone, encoder.channels)
    notes = []
    if layout != header.OWN and getattr(found, layout) is None:
        notes.append(
            f"{_network(backbone)} has no counterpart in {layout}: its weights are "
            "written in jaxpt's own names."
        )
        layout = header.OWN
    plan = card.Plan(
        backbone,
        layout,
        found,
        tuple(formats),
        classifier,
        _shape(backbone, image_size),
        _records_of(backbone, record_files),
        push,
    )
    _write(out, _files(plan))
    return Exported(out, layout, notes, _push_folder(api, push, out) if push else "")


def _free(out) -> pathlib.Path:
    """Returns the absolute path after checking that the folder can be created."""
    require(bool(os.fspath(out)), "--out must not be empty.")
    require(
        not is_remote(out),
        f"{os.fspath(out)!r} is on an object store: export to a local folder, and copy it.",
    )
    path = pathlib.Path(out).absolute()
    require(
        not path.exists() or (path.is_dir() and not any(path.iterdir())),
        f"{os.fspath(out)!r} already exists, and its card may have been edited: remove it or "
        "choose another folder.",
    )
    return path


def _shape(backbone: Backbone, side: int) -> tuple[int, int, int]:
    """(height, width, channels) of the input images."""
    data = backbone.made.get("data") or {}
    network = getattr(backbone.encoder.backbone, "image_size", SIDE)
    height, width = (side, side) if side else (data.get("shape") or (network, network))[:2]
    return height, width, backbone.encoder.channels


def _records_of(backbone: Backbone, files) -> list[dict[str, Any]]:
    """The records in ``files`` that measure this backbone."""
    found = records.read_given(files)
    mine = [record for record in found if record.get("checkpoint") == backbone.checkpoint]
    require(
        bool(mine) or not found,
        f"none of the {len(found)} records measures this backbone "
        f"({backbone.checkpoint}): measure it with jaxpt evaluate or jaxpt transfer.",
    )
    return mine


def _network(backbone: Backbone) -> str:
    """Description of the network, such as "resnet18 (stem=small), norm batch, 1 channel,"."""
    options = ", ".join(f"{name}={value}" for name, value in backbone.model.options.items())
    channels = backbone.encoder.channels
    return (
        f"{backbone.model.name}{f' ({options})' if options else ''}, norm "
        f"{backbone.model.norm}, {channels} channel{'s'[: channels > 1]},"
    )


def _files(plan: card.Plan) -> dict[str, bytes]:
    """Contents of all files by name."""
    files = {}
    if "safetensors" in plan.formats:
        files[header.FILE] = header.dump(_tensors(plan), about(plan))
        if plan.layout == "timm":
            config = timm_config(plan.backbone, plan.found, plan.shape, plan.features, plan.classes)
            files[CONFIG] = json.dumps(config, indent=2).encode() + b"\n"
    if "stablehlo" in plan.formats:
        files[card.STABLEHLO] = dump_stablehlo(
            plan.backbone, plan.shape, classifier=plan.classifier
        )
    files[CARD] = card.write(plan).encode()
    return files


def _tensors(plan):
    backbone = plan.backbone
    classifier = backbone.classifier if plan.classifier else None
    if plan.layout != header.OWN:
        return weights.export_state(
            backbone.encoder.backbone,
            backbone.params["backbone"],
            backbone.batch_stats.get("backbone", {}),
            classifier,
            plan.layout,
        )
    variables = {"params": backbone.params, "batch_stats": backbone.batch_stats}
    return header.flat(variables | ({"classifier": classifier} if classifier else {}))


def about(plan: card.Plan) -> dict[str, Any]:
    """Content of the weight file's header."""
    backbone = plan.backbone
    model = {name: backbone.model[name] for name in ("name", "norm", "dtype")}
    return {
        "version": __version__,
        "layout": plan.layout,
        "model": model | {"options": dict(backbone.model.options.items())},
        "channels": backbone.encoder.channels,
        "normalisation": backbone.encoder.normalisation,
        "method": backbone.method,
        "seed": backbone.seed,
        "step": backbone.step,
        "fingerprint": backbone.checkpoint,
        "config": plan.config,
        "made": backbone.made,
    }


def dump_stablehlo(
    backbone: Backbone, shape: tuple[int, int, int], *, classifier: bool = False
) -> bytes:
    """Serialises the encoder as StableHLO, including weights and image preparation.

    The function maps uint8 images [batch, height, width, channels], with any batch size, to float32
    features [batch, dim]. Read it with ``jax.export.deserialize``; JAX keeps such files readable
    for at least six months of its releases.

    Args:
      backbone: the backbone.
      shape: (height, width, channels) of the images.
      classifier: whether to return the logits of its classifier, [batch, classes], instead.
    """
    encoder, params = backbone.encoder, backbone.params
    if classifier:
        kernel = backbone.classifier["Dense_0"]["kernel"]
        encoder = encoder.clone(head=models.Classifier(kernel.shape[1]))
        params = params | {"head": backbone.classifier}

    def outputs(images):
        return models.encode(
            encoder, params, backbone.batch_stats, to_float(images), train=False
        ).output

    (batch,) = jax_export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *shape), np.uint8)
    return jax_export.export(jax.jit(outputs), platforms=_PLATFORMS)(images).serialize()


def _write(out: pathlib.Path, files: dict[str, bytes]) -> None:
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        for name, content in files.items():
            (temporary / name).write_bytes(content)
        temporary.replace(out)
    except OSError as error:
        raise unwritable(out, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def connect_hub(repo: str) -> Any:
    """Returns the hub's API after checking name and token, before anything is computed.

    Args:
      repo: "USER/REPO".

    Raises:
      InputError: for an invalid name, if huggingface_hub is not installed, or if the environment
        has no token.
    """
    parts = repo.split("/")
    require(
        len(parts) == 2
        and all(map(_REPO_PART.fullmatch, parts))
        and ".." not in repo
        and "--" not in repo
        and not repo.endswith(".git"),
        f"--push needs the name of a repository, USER/REPO, of letters, digits, '-', '_' and "
        f"'.', got {repo!r}.",
    )
    try:
        package = importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise InputError(
            "--push needs the package huggingface_hub: pip install 'jaxpt[hub]'."
        ) from error
    token = os.environ.get(TOKEN, "")
    require(
        bool(token.strip()),
        f"--push reads its token from the environment: set {TOKEN} to a token "
        "with write access (hf.co/settings/tokens).",
    )
    return package.HfApi(token=token)


def _push_folder(api: Any, repo: str, folder: pathlib.Path) -> str:
    """Uploads a folder, creating a private repository if there is none.

    Returns:
      the URL of the repository.

    Raises:
      RunError: if the hub rejects the upload or cannot be reached; the folder is kept.
    """
    try:
        where = api.create_repo(repo, repo_type="model", private=True, exist_ok=True)
        api.upload_folder(
            repo_id=repo,
            folder_path=str(folder),
            repo_type="model",
            commit_message="Export by jaxpt",
        )
    except Exception as error:  # errors of the hub and of the network
        # Neither the message nor a traceback may contain the token, so there is no cause.
        said = " ".join(str(error).split()).replace(os.environ[TOKEN].strip(), "…")
        raise RunError(
            f"{repo} could not be pushed ({type(error).__name__}: {said[:300]}). "
            f"{str(folder)!r} is complete; upload it with: hf upload {repo} {str(folder)!r}"
        ) from None
    return str(where)
