"""Model card of an export: contents, training, measurements, and how to load it."""

import importlib
import json
import pathlib
import re
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxpt import __version__, methods, models
from jaxpt.backbones import Backbone
from jaxpt.export.counterparts import Counterpart
from jaxpt.report.html import markdown_of_sets
from jaxpt.report.results import NAMES, collect_sets
from jaxpt.weights import header

STABLEHLO = "encoder.stablehlo"  # the file with the whole encoder, see ``folder.py``
LISTED = 20  # the card names at most this many classes, and counts more


class Plan(NamedTuple):
    """A backbone to export, with all settings of the export.

    Attributes:
      backbone: the backbone.
      layout: layout of the weights' names: "timm", "torchvision" or "jaxpt".
      found: the same network in timm and torchvision.
      formats: formats to write, of ``folder.FORMATS``.
      classifier: whether to include the classifier.
      shape: (height, width, channels) of its input images.
      records: records that measure this backbone.
      repo: "USER/REPO" on the hub, or "".
    """

    backbone: Backbone
    layout: str
    found: Counterpart
    formats: tuple[str, ...]
    classifier: bool
    shape: tuple[int, int, int]
    records: list[dict[str, Any]]
    repo: str

    @property
    def features(self) -> int:
        """Number of features per image."""
        backbone, images = self.backbone, np.zeros((1, *self.shape), np.float32)
        return jax.eval_shape(
            lambda variables: (
                models.encode(backbone.encoder, *variables, images, train=False).features
            ),
            (backbone.params, backbone.batch_stats),
        ).shape[1]

    @property
    def classes(self) -> list[str] | int:
        """Class names of the classifier, or their number if unnamed; 0 without a classifier."""
        if not self.classifier:
            return 0
        count = len(self.backbone.classifier["Dense_0"]["bias"])
        names = (self.backbone.made.get("data") or {}).get("classes") or []
        return names if len(names) == count else count

    @property
    def config(self) -> dict[str, Any] | None:
        """Config of pre-training, with paths reduced to file names to keep them private."""
        if self.backbone.config is None:
            return None
        config = json.loads(json.dumps(self.backbone.config.to_dict(), default=list))
        for part, name in ("data", "path"), ("data", "label_map"), ("model", "weights"):
            if config.get(part, {}).get(name):
                config[part][name] = pathlib.PurePath(config[part][name]).name
        return config


def write(plan: Plan) -> str:
    """Writes the card as Markdown with the Hugging Face hub's front matter."""
    backbone = plan.backbone
    method = NAMES.get(backbone.method, backbone.method)
    parts = [
        _front(plan),
        f"# {_plain(backbone.model.name)}, {_plain(method)}",
        _what(plan),
        _facts(plan),
        *_config(plan),
        "## Results",
        _results(plan),
        "## Use",
        *_use(plan),
    ]
    return "\n\n".join(parts) + "\n"


def _front(plan) -> str:
    timm = plan.layout == "timm" and "safetensors" in plan.formats
    task = "image-classification" if plan.classifier else "image-feature-extraction"
    tags = [
        task,
        "jaxpt",
        "jax",
        "flax",
        *["timm"] * timm,
        plan.backbone.method,
        plan.backbone.model.name,
    ]
    # JSON strings are YAML.
    return "\n".join(
        [
            "---",
            f"library_name: {'timm' if timm else 'jaxpt'}",
            f"pipeline_tag: {task}",
            "tags:",
            *(f"- {json.dumps(tag)}" for tag in tags),
            "# license: choose one, e.g. apache-2.0",
            "---",
        ]
    )


def _what(plan) -> str:
    backbone = plan.backbone
    text = f"An image encoder, exported by jaxpt {__version__}. "
    if backbone.method in methods.METHODS:
        page = importlib.import_module(f"jaxpt.methods.{backbone.method}").__doc__
        first = page.partition("\n\n")[0]
        text += (
            f"{_plain(first.removesuffix('.'))}. All constants are in the config below: they are "
            "jaxpt's defaults or this run's own"
            + (
                ", never the paper's, which we could not read."
                if backbone.method == "look"
                else "."
            )
        )
    elif backbone.config is None:
        text += (
            "Its weights are untrained, as initialised."
            if backbone.method == "scratch"
            else "Its weights come from a file that does not say how they were made."
        )
    return text


def _facts(plan) -> str:
    backbone, made, config = plan.backbone, plan.backbone.made, plan.config or {}
    data, count = (
        made.get("data") or {},
        sum(x.size for x in jax.tree.leaves(backbone.params["backbone"])),
    )
    height, width, channels = plan.shape
    rows = [
        ("method", backbone.method),
        ("network", f"{backbone.model.name}, {count:,} parameters"),
        ("features", str(plan.features)),
        ("classifier", _classes(plan.classes) if plan.classifier else ""),
        (
            "images",
            f"{height} × {width} × {channels}, normalisation {backbone.encoder.normalisation}",
        ),
        (
            "trained on",
            f"{data['name']}: {data['images']:,} images, {_classes(data['classes'])}"
            if data
            else "not recorded"
            if config
            else "",
        ),
        (
            "duration",
            f"{config.get('duration')} ({backbone.step:,} steps of "
            f"{config.get('batch_size')} images)"
            if config
            else "",
        ),
        ("seed", str(backbone.seed) if config or backbone.method == "scratch" else ""),
        *((name, made.get(name, "")) for name in ("device", "date", "python")),
        (
            "packages",
            ", ".join(f"{name} {version}" for name, version in made.get("packages", {}).items()),
        ),
        ("weights", f"in the names of {plan.layout}, fingerprint {backbone.checkpoint}"),
    ]
    cells = [f"| {name} | {_plain(value)} |" for name, value in rows if value]
    return "\n".join(["| | |", "|---|---|", *cells])


def _classes(classes) -> str:
    if isinstance(classes, int):
        return f"{classes:,} classes"
    names = f" ({', '.join(classes)})" if len(classes) <= LISTED else ""
    return f"{len(classes):,} classes{names}"


def _config(plan) -> list[str]:
    if plan.config is None:
        return []
    text = json.dumps(plan.config, indent=2, ensure_ascii=False)
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return [
        f"<details><summary>Config of pre-training</summary>\n\n{fence}json\n{text}\n{fence}"
        "\n\n</details>"
    ]


def _results(plan) -> str:
    if not plan.records:
        return (
            "No records were given to the export, so this card does not state how good the "
            "features are. `jaxpt evaluate` measures them."
        )
    made = markdown_of_sets(collect_sets(plan.records))
    return re.sub("^##", "###", made, flags=re.MULTILINE).strip()  # one level below this section


def _use(plan) -> list[str]:
    files = "FOLDER is this folder." + (
        f" From the hub: `hf download {plan.repo} --local-dir FOLDER`." if plan.repo else ""
    )
    tensors = "safetensors" in plan.formats
    parts = [files]
    if tensors and plan.layout == "timm":
        source = f"hf-hub:{plan.repo}" if plan.repo else "local-dir:FOLDER"
        parts.append(
            _code(f'''import timm

network = timm.create_model("{source}", pretrained=True).eval()
config = timm.data.resolve_model_data_config(network)
transform = timm.data.create_transform(**config)  # of PIL images''')
        )
    if tensors and plan.layout != header.OWN and plan.found.torchvision:
        parts.append(_code(_torchvision(plan)))
    if tensors:
        own = (
            "The weights have jaxpt's own names, which timm and torchvision cannot load:\n\n"
            if plan.layout == header.OWN
            else ""
        )
        parts.append(
            own
            + _code("""from jaxpt.backbones import open_backbone

features = open_backbone("FOLDER").features(images)  # uint8 [n, height, width, channels]""")
        )
    if "stablehlo" in plan.formats:
        height, width, channels = plan.shape
        parts.append(
            "With jax alone:\n\n"
            + _code(f"""from jax import export

encoder = export.deserialize(bytearray(open("FOLDER/{STABLEHLO}", "rb").read()))
{"logits" if plan.classifier else "features"} = encoder.call(images)  # uint8 [any number, \
{height}, {width}, {channels}]""")
        )
    return parts


def _torchvision(plan) -> str:
    network = plan.found.torchvision
    side = plan.shape[0]
    classes = len(plan.classes) if isinstance(plan.classes, list) else plan.classes
    make = f"{network}(num_classes={classes})" if plan.classifier else f"{network}()"
    head = "" if plan.classifier else f"network.{plan.found.head} = torch.nn.Identity()\n"
    mean, std = (", ".join(f"{v:g}" for v in values) for values in _normalisation(plan))
    return f"""import torch
from safetensors.torch import load_file
from torchvision.models import {network}

network = {make}.eval()
{head}network.load_state_dict(load_file("FOLDER/{header.FILE}"))
# Input: images in 0 … 1, {side} × {side}, minus ({mean}), divided by ({std})."""


def _normalisation(plan):
    values = models.inputs.statistics(plan.backbone.encoder.normalisation)
    return tuple((3 * v)[:3] for v in values)


def _code(text: str) -> str:
    return f"```python\n{text}\n```"


def _plain(text: str) -> str:
    """Escapes Markdown's special characters and joins lines."""
    return re.sub(r"([\\`*_\[\]<>|#~])", r"\\\1", " ".join(text.split()))
