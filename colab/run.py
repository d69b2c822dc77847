"""Runs the notebooks from the first cell to the last, and saves their outputs.

    python colab/run.py [--jaxpt WHEEL] [--short | --save] [NAME …]

Needs nbclient and ipykernel. ``--jaxpt`` replaces the source from which the first cell installs
jaxpt if it is missing. ``--short`` trains less. With ``--save`` the outputs go into the files, with
a digest of the code that they are of, which the tests compare.
"""

import argparse
import hashlib
import pathlib
import re
import tempfile

import nbformat
from nbclient import NotebookClient

FOLDER = pathlib.Path(__file__).resolve().parent
SOURCE = re.compile(r'(?m)^JAXPT = "[^"]*"')
# What a short run sets otherwise.
SHORT = {
    "quickstart": {"DURATION": '"1 epochs"'},
    "losses": {"STEPS": "150"},
    "your_own_images": {
        "DURATION": '"4 epochs"',
        "SIZE": "8",
        "SUITE": '("knn", "linear", "few_shot", "class_separation", "neighbors")',
    },
    "analyse": {"DURATION": '"2 epochs"'},
    "text": {"STEPS": "30", "SEEDS": "1"},
}


def digest(notebook) -> str:
    """Digest of the code of a notebook."""
    code = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    return hashlib.sha256(code.encode()).hexdigest()[:16]


def shorten(notebook, name: str) -> None:
    """Makes a notebook of this name train less."""
    for variable, value in SHORT[name].items():
        setting = re.compile(rf'^{variable} = ("[^"]*"|\d+|\([^)]*\))', re.MULTILINE)
        places = [cell for cell in notebook.cells if setting.search(cell.source)]
        assert len(places) == 1, f"{name} sets {variable} {len(places)} times"
        places[0].source = setting.sub(f"{variable} = {value}", places[0].source)


def run(path: pathlib.Path, jaxpt: str = "", *, short: bool = False):
    """Runs a notebook in an empty folder, and returns it with its outputs."""
    notebook = nbformat.read(path, as_version=4)
    sources = [cell.source for cell in notebook.cells]
    if short:
        shorten(notebook, path.stem)
    if jaxpt:
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.source = SOURCE.sub(lambda _: f'JAXPT = "{jaxpt}"', cell.source)
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(
            notebook, timeout=1800, resources={"metadata": {"path": folder}}, record_timing=False
        ).execute()
    for cell, source in zip(notebook.cells, sources):
        cell.source = source
    notebook.metadata["outputs_of"] = digest(notebook)
    return notebook


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="such as quickstart; default: all")
    parser.add_argument("--jaxpt", default="", help="a wheel that the first cell installs")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--short", action="store_true", help="train less")
    length.add_argument("--save", action="store_true", help="save the outputs in the files")
    args = parser.parse_args()
    names = args.names or sorted(path.stem for path in FOLDER.glob("*.ipynb"))
    for name in names:
        path = FOLDER / f"{name}.ipynb"
        source = args.jaxpt and str(pathlib.Path(args.jaxpt).resolve())
        made = run(path, source, short=args.short)
        print(f"{name}: ran from the first cell to the last", flush=True)
        if args.save:
            nbformat.write(made, path)


if __name__ == "__main__":
    main()
