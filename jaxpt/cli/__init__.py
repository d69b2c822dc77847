"""The command ``jaxpt``: parses flags, calls one function, prints bad input as one sentence."""

import collections
import logging
import pathlib
import sys

from jaxpt.cli import config_files
from jaxpt.cli.arguments import BAD_INPUT, FOUND, SKIPPED, parser
from jaxpt.errors import InputError, RunError, require
from jaxpt.train import distributed

# Commands that take a config → kind of the config.
CONFIGS = {
    "pretrain": "pretrain",
    "plan": "pretrain",
    "scaling": "pretrain",
    "data show": "pretrain",
    "transfer": "transfer",
}
# Commands that run as a single process.
ALONE = ("demo", "scaling", "transfer", "evaluate", "export", "replay")


def main(argv: list[str] | None = None) -> int:
    """Runs a subcommand and returns the exit status, 2 for bad input."""
    # Orbax logs every file that it touches, and tracebacks of errors that it also raises.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    status = _run(argv)
    distributed.leave(status)
    return status


def _run(argv):
    flags, argv = parser(), sys.argv[1:] if argv is None else argv
    argv = [config_files.at_home(word) for word in argv]
    if not argv:
        flags.print_help(sys.stderr)
        return BAD_INPUT
    args, rest = flags.parse_known_args(argv)
    command = " ".join(filter(None, (args.command, getattr(args, "subcommand", ""))))
    try:
        kind = CONFIGS.get(command)
        if rest and not kind:
            flags.error(f"unrecognized arguments: {' '.join(rest)}")
        if command == "scaling":
            args.configs = config_files.read_of_methods(args.config, args.methods, rest)
        elif kind:
            args.config = config_files.read(kind, args.config, rest + _of_weights(args))
        if command in ALONE:
            distributed.require_alone(command)
        return COMMANDS[command](args) or 0
    except InputError as error:
        print(f"jaxpt {args.command}: {error}", file=sys.stderr)
        return BAD_INPUT
    except RunError as error:
        print(f"jaxpt {args.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"jaxpt {args.command}: stopped.", file=sys.stderr)
        return 130


def _of_weights(args) -> list[str]:
    """Converts the flags for weight files to overrides of a config."""
    fields = {"model": "name", "norm": "norm", "normalisation": "normalisation", "state": "state"}
    words = [
        f"--config.model.{field}={getattr(args, flag)}"
        for flag, field in fields.items()
        if getattr(args, flag, "")
    ]
    for option in getattr(args, "option", ()):
        require("=" in option, f"--option must be NAME=VALUE, got {option!r}.")
        words.append(f"--config.model.options.{option}")
    return words


def _network(args):
    """Makes the model config of a command that takes no config file."""
    return config_files.read("transfer", "transfer/defaults.py", _of_weights(args)).model


def _begin() -> None:
    """Sets up JAX: before anything is computed, after a process has joined the others."""
    from jaxpt.cache import use_compile_cache
    from jaxpt.train import accelerator

    use_compile_cache()
    accelerator.require_visible()


def _demo(args):
    from jaxpt.studies import demo

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
    import jax
    from rich.console import Console
    from rich.table import Table

    from jaxpt.cost import compiling, plan

    require(
        0 <= args.dollars_per_chip_hour < float("inf"),
        f"--dollars-per-chip-hour must be 0 or more, got {args.dollars_per_chip_hour}.",
    )
    require(
        bool(args.chips or args.compile),
        "name chips to plan for, as in --chips=v5e-8, or a topology, as in --compile=v5e:2x4.",
    )
    if args.compile:
        jax.config.update("jax_platforms", "cpu")  # or JAX would look for a TPU, as libtpu is there
        compiling.devices_of(args.compile)  # raises before anything is printed
    sizes = {"images": args.images, "classes": args.classes}
    chips = (args.chips or compiling.chips_of(args.compile)).split(",")
    plans = plan.run(args.config, chips, **sizes, utilisation=args.utilisation)
    table = Table("", *chips)
    for title, cells in plan.rows(plans, args.dollars_per_chip_hour):
        table.add_row(title, *cells)
    Console().print(table)
    for sentence in plan.notes(plans, args.utilisation):
        print(sentence)
    if args.compile:
        (planned,) = plan.run(args.config, [compiling.chips_of(args.compile)], **sizes)
        found = compiling.run(args.config, args.compile, **sizes)
        table = Table("", f"compiled for {args.compile}", f"plan for {planned.chips}")
        for title, cells in compiling.rows(found, planned):
            table.add_row(title, *cells)
        Console().print(table)


def _launch(args):
    from jaxpt.cli import launch

    return launch.run(
        args.argv, processes=args.processes, devices_per_process=args.devices_per_process
    )


def _replay(args):
    from jaxpt.cli import replay

    _begin()
    print(replay.run(args.workdir))


def _scaling(args):
    from jaxpt.studies import scaling

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

    _begin()
    require(bool(args.out), "--out must not be empty.")
    fields = {
        name: getattr(args, name)
        for name in ("path", "image_size", "label_map", "limit")
        if getattr(args, name) is not None
    }
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
        model_config=_network(args),
        strict=args.strict,
    )
    console = Console()
    for table in evaluate.tables(outcome.records):
        console.print(table)
    print(
        f"records: {args.out} ({outcome.made} new, {len(outcome.records) - outcome.made} already "
        "there)"
    )
    for sentence in evaluate.notes(outcome.records):
        print(f"note: {sentence}")
    for sentence in evaluate.reasons(outcome.skipped):
        print(f"skipped: {sentence}", file=sys.stderr)
    return SKIPPED if outcome.skipped else 0


def _export(args):
    from jaxpt import export
    from jaxpt.cache import use_compile_cache

    use_compile_cache()
    made = export.run(
        args.source,
        args.out,
        layout=args.layout,
        formats=args.format.split(","),
        classifier=args.classifier,
        image_size=args.image_size,
        record_files=args.records,
        push=args.push,
        model=_network(args),
    )
    for sentence in made.notes:
        print(f"note: {sentence}")
    print(f"exported: {args.out}")
    if made.url:
        print(f"pushed: {made.url}")


def _data_check(args):
    from jaxpt.data import check

    counts = collections.Counter()
    require(bool(args.folder), "the folder is empty text: name a folder or a list of images.")
    for finding in check.findings(pathlib.Path(args.folder)):
        print(f"{finding.kind}: {finding.text}")
        counts[finding.kind] += 1
    print("; ".join(f"{n:,} {kind}" for kind, n in counts.items()) or "nothing was found.")
    return FOUND if counts else 0


def _data_show(args):
    from rich.console import Console

    from jaxpt.cli import data_show

    sheet = data_show.run(args.config, args.out, examples=args.examples, epoch=args.epoch)
    Console().print(sheet.table)
    print(f"sheet: {sheet.path}")


def _report(args):
    from jaxpt import records, report

    page = report.write_report(
        records.read_given(args.records), args.out, markdown=args.markdown, csv=args.csv
    )
    print(f"report: {page}")


COMMANDS = {
    "demo": _demo,
    "pretrain": _pretrain,
    "plan": _plan,
    "launch": _launch,
    "replay": _replay,
    "scaling": _scaling,
    "transfer": _transfer,
    "evaluate": _evaluate,
    "export": _export,
    "data check": _data_check,
    "data show": _data_show,
    "report": _report,
}
