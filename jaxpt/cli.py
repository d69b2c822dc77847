"""The command ``jaxpt``: reads flags, calls one function, turns bad input into one sentence."""

import argparse
import collections
import pathlib
import sys

from jaxpt import __version__, config_files
from jaxpt.errors import InputError, RunError, require
from jaxpt.train import distributed

BAD_INPUT = 2
FOUND = 3  # a check found something
SKIPPED = 3  # a part of what was asked for could not be had
ALONE = ("demo", "scaling", "transfer", "evaluate", "export", "replay")  # one process each


def main(argv: list[str] | None = None) -> int:
    """Runs a subcommand; returns the exit status, 2 for bad input."""
    status = _run(argv)
    distributed.leave(status)
    return status


def _run(argv):
    parser = _parser()
    args, rest = parser.parse_known_args(sys.argv[1:] if argv is None else argv)
    try:
        # Configs of data show and plan are those of pre-training.
        kind = "pretrain" if args.run in (_data_show, _plan) else args.command
        takes_config = kind in ("pretrain", "scaling", "transfer")
        if rest and not takes_config:
            parser.error(f"unrecognized arguments: {' '.join(rest)}")
        if args.command == "scaling":
            args.configs = config_files.read_of_methods(args.config, args.methods, rest)
        elif takes_config:
            args.config = config_files.read(kind, args.config, rest)
        if args.command in ALONE:
            distributed.require_alone(args.command)
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
        prog="jaxpt", description="Label-aware pre-training of image encoders that transfer."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    demo = commands.add_parser("demo", help="four losses on real images, a table and a report")
    demo.add_argument("--data", default="digits", choices=("digits", "fashion_mnist"))
    demo.add_argument("--out", help="folder for records and report.html; default runs/demo_DATA")
    demo.add_argument("--seeds", type=int, default=5, help="runs per loss (default 5)")
    demo.set_defaults(run=_demo)
    pretrain = _config_command(
        commands, "pretrain", "pre-train an encoder", "pretrain/digits.py:look"
    )
    pretrain.add_argument(
        "--workdir", required=True, help="folder for config, metrics and checkpoints"
    )
    pretrain.add_argument(
        "--noresume",
        action="store_true",
        help="refuse a workdir that holds a run, rather than go on with it",
    )
    pretrain.add_argument(
        "--max-minutes",
        type=float,
        default=0.0,
        metavar="M",
        help="save and stop, with status 75, before M minutes are over",
    )
    for name, metavar, text in (
        ("coordinator", "HOST:PORT", "address of process 0"),
        ("processes", "N", "how many processes are this run"),
        ("process", "I", "which of them, from 0, this one is"),
    ):
        pretrain.add_argument(
            f"--{name}",
            metavar=metavar,
            help=f"{text}; default: as the environment, SLURM, Open MPI or the TPU pod slice says",
        )
    pretrain.set_defaults(run=_pretrain)
    _plan_command(commands)
    launch = commands.add_parser(
        "launch", help="one pre-training run as several processes on this machine"
    )
    launch.add_argument("--processes", type=int, default=2, metavar="N", help="how many (2)")
    launch.add_argument(
        "--devices-per-process",
        type=int,
        default=1,
        metavar="D",
        help="virtual devices of each on CPUs, devices of each on GPUs (1)",
    )
    launch.add_argument(
        "argv",
        nargs=argparse.REMAINDER,
        metavar="pretrain …",
        help="the command with its arguments",
    )
    launch.set_defaults(run=_launch)
    replay = commands.add_parser(
        "replay", help="make again the step at which a run's numbers stopped being finite"
    )
    replay.add_argument("workdir", help="folder of the run")
    replay.set_defaults(run=_replay)
    scaling = _config_command(
        commands,
        "scaling",
        "error against the number of pre-training images, with power laws",
        "pretrain/digits.py",
        kind="pretrain",
    )
    scaling.add_argument(
        "--methods",
        default="cross_entropy,look",
        metavar="A,B",
        help="methods, each a variant of the config; default cross_entropy,look",
    )
    scaling.add_argument(
        "--sizes",
        required=True,
        type=_whole_numbers,
        metavar="N,N,…",
        help="numbers of images; the largest is held out of the fit",
    )
    scaling.add_argument("--seeds", type=int, default=3, help="runs per size and method (3)")
    scaling.add_argument("--out", required=True, help="folder for records and report.html")
    scaling.set_defaults(run=_scaling)
    transfer = _config_command(
        commands,
        "transfer",
        "fine-tune checkpoints and weight files, and measure them frozen",
        "transfer/defaults.py",
    )
    transfer.add_argument(
        "backbones",
        nargs="+",
        metavar="[LABEL=]WORKDIR",
        help="workdirs of pre-training runs (one a seed), weight files of "
        "torchvision or timm (.pth, .safetensors), or scratch:SEED",
    )
    transfer.add_argument(
        "--out", required=True, help="file that records are added to (JSON lines)"
    )
    transfer.set_defaults(run=_transfer)
    _evaluate_command(commands)
    _export_command(commands)
    _data_command(commands)
    report = commands.add_parser("report", help="records to tables, plots and one HTML page")
    report.add_argument(
        "records",
        nargs="+",
        metavar="RECORDS",
        help="files of records (JSON lines), of any command and any sets",
    )
    report.add_argument(
        "--out", required=True, help="folder for report.html, or a file that ends in .html"
    )
    report.add_argument("--markdown", metavar="FILE", help="write all tables as Markdown, too")
    report.add_argument("--csv", metavar="FILE", help="write every value of every run, too")
    report.set_defaults(run=_report)
    return parser


def _evaluate_command(commands):
    evaluate = commands.add_parser(
        "evaluate",
        help="suites of frozen-feature measurements over checkpoints",
        description="Measures checkpoints, one record a measurement; what the file of records "
        "already holds is not measured again.",
        epilog=f"Exit status {SKIPPED}: some measurements were skipped, for the reasons printed.",
    )
    evaluate.add_argument(
        "models",
        nargs="+",
        metavar="[LABEL=]WORKDIR",
        help="workdirs of pre-training runs, weight files, or scratch:SEED",
    )
    evaluate.add_argument(
        "--suite",
        default="coarse_to_fine,geometry",
        metavar="NAME,…",
        help="coarse_to_fine, geometry, transfer12, vtab1k or single evaluators; "
        "default coarse_to_fine,geometry",
    )
    evaluate.add_argument(
        "--data",
        default="",
        metavar="NAME,…",
        help="sets to measure on; default: the set of pre-training",
    )
    for name, type_, text in (
        ("path", str, "folder or file of the set"),
        ("image_size", int, "side of its images, pixels"),
        ("label_map", str, "fine, halves, parity, fashion5, level:K or FILE.csv"),
        ("limit", int, "only so many of its training images"),
    ):
        evaluate.add_argument(f"--{name}", type=type_, help=f"{text}; default: as pre-trained on")
    evaluate.add_argument(
        "--part",
        default="test",
        choices=("test", "validation"),
        help="which part is scored (default test)",
    )
    evaluate.add_argument(
        "--model",
        default="",
        metavar="NAME",
        help="network of scratch, and of weight files that do not tell it",
    )
    evaluate.add_argument(
        "--out", required=True, help="file that records are added to (JSON lines)"
    )
    evaluate.add_argument(
        "--cache",
        help="folder where features are kept; default: features, "
        "beside the file of records; --cache= keeps none",
    )
    evaluate.add_argument(
        "--strict", action="store_true", help="stop at the first measurement that cannot be made"
    )
    evaluate.set_defaults(run=_evaluate)


def _plan_command(commands):
    plan = _config_command(
        commands,
        "plan",
        "time, memory and chip-hours of a pre-training run, on paper",
        "pretrain/digits.py:look",
        kind="pretrain",
    )
    plan.add_argument(
        "--chips",
        required=True,
        metavar="KIND-N,…",
        help="v4, v5e, v5p, v6e, a100, h100, h200, l4 or t4 and how many, as v5e-8",
    )
    for name in "images", "classes":
        plan.add_argument(
            f"--{name}",
            type=int,
            default=0,
            metavar="N",
            help=f"training {name}; default: as the set's name or its folder says",
        )
    plan.add_argument(
        "--utilisation",
        type=float,
        default=0.5,
        metavar="SHARE",
        help="of the published peaks that is reached: an assumption (0.5)",
    )
    plan.add_argument(
        "--dollars-per-chip-hour",
        type=float,
        default=0.0,
        metavar="PRICE",
        help="what you pay; default: the cost stays a formula",
    )
    plan.set_defaults(run=_plan)


def _export_command(commands):
    export = commands.add_parser(
        "export",
        help="a backbone for timm, torchvision, or any program with jax",
        description="Writes a folder with a backbone's weights, its encoder and a model card.",
    )
    export.add_argument(
        "source",
        metavar="WORKDIR",
        help="workdir of a pre-training run, a weight file, an export, or scratch:SEED",
    )
    export.add_argument("--out", required=True, help="the folder; it must not be there yet")
    export.add_argument(
        "--layout",
        default="timm",
        choices=("timm", "torchvision", "jaxpt"),
        help="names of the weights (default timm; jaxpt's own where it has no such network)",
    )
    export.add_argument(
        "--format",
        default="safetensors",
        metavar="NAME,…",
        help="safetensors (weights), stablehlo (the encoder for jax.export); default safetensors",
    )
    export.add_argument(
        "--classifier",
        action="store_true",
        help="with the linear classifier that it was trained with",
    )
    export.add_argument(
        "--image-size",
        type=int,
        default=0,
        metavar="PIXELS",
        help="side of the images that it is meant for; default: as trained, or 224",
    )
    export.add_argument(
        "--records",
        nargs="+",
        default=[],
        metavar="FILE",
        help="records of this backbone, for the tables of the model card",
    )
    export.add_argument(
        "--model",
        default="",
        metavar="NAME",
        help="network of scratch, and of weight files that do not tell it",
    )
    export.add_argument(
        "--push",
        default="",
        metavar="USER/REPO",
        help="then upload it to the Hugging Face hub; the token is HF_TOKEN of the "
        "environment, and a new repository is private",
    )
    export.set_defaults(run=_export)


def _data_command(commands):
    data = commands.add_parser("data", help="look at images before they are trained on")
    subcommands = data.add_subparsers(dest="subcommand", required=True, metavar="SUBCOMMAND")
    check = subcommands.add_parser(
        "check",
        help="unreadable, mislabelled and duplicate files of a folder of images",
        epilog=f"Exit status 0: nothing was found; {FOUND}: something was.",
    )
    check.add_argument(
        "folder",
        help="class folders, train and test parts of them, or a list "
        "file, as pre-training with data.source=folder takes them",
    )
    check.set_defaults(run=_data_check)
    show = _config_command(
        subcommands,
        "show",
        "a picture of examples with their augmented views, and counts",
        "pretrain/digits.py:look",
        kind="pretrain",
    )
    show.add_argument("--out", default="sheet.png", help="the picture (default sheet.png)")
    show.add_argument("--examples", type=int, default=8, help="rows of the picture (default 8)")
    show.add_argument("--epoch", type=int, default=0, help="whose views are shown (default 0)")
    show.set_defaults(run=_data_show)


def _whole_numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def _config_command(commands, name, text, example, kind=None):
    command = commands.add_parser(
        name,
        help=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=f"{text[0].upper()}{text[1:]}.",
        epilog="Any field of the config is a flag: --config.k=50 --config.optimizer.learning_rate"
        "=0.01\nConfigs that come with jaxpt (or give the path of your own):\n  "
        + "\n  ".join(config_files.installed(kind or name)),
    )
    command.add_argument(
        "--config",
        default=example,
        metavar="FILE[:VARIANT]",
        help=f"a Python file with get_config(variant); default {example}",
    )
    return command


def _begin() -> None:
    """What comes before anything is computed, and after a process has joined others."""
    from jaxpt.train import accelerator
    from jaxpt.train.cache import use_compile_cache

    use_compile_cache()
    accelerator.require_visible()


def _demo(args):
    from jaxpt import demo

    _begin()
    demo.run(args.data, args.out or f"runs/demo_{args.data}", args.seeds)


def _pretrain(args):
    from jaxpt import pretrain
    from jaxpt.train.stopping import STATUS, Stopped

    require(bool(args.workdir), "--workdir must not be empty.")
    try:
        with distributed.joined(args.coordinator, args.processes, args.process):
            _begin()
            pretrain.run(
                args.config, args.workdir, resume=not args.noresume, max_minutes=args.max_minutes
            )
    except Stopped as stopped:
        print(f"jaxpt pretrain: {stopped}: {args.workdir}", file=sys.stderr)
        return STATUS
    print(f"done: {args.workdir}")
    return 0


def _plan(args):
    from rich.console import Console
    from rich.table import Table

    from jaxpt import plan

    require(
        0 <= args.dollars_per_chip_hour < float("inf"),
        f"--dollars-per-chip-hour must be 0 or more, got {args.dollars_per_chip_hour}.",
    )
    chips = args.chips.split(",")
    plans = plan.run(
        args.config, chips, images=args.images, classes=args.classes, utilisation=args.utilisation
    )
    table = Table("", *chips)
    for title, cells in plan.rows(plans, args.dollars_per_chip_hour):
        table.add_row(title, *cells)
    Console().print(table)
    for sentence in plan.notes(plans, args.utilisation):
        print(sentence)


def _launch(args):
    from jaxpt import launch

    return launch.run(
        args.argv, processes=args.processes, devices_per_process=args.devices_per_process
    )


def _replay(args):
    from jaxpt import replay

    _begin()
    print(replay.run(args.workdir))


def _scaling(args):
    from jaxpt import scaling

    _begin()
    scaling.run(args.configs, args.sizes, args.seeds, args.out)


def _transfer(args):
    from jaxpt import transfer

    _begin()
    transfer.run(args.config, args.backbones, args.out)
    print(f"records: {args.out}")


def _evaluate(args):
    from rich.console import Console

    from jaxpt import evaluate
    from jaxpt.configs.transfer import defaults

    _begin()
    require(bool(args.out), "--out must not be empty.")
    fields = {
        name: getattr(args, name)
        for name in ("path", "image_size", "label_map", "limit")
        if getattr(args, name) is not None
    }
    network = defaults.get_config().model
    network.name = args.model
    cache = pathlib.Path(args.out).parent / "features" if args.cache is None else args.cache
    outcome = evaluate.run(
        args.models,
        args.out,
        suite=args.suite.split(","),
        quiet=False,
        fields=fields,
        data=list(filter(None, args.data.split(","))),
        part=args.part,
        cache=cache or None,
        model_config=network,
        strict=args.strict,
    )
    console = Console()
    for table in evaluate.tables(outcome.records):
        console.print(table)
    print(
        f"records: {args.out} ({outcome.made} new, {len(outcome.records) - outcome.made} were "
        "there already)"
    )
    for sentence in evaluate.notes(outcome.records):
        print(f"note: {sentence}")
    for sentence in evaluate.reasons(outcome.skipped):
        print(f"skipped: {sentence}", file=sys.stderr)
    return SKIPPED if outcome.skipped else 0


def _export(args):
    from jaxpt import export
    from jaxpt.configs.transfer import defaults
    from jaxpt.train.cache import use_compile_cache

    use_compile_cache()
    network = defaults.get_config().model
    network.name = args.model
    made = export.run(
        args.source,
        args.out,
        layout=args.layout,
        formats=args.format.split(","),
        classifier=args.classifier,
        image_size=args.image_size,
        record_files=args.records,
        push=args.push,
        model=network,
    )
    for sentence in made.notes:
        print(f"note: {sentence}")
    print(f"exported: {args.out}")
    if made.url:
        print(f"pushed: {made.url}")


def _data_check(args):
    from jaxpt.data import check

    counts = collections.Counter()
    for finding in check.findings(pathlib.Path(args.folder)):
        print(f"{finding.kind}: {finding.text}")
        counts[finding.kind] += 1
    print("; ".join(f"{n:,} {kind}" for kind, n in counts.items()) or "nothing was found.")
    return FOUND if counts else 0


def _data_show(args):
    from rich.console import Console

    from jaxpt import data_show

    sheet = data_show.run(args.config, args.out, examples=args.examples, epoch=args.epoch)
    Console().print(sheet.table)
    print(f"sheet: {sheet.path}")


def _report(args):
    from jaxpt import records, report

    page = report.write_report(
        records.read_given(args.records), args.out, markdown=args.markdown, csv=args.csv
    )
    print(f"report: {page}")


if __name__ == "__main__":
    sys.exit(main())
