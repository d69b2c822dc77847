"""The notebooks run from the first cell to the last, and show what they promise."""

import base64
import configparser
import io
import pathlib
import re
import subprocess
import sys
import textwrap
import types
import zipfile

import nbformat
import pytest
from nbclient import NotebookClient
from packaging.requirements import Requirement
from PIL import Image
from xla_flags import xla_flags

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "colab"))

import run  # noqa: E402

NOTEBOOKS = {
    path.stem: nbformat.read(path, as_version=4)
    for path in sorted((ROOT / "colab").glob("*.ipynb"))
}

# What must hold in the kernel at the end of a short run.
HOLDS = {
    "quickstart": """
        assert list(rows) == ["cross_entropy", "sup_con", "nca", "look"]
        assert all(0.1 < row[c] <= 1 for row in rows.values() for c in COLUMNS if "_k" in c)
    """,
    "losses": """
        assert list(runs) == ["LOOK", "NCA", "SupCon"]
        assert all(history[10:20, 0].mean() > 1.1 * history[-10:, 0].mean()
                   for history, _ in runs.values())  # the losses fall
        assert all(accuracy(last[name], labels) > accuracy(last["untrained"], labels) + 0.1
                   for name in runs)
        assert all(len(of_loss) > 10 for of_loss in seen.values())
    """,
    "your_own_images": """
        kinds = {finding.kind for finding in found}
        assert kinds == {"conflict", "duplicate", "extension", "near"}
        assert PART == "test" and len(dataset.test.ids) == 300 and not outcome.skipped
        measured = {name for record in outcome.records for name in record["values"]}
        assert {"fine_knn", "fine_linear", "fine_5shot", "class_separation"} <= measured
        fine = {r["label"]: r["values"]["fine_knn"] for r in outcome.records
                if r["evaluator"] == "knn"}
        assert set(fine) == {"look", "cross_entropy"} and min(fine.values()) > 0.3, fine
    """,
    "analyse": """
        assert list(backbones) == ["look", "cross_entropy"]
        assert right.shape == (597, 20) and 0.3 < right.mean() < 1
        assert set(layers) == set(backbones) and matrix.shape == (4, 4)
        assert abs(cka_matrix(layers["look"], layers["look"])[0, 0] - 1) < 1e-6
        assert (abs(matrix) < 1).all()  # of two networks
        assert found.tsne.shape == found.pca.shape == (597, 2)
    """,
    "text": """
        assert not set(modules[unseen]) & set(modules[train])
        assert not set(train) & {*validation, *test, *unseen} and len(train) > 1000
        losses, stats = look_at(embeddings, k=1)
        assert losses.max() < 1e-5 and stats.purity == 1  # everyone finds itself
        losses, stats = look_at(embeddings, k=1, query_ids=queries, key_ids=keys)
        assert stats.purity < 0.9
        assert all(row not in nearest(features["LOOK"][0], row) for row in EXAMPLES)
        assert history[10:20].mean() > history[-10:].mean()  # of LOOK; its loss falls
        assert list(right)[2:] == list(LOSSES) and all(len(ones) == 1 for ones in right.values())
        assert all(0.1 < ones[0][question].mean() < 1 for ones in right.values()
                   for question in QUESTIONS)
    """,
}
PICTURES = {"quickstart": 2, "losses": 2, "your_own_images": 2, "analyse": 4, "text": 0}


def code(name):
    return [cell for cell in NOTEBOOKS[name].cells if cell.cell_type == "code"]


def outputs(cells):
    return [output for cell in cells for output in cell.get("outputs", [])]


def shown(cells, kind):
    return [output["data"][kind] for output in outputs(cells) if kind in output.get("data", {})]


def shortened(name):
    notebook = nbformat.from_dict(NOTEBOOKS[name])
    run.shorten(notebook, name)
    notebook.cells.append(nbformat.v4.new_code_cell(textwrap.dedent(HOLDS[name])))
    return notebook


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Runs a notebook, shortened, as on a machine with one CPU device."""

    def execute(name):
        notebook = shortened(name)
        folder = tmp_path_factory.mktemp(name)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("XLA_FLAGS", xla_flags())
            NotebookClient(
                notebook, timeout=300, resources={"metadata": {"path": str(folder)}}
            ).execute()
        return notebook.cells

    return execute


@pytest.mark.slow
@pytest.mark.parametrize("name", list(NOTEBOOKS))
def test_runs(name, executed):
    cells = executed(name)
    assert [o for o in outputs(cells) if o.get("name") == "stderr"] == []  # nothing to worry about
    assert re.fullmatch(r"CPU runtime: jax [\d.]+ on 1 × cpu\n", outputs(cells)[0]["text"])
    assert len(shown(cells, "image/png")) == PICTURES[name]
    tables = shown(cells, "text/markdown")
    if name in ("quickstart", "losses"):  # a heading, a line below it, and four rows
        assert [len(table.splitlines()) for table in tables] == [6]
        assert "nan" not in tables[0].lower()
    pages = shown(cells, "text/html")
    if name == "text":  # ids, k and temperature, the comparison
        assert [len(table.splitlines()) for table in tables] == [6, 6, 8]
    if name == "losses":
        moving = Image.open(
            io.BytesIO(base64.b64decode(re.search(r"data:image/gif;base64,([^\"]+)", pages[-1])[1]))
        )
        assert moving.n_frames > 10
    if name == "your_own_images":
        assert pages[-1].startswith("<iframe") and "Nearest neighbours" in pages[-1]


def test_what_is_committed():
    assert set(NOTEBOOKS) == set(run.SHORT)
    for name, notebook in NOTEBOOKS.items():
        # The outputs of a whole run of this code, by colab/run.py --save.
        assert notebook.metadata.outputs_of == run.digest(notebook), f"colab/run.py --save {name}"
        numbers = [cell.execution_count for cell in code(name)]
        assert numbers == list(range(1, len(numbers) + 1))
        assert outputs(code(name)) and all(o.output_type != "error" for o in outputs(code(name)))
        assert len(nbformat.writes(notebook)) < 3_000_000
        address = f"/blob/main/colab/{name}.ipynb)"
        assert "[![Open in Colab]" in notebook.cells[0].source
        assert address in notebook.cells[0].source
        first = code(name)[0]
        assert first.source == code("quickstart")[0].source  # one set of versions
        assert len(first.source.splitlines()) < 30
        assert max(map(len, "\n".join(c.source for c in code(name)).splitlines())) <= 100


def test_the_versions_are_those_that_the_package_takes():
    source = code("quickstart")[0].source
    pinned = dict(re.findall(r'"([a-z-]+)==([\d.]+)"', source))
    pinned["jax"] = re.search(r"\{jax_for\}==([\d.]+)", source)[1]
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    ranges = {
        r.name: r.specifier
        for r in map(Requirement, config["options"]["install_requires"].strip().splitlines())
    }
    assert {"jax", "flax", "optax", "orbax-checkpoint", "ml-collections"} == set(pinned)
    assert all(ranges[name].contains(version) for name, version in pinned.items())


class TestInstall:
    """The first cell where jaxpt is missing."""

    @pytest.fixture
    def asked(self, monkeypatch):
        """Arguments of pip, which is not run."""
        commands = []
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        monkeypatch.setattr("glob.glob", lambda pattern: [])
        monkeypatch.setattr("shutil.which", lambda name: None)
        monkeypatch.setattr(
            subprocess,
            "run",
            lambda argv, **kinds: (
                commands.append(argv)
                or (types.SimpleNamespace(returncode=int("wrong" in argv), stdout="no such place"))
            ),
        )
        return commands

    def first_cell(self, where):
        source = code("quickstart")[0].source.replace('JAXPT = "jaxpt"', f'JAXPT = "{where}"')
        exec(compile(source, "first cell", "exec"), {})

    def test_its_default_is_the_checkout_or_the_name(self, asked, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        self.first_cell("jaxpt")
        monkeypatch.chdir(ROOT / "colab")
        self.first_cell("jaxpt")
        assert [argv[5] for argv in asked] == ["jaxpt", ".."]

    @pytest.mark.parametrize(
        "machine, extra",
        [
            ("", ""),
            ("/dev/accel*", "[tpu]"),
            ("/dev/vfio/[0-9]*", "[tpu]"),
            ("nvidia-smi", "[cuda12]"),
        ],
    )
    def test_it_fits_the_machine(self, asked, monkeypatch, machine, extra):
        monkeypatch.setattr("glob.glob", lambda pattern: [pattern] * (pattern == machine))
        monkeypatch.setattr("shutil.which", lambda name: name if name == machine else None)
        self.first_cell("a wheel")
        (argv,) = asked
        assert argv[:4] == [sys.executable, "-m", "pip", "install"]
        assert "a wheel" in argv and any(a.startswith(f"jax{extra}==") for a in argv)

    def test_what_pip_says_where_it_fails(self, asked):
        with pytest.raises(AssertionError, match="no such place"):
            self.first_cell("wrong")


@pytest.mark.parametrize("inside", ["photos/", ""])
def test_an_uploaded_folder(inside, tmp_path, monkeypatch):
    """On Colab: a .zip of the folder, or of what is in it, with what macOS adds."""
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile("photos.zip", "w") as archive:
        for name in "train/cat/1.jpg", "test/cat/2.jpg":
            archive.writestr(inside + name, b"")
        archive.writestr("__MACOSX/._photos", b"")
    colab = types.ModuleType("google.colab")
    colab.files = types.SimpleNamespace(upload=lambda: {"photos.zip": b""})
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    cell = next(c.source for c in code("your_own_images") if "def upload" in c.source)
    found = {"IMAGES": "upload"}
    exec(cell, found)
    assert sorted(f.name for f in found["FOLDER"].iterdir() if f.name != "__MACOSX") == [
        "test",
        "train",
    ]
