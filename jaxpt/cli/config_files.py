"""Configs of commands: their files, the flags that change them, and help on their fields.

A config is a shipped file, by its name, or any other by its path. It is Python code with a function
``get_config``: run only those that you trust.
"""

import ast
import contextlib
import difflib
import functools
import importlib
import importlib.resources
import inspect
import os
import pathlib
import re
import runpy
import shlex
import traceback

import ml_collections

from jaxpt import old_names
from jaxpt.errors import InputError, require

SHARED = "recipes.py"  # helpers of recipes, not a config
OPEN = ("model.options", "data.sources")  # their fields are checked where they are used


def installed(kind: str) -> list[str]:
    """Names of the shipped configs of a kind (pretrain, transfer)."""
    root = pathlib.Path(str(importlib.resources.files("jaxpt.configs")))
    return sorted(
        str(file.relative_to(root))
        for file in (root / kind).rglob("*.py")
        if file.name not in ("__init__.py", SHARED)
    )


def read(command: str, name: str, overrides: list[str], *, fit: bool = True):
    """Loads the config ``FILE:VARIANT``, applies the overrides ``--config.x=y``, checks types.

    With ``fit``, a config file with a function of this name fits open fields to the images.
    """
    from absl import flags
    from ml_collections import config_flags

    config, fitting = _load_config(command, *name.partition(":")[::2])
    _expand_home(config)
    for word in overrides:
        if not word.startswith("--config."):
            near = nearest(config, word.lstrip("-").partition("=")[0])
            meant = f"did you mean --config.{near[0]}? " if near else ""
            raise InputError(f"unknown argument {word!r}: {meant}see jaxpt {command} --help.")
        key, equals, value = word.removeprefix("--config.").partition("=")
        require(bool(equals), f"{word!r} has no value: write {word}=VALUE.")
        if key.startswith(tuple(f"{section}." for section in OPEN)):
            _set_option(config, key, value)
        _check_key(config, key)
    values = flags.FlagValues()
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=overrides)
        values([command, *overrides])
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(" ".join(str(error).split()).removesuffix(".") + ".") from error
    return fitted(values.config, fitting) if fit and fitting else values.config


def fitted(config, fitting):
    """Applies the function ``fit`` of a config file."""
    return fitting(config)


def read_of_methods(name: str, methods: str, overrides: list[str]) -> dict:
    """Loads one config per method, as a variant of one file, with the overrides applied to all."""
    path, _, variant = name.partition(":")
    return {
        method: read("pretrain", f"{path}:{','.join(filter(None, [method, variant]))}", overrides)
        for method in filter(None, methods.split(","))
    }


def _load_config(command: str, path: str, variant: str):
    of_jaxpt = pathlib.Path(str(importlib.resources.files("jaxpt.configs"))) / path
    file = next((f for f in (pathlib.Path(path), of_jaxpt) if f.is_file()), None)
    require(
        file is not None,
        f"--config: no file {path!r} here or among jaxpt's own ({', '.join(installed(command))}).",
    )
    with _failures_of(file):
        module = runpy.run_path(str(file))
    get_config = module.get("get_config")
    require(get_config is not None, f"--config: {path} has no function get_config.")
    require(
        not variant or bool(inspect.signature(get_config).parameters),
        f"--config: {path} has no variants, got {variant!r}.",
    )
    with _failures_of(file):
        config = get_config(variant) if variant else get_config()
        old_names.check(config)
    return config, module.get("fit")


@contextlib.contextmanager
def _failures_of(file: pathlib.Path):
    """Turns exceptions of a config file into an InputError that names the line."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        lines = [
            f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(file)
        ]
        where = f", line {lines[-1]}" if lines and not isinstance(error, SyntaxError) else ""
        # The message of a ConfigDict for an unknown field begins with its name, and may go on with
        # another name of which it reminds.
        missing = next(iter(re.findall(r"\w+", str(error))), "")
        what = (
            f": {old_names.sentence(missing)}"
            if isinstance(error, AttributeError) and missing in old_names.MOVED
            else f" fails with {type(error).__name__}: {error}."
        )
        raise InputError(f"--config: {file}{where}{what}") from error


def at_home(text: str) -> str:
    """Expands a "~" at the beginning of a path to the home folder.

    A shell expands a separate word, but not the path in ``--out=~/runs`` or ``LABEL=~/run``.
    """
    before, path = re.fullmatch(r"((?:[^=/~]*=)?)(.*)", text, re.DOTALL).groups()
    return before + (os.path.expanduser(path) if re.match(r"~(/|$)", path) else path)


def _expand_home(config) -> None:
    for name, value in config.items():
        if hasattr(value, "items"):
            _expand_home(value)
        elif isinstance(value, str) and value.startswith("~"):
            config[name] = at_home(value)


def _set_option(config, key: str, text: str) -> None:
    """Sets a field of an open section of the config, which need not have it yet."""
    *path, name = key.split(".")
    if path[:2] == ["data", "sources"] and len(path) == 3:  # names a source
        _check_key(config, "data.sources")
        with config.data.sources.unlocked():
            if path[2] not in config.data.sources:
                config.data.sources[path[2]] = ml_collections.ConfigDict()
    _check_key(config, ".".join(path))
    part = functools.reduce(lambda here, step: here[step], path, config)
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    with part.unlocked(), part.ignore_type():
        part[name] = value


def _check_key(config, key: str) -> None:
    """Raises InputError, with the closest name, if a dotted key is not in the config."""
    here, walked = config, []
    for part in key.split("."):
        names = list(here) if hasattr(here, "keys") else []
        if part not in names:
            if part in old_names.MOVED and not walked and "method" in config:
                raise InputError(old_names.sentence(part))
            raise InputError(f"the config has no field {key!r}: {suggestion(config, key)}")
        walked.append(part)
        here = here[part]


def flat(config, prefix: str = "") -> dict[str, object]:
    """Values of all fields by their dotted names; empty sections have the value {}."""
    found: dict[str, object] = {}
    for name, value in config.items():
        if hasattr(value, "items") and value:
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = {} if hasattr(value, "items") else value
    return found


def assignments(config) -> str:
    """The config as flags, one a line, which a shell reads back as they are."""
    return "\n".join(
        shlex.quote(f"--config.{name}={value}")
        for name, value in flat(config).items()
        if value != {}
    )


@functools.cache
def _comments(kind: str) -> dict[str, str]:
    """Comments of the fields and sections of the default config of a kind, by dotted name."""
    module = importlib.import_module(f"jaxpt.configs.{kind}.defaults")
    source = inspect.getsource(module.get_config)
    return dict(re.findall(r"(?m)^    c\.([\w.]+) = .*?  # (.*)$", source))


def comment(kind: str, name: str) -> str:
    """Comment of a field; without one, that of the field of this name that it is a copy of."""
    section, _, field = name.rpartition(".")
    usual = _comments("pretrain")
    for known, other in (
        (_comments(kind), name),
        (usual, name),
        (usual, f"{section.removeprefix('key_').removeprefix('local_')}.{field}"),
        (usual, f"model.projector.{field}"),
    ):
        if other in known:
            return known[other]
    return ""


def listing(kind: str, config, wanted: str = "") -> str:
    """Lines of help on the fields of a config, by section.

    Args:
      kind: of the config, pretrain or transfer.
      config: whose values are shown.
      wanted: a section or field, such as "optimizer" or "look.k"; "" lists all.

    Raises:
      InputError: if there is no such section or field.
    """
    fields = flat(config)
    if wanted:
        name = wanted.removeprefix("--").removeprefix("config.")
        chosen = {n: v for n, v in fields.items() if n == name or n.startswith(f"{name}.")}
        if not chosen:  # raises
            require(
                False, f"the config has no field or section {name!r}: {suggestion(config, name)}"
            )
        fields = chosen
    groups: dict[str, list[str]] = {}
    for name in fields:
        groups.setdefault(name.rpartition(".")[0], []).append(name)
    width = min(max(len(f"{name}={value}") for name, value in fields.items()), 46)
    lines = []
    for group in sorted(groups, key=lambda group: group != ""):  # the fields of no section first
        about = _comments(kind).get(group, "")
        lines.append(f"\n{group or 'general'}{f': {about}' if about else ''}")
        for name in groups[group]:
            setting = f"{name}={fields[name]}"
            said = comment(kind, name)
            lines.append(f"  {setting:<{width}}  {said}".rstrip())
    return "\n".join(lines).strip("\n")


# What other programs call a field, without punctuation → fields, the first of which a config has.
MEANINGS = {
    **dict.fromkeys(
        (
            "epochs",
            "numepochs",
            "maxepochs",
            "nepochs",
            "steps",
            "numsteps",
            "maxsteps",
            "totalsteps",
        ),
        ("duration",),
    ),
    **dict.fromkeys(("iterations", "maxiters", "trainsteps", "length"), ("duration",)),
    **dict.fromkeys(
        ("lr", "learningrate", "rate", "baselr", "blr", "lrs", "stepsize"),
        ("optimizer.learning_rate", "learning_rates"),
    ),
    **dict.fromkeys(
        ("wd", "weightdecay", "decay", "l2"), ("optimizer.weight_decay", "weight_decays")
    ),
    **dict.fromkeys(("bs", "batch", "batchsize", "trainbatchsize", "b"), ("batch_size",)),
    **dict.fromkeys(("accumulate", "accumsteps", "gradaccum", "microbatch"), ("micro_batches",)),
    **dict.fromkeys(("warmupepochs", "warmupsteps"), ("optimizer.warmup", "warmup")),
    **dict.fromkeys(
        ("clip", "gradclip", "clipgrad", "maxgradnorm", "gradclipnorm"), ("optimizer.clip_norm",)
    ),
    **dict.fromkeys(("opt", "optim"), ("optimizer.name",)),
    **dict.fromkeys(("lossfn", "loss", "algorithm", "objective"), ("method",)),
    **dict.fromkeys(("tau", "temp", "t"), ("temperature",)),
    **dict.fromkeys(
        ("queue", "queuesize", "memorysize", "banksize", "negatives", "moco_k"), ("memory",)
    ),
    **dict.fromkeys(("neighbours", "neighbors", "numneighbors", "knn", "topk"), ("look.k",)),
    **dict.fromkeys(("emadecay", "momentumencoder", "mocom", "targetmomentum"), ("ema",)),
    **dict.fromkeys(
        ("arch", "architecture", "network", "backbone", "modelname", "encoder"), ("model.name",)
    ),
    **dict.fromkeys(("pretrained", "init", "checkpoint", "initfrom"), ("model.weights",)),
    **dict.fromkeys(("precision", "fp16", "bf16", "amp", "halfprecision"), ("model.dtype",)),
    **dict.fromkeys(("featdim", "outdim", "projdim", "embeddim"), ("model.projector.dim",)),
    **dict.fromkeys(("gradientcheckpointing", "checkpointing"), ("model.remat",)),
    **dict.fromkeys(("dataset", "datasetname", "set"), ("data.source",)),
    **dict.fromkeys(
        ("folder", "datapath", "datadir", "dir", "root", "images", "traindir", "input"),
        ("data.path",),
    ),
    **dict.fromkeys(
        ("size", "imgsize", "imagesize", "resolution", "imsize", "inputsize", "side"),
        ("data.image_size",),
    ),
    **dict.fromkeys(("labels", "levels", "level", "coarse"), ("data.label_map",)),
    **dict.fromkeys(
        ("imbalance", "imbfactor", "imbratio", "imbalanceratio", "longtailed"), ("data.long_tail",)
    ),
    **dict.fromkeys(("labelnoise", "noise", "noisylabels", "noiserate"), ("data.wrong_labels",)),
    **dict.fromkeys(("sampler", "classbalanced", "oversampling"), ("data.sampling",)),
    **dict.fromkeys(("sam", "rho", "sharpness"), ("rw_sam.rho",)),
    **dict.fromkeys(("numworkers", "threads", "nworkers"), ("data.workers",)),
    **dict.fromkeys(("cropsize",), ("augment.crop_size", "crop")),
    **dict.fromkeys(("scale", "mincrop", "cropscale"), ("augment.crop_area",)),
    **dict.fromkeys(("hflip", "horizontalflip"), ("augment.flip",)),
    **dict.fromkeys(("colorjitter", "colourjitter", "jitterstrength"), ("augment.jitter",)),
    **dict.fromkeys(("grayscale", "greyscale", "gray"), ("augment.grey",)),
    **dict.fromkeys(("crops", "ncrops", "numcrops", "multicrop"), ("local_views",)),
    **dict.fromkeys(("nviews", "numviews"), ("views",)),
    **dict.fromkeys(("smoothing",), ("cross_entropy.label_smoothing", "label_smoothing")),
    **dict.fromkeys(("logfreq", "logsteps", "printfreq", "loginterval"), ("log_every",)),
    **dict.fromkeys(
        ("saveevery", "savefreq", "checkpointfreq", "saveinterval", "savesteps"),
        ("checkpoint_every",),
    ),
    **dict.fromkeys(("evalevery", "evalfreq", "evalinterval", "evalsteps"), ("knn_every",)),
    **dict.fromkeys(("gpus", "ngpus", "numgpus", "tpus", "numdevices"), ("devices",)),
    **dict.fromkeys(("randomseed", "randomstate"), ("seed", "seeds")),
    **dict.fromkeys(("fsdp", "zero"), ("param_sharding",)),
    **dict.fromkeys(("nshots", "fewshot", "kshot"), ("data.shots",)),
    **dict.fromkeys(("labelfraction", "labelshare", "labeledratio"), ("data.labelled_share",)),
    **dict.fromkeys(("testsplit", "holdout", "valsplit", "testsize"), ("data.test_share",)),
}
CLOSE, MISSPELT = 0.75, 0.85  # least similarity of suggested names, and of misspelt ones


def nearest(config, key: str) -> list[str]:
    """At most three fields that an unknown one may mean, by name or by meaning."""
    names = list(flat(config))
    section, _, last = key.rpartition(".")
    plain = re.sub(r"[^a-z0-9]", "", last.lower())
    meant = [name for name in MEANINGS.get(plain, ()) if name in names]
    same = [name for name in names if name.rpartition(".")[2] == last]
    by_last = {name.rpartition(".")[2]: name for name in reversed(names)}
    # Long sections make names alike that have nothing in common but the section.
    within = [name for name in names if _ratio(name.rpartition(".")[2], last) > 0.5]
    alike = difflib.get_close_matches(key, within, 2, CLOSE)
    misspelt = difflib.get_close_matches(key, within, 1, MISSPELT) if section else []
    alike += [by_last[n] for n in difflib.get_close_matches(last, by_last, 2, CLOSE)]
    found = meant[:1] or misspelt or sorted(same, key=len) or alike
    found = [name for name in found if section and name.startswith(f"{section}.")] or found
    return list(dict.fromkeys(found))[:3]


def _ratio(a: str, b: str) -> float:
    return difflib.SequenceMatcher(None, a, b).ratio()


def suggestion(config, key: str) -> str:
    """The end of a sentence about an unknown field: what it may mean, or what there is."""
    here, walked = config, []
    for part in key.split("."):
        if not hasattr(here, "keys") or part not in here:
            break
        here = here[part]
        walked.append(part)
    if not hasattr(here, "keys"):
        return f"{'.'.join(walked)} has no fields."
    found = nearest(config, key)
    if found:
        return f"did you mean {' or '.join(map(repr, found))}?"
    return f"{'.'.join(walked) or 'it'} has {', '.join(here) or 'no fields'}."
