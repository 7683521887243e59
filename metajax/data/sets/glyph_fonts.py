"""The letters of the fonts inside matplotlib: pictures and outlines, grouped into classes that can be told apart."""

from __future__ import annotations

import collections
import pathlib
import unicodedata
from typing import TypeAlias

import numpy as np

_ALIKE = (
    0.98  # the cosine from which on two pictures are one class: about what 28 pixels can tell apart
)

_SCRIPTS = {
    "OLD": "Old Italic",
    "TURNED": "Latin",
    "ROMAN": "Latin",
}  # where the first word of the name misleads

Path: TypeAlias = tuple[np.ndarray, np.ndarray]
"""Vertices [points, (x, y)], y upward, and matplotlib's codes of what leads to each: uint8[points]."""


def drawn_classes(styles: int) -> tuple[np.ndarray, np.ndarray, list[str], list[Path]]:
    """Pictures uint8[examples, 56, 56] before distortion, their labels, the names of the classes, and the outlines."""
    drawings = {
        letter: drawn for letter, drawn in sorted(_drawings(styles).items()) if len(drawn) >= styles
    }
    if not drawings:
        raise ValueError(
            f"No letter has {styles=} drawings in the fonts of matplotlib; ask for 16 or fewer."
        )
    letters, seen, names = list(drawings), set[bytes](), list[str]()
    kept, labels = list[tuple[np.ndarray, Path]](), list[int]()
    for alike in _look_alikes(
        np.stack([next(iter(drawn.values()))[0] for drawn in drawings.values()])
    ):
        drawn = {
            key: drawing for key, drawing in drawings[letters[alike[0]]].items() if key not in seen
        }
        if len(drawn) >= styles:
            seen |= drawn.keys()  # the italic of Cyrillic i is a Latin u: it stays with the first
            kept += drawn.values()
            labels += [len(names)] * len(drawn)
            full = [unicodedata.name(letters[member]) for member in alike]
            scripts = {_SCRIPTS.get(name.split()[0], name.split()[0].title()) for name in full}
            names.append(f"{'+'.join(sorted(scripts))}/{full[0]}")
    return (
        np.stack([picture for picture, _ in kept]),
        np.array(labels),
        names,
        [path for _, path in kept],
    )


def _is_letter(character: str) -> bool:
    """Whether it is a letter with at most one mark, whose picture can be told from others in 28 pixels.

    Symbols and superscripts repeat letters, or boxes and dots that only their place tells apart; what Unicode
    decomposes for compatibility (ligatures, Ohm, micro) is drawn as other letters; two marks are a blot.
    """
    letter = unicodedata.category(character) in ("Lu", "Ll", "Lt", "Lo")
    own = unicodedata.normalize("NFKC", character) == character
    return letter and own and len(unicodedata.normalize("NFD", character)) <= 2


def _look_alikes(pictures: np.ndarray) -> list[list[int]]:
    """Groups of pictures uint8[pictures, 56, 56] that look alike in final size, ordered by their first member."""
    rows = pictures.reshape(-1, 28, 2, 28, 2).mean(axis=(2, 4)).reshape(len(pictures), -1)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    group = np.arange(len(rows))
    for i, j in np.argwhere(np.triu(rows @ rows.T > _ALIKE, 1)):
        group[group == group[j]] = group[i]
    return [np.flatnonzero(group == number).tolist() for number in dict.fromkeys(group)]


def _drawings(styles: int) -> dict[str, dict[bytes, tuple[np.ndarray, Path]]]:
    """For each letter its different outlines, that of DejaVu Sans first: their pictures uint8[56, 56] and paths.

    The pictures have twice the final size, so that resampling keeps them sharp; the longer side of the ink is 40.
    """
    from matplotlib import ft2font, get_data_path

    folder = pathlib.Path(get_data_path(), "fonts", "ttf")
    # The other files draw symbols in the place of letters (Computer Modern) or boxes (Last Resort).
    paths = [*sorted(folder.glob("DejaVu*.ttf")), *sorted(folder.glob("STIXGeneral*.ttf"))]
    fonts = [
        ft2font.FT2Font(str(path))
        for path in sorted(paths, key=lambda path: path.name != "DejaVuSans.ttf")
    ]
    files = collections.Counter(code for font in fonts for code in font.get_charmap())
    drawings: dict[str, dict[bytes, tuple[np.ndarray, Path]]] = collections.defaultdict(dict)
    for font in fonts:
        for code, index in font.get_charmap().items():
            if files[code] >= styles and _is_letter(chr(code)):
                font.load_glyph(index, ft2font.LoadFlags.NO_SCALE)
                vertices, codes = (
                    font.get_path()
                )  # [points, (x, y)] in units of the font / 64, hence exact
                if len(vertices):
                    outline = vertices - vertices.min(axis=0)
                    font.set_size(40 * font.units_per_EM / (64 * outline.max()), 72)
                    font.set_text(chr(code), flags=ft2font.LoadFlags.NO_HINTING)
                    font.draw_glyphs_to_bitmap()
                    drawing = _centre(font.get_image()), (vertices, codes)
                    drawings[chr(code)].setdefault(outline.tobytes(), drawing)
    return drawings


def _centre(image: np.ndarray) -> np.ndarray:
    """The ink of an image in the middle of uint8[56, 56]."""
    rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
    ink = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return np.pad(ink, [((56 - side) // 2, 56 - side - (56 - side) // 2) for side in ink.shape])
