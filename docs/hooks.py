"""What `mkdocs build` adds to the pages of this folder: those made from files that lie elsewhere.

README.md is the start page, CHANGELOG.md one more, and the pages of the API are made from the
docstrings. Links to files that are no pages become plain text.
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
    "neighbors": ("Neighbours and memory", ["knn", "selection", "memory"]),
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
        [
            "methods",
            "methods.setup",
            "methods.encoding",
            "methods.updating",
            "methods.memory_contrast",
        ],
    ),
    "runs": ("Runs", ["pretrain", "finetune", "transfer", "evaluate", "scaling", "study"]),
    "evaluation": (
        "Evaluation",
        ["evaluation", "evaluation.task", "evaluation.suites", "evaluation.measure"],
    ),
    "files": (
        "Weights, records, reports",
        ["backbones", "weights", "export", "records", "report", "errors"],
    ),
}
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?!https?:|#)([^)#\s]+)(#[^)\s]*)?\)")
PROSE = re.compile(r"(?m)^(Use|Returns|References):\n((?: +.*\n?|\n)+)")  # sections of text alone
IMAGE = re.compile(r"!\[([^\]]*)\]\(docs/([^)\s]+)\)")


def on_files(files, config):
    """Adds the pages that are no files of this folder."""
    pages = {
        page: (ROOT / name).read_text() for name, page in OF_ROOT.items() if (ROOT / name).exists()
    }
    for name, (title, modules) in API.items():
        blocks = (f"::: jaxpt.{module}" for module in modules)
        pages[f"api/{name}.md"] = "\n\n".join([f"# {title}", *blocks]) + "\n"
    for page, text in pages.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown, page, config, files):
    """Points links at pages of the site."""
    uri = page.file.src_uri
    folder = "" if uri in OF_ROOT.values() else posixpath.join("docs", posixpath.dirname(uri))
    if folder == "":
        markdown = IMAGE.sub(r"![\1](\2)", markdown)

    def point(found):
        text, target, anchor = found[1], found[2], found[3] or ""
        file = posixpath.normpath(posixpath.join(folder, target))
        to = OF_ROOT.get(file, file.removeprefix("docs/"))
        if files.get_file_from_path(to) is None:
            return text
        return f"[{text}]({posixpath.relpath(to, posixpath.dirname(uri) or '.')}{anchor})"

    return LINK.sub(point, markdown)


class Docstrings(griffe.Extension):
    """Docstrings as griffe wants them, which knows neither all of their sections nor ``::``."""

    def on_instance(self, *, obj, **_):
        if obj.docstring:
            text = re.sub(r"(?m)^::\n", "", obj.docstring.value)  # literal blocks
            text = re.sub(r"::(\n\n +)", r":\1", text)
            # Names of arguments that share a description, over several lines.
            text = re.sub(r"(?m)^( +[\w, ]+,)\n +", r"\1 ", text)
            text = re.sub(
                r"(?m)^( +\w+(?:, \w+)+):",  # by a space an attribute's type would begin
                lambda found: found[0].replace(", ", ",\N{NO-BREAK SPACE}"),
                text,
            )
            text = re.sub(r"(?m)^Example:$", "Examples:", text)
            obj.docstring.value = PROSE.sub(
                lambda found: f"**{found[1]}:**\n\n{textwrap.dedent(found[2])}", text
            )
