"""What pages show: their commands and their Python, as a reader would copy them."""

import ast
import difflib
import json
import pathlib
import re
import shlex
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parent.parent
# Programs that pages may name; a word that is nearly one of them is a misspelt one.
PROGRAMS = ("jaxpt", "make", "python", "pip", "srun", "mpirun", "gcloud")
OTHERS = ("sbatch", "tpu.sh", "check_wheel.sh")  # words of prose are nearly these
FENCED = re.compile(r"(?ms)^( *)```([\w-]*)\n(.*?)^\1```$")
INDENTED = re.compile(r"(?m)(?<=\n\n)(?:(?: {4}.*)\n)+")
INLINE = re.compile(r"(?<!`)`((?:[^`\n]|\n(?!\n))+)`(?!`)")
NUMBER = re.compile(r"(^|=)[A-Z]$")  # a number that is left to the reader


class Command(NamedTuple):
    """One command.

    Attributes:
      words: as a shell would split it.
      whole: False where it is only mentioned: then what is required may be left out.
    """

    words: list[str]
    whole: bool

    def __str__(self):
        return " ".join(self.words)


def text_of(path: pathlib.Path) -> str:
    """A page; of a notebook its prose, of a config its docstring."""
    text = path.read_text()
    if path.suffix == ".ipynb":
        return "\n\n".join(
            "".join(cell["source"])
            for cell in json.loads(text)["cells"]
            if cell["cell_type"] == "markdown"
        )
    return ast.get_docstring(ast.parse(text)) or "" if path.suffix == ".py" else text


def python(text: str) -> list[str]:
    """The blocks that are marked as Python."""
    return [code for _, language, code in FENCED.findall(text) if language == "python"]


def commands(text: str) -> list[Command]:
    """Lines of code blocks, and code between backquotes, that call a program."""
    blocks = [
        code
        for _, language, code in FENCED.findall(text)
        if language in ("", "bash", "sh", "console")
    ]
    prose = FENCED.sub("", text)
    blocks += INDENTED.findall("\n" + prose)
    found = []
    for code in blocks:
        for line in re.sub(r"\\\n\s*", " ", code).splitlines():
            found += split(line, whole=True)
    for code in INLINE.findall(INDENTED.sub("\n", prose)):
        found += split(code, whole=False)
    return found


def split(line: str, whole: bool) -> list[Command]:
    """The commands of one line of a shell."""
    try:
        words = shlex.split(line.strip().removeprefix("$ "), comments=True)
    except ValueError:  # an apostrophe: prose, or a formula
        return []
    found, rest = [], []
    for word in [*words, "&&"]:
        if word not in ("&&", "||", "|", ";"):
            rest.append(word)
            continue
        while rest and re.fullmatch(r"[A-Z_]+=\S*", rest[0]):
            rest = rest[1:]
        name = pathlib.Path(rest[0]).name if rest else ""
        if name in OTHERS or difflib.get_close_matches(name, PROGRAMS, 1, 0.8):
            elided = any("…" in word for word in rest)
            found.append(
                Command(
                    [NUMBER.sub(r"\g<1>2", w) for w in rest if "…" not in w], whole and not elided
                )
            )
        rest = []
    return found
