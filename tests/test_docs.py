"""What README and docs show comes out of the records, and the configs hold what tuning chose."""

import importlib
import pathlib
import re
import sys

import pytest

from jaxpt import losses, methods, study

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
    assert config[knob] == best[knob]
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
