"""The command ``jaxpt``: reads flags, calls one function, turns bad input into one sentence."""

import argparse
import ast
import difflib
import functools
import importlib.resources
import inspect
import pathlib
import runpy
import sys
import traceback

from jaxpt import __version__
from jaxpt.errors import InputError, RunError, require

BAD_INPUT = 2
SKIPPED = 3  # a part of what was asked for could not be had
OPEN = "model.options."  # what may be there depends on the network, which checks it


def main(argv: list[str] | None = None) -> int:
    """Runs a subcommand; returns the exit status, 2 for bad input."""
    parser = _parser()
    args, rest = parser.parse_known_args(sys.argv[1:] if argv is None else argv)
    try:
        takes_config = args.command in ("pretrain", "scaling", "transfer")
        if rest and not takes_config:
            parser.error(f"unrecognized arguments: {' '.join(rest)}")
        if args.command == "scaling":
            args.configs = _read_configs(args.config, args.methods, rest)
        elif takes_config:
            args.config = _read_config(args.command, args.config, rest)
        return args.run(args) or 0
    except InputError as error:
        print(f"jaxpt {args.command}: {error}", file=sys.stderr)
        return BAD_INPUT
    except RunError as error:
        print(f"jaxpt {args.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"jaxpt {args.command}: stopped.", file=sys.stderr)
        return 130


def _parser():
    parser = argparse.ArgumentParser(
        prog="jaxpt", description="Label-aware pre-training of image encoders that transfer.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    demo = commands.add_parser("demo", help="four losses on real images, a table and a report")
    demo.add_argument("--data", default="digits", choices=("digits", "fashion_mnist"))
    demo.add_argument("--out", help="folder for records and report.html; default runs/demo_DATA")
    demo.add_argument("--seeds", type=int, default=5, help="runs per loss (default 5)")
    demo.set_defaults(run=_demo)
    pretrain = _config_command(
        commands, "pretrain", "pre-train an encoder", "pretrain/digits.py:look")
    pretrain.add_argument("--workdir", required=True,
                          help="folder for config, metrics and checkpoints")
    pretrain.add_argument("--noresume", action="store_true",
                          help="refuse a workdir that holds a run, rather than go on with it")
    pretrain.add_argument("--max-minutes", type=float, default=0.0, metavar="M",
                          help="save and stop, with status 75, before M minutes are over")
    pretrain.set_defaults(run=_pretrain)
    replay = commands.add_parser(
        "replay", help="make again the step at which a run's numbers stopped being finite")
    replay.add_argument("workdir", help="folder of the run")
    replay.set_defaults(run=_replay)
    scaling = _config_command(
        commands, "scaling", "error against the number of pre-training images, with power laws",
        "pretrain/digits.py", kind="pretrain")
    scaling.add_argument("--methods", default="cross_entropy,look", metavar="A,B",
                         help="methods, each a variant of the config; default cross_entropy,look")
    scaling.add_argument("--sizes", required=True, type=_whole_numbers, metavar="N,N,…",
                         help="numbers of images; the largest is held out of the fit")
    scaling.add_argument("--seeds", type=int, default=3, help="runs per size and method (3)")
    scaling.add_argument("--out", required=True, help="folder for records and report.html")
    scaling.set_defaults(run=_scaling)
    transfer = _config_command(
        commands, "transfer", "fine-tune checkpoints and weight files, and measure them frozen",
        "transfer/defaults.py")
    transfer.add_argument("backbones", nargs="+", metavar="[LABEL=]WORKDIR",
                          help="workdirs of pre-training runs (one a seed), weight files of "
                               "torchvision or timm (.pth, .safetensors), or scratch:SEED")
    transfer.add_argument("--out", required=True,
                          help="file that records are added to (JSON lines)")
    transfer.set_defaults(run=_transfer)
    _evaluate_command(commands)
    report = commands.add_parser("report", help="records to tables, plots and one HTML page")
    report.add_argument("records", nargs="+", metavar="RECORDS",
                        help="files of records (JSON lines), of any command and any sets")
    report.add_argument("--out", required=True,
                        help="folder for report.html, or a file that ends in .html")
    report.add_argument("--markdown", metavar="FILE", help="write all tables as Markdown, too")
    report.add_argument("--csv", metavar="FILE", help="write every value of every run, too")
    report.set_defaults(run=_report)
    return parser


def _evaluate_command(commands):
    evaluate = commands.add_parser(
        "evaluate", help="suites of frozen-feature measurements over checkpoints",
        description="Measures checkpoints, one record a measurement; what the file of records "
        "already holds is not measured again.",
        epilog=f"Exit status {SKIPPED}: some measurements were skipped, for the reasons printed.")
    evaluate.add_argument("models", nargs="+", metavar="[LABEL=]WORKDIR",
                          help="workdirs of pre-training runs, weight files, or scratch:SEED")
    evaluate.add_argument("--suite", default="coarse_to_fine,geometry", metavar="NAME,…",
                          help="coarse_to_fine, geometry, transfer12, vtab1k or single evaluators; "
                          "default coarse_to_fine,geometry")
    evaluate.add_argument("--data", default="", metavar="NAME,…",
                          help="sets to measure on; default: the set of pre-training")
    for name, type_, text in (("path", str, "folder or file of the set"),
                              ("image_size", int, "side of its images, pixels"),
                              ("label_map", str, "fine, halves, parity or fashion5"),
                              ("limit", int, "only so many of its training images")):
        evaluate.add_argument(f"--{name}", type=type_, help=f"{text}; default: as pre-trained on")
    evaluate.add_argument("--part", default="test", choices=("test", "validation"),
                          help="which part is scored (default test)")
    evaluate.add_argument("--model", default="", metavar="NAME",
                          help="network of scratch, and of weight files that do not tell it")
    evaluate.add_argument("--out", required=True,
                          help="file that records are added to (JSON lines)")
    evaluate.add_argument("--cache", help="folder where features are kept; default: features, "
                          "beside the file of records; --cache= keeps none")
    evaluate.add_argument("--strict", action="store_true",
                          help="stop at the first measurement that cannot be made")
    evaluate.set_defaults(run=_evaluate)


def _whole_numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def _config_command(commands, name, text, example, kind=None):
    command = commands.add_parser(
        name, help=text, formatter_class=argparse.RawDescriptionHelpFormatter,
        description=f"{text[0].upper()}{text[1:]}.",
        epilog="Any field of the config is a flag: --config.k=50 --config.optimizer.learning_rate"
               "=0.01\nConfigs that come with jaxpt (or give the path of your own):\n  "
               + "\n  ".join(_installed_configs(kind or name)))
    command.add_argument("--config", default=example, metavar="FILE[:VARIANT]",
                         help=f"a Python file with get_config(variant); default {example}")
    return command


def _installed_configs(kind: str) -> list[str]:
    folder = importlib.resources.files("jaxpt.configs") / kind
    return sorted(f"{kind}/{file.name}" for file in folder.iterdir()
                  if file.name.endswith(".py") and file.name != "__init__.py")


def _read_config(command: str, name: str, overrides: list[str]):
    """The config that ``FILE:VARIANT`` gives, with ``--config.x=y`` applied and type-checked."""
    from absl import flags
    from ml_collections import config_flags

    config = _load_config(command, *name.partition(":")[::2])
    for word in overrides:
        require(word.startswith("--config."),
                f"unknown argument {word!r}; see jaxpt {command} --help.")
        key, equals, value = word.removeprefix("--config.").partition("=")
        require(bool(equals), f"{word!r} has no value: write {word}=VALUE.")
        if key.startswith(OPEN):
            _set_option(config, key, value)
        _check_key(config, key)
    values = flags.FlagValues()
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=overrides)
        values([command, *overrides])
        return values.config
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(" ".join(str(error).split()).removesuffix(".") + ".") from error


def _read_configs(name: str, methods: str, overrides: list[str]) -> dict:
    """By method, the config that its variant gives, with the overrides applied to all."""
    path, _, variant = name.partition(":")
    return {method: _read_config("pretrain", f"{path}:{','.join(filter(None, [method, variant]))}",
                                 overrides) for method in filter(None, methods.split(","))}


def _load_config(command: str, path: str, variant: str):
    installed = pathlib.Path(str(importlib.resources.files("jaxpt.configs"))) / path
    file = next((f for f in (pathlib.Path(path), installed) if f.is_file()), None)
    require(file is not None, f"--config: no file {path!r} here or among those that come with "
            f"jaxpt ({', '.join(_installed_configs(command))}).")
    get_config = _run_config(file).get("get_config")
    require(get_config is not None, f"--config: {path} has no function get_config.")
    require(not variant or bool(inspect.signature(get_config).parameters),
            f"--config: {path} has no variants, got {variant!r}.")
    return get_config(variant) if variant else get_config()


def _run_config(file: pathlib.Path) -> dict:
    """What a config file defines. A config is code: run only those that you trust."""
    try:
        return runpy.run_path(str(file))
    except InputError:
        raise
    except Exception as error:  # whatever a user's file may raise
        line = traceback.extract_tb(error.__traceback__)[-1].lineno
        where = "" if isinstance(error, SyntaxError) else f", line {line}"
        raise InputError(f"--config: {file}{where} fails with {type(error).__name__}: "
                         f"{error}.") from error


def _set_option(config, key: str, text: str) -> None:
    """Gives an open part of the config a field that it need not have, so that it can be set."""
    *path, name = key.split(".")
    _check_key(config, ".".join(path))
    part = functools.reduce(lambda here, step: here[step], path, config)
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    with part.unlocked(), part.ignore_type():
        part[name] = value


def _check_key(config, key: str) -> None:
    """Raises InputError, with the nearest name, where a dotted key is not in the config."""
    here, walked = config, []
    for part in key.split("."):
        names = list(here) if hasattr(here, "keys") else []
        if part not in names:
            near = difflib.get_close_matches(part, names, 1)
            hint = f"did you mean {'.'.join(walked + near)!r}?" if near else (
                f"{'.'.join(walked) or 'it'} has {', '.join(names) or 'no fields'}.")
            raise InputError(f"the config has no field {key!r}: {hint}")
        walked.append(part)
        here = here[part]


def _demo(args):
    from jaxpt import demo
    from jaxpt.train.cache import use_compile_cache

    use_compile_cache()
    demo.run(args.data, args.out or f"runs/demo_{args.data}", args.seeds)


def _pretrain(args):
    from jaxpt import pretrain
    from jaxpt.train.cache import use_compile_cache
    from jaxpt.train.stopping import STATUS, Stopped

    use_compile_cache()
    require(bool(args.workdir), "--workdir must not be empty.")
    try:
        pretrain.run(args.config, args.workdir, resume=not args.noresume,
                     max_minutes=args.max_minutes)
    except Stopped as stopped:
        print(f"jaxpt pretrain: {stopped}: {args.workdir}", file=sys.stderr)
        return STATUS
    print(f"done: {args.workdir}")
    return 0


def _replay(args):
    from jaxpt import replay
    from jaxpt.train.cache import use_compile_cache

    use_compile_cache()
    print(replay.run(args.workdir))


def _scaling(args):
    from jaxpt import scaling
    from jaxpt.train.cache import use_compile_cache

    use_compile_cache()
    scaling.run(args.configs, args.sizes, args.seeds, args.out)


def _transfer(args):
    from jaxpt import transfer
    from jaxpt.train.cache import use_compile_cache

    use_compile_cache()
    transfer.run(args.config, args.backbones, args.out)
    print(f"records: {args.out}")


def _evaluate(args):
    from rich.console import Console

    from jaxpt import evaluate
    from jaxpt.configs.transfer import defaults
    from jaxpt.train.cache import use_compile_cache

    use_compile_cache()
    require(bool(args.out), "--out must not be empty.")
    fields = {name: getattr(args, name) for name in ("path", "image_size", "label_map", "limit")
              if getattr(args, name) is not None}
    network = defaults.get_config().model
    network.name = args.model
    cache = pathlib.Path(args.out).parent / "features" if args.cache is None else args.cache
    outcome = evaluate.run(
        args.models, args.out, suite=args.suite.split(","), quiet=False, fields=fields,
        data=list(filter(None, args.data.split(","))), part=args.part, cache=cache or None,
        model_config=network, strict=args.strict)
    console = Console()
    for table in evaluate.tables(outcome.records):
        console.print(table)
    print(f"records: {args.out} ({outcome.made} new, {len(outcome.records) - outcome.made} were "
          "there already)")
    for sentence in evaluate.notes(outcome.records):
        print(f"note: {sentence}")
    for sentence in evaluate.reasons(outcome.skipped):
        print(f"skipped: {sentence}", file=sys.stderr)
    return SKIPPED if outcome.skipped else 0


def _report(args):
    from jaxpt import records, report

    found = []
    for path in args.records:
        require(pathlib.Path(path).is_file(), f"no file {path!r} with records.")
        of_file = records.read(path)
        require(bool(of_file), f"{path} holds no records.")
        found += of_file
    page = report.write_report(found, args.out, markdown=args.markdown, csv=args.csv)
    print(f"report: {page}")


if __name__ == "__main__":
    sys.exit(main())
