"""The page in Chromium: nothing overflows, nothing is missing, and it follows the colour scheme."""

import functools

import fake_records
import pytest
from PIL import Image

from jaxpt import report
from jaxpt.report.figures import save_features

from . import browser

pytestmark = [
    pytest.mark.extras,
    pytest.mark.skipif(browser.executable() is None, reason="no Chromium on this machine"),
]
VIEWS = [(1280, False), (1280, True), (390, False), (390, True)]
LONG = "a label of one's own " * 6


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A page as the demo writes it, one of everything on two sets, and one of a scaling study."""
    folder = tmp_path_factory.mktemp("pages")
    demo = fake_records.separated()
    for label in "cross_entropy", "look":
        (folder / "demo").mkdir(exist_ok=True)
        save_features(folder / "demo", label, fake_records.features(f"{label}-0"))
    full = [
        record
        for data in ("digits", "x" * 60)
        for label in ("cross_entropy", "look", LONG)
        for record in fake_records.everything(
            label, data=data, class_names=("cat", "a class with a long name", *map(str, range(8)))
        )
    ]
    for record in full:
        if record["evaluator"] == "linear":
            record["protocol"] = {"linear": {"grid": "many words " * 30}}
    return {
        "demo": report.write_report(demo, folder / "demo"),
        "everything": report.write_report(full, folder / "everything"),
        "scaling": report.write_report(fake_records.scaling(), folder / "scaling"),
    }


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with browser.Browser(tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture(scope="module")
def look(pages, chromium, tmp_path_factory):
    """What is seen of a page, once for all tests; of one on a phone with a picture."""
    folder = tmp_path_factory.mktemp("pictures")

    @functools.cache
    def look(name, width, dark=False):
        picture = folder / f"{name}_{dark}.png" if width == 390 and name != "scaling" else None
        seen = chromium.look(pages[name], width, dark=dark, picture=picture)
        return seen | {"picture": picture}

    return look


@pytest.mark.parametrize("width, dark", VIEWS)
@pytest.mark.parametrize("name", ["demo", "everything", "scaling"])
def test_a_page_fits_and_is_whole(look, name, width, dark):
    seen = look(name, width, dark)
    assert seen["errors"] == []
    assert seen["width"] == width and seen["scrollWidth"] <= width
    assert seen["outside"] == []
    assert seen["missing"] == 0 and (seen["images"] > 0) == (name == "everything")
    assert "LOOK and its peers on" in seen["text"]
    assert seen["dark"] == dark
    assert contrast(seen["ground"], seen["ink"]) > 7
    assert (luminance(seen["ground"]) < 0.1) == dark


@pytest.mark.parametrize("width, dark", VIEWS)
@pytest.mark.parametrize("name", ["demo", "everything"])
def test_the_maps_follow_the_colour_scheme(look, name, width, dark):
    seen = look(name, width, dark)
    assert seen["black"] == []  # the ink is none of the two schemes' black
    # Dots of a map and those of its legend are made lighter alike.
    (same,) = seen["filters"]
    assert (same == "none") == (not dark)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("name", ["demo", "everything"])
def test_a_wide_table_on_a_phone_shows_that_it_goes_on(look, name, dark):
    seen = look(name, 390, dark)
    picture = Image.open(seen["picture"]).convert("RGB")
    assert {box["scrolls"] for box in seen["boxes"]} == {False, True}
    for box in seen["boxes"]:
        edge = picture.getpixel((int(2 * box["right"]) - 2, int(2 * box["top"]) + 12))
        assert (contrast(f"rgb{edge}", seen["ground"]) > 1.03) == box["scrolls"]
        # Its first column stays, and leaves room for the others.
        assert box["first"]["left"] == pytest.approx(0, abs=0.5)
        assert not box["scrolls"] or box["first"]["width"] < 0.5 * box["width"]


@pytest.mark.parametrize("width", [1280, 390])
def test_sentences_in_tables_are_broken_into_lines(look, width):
    seen = look("everything", width)
    prose = [box["scrolls"] for box in seen["boxes"] if box["prose"]]
    assert len(prose) >= 3 and not any(prose)


def test_the_probe_sees_what_is_wrong(tmp_path, chromium):
    (tmp_path / "bad.html").write_text(
        "<meta name=viewport content='width=device-width'>"
        "<main><div style='width: 900px'>wide</div><img src='nowhere.png'></main>"
        "<svg><path d='M0 0h9v9z'/></svg>"
        "<script>console.error('told')</script>"
    )
    seen = chromium.look(tmp_path / "bad.html", 390)
    assert seen["outside"] and seen["missing"] == 1 and seen["errors"] and seen["black"]
    assert seen["scrollWidth"] >= 900


def luminance(color):
    """Relative luminance of "rgb(r, g, b)", as WCAG 2 defines it."""
    channels = [int(c) / 255 for c in color.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
