"""What `mkdocs build` adds to the pages of this folder: those made from files that lie elsewhere.

README.md is the start page, CHANGELOG.md one more, and the pages of the API are made from the
docstrings. Links to files that are not on the site become plain text.
"""

import pathlib
import posixpath
import re
import textwrap

import griffe
from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).resolve().parent.parent
OF_ROOT = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
}
# Page → title and modules.
API = {
    "losses": ("Losses", ["losses"]),
    "neighbors": ("Neighbours and memory", ["ops.knn", "ops.selection", "ops.memory"]),
    "models": ("Models", ["models"]),
    "data": (
        "Data",
        [
            "data.sources",
            "data.dataset",
            "data.augment",
            "data.presets",
            "data.mixup",
            "data.check",
        ],
    ),
    "methods": (
        "Methods",
        ["methods", "methods.encoding", "methods.updating", "methods.memory_contrast"],
    ),
    "runs": (
        "Runs",
        [
            "pretrain",
            "finetune",
            "transfer",
            "evaluate",
            "lookalikes",
            "studies.scaling",
            "studies.study",
        ],
    ),
    "evaluation": ("Evaluation", ["evaluation", "evaluation.task", "evaluation.suites"]),
    "files": (
        "Weights, records, reports",
        ["backbones", "weights", "export", "records", "report", "errors"],
    ),
}
# Module → names that it hands on, which stand under the module that they come from.
HANDED_ON = {"data.sources": "Dataset|Split|validation_mask"}
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?!https?:|#)([^)#\s]+)(#[^)\s]*)?\)")
PROSE = re.compile(r"(?m)^(Use|Returns|References):\n((?: +.*\n?|\n)+)")  # sections of text alone
IMAGE = re.compile(r"\]\(docs/(images/[^)\s]+)\)")  # shown, or what one that is shown links to
MAKE_DOCS = re.compile(r"; `make docs` [^|\n]*?(?= \|)")  # the reader of the site has it
JOINT = ",\N{NO-BREAK SPACE}"  # at a space griffe would see an attribute's type begin
TOGETHER = re.compile(rf"(?m)^( +)(\w+(?:{JOINT}\w+)+):(.*(?:\n\1 .*)*)")
CODE = re.compile(r"(?s)<pre\b.*?</pre>|<code>.*?</code>")
FLAG = re.compile(r"(?<![\w-])--\w[\w.=:,/-]{0,28}")  # so much fits a phone's line
SETTINGS = re.compile(r"<table>(?=\s*<thead>\s*<tr>\s*<th[^>]*>setting</th>)")


def on_files(files, config):
    """Adds the pages that are no files of this folder."""
    pages = {
        page: (ROOT / name).read_text() for name, page in OF_ROOT.items() if (ROOT / name).exists()
    }
    for name, (title, modules) in API.items():
        pages[f"api/{name}.md"] = "\n\n".join([f"# {title}", *map(_members, modules)]) + "\n"
    pages["CITATION.cff"] = (ROOT / "CITATION.cff").read_text()
    for page, text in pages.items():
        files.append(File.generated(config, page, content=text))
    return files


def _members(module):
    """mkdocstrings' block for what is public in a module."""
    block = f"::: jaxpt.{module}"
    if module in HANDED_ON:
        block += f"\n    options:\n      filters: ['!^_[^_]', '!^({HANDED_ON[module]})$']"
    return block


def on_page_markdown(markdown, page, config, files):
    """Points links at pages of the site."""
    uri = page.file.src_uri
    folder = "" if uri in OF_ROOT.values() else posixpath.join("docs", posixpath.dirname(uri))
    if folder == "":
        markdown = IMAGE.sub(r"](\1)", markdown)
    if uri == OF_ROOT["README.md"]:
        markdown = MAKE_DOCS.sub(" · [API](api/losses.md)", markdown)

    def point(found):
        text, target, anchor = found[1], found[2], found[3] or ""
        file = posixpath.normpath(posixpath.join(folder, target))
        to = OF_ROOT.get(file, file.removeprefix("docs/"))
        if files.get_file_from_path(to) is None:
            return text
        return f"[{text}]({posixpath.relpath(to, posixpath.dirname(uri) or '.')}{anchor})"

    return LINK.sub(point, markdown)


def on_page_content(html, page, config, files):
    """What Markdown cannot say: flags stay in one line, tables of settings are not searched."""
    html = SETTINGS.sub("<table data-search-exclude>", html)  # hundreds of rows of the same words
    return CODE.sub(_with_flags, html)


def _with_flags(code):
    """Inline code whose lines do not end within a flag, where browsers would: after its ``--``."""
    if code[0].startswith("<pre"):
        return code[0]
    return FLAG.sub(lambda flag: f'<span class="flag">{flag[0]}</span>', code[0])


def _by_type(names, text, indent, types):
    """Attributes that share a description: an entry for each type, which it names.

    Of an entry without a type griffe looks for the name and, where it is none, takes the type of
    the entry before.
    """
    groups = {}
    for name in names:
        groups.setdefault(types.get(name, ""), []).append(name)
    return "\n".join(f"{indent}{JOINT.join(group)} ({of}):{text}" for of, group in groups.items())


class Docstrings(griffe.Extension):
    """Docstrings as griffe wants them, which knows neither all of their sections nor ``::``."""

    def on_instance(self, *, obj, **_):
        if obj.docstring:
            text = re.sub(r"(?m)^::\n", "", obj.docstring.value)  # literal blocks
            text = re.sub(r"::(\n\n +)", r":\1", text)
            # Names of arguments that share a description, over several lines.
            text = re.sub(r"(?m)^( +[\w, ]+,)\n +", r"\1 ", text)
            text = re.sub(
                r"(?m)^( +\w+(?:, \w+)+):", lambda found: found[0].replace(", ", JOINT), text
            )
            text = re.sub(r"(?m)^Example:$", "Examples:", text)
            obj.docstring.value = PROSE.sub(
                lambda found: f"**{found[1]}:**\n\n{textwrap.dedent(found[2])}", text
            )

    def on_class_members(self, *, cls, **_):
        types = {name: str(x.annotation or "") for name, x in cls.attributes.items()}

        def split(found):
            indent, names, text = found.groups()
            return _by_type(names.split(JOINT), text, indent, types)

        if cls.docstring:
            cls.docstring.value = TOGETHER.sub(split, cls.docstring.value)
