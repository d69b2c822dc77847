"""Every command that README, docs, configs and notebooks show is one, and their Python runs."""

import argparse
import ast
import configparser
import doctest
import importlib.util
import inspect
import pathlib
import re
import runpy
import sys

import numpy as np
import pytest
import shown

from jaxpt import cli, methods

ROOT = shown.ROOT
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "configs").rglob("*.py")),
    *sorted((ROOT / "colab").glob("*.ipynb")),
]
SHOWN = [(page, command) for page in PAGES for command in shown.commands(shown.text_of(page))]


class Parsed(Exception):
    """A script has read its arguments and would begin."""


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch):
    """The command's functions return at once; a script ends where it has its arguments."""
    for name in cli.COMMANDS:
        monkeypatch.setitem(cli.COMMANDS, name, lambda args: 0)
    # The method that docs/new-method.md writes is in the registry by then.
    monkeypatch.setitem(methods.METHODS, "batch_nca", methods.METHODS["nca"])
    # A page's pictures are not there, so a recipe is not fitted to them.
    monkeypatch.setattr(cli.config_files, "fitted", lambda config, fit: config)
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("page, command", SHOWN, ids=lambda x: getattr(x, "stem", str(x)))
def test_is_a_command(page, command, monkeypatch):
    check(command.words, command.whole, monkeypatch)


def check(words, whole, monkeypatch):
    """Raises where the words are no command."""
    program, *arguments = words
    checks = {"jaxpt": check_jaxpt, "make": check_make, "python": check_python, "pip": check_pip}
    name = pathlib.Path(program).name
    if name in checks:
        checks[name](arguments, whole, monkeypatch)
    elif name in ("srun", "mpirun", "gcloud"):
        check_launcher(arguments, whole, monkeypatch)
    elif name == "sbatch":
        check([arguments[0]], whole, monkeypatch)
        check_jaxpt(["pretrain", *arguments[1:]], whole, monkeypatch)
    elif name.endswith(".sh"):
        check_script(program, arguments, whole, monkeypatch)
    elif not (ROOT / program).is_file():
        pytest.fail(f"no program {name!r}")


def check_jaxpt(arguments, whole, monkeypatch):
    """By the command's own parser; configs are built with what the flags change."""
    if arguments[:1] == ["launch"] and "pretrain" in arguments:
        at = arguments.index("pretrain")
        check_jaxpt(arguments[at:], whole, monkeypatch)
    with monkeypatch.context() as patch:
        if not whole:
            complete = cli.parser
            patch.setattr(cli, "parser", lambda: without_requirements(complete()))
        try:
            assert cli.main(arguments) == 0
        except SystemExit as end:
            assert end.code == 0


def without_requirements(parser):
    """The parser, content with a part of a command; but a subcommand must be one."""
    for action in parser._actions:
        action.required = isinstance(action, argparse._SubParsersAction)
        for subparser in (action.choices or {}).values() if action.required else ():
            without_requirements(subparser)
    return parser


def check_make(arguments, whole, monkeypatch):
    targets = re.findall(r"(?m)^([\w-]+):", (ROOT / "Makefile").read_text())
    assert set(word for word in arguments if "=" not in word) <= set(targets)


def check_python(arguments, whole, monkeypatch):
    """A file of the project with arguments that it takes, a module that can be found, or code."""
    first, *rest = arguments
    if first == "-m":
        assert importlib.util.find_spec(rest[0])
    elif first == "-c":
        compile(rest[0], "-c", "exec")
    elif (ROOT / first).is_file() and "argparse" not in (ROOT / first).read_text():
        assert not rest, f"{first} takes no arguments"
    else:
        monkeypatch.setattr(sys, "argv", arguments)
        monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
        monkeypatch.syspath_prepend(str((ROOT / first).parent))
        for name in "XLA_FLAGS", "JAX_PLATFORMS":  # which some scripts set
            monkeypatch.setenv(name, "")
        with pytest.raises(Parsed):
            runpy.run_path(str(ROOT / first), run_name="__main__")


def parse_and_stop(parser, args=None, namespace=None):
    parsed, rest = parser.parse_known_args(args, namespace)
    assert not rest, f"unknown arguments {rest}"
    raise Parsed


def check_pip(arguments, whole, monkeypatch):
    """Extras of jaxpt are extras that it has."""
    assert arguments[0] == "install"
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    for names in re.findall(r"(?:^\.|^jaxpt|/)\[([\w,]+)\]", "\n".join(arguments), re.MULTILINE):
        assert set(names.split(",")) <= set(setup["options.extras_require"])


def check_launcher(arguments, whole, monkeypatch):
    """What is started on many hosts is a command itself."""
    inner = [word.partition("=")[2] for word in arguments if word.startswith("--command=")]
    inner += [" ".join(arguments[i:]) for i, word in enumerate(arguments) if word == "jaxpt"][:1]
    for line in inner:
        for command in shown.split(line, whole):
            check(command.words, command.whole, monkeypatch)


def check_script(program, arguments, whole, monkeypatch):
    """A script of the project; those that start a run are given pretrain's arguments."""
    assert (ROOT / "scripts" / pathlib.Path(program).name).is_file()
    step, *rest = [word for word in arguments if word != "--dry-run"] or [""]
    if program.endswith("tpu.sh") and (step or whole):
        assert f"\nstep_{step}() " in (ROOT / "scripts" / "tpu.sh").read_text()
        if step in ("start", "resume", "keep"):
            check_jaxpt(["pretrain", *rest], whole, monkeypatch)


@pytest.mark.parametrize(
    "line",
    [
        "jaxtp pretrain --workdir=x",
        "jaxpt pretrian --workdir=x",
        "jaxpt pretrain",
        "make recrod",
        "jaxpt pretrain --workdir=x --config.kk=3",
        "jaxpt pretrain --workdir=x --config=nowhere.py",
        "jaxpt pretrain --workdir=x --config=pretrain/digits.py:lok",
        "python benchmarks/nothing.py",
        "python benchmarks/tune.py cifar",
        "python benchmarks/tables.py x",
        "pip install '.[gpu]'",
        "srun jaxpt pretrian",
        "scripts/tpu.sh begin",
        "scripts/tpu.sh start --workdir=x --config.kk=3",
        "sbatch scripts/slrm.sh --workdir=x",
        "sbatch scripts/slurm.sh --workdri=x",
        "jaxpt launch pretrain --workdir=x --config.kk=3",
    ],
)
def test_misspelt_commands_are_found(line, monkeypatch):
    [command] = shown.commands(f"Text:\n\n    {line}\n")
    with pytest.raises((AssertionError, SystemExit, FileNotFoundError, pytest.fail.Exception)):
        check(command.words, command.whole, monkeypatch)


def test_commands_are_found_wherever_a_page_shows_them():
    text = """| x | `jaxpt replay` |

```
make a  # b
```

    X=1 jaxpt demo \\
        --seeds=2

```python
make = 1
```
1. one

   ```bash
   cd x && pip install y
   ```
"""
    assert [str(command) for command in shown.commands(text)] == [
        "make a",
        "pip install y",
        "jaxpt demo --seeds=2",
        "jaxpt replay",
    ]


def names_of_readme():
    """What README's code assumes: embeddings of a batch and of a memory, features of a set."""
    rng = np.random.default_rng(0)
    return {
        "queries": rng.normal(size=(8, 16)),
        "keys": rng.normal(size=(200, 16)),
        "query_labels": np.arange(8) % 2,
        "key_labels": np.arange(200) % 2,
        "ids": np.arange(8),
        "memory_ids": np.arange(200),
        "memory_valid": np.ones(200, bool),
        "train_features": rng.normal(size=(40, 4)),
        "train_labels": np.arange(40) % 2,
        "test_features": rng.normal(size=(20, 4)),
        "test_labels": np.arange(20) % 2,
    }


def test_readmes_code_runs(capsys):
    names = names_of_readme()
    for code in shown.python((ROOT / "README.md").read_text()):
        exec(compile(code, "README.md", "exec"), names)
    assert names["losses"].shape == (8,) and np.isfinite(names["losses"]).all()
    assert 0 <= names["result"].accuracy <= 1 and capsys.readouterr().out


def check_calls(code):
    """Raises where code calls what jaxpt does not have, or not so."""
    names = {}
    for line in re.findall(r"(?m)^from jaxpt.* import .*$", code):
        exec(line, names)
    for node in ast.walk(ast.parse(code)):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id=module))) if module in names:
                function = getattr(names[module], node.func.attr)
                inspect.signature(function).bind_partial(
                    *node.args, **{keyword.arg: None for keyword in node.keywords}
                )


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda path: path.stem)
def test_python_of_docs_runs_as_it_says_or_compiles(page):
    runner = doctest.DocTestRunner()
    for code in shown.python(page.read_text()):
        if code.startswith(">>>"):
            runner.run(doctest.DocTestParser().get_doctest(code, {}, page.name, page.name, 0))
        elif page.stem == "losses":
            compile(f"def {code.strip()}: ...", page.name, "exec")  # signatures
        else:
            check_calls(code)
    assert runner.summarize(verbose=False).failed == 0
