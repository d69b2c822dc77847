"""Glyphs: characters of many fonts as images, with labels at several levels.

One image is one character of one font. Which of its labels is to be learnt is part of the name of
the source (``LABELS``): "glyphs" has 62 Latin characters in three blocks, so that encoders can be
pre-trained on blocks and measured on characters; other alphabets and labels that have nothing to do
with characters (family, weight, slant, serifs) are transfer sets. Related families always lie in
the same part, so the test part shows fonts that training has not seen.

The fonts are the user's own files (``scripts/fetch_glyphs.sh``); images are made from them once and
kept in the user's cache.
"""

import collections
import hashlib
import pathlib
import zipfile
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont, features

from jaxpt.cache import cache_home
from jaxpt.data import identity
from jaxpt.errors import require
from jaxpt.files import replacing

# Characters by alphabet and block. Those of Greek and Cyrillic that look like a Latin one are left
# out (Α, о): they would not be unseen.
ALPHABETS = {
    "latin": {
        "upper case": "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
        "lower case": "abcdefghijklmnopqrstuvwxyz",
        "digit": "0123456789",
    },
    "greek": {"upper case": "ΓΔΘΛΞΠΣΦΨΩ", "lower case": "αβγδεζηθλμξπρσςτφχψω"},
    "cyrillic": {"upper case": "БГДЖЗИЛПФЦЧШЩЪЫЬЭЮЯ", "lower case": "бвгджзийклмнптфцчшщъыьэюя"},
}
LABELS = ("latin", "greek", "cyrillic", "family", "weight", "slant", "serifs")
SUFFIXES = (".ttf", ".otf")
LIGHT = {"thin", "hairline", "extralight", "ultralight", "light"}
REGULAR = {"regular", "book", "roman", "normal"}
BOLD = {"semibold", "demibold", "demi", "bold", "extrabold", "ultrabold", "black", "heavy", "fat"}
ITALIC = {"italic", "oblique", "slanted", "inclined"}
WIDTHS = {"condensed", "semicondensed", "extracondensed", "narrow", "compressed", "cond", "wide"}
WIDTHS |= {"expanded", "extended", "semiexpanded"}
# Words of a name that tell members of one family apart.
STYLES = LIGHT | REGULAR | BOLD | ITALIC | WIDTHS | {"medium", "extra", "ultra", "semi"}

REFERENCE = 32  # pixels at which fonts are compared, so that every size has the same fonts
DISTINCT = 0.8  # least share of different images among the Latin characters of a font
SHARED = 0.25  # families that have so many images in common are related
MOST_FONTS = 24  # of a group of related families, so that none dominates
UNASSIGNED = "\U0010ffff"  # every font shows its sign for a missing character here
VERSION = 1  # of the rendering


class Font(NamedTuple):
    """A font: its path below the folder, family, style, and group of related families."""

    file: str
    family: str
    style: str
    group: str


class Glyphs(NamedTuple):
    """All images of a folder of fonts.

    Attributes:
      images: uint8 [n, size, size], ink 255 on 0.
      characters: str [n].
      fonts: int [n], index into ``table``.
      table: the fonts.
    """

    images: np.ndarray
    characters: np.ndarray
    fonts: np.ndarray
    table: tuple[Font, ...]


def files(path: str) -> list[pathlib.Path]:
    """The font files below a folder, sorted by name.

    Raises:
      InputError: if there are none.
    """
    root = pathlib.Path(path).expanduser()
    found = sorted(
        (file for file in root.rglob("*") if file.suffix.lower() in SUFFIXES),
        key=lambda file: (file.name, file.as_posix()),
    )
    require(
        bool(path) and bool(found),
        f"data.path must be a folder with font files (.ttf, .otf), got {path!r}: "
        "scripts/fetch_glyphs.sh FOLDER fetches some.",
    )
    return found


def read(path: str, size: int, labels: str = "latin"):
    """Reads one labelling of a folder of fonts.

    Args:
      path: the folder; fonts are found at any depth.
      size: side of the images, pixels.
      labels: one of ``LABELS``.

    Returns:
      (name, {"train", "validation", "test": (images uint8 [n, size, size, 1], labels int [n])},
      class names). The parts hold different families, except with "family": there they hold
      different characters of the same families, those of the test part of the other labels.

    Raises:
      InputError: if there are no fonts, or too few for a training and a test part.
    """
    glyphs = rendered(path, size)
    rows, classes, parts = _labelled(glyphs, labels)
    found_names, index = np.unique(classes, return_inverse=True)
    names = sorted(found_names.tolist(), key=_order_of_classes)
    number = np.array([names.index(name) for name in found_names.tolist()], np.int32)
    found = {}
    for part in ("train", "validation", "test"):
        chosen = np.flatnonzero(parts == part)
        if part == "validation" and not len(chosen):
            continue  # a fifth of the training part will serve
        require(
            len(chosen) > 0,
            f"the fonts in {path!r} have no images of {labels} for the {part} part: give more "
            "families, scripts/fetch_glyphs.sh FOLDER fetches some.",
        )
        found[part] = glyphs.images[rows[chosen]][..., None], number[index[chosen]]
    return ("glyphs" if labels == "latin" else f"glyphs_{labels}"), found, names


def test_groups(path: str, size: int, labels: str = "latin") -> np.ndarray:
    """Group of related families of each test image of ``read``, str [n]."""
    glyphs = rendered(path, size)
    rows, _, parts = _labelled(glyphs, labels)
    groups = np.array([font.group for font in glyphs.table])
    return groups[glyphs.fonts[rows[parts == "test"]]]


def part_of(group: str) -> str:
    """The part of a group of families, fixed by its name: 5/8 train, 1/8 validation, 1/4 test."""
    eighth = int(hashlib.sha256(group.encode()).hexdigest(), 16) % 8
    return "test" if eighth < 2 else "validation" if eighth == 2 else "train"


def _labelled(glyphs: Glyphs, labels: str):
    """Rows of the images that have a label, their class names and their parts, all arrays."""
    require(labels in LABELS, f"labels of glyphs must be one of {', '.join(LABELS)}.")
    name_of = {
        character: f"{block}/{character}"
        for block, characters in ALPHABETS[labels if labels in ALPHABETS else "latin"].items()
        for character in characters
    }
    place = {character: i for i, character in enumerate(name_of)}
    known, index = np.unique(glyphs.characters, return_inverse=True)
    of_font = [_label(font, labels) for font in glyphs.table]
    parts_of_font = np.array([part_of(font.group) for font in glyphs.table])
    kept = (
        np.isin(known, list(name_of))[index]
        & np.array([x is not None for x in of_font])[glyphs.fonts]
    )
    if labels == "family":
        kept &= parts_of_font[glyphs.fonts] == "test"
    rows = np.flatnonzero(kept)
    fonts, index = glyphs.fonts[rows], index[rows]
    parts = parts_of_font[fonts]
    if labels == "family":
        odd = np.array([place.get(character, 0) % 2 for character in known.tolist()])
        parts = np.array(["train", "test"])[odd[index]]
    if labels in ALPHABETS:
        return rows, np.array([name_of.get(c, "") for c in known.tolist()])[index], parts
    return rows, np.array([label or "" for label in of_font])[fonts], parts


def _label(font: Font, labels: str) -> str | None:
    """Label of a font; None if its name does not tell. Any text for labels of characters."""
    words = set(_words(f"{font.family} {font.style}"))
    if labels == "family":
        return font.family
    if labels == "weight":
        kinds = [k for k, of in (("light", LIGHT), ("bold", BOLD)) if words & of]
        if "medium" in words:
            return None
        return kinds[0] if len(kinds) == 1 else None if kinds else "regular"
    if labels == "slant":
        return "slanted" if words & ITALIC else "upright"
    if labels == "serifs":
        kinds = [k for k in ("sans", "serif") if k in words]
        return kinds[0] if len(kinds) == 1 else None
    return ""


def _order_of_classes(name: str):
    blocks = ("upper case", "lower case", "digit")
    block, _, character = name.partition("/")
    return (blocks.index(block) if block in blocks else -1, block, character)


def _words(name: str) -> list[str]:
    """Words of a name in lower case; "SemiBold", "Semi-Bold" and "Semi Bold" are one word."""
    words: list[str] = []
    for word in "".join(c if c.isalnum() else " " for c in name).lower().split():
        if words and words[-1] in ("semi", "demi", "extra", "ultra") and words[-1] + word in STYLES:
            words[-1] += word
        else:
            words.append(word)
    return words


def family_of(name: str) -> str:
    """Name of the family without the words that tell its members apart, and without numbers."""
    kept = [w for w in _words(name) if w not in STYLES and not w.isdecimal()]
    return " ".join(kept) or name.lower()


def rendered(path: str, size: int) -> Glyphs:
    """The images of a folder of fonts, from the user's cache if its fonts are unchanged.

    Left out are fonts that cannot be read or lack a Latin character, that show fewer than 80 %
    different images for the Latin characters, or whose images equal those of another font. Of a
    group of related families, at most ``MOST_FONTS`` fonts are taken. Families are related if their
    names begin with the same word or a quarter of the Latin images of a font of each are equal.
    """
    require(8 <= size <= 256, f"data.image_size must lie in 8 … 256 for glyphs, got {size}.")
    sources = files(path)
    stamp = identity.stamp(sources, [VERSION, size, features.version("freetype2")])
    file = cache_home() / "glyphs" / f"{stamp}.npz"
    try:
        with np.load(file, allow_pickle=False) as kept:
            table = tuple(Font(*row) for row in kept["table"].tolist())
            return Glyphs(kept["images"], kept["characters"], kept["fonts"], table)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        glyphs = _render(pathlib.Path(path).expanduser(), sources, size)
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file, "wb") as kept:
        np.savez(kept, **glyphs._replace(table=np.array(glyphs.table))._asdict())
    return glyphs


def _render(root: pathlib.Path, sources: list[pathlib.Path], size: int) -> Glyphs:
    found, seen = [], set()
    for file in sources:
        latin, name = _latin(file)
        if latin is None or (digest := hashlib.sha256(b"".join(latin)).digest()) in seen:
            continue
        seen.add(digest)
        found.append((file, latin, *name))
    fonts = [
        Font(file.relative_to(root).as_posix(), family_of(family), f"{family} {style}", "")
        for file, _, family, style in found
    ]
    groups = _groups([font.family for font in fonts], [latin for _, latin, *_ in found])
    taken: dict[str, int] = collections.Counter()
    table, images, characters, numbers = [], [], [], []
    order = sorted(range(len(fonts)), key=lambda i: hashlib.sha256(b"".join(found[i][1])).digest())
    for i in order:
        if taken[groups[i]] == MOST_FONTS:
            continue
        taken[groups[i]] += 1
        drawn = _draw(
            found[i][0], size, "".join(map("".join, map(dict.values, ALPHABETS.values())))
        )
        images += drawn.values()
        characters += drawn
        numbers += [len(table)] * len(drawn)
        table.append(fonts[i]._replace(group=groups[i]))
    require(bool(table), f"no font in {str(root)!r} has all Latin letters and digits.")
    return Glyphs(np.stack(images), np.array(characters), np.array(numbers), tuple(table))


def _latin(file: pathlib.Path):
    """Images of the Latin characters as bytes, and (family, style); (None, ()) if unsuitable."""
    characters = "".join(ALPHABETS["latin"].values())
    try:
        drawn = _draw(file, REFERENCE, characters)
        name = ImageFont.truetype(str(file), REFERENCE, layout_engine=BASIC).getname()
    except (OSError, ValueError):  # what FreeType raises for broken fonts
        return None, ()
    pictures = [image.tobytes() for image in drawn.values()]
    if len(pictures) < len(characters) or len(set(pictures)) < DISTINCT * len(characters):
        return None, ()
    return pictures, tuple(part or "" for part in name)


BASIC = ImageFont.Layout.BASIC  # one glyph per character, without ligatures


def _draw(file: pathlib.Path, size: int, characters: str) -> dict[str, np.ndarray]:
    """Images of those characters that the font has.

    All characters of a font share one scale and one baseline, so that upper and lower case differ;
    the highest and the widest Latin character just fit. Each is centred horizontally.
    """
    reference = ImageFont.truetype(str(file), 2 * REFERENCE, layout_engine=BASIC)
    missing = bytes(reference.getmask(UNASSIGNED)), reference.getbbox(UNASSIGNED)
    latin = "".join(ALPHABETS["latin"].values())
    boxes = np.array([reference.getbbox(character, anchor="ls") for character in latin])
    top, bottom = boxes[:, 1].min(), boxes[:, 3].max()
    extent = max(bottom - top, (boxes[:, 2] - boxes[:, 0]).max())
    if extent <= 0:
        return {}
    scale = (size - 2) / extent
    font = reference.font_variant(size=2 * REFERENCE * scale)
    baseline = round((size - (bottom - top) * scale) / 2 - top * scale)
    found = {}
    for character in characters:
        mask = bytes(reference.getmask(character))
        if not any(mask) or (mask, reference.getbbox(character)) == missing:
            continue
        left, _, right, _ = font.getbbox(character, anchor="ls")
        image = Image.new("L", (size, size))
        draw = ImageDraw.Draw(image)
        draw.text((round((size - left - right) / 2), baseline), character, 255, font, anchor="ls")
        found[character] = np.asarray(image)
    return found


def _groups(families: list[str], pictures: list[list[bytes]]) -> list[str]:
    """Group of each font: the first name, in alphabetical order, among its related families."""
    parent = {family: family for family in families}

    def root(family):
        while parent[family] != family:
            family = parent[family]
        return family

    def join(a, b):
        a, b = sorted((root(a), root(b)))
        parent[b] = a

    firsts: dict[str, str] = {}
    for family in families:
        join(family, firsts.setdefault(family.split()[0], family))
    owners = collections.defaultdict(list)
    for i, images in enumerate(pictures):
        for place, image in enumerate(images):
            owners[place, image].append(i)
    common: dict[tuple[int, int], int] = collections.Counter()
    for fonts in owners.values():
        common.update((a, b) for n, a in enumerate(fonts) for b in fonts[n + 1 :])
    for (a, b), n in common.items():
        if n >= SHARED * len(pictures[a]):
            join(families[a], families[b])
    return [root(family) for family in families]
