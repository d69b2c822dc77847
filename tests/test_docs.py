"""What README and docs show comes out of the records, and the configs hold what tuning chose."""

import ast
import importlib
import pathlib
import re
import subprocess
import sys
import types

import pytest
from report import browser

from jaxpt import losses, methods
from jaxpt.studies import study

ROOT = pathlib.Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "docs")]

TEXTS = sorted(ROOT.glob("*.md")) + sorted((ROOT / "docs").glob("*.md"))

import generate  # noqa: E402
import tables  # noqa: E402
import tune  # noqa: E402


@pytest.mark.parametrize("page", tables.PAGES)
def test_tables_are_those_of_the_records(page):
    text = (ROOT / page).read_text()
    assert tables.MARKED.search(text)
    assert tables.render(text) == text


@pytest.mark.parametrize("data", sorted(tune.KNOBS))
@pytest.mark.parametrize("method", tune.METHODS)
def test_configs_hold_the_winners_of_tuning(data, method):
    jobs = [job for job in tune.jobs(data) if job.config["method"] == method]
    found = study.stored(jobs, tables.RECORDS / f"tuning_{data}.jsonl")
    assert len(found) == len(jobs)  # nothing was left out
    groups = {}
    for record in found:
        groups.setdefault(record["label"], []).append(record)
    best = max(groups.values(), key=tune.score)[0]["config"]
    config = importlib.import_module(f"jaxpt.configs.pretrain.{data}").get_config(method)
    knob, _ = tune.KNOBS[data][method]
    section, _, field = knob.rpartition(".")
    assert (config[section] if section else config)[field] == (best[section] if section else best)[
        field
    ]
    assert config.optimizer.learning_rate == best["optimizer"]["learning_rate"]


@pytest.mark.parametrize("page", sorted(generate.PAGES))
def test_generated_pages_are_those_of_the_code(page):
    assert (generate.FOLDER / page).read_text() == generate.PAGES[page]()


def test_every_loss_and_method_is_on_its_page():
    listed = [name for names in generate.GROUPS.values() for name in names]
    functions = [name for name in losses.__all__ if name.islower()]
    assert sorted(listed) == sorted(functions)
    for name in listed:  # what each is for, and where it comes from
        docstring = getattr(losses, name).__doc__
        assert all(
            f"\n    {part}:\n" in docstring
            for part in ("Use", "Args", "Returns", "Raises", "Example", "References")
        )
    page = (ROOT / "docs" / "methods.md").read_text()
    assert all(f"\n## {name}\n" in page for name in methods.METHODS)


def anchors(page: pathlib.Path) -> set[str]:
    """Names of a page's headings, as GitHub and mkdocs make them."""
    text = re.sub(r"(?ms)^```.*?^```", "", page.read_text())
    titles = re.findall(r"(?m)^#+ (.*)$", text)
    return {re.sub(r"[^\w -]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", TEXTS, ids=lambda path: path.stem)
def test_links_lead_somewhere(page):
    text = re.sub(r"(?ms)^```.*?^```", "", page.read_text())
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith("http"):
            assert re.fullmatch(r"https://[\w.-]+\.[a-z]+(/[\w.~/%#?=&+-]*)?", link), link
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), f"no file for {link}"
        assert not anchor or anchor in anchors(target), f"no heading for {link}"


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2]
    named = re.findall(r"([\w-]+\.md)", navigation)
    missing = {path.name for path in (ROOT / "docs").glob("*.md")} - set(named)
    assert not missing, f"name {sorted(missing)} under nav in mkdocs.yml"


@pytest.fixture
def hooks(monkeypatch):
    """docs/hooks.py; without the docs extra beside stand-ins for the libraries of that."""
    stand_ins = {
        "griffe": types.SimpleNamespace(Extension=object),
        "mkdocs.structure.files": types.SimpleNamespace(File=None),
    }
    for name, stand_in in stand_ins.items():
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            monkeypatch.setitem(sys.modules, name, stand_in)
    return importlib.import_module("hooks")


def test_attributes_that_share_a_description_keep_their_types(hooks):
    text = "A net.\n\nAttributes:\n  norm: a.\n  size, dtype,\n    width: as\n    there.\n  k: b."
    named = {"norm": "str", "size": "int", "dtype": "Any", "width": "int", "k": "bool"}
    attributes = {name: types.SimpleNamespace(annotation=of) for name, of in named.items()}
    cls = types.SimpleNamespace(docstring=types.SimpleNamespace(value=text), attributes=attributes)
    hooks.Docstrings().on_instance(obj=cls)
    hooks.Docstrings().on_class_members(cls=cls)
    assert cls.docstring.value.splitlines()[3:] == [
        "  norm: a.",
        "  size,\N{NO-BREAK SPACE}width (int): as",
        "    there.",
        "  dtype (Any): as",
        "    there.",
        "  k: b.",
    ]


@pytest.mark.extras
def test_attributes_of_the_api_have_the_types_of_the_code(hooks):
    griffe = hooks.griffe
    if not hasattr(griffe, "load"):
        pytest.skip("needs the docs extra")
    extensions = griffe.load_extensions(f"{ROOT / 'docs' / 'hooks.py'}:Docstrings")
    loaded = griffe.load(
        "jaxpt", search_paths=[ROOT], extensions=extensions, docstring_parser="google"
    )
    modules = [loaded[module] for _, modules in hooks.API.values() for module in modules]
    shared = 0
    for cls in (cls for module in modules for cls in module.classes.values()):
        sections = cls.docstring.parsed if cls.docstring else []
        for entry in (x for s in sections if s.kind.value == "attributes" for x in s.value):
            names = entry.name.split(hooks.JOINT)
            shared += len(names) > 1
            for name in set(names) & set(cls.attributes):
                assert str(entry.annotation) == str(cls.attributes[name].annotation), entry.name
    assert shared


def test_what_a_module_hands_on_stands_in_the_api_once(hooks):
    listed = {module for _, modules in hooks.API.values() for module in modules}
    handed_on = {}
    for module in listed:
        of = importlib.import_module(f"jaxpt.{module}")
        for name in getattr(of, "__all__", ()):
            origin = getattr(getattr(of, name), "__module__", "").removeprefix("jaxpt.")
            if origin in listed - {module}:
                handed_on.setdefault(module, set()).add(name)
    assert handed_on == {module: set(x.split("|")) for module, x in hooks.HANDED_ON.items()}


def test_flags_stay_in_one_line_and_settings_out_of_the_search(hooks):
    def shown(html):
        return hooks.on_page_content(html, None, None, None)

    flag = '<span class="flag">--config.data.workers=64</span>'
    assert shown(f"<code>x {re.sub('<.*?>', '', flag)}</code>") == f"<code>x {flag}</code>"
    assert shown("<pre><code>x --k=20</code></pre>") == "<pre><code>x --k=20</code></pre>"
    assert shown("<code>x--y</code>") == "<code>x--y</code>"
    assert ".flag { white-space: nowrap; }" in (ROOT / "docs" / "site.css").read_text()
    head = "<table>\n<thead>\n<tr>\n<th>{}</th>"
    assert shown(head.format("setting")).startswith("<table data-search-exclude>")
    assert shown(head.format("method")).startswith("<table>")
    assert "\n| setting |" in (ROOT / "docs" / "evidence.md").read_text()


def test_start_page_does_not_tell_its_reader_to_make_the_site(hooks):
    text = (ROOT / "README.md").read_text()
    assert "make docs" in text and "make docs" not in hooks.MAKE_DOCS.sub("", text)


def test_fields_say_what_they_are_for_the_method():
    page = generate.methods_page()
    assert len(set(re.findall(r"(?m)^\| `\w+\.weight` \| .*? \| (.*) \|$", page))) == 3


def texts_of_code():
    """The texts of the package, with … where values are put in."""
    for path in (ROOT / "jaxpt").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = (p.value if isinstance(p, ast.Constant) else "…" for p in node.values)
                yield "".join(map(str, parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_messages_of_troubleshooting_are_those_of_the_code():
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    known = "\n".join(texts_of_code())
    rows = re.findall(r"(?m)^\| (`[^|]*?) \|", page)
    assert len(rows) > 5
    for row in rows:
        for message in re.findall(r"`([^`]+)`", row):
            if "of JAX" not in row and message != "Killed":
                assert message in known, message


@pytest.mark.extras
@pytest.mark.skipif(browser.executable() is None, reason="no Chromium on this machine")
def test_a_site_that_is_opened_as_a_file_can_be_searched(tmp_path):
    pytest.importorskip("mkdocs", reason="needs the docs extra")
    site = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", site],
        cwd=ROOT,
        check=True,
    )
    assert "http" not in "".join(
        re.findall("<script[^>]*src=[^>]*", (site / "faq.html").read_text())
    )
    command = [browser.executable(), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    options = ["--virtual-time-budget=20000", f"--user-data-dir={tmp_path / 'profile'}"]
    page = subprocess.run(
        [*command, *options, f"{(site / 'faq.html').as_uri()}?q=temperature"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    assert re.search(r'md-search-result__meta">\d+ matching documents<', page)
