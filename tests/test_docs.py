"""What README and docs show comes out of the records, and the configs hold what tuning chose."""

import importlib
import pathlib
import re
import sys

import pytest

from jaxpt import losses, study

ROOT = pathlib.Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "docs")]

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


def test_the_page_of_losses_is_that_of_the_docstrings():
    assert generate.PAGE.read_text() == generate.render()
    listed = [name for names in generate.GROUPS.values() for name in names]
    functions = [name for name in losses.__all__ if name.islower()]
    assert sorted(listed) == sorted(functions)
    for name in listed:  # what each is for, and where it comes from
        docstring = getattr(losses, name).__doc__
        assert all(f"\n    {part}:\n" in docstring
                   for part in ("Use", "Args", "Returns", "Raises", "Example", "References"))


def test_links_lead_somewhere():
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for link in re.findall(r"\]\(([^)#]+)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"
