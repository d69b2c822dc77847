"""The command ``jaxpt``: parses flags, calls one function, prints bad input as one sentence.

Functions of the subcommands come first, then their flags, then their completion in a shell.
"""

import argparse
import collections
import gc
import itertools
import json
import logging
import os
import pathlib
import shlex
import sys
from collections.abc import Sequence

from jaxpt import __version__
from jaxpt.cli import config_files
from jaxpt.errors import InputError, RunError, require, shown
from jaxpt.train import distributed

# Exit statuses other than 0 (success) and 1 (a run that cannot continue).
BAD_INPUT = 2
FOUND = 3  # a check found something
SKIPPED = 3  # some of the requested measurements could not be made
# Commands that take a config → kind of the config.
CONFIGS = {
    "pretrain": "pretrain",
    "plan": "pretrain",
    "scaling": "pretrain",
    "data show": "pretrain",
    "transfer": "transfer",
}
# Commands that run as a single process.
ALONE = ("demo", "scaling", "transfer", "evaluate", "export", "replay", "embed", "search")
PRINT_CONFIG = "--print-config"


def main(argv: list[str] | None = None) -> int:
    """Runs a subcommand and returns the exit status, 2 for bad input."""
    # Orbax logs every file that it touches, and tracebacks of errors that it also raises.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    # Tracing makes millions of objects and hardly any garbage. By default, a seventh of the time
    # until a run begins would go into looking for it.
    gc.set_threshold(50_000, 20, 100)
    try:
        status = _run(argv)
        sys.stdout.flush()
    except BrokenPipeError:  # of the reader of a pipe, such as head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 141
    distributed.leave(status)
    return status


def _run(argv):
    flags, argv = parser(), sys.argv[1:] if argv is None else argv
    argv = [config_files.at_home(word) for word in argv]
    if not argv:
        flags.print_help(sys.stderr)
        return BAD_INPUT
    asked = _help_asked(argv)
    if asked:
        return _help(flags, *asked)
    if PRINT_CONFIG in argv:
        _relax(flags)
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
        if getattr(args, "print_config", False):
            print(config_files.assignments(args.config))
            return 0
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


def _help_asked(argv) -> tuple[str, str, str] | None:
    """(command, config file, section) of a call for the help of a command that takes a config."""
    wanted = next((w for w in argv if w in ("-h", "--help") or w.startswith("--help=")), None)
    command = " ".join(itertools.takewhile(lambda word: not word.startswith("-"), argv[:2]))
    command = command if command in CONFIGS else command.partition(" ")[0]
    if wanted is None or command not in CONFIGS:
        return None
    name = next((w.partition("=")[2] for w in argv if w.startswith("--config=")), "")
    return command, name, wanted.partition("=")[2]


def _help(flags, command: str, name: str, section: str) -> int:
    """Prints the help of a command with the fields of its config, or only those of a section."""
    own = _parsers_of_commands(flags)[command]
    name = name or own.get_default("config")
    try:
        config = config_files.read(CONFIGS[command], name, [], fit=False)
        listed = config_files.listing(CONFIGS[command], config, section)
    except InputError as error:
        print(f"jaxpt {command}: {error}", file=sys.stderr)
        raise SystemExit(BAD_INPUT) from error
    if not section:
        print(own.format_help())
        print(f"fields of the config {name}, with their values (--help=SECTION lists some):\n")
    print(listed)
    raise SystemExit(0)


def _relax(flags) -> None:
    """Makes all arguments of all commands optional."""
    for command in _parsers_of_commands(flags).values():
        for action in command._actions:
            action.required = isinstance(action, argparse._SubParsersAction)


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
    print(_afterwards(args.config, args.workdir), end="")
    return 0


def _afterwards(config, workdir: str) -> str:
    """Where the results of a run are, and commands to continue with."""
    run = shlex.quote(str(workdir))
    lines = [
        f"  {workdir}/metrics.jsonl: loss, kNN accuracy and speed by step",
        f"  {workdir}/checkpoints: the network",
        "next:",
        f"  jaxpt evaluate {run} --out=results.jsonl",
        "  jaxpt report results.jsonl --out=report.html",
        f"  jaxpt transfer {run} --out=transfer.jsonl   # fine-tune it",
        f"  jaxpt export {run} --out=exported   # for timm and others",
    ]
    if config.data.source == "folder":
        lines.insert(3, f"  jaxpt embed {run} --out=vectors.npz   # then: jaxpt search vectors.npz")
    return "\n".join(lines) + "\n"


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
    from rich.console import Console

    from jaxpt import evaluate, transfer

    _begin()
    out = pathlib.Path(args.out)
    keep = args.keep
    if keep is None:
        keep = out.with_suffix("") if out.suffix else out.with_name(f"{out.name}_networks")
    found = transfer.run(
        args.config, args.backbones, args.out, encoder=args.weights, keep=keep or None, quiet=False
    )
    console = Console()
    for table in evaluate.tables(found):
        console.print(table)
    print(f"records: {args.out}")
    kept = sorted(pathlib.Path(keep).glob("*/config.json")) if keep else []
    if kept and args.config.finetune:
        print(f"fine-tuned networks: {keep} ({len(kept)})")
    print(f"next:\n  jaxpt report {args.out} --out=report.html")
    if kept and args.config.finetune:
        print(f"  jaxpt export {shlex.quote(str(kept[0].parent))} --out=exported --classifier")


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
        encoder=args.weights,
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
        encoder=args.weights,
    )
    for sentence in made.notes:
        print(f"note: {sentence}")
    print(f"exported: {args.out}")
    if made.url:
        print(f"pushed: {made.url}")


def _embed(args):
    from jaxpt import lookalikes

    _begin()
    lookalikes.check_out(args.out)
    vectors = lookalikes.embed(
        args.source,
        args.data,
        image_size=args.image_size,
        encoder=args.weights,
        model=_network(args),
    )
    lookalikes.save(vectors, args.out)
    rows, dim = vectors.vector.shape
    print(f"vectors: {args.out} ({rows:,} pictures, {dim:,} numbers each)")
    if args.faiss:
        lookalikes.write_faiss(vectors, args.faiss)
        print(f"index: {args.faiss}")
    print(
        f"next:\n  jaxpt search {args.out} --query=PICTURE   # the most similar pictures\n"
        f"  jaxpt search {args.out}   # a page of all pictures with their look-alikes\n"
        f"  jaxpt duplicates {args.out}"
    )


def _search(args):
    from jaxpt import lookalikes

    _begin()
    vectors, files = lookalikes.load(args.vectors), list(args.query)
    for where in args.images:
        files += lookalikes.pictures_of(where)
    out = args.out or pathlib.Path(args.vectors).with_suffix(".html")
    if not files:
        found = lookalikes.search(vectors, k=args.k)
        page = lookalikes.write_page(out, vectors, found)
    else:
        queries = lookalikes.embed_files(files, vectors.about)
        found = lookalikes.search_files(vectors, files, queries, k=args.k)
        for file, cosines, indices in zip(files, found.cosines, found.indices):
            print(shown(file))
            for cosine, i in zip(cosines[indices >= 0].tolist(), indices[indices >= 0]):
                label = vectors.label[i]
                print(f"  {cosine:6.3f}  {_here(vectors.path[i])}{f'  ({label})' if label else ''}")
        page = lookalikes.write_page(out, vectors, found, files)
    print(f"page: {page}")


def _duplicates(args):
    from jaxpt import lookalikes

    path, vectors, labels = pathlib.Path(args.source), None, None
    if path.is_file() and path.suffix in lookalikes.SUFFIXES:
        _begin()
        vectors = lookalikes.load(path)
        files, labels = vectors.path.tolist(), vectors.label
    else:
        files = lookalikes.pictures_of(path)
    pairs = lookalikes.duplicates(files, vectors, cosine=args.cosine, bits=args.bits)
    for pair in pairs:
        if args.json:
            about = pair._asdict() | {"first": files[pair.first], "second": files[pair.second]}
            print(json.dumps(about))
        else:
            print(
                f"{lookalikes.words(pair)}: {_here(files[pair.first])}, {_here(files[pair.second])}"
            )
    if not args.json:
        print(f"{len(pairs):,} pairs of {len(files):,} pictures show nearly the same.")
    if args.out:
        page = lookalikes.write_duplicates(args.out, files, pairs, labels)
        print(f"page: {page}", file=sys.stderr if args.json else sys.stdout)


def _here(path: str) -> str:
    """A path relative to the current folder if it is below it, as printable text."""
    path, here = pathlib.Path(path), pathlib.Path.cwd()
    return shown(path.relative_to(here) if path.is_relative_to(here) else path)


def _completion(args):
    words = {"search": ["--query=", "--images="]}
    for command, kind in CONFIGS.items():
        config = config_files.read(kind, f"{kind}/defaults.py", [])
        words[command] = [f"--config={name}" for name in config_files.installed(kind)]
        words[command] += [f"--config.{name}=" for name in config_files.flat(config)]
    print(_completion_script(args.shell, parser(), words), end="")


def _data_check(args):
    from jaxpt.data import check, objects

    counts = collections.Counter()
    require(bool(args.folder), "the folder is empty text: name a folder, a list or an .npz file.")
    found = check.findings(objects.place(args.folder))
    for finding in itertools.chain(found, _near_by_vectors(args.vectors)):
        if args.json:
            print(json.dumps(finding._asdict()))
        else:
            print(f"{finding.kind}: {finding.text}")
        counts[finding.kind] += 1
    if not args.json:
        print("; ".join(f"{n:,} {kind}" for kind, n in counts.items()) or "nothing was found.")
    return FOUND if counts else 0


def _near_by_vectors(file: str):
    """Findings about pictures whose vectors are nearly equal; none without a file of vectors."""
    from jaxpt.data import check

    if not file:
        return
    from jaxpt import lookalikes

    vectors = lookalikes.load(file)
    for pair in lookalikes.duplicates(vectors.path.tolist(), vectors, bits=-1):
        first, second = (shown(vectors.path[i]) for i in pair[:2])
        yield check.Finding("near", f"{second} looks like {first} ({lookalikes.words(pair)}).")


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
    "embed": _embed,
    "search": _search,
    "duplicates": _duplicates,
    "completion": _completion,
    "data check": _data_check,
    "data show": _data_show,
    "report": _report,
}


def parser() -> argparse.ArgumentParser:
    """Parser of the command line; results have ``command`` and, for ``data``, ``subcommand``."""
    top = argparse.ArgumentParser(
        prog="jaxpt", description="Label-aware pre-training of image encoders that transfer."
    )
    top.add_argument("--version", action="version", version=__version__)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    demo = _command(commands, "demo", "five losses on real images, a table and a report")
    demo.add_argument("--data", default="digits", choices=("digits", "fashion_mnist"))
    demo.add_argument("--out", help="folder for records and report.html; default runs/demo_DATA")
    demo.add_argument("--seeds", type=int, default=5, help="runs per loss (default 5)")
    pretrain = _config_command(
        commands, "pretrain", "pre-train an encoder", "pretrain/digits.py:look"
    )
    pretrain.add_argument(
        "--workdir", required=True, help="folder for config, metrics and checkpoints"
    )
    pretrain.add_argument(
        "--noresume",
        action="store_true",
        help="refuse a workdir that holds a run instead of continuing the run",
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
        ("processes", "N", "number of processes of this run"),
        ("process", "I", "index of this process, from 0"),
    ):
        pretrain.add_argument(
            f"--{name}",
            metavar=metavar,
            help=f"{text}; default: from the environment, SLURM, Open MPI or the TPU pod slice",
        )
    _weight_flags(pretrain)
    _plan_command(commands)
    launch = _command(
        commands, "launch", "one pre-training run as several processes on this machine"
    )
    launch.add_argument(
        "--processes", type=int, default=2, metavar="N", help="number of processes (2)"
    )
    launch.add_argument(
        "--devices-per-process",
        type=int,
        default=1,
        metavar="D",
        help="virtual devices per process on CPUs, GPUs per process on GPUs (1)",
    )
    launch.add_argument(
        "argv",
        nargs=argparse.REMAINDER,
        metavar="pretrain …",
        help="the command to run, with its arguments",
    )
    replay = _command(commands, "replay", "repeat the step at which a run produced NaN or inf")
    replay.add_argument("workdir", help="folder of the run")
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
        help="workdirs of pre-training runs (one per seed), weight files of "
        "torchvision or timm (.pth, .safetensors, …), or scratch:SEED",
    )
    transfer.add_argument(
        "--out", required=True, help="file that records are added to (JSON lines)"
    )
    transfer.add_argument(
        "--keep",
        metavar="FOLDER",
        help="folder for the fine-tuned networks, each a run of its own; default: named as the "
        "file of records without its ending; --keep= keeps none",
    )
    _encoder_flag(transfer)
    _weight_flags(transfer)
    _evaluate_command(commands)
    _export_command(commands)
    _lookalike_commands(commands)
    _data_command(commands)
    report = _command(commands, "report", "turn records into tables, plots and one HTML page")
    report.add_argument(
        "records",
        nargs="+",
        metavar="RECORDS",
        help="files of records (JSON lines), from any commands and sets",
    )
    report.add_argument(
        "--out", required=True, help="folder for report.html, or a file that ends in .html"
    )
    report.add_argument("--markdown", metavar="FILE", help="also write all tables as Markdown")
    report.add_argument("--csv", metavar="FILE", help="also write every value of every run as CSV")
    completion = _command(
        commands,
        "completion",
        "print a script that completes commands and fields in a shell",
        epilog='bash: eval "$(jaxpt completion bash)" in ~/.bashrc; zsh: the same in ~/.zshrc.',
    )
    completion.add_argument("shell", choices=("bash", "zsh"))
    return top


def _lookalike_commands(commands):
    embed = _command(
        commands,
        "embed",
        "write the vectors of a set of pictures",
        description="Writes path, label, split and vector of each picture.",
    )
    embed.add_argument(
        "source",
        metavar="WORKDIR",
        help="workdir of a run, an export, a weight file, or scratch:SEED",
    )
    embed.add_argument(
        "--data",
        default="",
        metavar="FOLDER",
        help="folder of pictures (with or without class folders), list, .npz file, or name of a "
        "set; default: the set of pre-training",
    )
    embed.add_argument(
        "--out", required=True, metavar="FILE", help="file that ends in .npz or .parquet"
    )
    embed.add_argument("--faiss", default="", metavar="FILE", help="also write an index for faiss")
    embed.add_argument(
        "--image-size",
        type=int,
        default=0,
        metavar="PIXELS",
        help="side of the pictures; default: as trained",
    )
    _encoder_flag(embed)
    _weight_flags(embed)
    search = _command(
        commands,
        "search",
        "find the pictures that look most alike, and write a page of them",
        description="Finds the pictures with the largest cosines to a query, and writes a page of "
        "them. Without a query, the page has all pictures with their look-alikes.",
    )
    search.add_argument("vectors", help="file of jaxpt embed")
    search.add_argument(
        "--query", action="append", default=[], metavar="PICTURE", help="a picture; may be repeated"
    )
    search.add_argument(
        "--images",
        action="append",
        default=[],
        metavar="FOLDER",
        help="folder or list of pictures to look for",
    )
    search.add_argument("--k", type=int, default=10, help="look-alikes per picture (10)")
    search.add_argument("--out", default="", metavar="FILE", help="the page; default: VECTORS.html")
    duplicates = _command(
        commands,
        "duplicates",
        "list pictures that show nearly the same",
        description="Lists pairs of pictures that show nearly the same, by their perceptual hashes "
        "and, of a file of vectors, by their cosines.",
    )
    duplicates.add_argument(
        "source", metavar="VECTORS|FOLDER", help="file of jaxpt embed, or a folder"
    )
    duplicates.add_argument(
        "--cosine", type=float, default=0.98, metavar="C", help="least cosine of the vectors (0.98)"
    )
    duplicates.add_argument(
        "--bits",
        type=int,
        default=4,
        metavar="N",
        help="most bits of 64 in which hashes differ (4); −1: no hashes",
    )
    duplicates.add_argument("--json", action="store_true", help="one JSON object per pair")
    duplicates.add_argument(
        "--out", default="", metavar="FILE", help="also write a page of them, .html"
    )


def _evaluate_command(commands):
    evaluate = _command(
        commands,
        "evaluate",
        "suites of frozen-feature measurements over checkpoints",
        description="Measures checkpoints and writes one record per measurement. Measurements that "
        "the file of records already holds are not repeated.",
        epilog=f"Exit status {SKIPPED}: some measurements were skipped, for the printed reasons.",
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
        ("limit", int, "number of its training images to use"),
    ):
        evaluate.add_argument(f"--{name}", type=type_, help=f"{text}; default: as pre-trained on")
    evaluate.add_argument(
        "--part",
        default="test",
        choices=("test", "validation"),
        help="which part is scored (default test)",
    )
    _encoder_flag(evaluate)
    _weight_flags(evaluate)
    evaluate.add_argument(
        "--out", required=True, help="file that records are added to (JSON lines)"
    )
    evaluate.add_argument(
        "--cache",
        help="folder for extracted features; default: the folder features next to the file of "
        "records; --cache= stores none",
    )
    evaluate.add_argument(
        "--strict", action="store_true", help="stop at the first measurement that cannot be made"
    )


def _plan_command(commands):
    plan = _config_command(
        commands,
        "plan",
        "estimate time, memory and chip-hours of a pre-training run",
        "pretrain/digits.py:look",
        kind="pretrain",
    )
    plan.add_argument(
        "--chips",
        default="",
        metavar="KIND-N,…",
        help="v4, v5e, v5p, v6e, a100, h100, h200, l4 or t4 with their number, as in v5e-8",
    )
    plan.add_argument(
        "--compile",
        default="",
        metavar="TOPOLOGY",
        help="also compile the step for this TPU topology, as in v5e:2x4, and print the memory per "
        "chip and the operations; needs no TPU, but 'jaxpt[tpu]', and many minutes for a ResNet-50",
    )
    for name in "images", "classes":
        plan.add_argument(
            f"--{name}",
            type=int,
            default=0,
            metavar="N",
            help=f"number of training {name}; default: from the set's name or folder",
        )
    plan.add_argument(
        "--utilisation",
        type=float,
        default=0.5,
        metavar="SHARE",
        help="assumed share of the published peaks that is reached (0.5)",
    )
    plan.add_argument(
        "--dollars-per-chip-hour",
        type=float,
        default=0.0,
        metavar="PRICE",
        help="your price; default: costs are printed as a formula",
    )


def _export_command(commands):
    export = _command(
        commands,
        "export",
        "a backbone for timm, torchvision, or any program with jax",
        description="Writes a folder with a backbone's weights, its encoder and a model card.",
    )
    export.add_argument(
        "source",
        metavar="WORKDIR",
        help="workdir of a pre-training run, a weight file, an export, or scratch:SEED",
    )
    export.add_argument("--out", required=True, help="folder to create; it must not exist yet")
    export.add_argument(
        "--layout",
        default="timm",
        choices=("timm", "torchvision", "jaxpt"),
        help="names of the weights (default timm; jaxpt's own if timm has no such network)",
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
        help="include the linear classifier that it was trained with",
    )
    export.add_argument(
        "--image-size",
        type=int,
        default=0,
        metavar="PIXELS",
        help="side of the images for the encoder; default: as trained, or 224",
    )
    export.add_argument(
        "--records",
        nargs="+",
        default=[],
        metavar="FILE",
        help="records of this backbone, for the tables of the model card",
    )
    _encoder_flag(export)
    _weight_flags(export)
    export.add_argument(
        "--push",
        default="",
        metavar="USER/REPO",
        help="also upload it to the Hugging Face hub, with the token in the environment variable "
        "HF_TOKEN; a new repository is private",
    )


def _data_command(commands):
    data = _command(commands, "data", "inspect images before training on them")
    subcommands = data.add_subparsers(dest="subcommand", required=True, metavar="SUBCOMMAND")
    check = _command(
        subcommands,
        "check",
        "list unreadable, mislabelled and duplicate images of a folder, a list or an .npz file",
        epilog=f"Exit status: 0 if nothing was found, {FOUND} if something was.",
    )
    check.add_argument("--json", action="store_true", help="one JSON object per finding")
    check.add_argument(
        "--vectors",
        default="",
        metavar="FILE",
        help="vectors of jaxpt embed, to find near-duplicates by them, too",
    )
    check.add_argument(
        "folder",
        help="class folders, train and test folders of them, or a list file, as for pre-training "
        "with data.source=folder; or an .npz file, as with data.source=npz",
    )
    show = _config_command(
        subcommands,
        "show",
        "write a picture of examples with their augmented views, and count classes",
        "pretrain/digits.py:look",
        kind="pretrain",
    )
    show.add_argument("--out", default="sheet.png", help="the picture (default sheet.png)")
    show.add_argument("--examples", type=int, default=8, help="rows of the picture (default 8)")
    show.add_argument(
        "--epoch", type=int, default=0, help="epoch whose views are shown (default 0)"
    )


def _weight_flags(command):
    """Adds the flags of commands that open weight files, each a field of a config's ``model``."""
    flags = command.add_argument_group(
        "weight files and scratch",
        "These are also fields of a config, as in --config.model.state=NAME.",
    )
    for name, metavar, text in (
        ("model", "NAME", "network, for scratch and for weight files that do not determine it"),
        ("norm", "KIND", "batch, group (8 channels a group) or groupN (N groups)"),
        (
            "normalisation",
            "NAME",
            "of images: imagenet, unit (mean and deviation 0.5) or MEAN/STD such as "
            "0.48,0.46,0.41/0.27,0.26,0.28; default: from the file, else from its architecture",
        ),
        ("state", "NAME", "which network of a file with several, such as teacher or encoder_k"),
    ):
        flags.add_argument(f"--{name}", default="", metavar=metavar, help=text)
    flags.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="option of the network, such as heads=12; may be repeated",
    )


def _encoder_flag(command):
    command.add_argument(
        "--weights",
        default="",
        choices=("online", "target"),
        help="which encoder of a run: online, or target (its moving average); default: that of "
        "the run's config, evaluated_weights",
    )


def _whole_numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def _command(commands, name, text, **more):
    """Adds a command with ``text`` in the list of commands and in its own help."""
    said = {"help": text, "description": f"{text[0].upper()}{text[1:]}."}
    return commands.add_parser(name, **said | more)


def _config_command(commands, name, text, example, kind=None):
    command = _command(
        commands,
        name,
        text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Any field of the config is a flag: --config.look.k=50 "
        "--config.optimizer.learning_rate=0.01\n"
        "Configs that jaxpt ships (or give the path of your own):\n  "
        + "\n  ".join(config_files.installed(kind or name)),
    )
    command.add_argument(
        PRINT_CONFIG,
        action="store_true",
        help="print the config with all changes as flags, and end",
    )
    command.add_argument(
        "--config",
        default=example,
        metavar="FILE[:VARIANT]",
        help=f"a Python file with get_config(variant); default {example}",
    )
    return command


def _parsers_of_commands(
    parser: argparse.ArgumentParser, prefix: str = ""
) -> dict[str, argparse.ArgumentParser]:
    """Parsers of all commands and subcommands by name, such as "data check"."""
    found = {}
    for name, command in _subparsers(parser).items():
        found[prefix + name] = command
        found |= _parsers_of_commands(command, f"{prefix}{name} ")
    return found


def _subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    return next(
        (a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction)), {}
    )


def _completion_script(
    shell: str, parser: argparse.ArgumentParser, words: dict[str, Sequence[str]]
) -> str:
    """A script that completes the command in bash or zsh.

    Args:
      shell: "bash" or "zsh".
      parser: of the command line.
      words: command → further words that may follow it.
    """
    cases, known_commands = [], _parsers_of_commands(parser)
    for name, command in known_commands.items():
        known = [*_subparsers(command), *words.get(name, ())]
        for action in command._actions:
            options = [o for o in action.option_strings if o.startswith("--")]
            known += options
            known += [f"{option}={choice}" for option in options for choice in action.choices or ()]
        cases.append(f"    {shlex.quote(name)}) words={shlex.quote(' '.join(known))} ;;")
    top = " ".join(name for name in known_commands if " " not in name)
    script = _BASH.format(top=top, cases="\n".join(cases))
    return (_ZSH if shell == "zsh" else "") + script


_ZSH = "autoload -U +X compinit bashcompinit && compinit && bashcompinit\n"
_BASH = """_jaxpt() {{
  local cur command words
  cur="${{COMP_LINE:0:COMP_POINT}}"; cur="${{cur##* }}"
  command="${{COMP_WORDS[1]}}"
  [[ "$command" == data && $COMP_CWORD -gt 2 ]] && command="data ${{COMP_WORDS[2]}}"
  if [[ $COMP_CWORD -le 1 ]]; then
    words="{top}"
  else
    case "$command" in
{cases}
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
  # Paths: of a word that is no option, and after the equals sign of one without known values.
  if [[ ${{#COMPREPLY[@]}} -eq 0 && $COMP_CWORD -gt 1 ]]; then
    COMPREPLY=($(compgen -f -- "${{cur#*=}}"))
    compopt -o filenames 2>/dev/null
    return
  fi
  # bash splits words at "=": only what follows the last one is replaced.
  if [[ "$cur" == *=* && "$COMP_WORDBREAKS" == *=* ]]; then
    COMPREPLY=("${{COMPREPLY[@]#"${{cur%=*}}="}}")
  fi
  [[ ${{#COMPREPLY[@]}} -eq 1 && "${{COMPREPLY[0]}}" == *= ]] && compopt -o nospace 2>/dev/null
}}
complete -F _jaxpt jaxpt
"""
