"""Loading of config files, by path or by the name of a shipped one, and of flags that change them.

A config file is Python code with a function ``get_config``: run only those that you trust.
"""

import ast
import contextlib
import functools
import importlib.resources
import inspect
import os
import pathlib
import re
import runpy
import traceback

import ml_collections

from jaxpt import old_names
from jaxpt.cli import fields
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
            near = fields.nearest(config, word.lstrip("-").partition("=")[0])
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
            raise InputError(f"the config has no field {key!r}: {fields.suggestion(config, key)}")
        walked.append(part)
        here = here[part]
