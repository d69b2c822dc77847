"""Glyphs: which fonts count, how they are drawn, and how families are split."""

import pathlib
import shutil

import matplotlib
import ml_collections
import numpy as np
import pytest

from jaxpt.data import glyphs, sources
from jaxpt.errors import InputError

FONTS = pathlib.Path(matplotlib.get_data_path()) / "fonts" / "ttf"
USED = "DejaVuSans", "DejaVuSans-BoldOblique", "DejaVuSerif", "STIXGeneral", "cmr10"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("fonts")
    (root / "deep").mkdir()
    for name in USED:
        shutil.copy(FONTS / f"{name}.ttf", root / "deep")
    shutil.copy(FONTS / "DejaVuSans.ttf", root / "Other Name.ttf")
    shutil.copy(FONTS / "STIXSizOneSymReg.ttf", root)  # has no letters
    (root / "broken.otf").write_bytes(b"no font")
    return root


@pytest.fixture(autouse=True)
def parts(monkeypatch):
    """A part for each of the few groups there are."""
    of = {"dejavu sans": "train", "stixgeneral": "test", "cmr10": "validation"}
    monkeypatch.setattr(glyphs, "part_of", of.__getitem__)


@pytest.fixture(scope="module")
def found(folder):
    return glyphs.rendered(str(folder), 16)


def config(folder, **changes):
    given = {"source": "glyphs", "path": str(folder), "image_size": 16, "label_map": "level:1"}
    return ml_collections.ConfigDict(given | {"limit": 0} | changes)


def test_equal_broken_and_letterless_fonts_are_left_out(found):
    assert len(found.table) == len(USED)
    assert len({font.family for font in found.table}) == 4  # the slanted bold is of a family
    assert found.images.dtype == np.uint8 and found.images.shape[1:] == (16, 16)
    for number in range(len(found.table)):
        own = set(found.characters[found.fonts == number])
        assert own >= set("".join(glyphs.ALPHABETS["latin"].values()))


def test_characters_that_a_font_lacks_have_no_image(found):
    named = {font.family: i for i, font in enumerate(found.table)}
    assert "Ж" in found.characters[found.fonts == named["dejavu sans"]]
    assert "Ж" not in found.characters[found.fonts == named["cmr10"]]


def test_a_font_has_one_scale_and_one_baseline(found):
    (number,) = (i for i, f in enumerate(found.table) if f.style == "DejaVu Sans Book")
    image = {c: found.images[(found.fonts == number) & (found.characters == c)][0] for c in "Oox"}
    rows = {c: np.flatnonzero(image[c].max(1) > 128) for c in image}
    assert rows["O"].min() < rows["o"].min() and abs(rows["O"].max() - rows["x"].max()) <= 1
    columns = np.flatnonzero(image["O"].max(0) > 128)
    assert abs(columns.min() + columns.max() - 15) <= 1  # centred
    assert image["O"].max() > 200 and image["O"][0, 0] == 0  # light on black


def test_fonts_with_one_outline_for_two_cases_are_left_out(tmp_path, monkeypatch):
    latin = "".join(glyphs.ALPHABETS["latin"].values())
    monkeypatch.setattr(
        glyphs, "_draw", lambda *_: {c: np.full((2, 2), ord(c.upper())) for c in latin}
    )
    assert glyphs._latin(FONTS / "DejaVuSans.ttf") == (None, ())


def test_images_are_made_once(folder, found, monkeypatch):
    monkeypatch.setattr(glyphs, "_render", None)
    again = glyphs.rendered(str(folder), 16)
    assert again.table == found.table
    np.testing.assert_array_equal(again.images, found.images)


@pytest.mark.parametrize(
    "name, family",
    [
        ("Roboto Slab SemiBold", "roboto slab"),
        ("Noto Sans Display Extra Light", "noto sans display"),
        ("LM Sans 10", "lm sans"),
        ("Bold", "bold"),
    ],
)
def test_family_is_the_name_without_style(name, family):
    assert glyphs.family_of(name) == family


@pytest.mark.parametrize(
    "style, labels",
    [
        ("X Sans Bold Oblique", ("bold", "slanted", "sans")),
        ("X Sans Bold", ("bold", "upright", "sans")),
        ("X Italic", ("regular", "slanted", None)),
        ("X Serif ExtraLight", ("light", "upright", "serif")),
        ("X Sans Serif Medium", (None, "upright", None)),
        ("X Book", ("regular", "upright", None)),
    ],
)
def test_labels_that_have_nothing_to_do_with_characters(style, labels):
    font = glyphs.Font("", glyphs.family_of(style), style, "")
    found = tuple(glyphs._label(font, name) for name in ("weight", "slant", "serifs"))
    assert found == labels


def test_families_are_related_by_first_word_or_by_images():
    families = ["a sans", "a serif", "b", "c"]
    images = [[b"1", b"2", b"3", b"4"], [b"5"] * 4, [b"1", b"x", b"y", b"z"], [b"w"] * 4]
    assert glyphs._groups(families, images) == ["a sans", "a sans", "a sans", "c"]


def test_relations_go_on_from_family_to_family():
    def groups(families, *images):
        return glyphs._groups(families, [[c.encode() for c in one] for one in images])

    families = ["z", "y", "x", "w one", "w two"]
    # Two of eight images are a quarter: y has so many in common with z and with w one. x has one in
    # common with z, and others at other places.
    found = groups(families, "12345678", "12abcdef", "21-4hijk", "lmnopqef", "rrrrrrrr")
    assert found == ["w one", "w one", "x", "w one", "w one"]
    assert groups(["z", "y", "x"], "12345678", "12abcdef", "--34ghij") == ["x"] * 3
    # The first and the last share two, one of which the second has as well.
    assert groups(["c", "b", "a"], "12345678", "1abcdefg", "12hijklm") == ["a", "b", "a"]


def test_a_group_gives_at_most_so_many_fonts(folder, monkeypatch):
    monkeypatch.setattr(glyphs, "MOST_FONTS", 2)
    found = glyphs._render(folder, glyphs.files(str(folder)), 8)
    groups = sorted(font.group for font in found.table)
    assert groups == ["cmr10", "dejavu sans", "dejavu sans", "stixgeneral"]
    assert set(found.fonts) == {0, 1, 2, 3}


def test_levels_and_splits(folder):
    dataset = sources.load(config(folder))
    assert dataset.name == "glyphs" and len(dataset.class_names) == 62
    assert set(dataset.coarse.names) == {"upper case", "lower case", "digit"}
    assert dataset.class_names[:2] == ("upper case/A", "upper case/B")
    assert [len(s.ids) for s in (dataset.train, dataset.validation, dataset.test)] == [186, 62, 62]
    assert list(glyphs.test_groups(str(folder), 16)) == ["stixgeneral"] * 62


def test_other_alphabets_and_labels(folder):
    greek = sources.load(config(folder, source="glyphs:greek", label_map="fine"))
    assert "upper case/Ω" in greek.class_names and len(greek.test.ids) == len(greek.class_names)
    family = sources.load(config(folder, source="glyphs:family", label_map="fine"))
    assert family.class_names == ("stixgeneral",)
    assert len(family.trainval.ids) == len(family.test.ids) == 31
    slant = sources.identify(config(folder, source="glyphs:slant", label_map="fine"))
    assert slant.classes == ("slanted", "upright")


def test_the_identity_depends_on_the_size_of_the_images(folder):
    digests = {sources.identify(config(folder, image_size=size)).digest for size in (16, 16, 12)}
    assert len(digests) == 2


def test_a_folder_without_fonts_is_named(tmp_path):
    with pytest.raises(InputError, match="scripts/fetch_glyphs.sh"):
        sources.load(config(tmp_path))
    with pytest.raises(InputError, match="image_size must lie in 8 … 256"):
        sources.load(config(tmp_path, image_size=4))


def test_parts_are_fixed_shares(monkeypatch):
    monkeypatch.undo()
    named = {name: glyphs.part_of(name) for name in ("dejavu sans", "lm", "stixgeneral")}
    assert named == {"dejavu sans": "train", "lm": "test", "stixgeneral": "validation"}
    counts = np.unique([glyphs.part_of(f"family {i}") for i in range(800)], return_counts=True)
    assert dict(zip(*counts)).keys() == {"test", "train", "validation"}
    np.testing.assert_allclose(counts[1] / 800, [0.25, 0.625, 0.125], atol=0.05)
