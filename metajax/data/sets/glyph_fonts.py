"""Letters of the fonts inside matplotlib: pictures and outlines, grouped into distinct classes."""

from __future__ import annotations

import collections
import pathlib
import unicodedata
from typing import Any, NamedTuple, TypeAlias

import numpy as np

# Two pictures are one class if their cosine is above this: about what 28 pixels can tell apart.
ALIKE = 0.98

# The script of a letter is the first word of its Unicode name. Here that word is another one.
_SCRIPTS = {"OLD": "Old Italic", "TURNED": "Latin", "ROMAN": "Latin"}

Outline: TypeAlias = tuple[np.ndarray, np.ndarray]
"""Vertices [points, (x, y)], y upward, and matplotlib's code of each: how the pen reaches it."""


class Drawing(NamedTuple):
    """One letter of one font.

    Attributes:
        picture: uint8[56, 56], twice the final size, so that resampling keeps it sharp. The longer
            side of the ink is 40.
        outline: in units of the font / 64.
    """

    picture: np.ndarray
    outline: Outline


class DrawnClasses(NamedTuple):
    """Drawings of many fonts, grouped by letter.

    Attributes:
        pictures: uint8[examples, 56, 56], before distortion.
        labels: int[examples].
        names: of the classes.
        outlines: one for each example.
    """

    pictures: np.ndarray
    labels: np.ndarray
    names: list[str]
    outlines: list[Outline]


def drawn_classes(styles: int) -> DrawnClasses:
    """All letters that at least `styles` fonts draw differently.

    Letters that look alike in DejaVu Sans are one class, which has the drawings of the first of
    them and the scripts of all. No drawing is in two classes.

    Raises:
        ValueError: no letter has so many drawings.
    """
    found = _draw_letters(styles)
    drawings = {letter: found[letter] for letter in sorted(found) if len(found[letter]) >= styles}
    if not drawings:
        raise ValueError(
            f"No letter has {styles=} drawings in the fonts of matplotlib; ask for 16 or fewer."
        )
    letters = list(drawings)
    first_pictures = np.stack([next(iter(drawn.values())).picture for drawn in drawings.values()])
    kept: list[Drawing] = []
    labels: list[int] = []
    names: list[str] = []
    seen: set[bytes] = set()
    for group in look_alikes(first_pictures):
        members = [letters[index] for index in group]
        drawn = {key: one for key, one in drawings[members[0]].items() if key not in seen}
        if len(drawn) < styles:
            continue
        # The italic of the Cyrillic i is a Latin u: it stays in the class that has it first.
        seen |= drawn.keys()
        labels += [len(names)] * len(drawn)
        kept += drawn.values()
        names.append(_class_name(members))
    pictures = np.stack([drawing.picture for drawing in kept])
    outlines = [drawing.outline for drawing in kept]
    return DrawnClasses(pictures, np.array(labels), names, outlines)


def is_letter(character: str) -> bool:
    """Whether a character is a letter with at most one mark, which 28 pixels can show.

    Symbols and superscripts repeat letters, or are boxes and dots that differ only in their place.
    Characters with a compatibility decomposition in Unicode (ligatures, Ohm, micro) are drawn as
    other letters. Two marks are a blot.
    """
    letter = unicodedata.category(character) in ("Lu", "Ll", "Lt", "Lo")
    own = unicodedata.normalize("NFKC", character) == character
    return letter and own and len(unicodedata.normalize("NFD", character)) <= 2


def look_alikes(pictures: np.ndarray) -> list[list[int]]:
    """Groups of pictures uint8[pictures, 56, 56] that look alike in final size.

    The groups are in the order of their first members.
    """
    rows = pictures.reshape(-1, 28, 2, 28, 2).mean(axis=(2, 4)).reshape(len(pictures), -1)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    group = np.arange(len(rows))
    for i, j in np.argwhere(np.triu(rows @ rows.T > ALIKE, 1)):
        group[group == group[j]] = group[i]
    return [np.flatnonzero(group == number).tolist() for number in dict.fromkeys(group)]


def _class_name(letters: list[str]) -> str:
    """All scripts, and the Unicode name of the first letter: "Greek+Latin/LATIN SMALL LETTER O"."""
    full_names = [unicodedata.name(letter) for letter in letters]
    scripts = set()
    for name in full_names:
        first_word = name.split()[0]
        scripts.add(_SCRIPTS.get(first_word, first_word.title()))
    return f"{'+'.join(sorted(scripts))}/{full_names[0]}"


def _draw_letters(styles: int) -> dict[str, dict[bytes, Drawing]]:
    """{letter: its different drawings by the bytes of their outline}, that of DejaVu Sans first.

    Letters that fewer than `styles` files have are left out.
    """
    fonts = _open_fonts()
    files = collections.Counter(code for font in fonts for code in font.get_charmap())
    drawings: dict[str, dict[bytes, Drawing]] = collections.defaultdict(dict)
    for font in fonts:
        for code, index in font.get_charmap().items():
            if files[code] < styles or not is_letter(chr(code)):
                continue
            _add_drawing(drawings[chr(code)], font, code, index)
    return drawings


def _open_fonts() -> list[Any]:
    """The fonts that draw letters, DejaVu Sans first."""
    from matplotlib import ft2font, get_data_path

    folder = pathlib.Path(get_data_path(), "fonts", "ttf")
    # The other files draw symbols in place of letters (Computer Modern) or boxes (Last Resort).
    paths = [*sorted(folder.glob("DejaVu*.ttf")), *sorted(folder.glob("STIXGeneral*.ttf"))]
    paths.sort(key=lambda path: path.name != "DejaVuSans.ttf")
    return [ft2font.FT2Font(str(path)) for path in paths]


def _add_drawing(drawn: dict[bytes, Drawing], font: Any, code: int, index: int) -> None:
    """Draws a letter in a font, unless its outline is empty or another font has the same one."""
    from matplotlib import ft2font

    font.load_glyph(index, ft2font.LoadFlags.NO_SCALE)
    vertices, codes = font.get_path()  # in whole units of the font, hence exact
    if not len(vertices):
        return
    outline = vertices - vertices.min(axis=0)
    font.set_size(40 * font.units_per_EM / (64 * outline.max()), 72)
    font.set_text(chr(code), flags=ft2font.LoadFlags.NO_HINTING)
    font.draw_glyphs_to_bitmap()
    drawing = Drawing(_centre(font.get_image()), (vertices, codes))
    drawn.setdefault(outline.tobytes(), drawing)


def _centre(image: np.ndarray) -> np.ndarray:
    """The ink of an image in the middle of uint8[56, 56]."""
    rows = np.flatnonzero(image.any(axis=1))
    columns = np.flatnonzero(image.any(axis=0))
    ink = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    margins = [((56 - side) // 2, 56 - side - (56 - side) // 2) for side in ink.shape]
    return np.pad(ink, margins)
