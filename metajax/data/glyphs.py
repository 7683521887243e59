"""Letters of the fonts inside matplotlib: few-shot images that need no download.

One class a letter, one image a font, grouped by script, so that whole scripts can be held out. Two things would make
the task too easy, and both are undone here. A letter looks almost the same in all fonts, so that raw pixels would do:
each image is distorted, once. And fonts draw letters of different scripts alike (Latin A, Greek Alpha, Cyrillic A):
these are one class, which belongs to all of its scripts.
"""

from __future__ import annotations

import collections
import contextlib
import os
import pathlib
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax._types import Array
from metajax.data.arrays import Dataset, dataset, select

_FORMAT = 1  # of the cache file: raise it when the images would change
_UNREADABLE = (OSError, EOFError, LookupError, RuntimeError, ValueError, struct.error, zipfile.BadZipFile, zlib.error)
_ALIKE = 0.98  # the cosine from which on two pictures are one class: about what 28 pixels can tell apart
_SCRIPTS = {"OLD": "Old Italic", "TURNED": "Latin", "ROMAN": "Latin"}  # where the first word of the name misleads
_RANGES = np.array([[-np.pi / 12, 0.8, -0.2, -3.0, -3.0], [np.pi / 12, 1.2, 0.2, 3.0, 3.0]])  # of what _distort takes


class ScriptSplit(NamedTuple):
    """Three data sets without a class in common; `dropped` classes were left out to keep it so."""

    train: Dataset
    validation: Dataset | None
    test: Dataset
    dropped: int


def glyphs(*, styles: int = 12, seed: int = 0, cache: str | os.PathLike[str] | None = None) -> Dataset:
    """Every letter that at least `styles` fonts draw, as images uint8[examples, 28, 28, 1] with ink = 255.

    A class is called "Greek/GREEK SMALL LETTER ALPHA", or "Cyrillic+Greek+Latin/LATIN CAPITAL LETTER A" where letters
    look alike in DejaVu Sans: it holds the drawings of the first of them. No drawing is in two classes. The first call
    takes some seconds, later ones read a file.

    Args:
        styles: the least number of drawings of a class, 2 to 16; fewer styles give more scripts.
        seed: of the distortions.
        cache: folder of the file, the user's cache folder by default. A file that cannot be read is replaced.

    Raises:
        ValueError: `styles` or `seed` out of range.
        ImportError: matplotlib or platformdirs is missing.
    """
    if styles < 2 or seed < 0:
        raise ValueError(f"Need styles >= 2 (one to learn from, one to ask) and seed >= 0, got {styles=}, {seed=}.")
    try:
        import matplotlib
        import platformdirs
    except ImportError as error:
        raise ImportError("Glyphs need matplotlib and platformdirs: pip install 'metajax[examples]'.") from error
    folder = platformdirs.user_cache_path("metajax") if cache is None else pathlib.Path(cache)
    path = folder / f"glyphs-{_FORMAT}-matplotlib{matplotlib.__version__}-styles{styles}-seed{seed}.npz"
    with contextlib.suppress(*_UNREADABLE):
        return _read(path)
    pictures, y, names = _classes(styles)
    values = np.random.default_rng(seed).uniform(_RANGES[0], _RANGES[1], (len(pictures), 5)).astype(np.float32)
    x = np.asarray(jax.lax.map(lambda row: _distort(row[0], *row[1]), (pictures, values), batch_size=512))
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    with partial.open("wb") as file:
        np.savez_compressed(file, x=x, y=y, names=names)
    os.replace(partial, path)  # at once: another process sees all of the file or none
    return dataset(x, y, names=names)


def split_scripts(
    dataset: Dataset, *, train: Sequence[str], validation: Sequence[str] = (), test: Sequence[str]
) -> ScriptSplit:
    """Splits by script, so that no class, hence no drawing, is in two parts.

    A class of scripts in several parts stays in the first of train, validation, test and is `dropped` from the others;
    scripts that are in no part do not count. Without validation scripts `validation` is None.

    Raises:
        ValueError: a script named twice, an unknown script, or a part without a class.
    """
    parts = {"train": train, "validation": validation, "test": test}
    scripts = [set(name.partition("/")[0].split("+")) for name in dataset.names]
    known = collections.Counter(script for of_class in scripts for script in of_class)
    named = collections.Counter([*train, *validation, *test])
    if twice := [script for script, times in named.items() if times > 1]:
        raise ValueError(f"Scripts {twice} are named more than once; name each once, in one part.")
    if unknown := [script for script in named if script not in known]:
        raise ValueError(f"Unknown scripts {unknown}; there are (with their classes) {dict(known.most_common())}.")
    free, dropped = np.ones(dataset.classes, bool), np.zeros(dataset.classes, bool)
    kept: dict[str, Any] = {}
    for part, chosen in parts.items():
        wanted = np.array([not of_class.isdisjoint(chosen) for of_class in scripts])
        if not (wanted & free).any() and (chosen or part != "validation"):
            raise ValueError(f"No class is left for {part}={chosen}; name more scripts, or fewer in earlier parts.")
        kept[part] = select(dataset, wanted & free) if chosen else None
        free, dropped = free & ~wanted, dropped | (wanted & ~free)
    return ScriptSplit(**kept, dropped=int(dropped.sum()))


def _read(path: pathlib.Path) -> Dataset:
    with path.open("rb") as file:  # np.load(path) leaves a broken file open
        stored = np.load(file)
        x, y, names = stored["x"], stored["y"], stored["names"]
    if x.shape[1:] != (28, 28, 1) or x.dtype != np.uint8:
        raise ValueError(f"Not a file of glyphs: {x.shape=}, {x.dtype=}.")
    return dataset(x, y, names=names)


def _is_letter(character: str) -> bool:
    """Whether it is a letter with at most one mark, whose picture can be told from others in 28 pixels.

    Symbols and superscripts repeat letters, or boxes and dots that only their place tells apart; what Unicode
    decomposes for compatibility (ligatures, Ohm, micro) is drawn as other letters; two marks are a blot.
    """
    letter = unicodedata.category(character) in ("Lu", "Ll", "Lt", "Lo")
    own = unicodedata.normalize("NFKC", character) == character
    return letter and own and len(unicodedata.normalize("NFD", character)) <= 2


def _classes(styles: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Pictures uint8[examples, 56, 56] before distortion, their labels, and the names of the classes."""
    drawings = {letter: drawn for letter, drawn in sorted(_drawings(styles).items()) if len(drawn) >= styles}
    if not drawings:
        raise ValueError(f"No letter has {styles=} drawings in the fonts of matplotlib; ask for 16 or fewer.")
    letters, seen, names = list(drawings), set[bytes](), list[str]()
    pictures, labels = list[np.ndarray](), list[int]()
    for alike in _look_alikes(np.stack([next(iter(drawn.values())) for drawn in drawings.values()])):
        drawn = {outline: picture for outline, picture in drawings[letters[alike[0]]].items() if outline not in seen}
        if len(drawn) >= styles:
            seen |= drawn.keys()  # the italic of Cyrillic i is a Latin u: it stays with the first
            pictures += drawn.values()
            labels += [len(names)] * len(drawn)
            full = [unicodedata.name(letters[member]) for member in alike]
            scripts = {_SCRIPTS.get(name.split()[0], name.split()[0].title()) for name in full}
            names.append(f"{'+'.join(sorted(scripts))}/{full[0]}")
    return np.stack(pictures), np.array(labels), names


def _look_alikes(pictures: np.ndarray) -> list[list[int]]:
    """Groups of pictures uint8[pictures, 56, 56] that look alike in final size, ordered by their first member."""
    rows = pictures.reshape(-1, 28, 2, 28, 2).mean(axis=(2, 4)).reshape(len(pictures), -1)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    group = np.arange(len(rows))
    for i, j in np.argwhere(np.triu(rows @ rows.T > _ALIKE, 1)):
        group[group == group[j]] = group[i]
    return [np.flatnonzero(group == number).tolist() for number in dict.fromkeys(group)]


def _drawings(styles: int) -> dict[str, dict[bytes, np.ndarray]]:
    """For each letter its different outlines, that of DejaVu Sans first, and their pictures uint8[56, 56].

    The pictures have twice the final size, so that resampling keeps them sharp; the longer side of the ink is 40.
    """
    from matplotlib import ft2font, get_data_path

    folder = pathlib.Path(get_data_path(), "fonts", "ttf")
    # The other files draw symbols in the place of letters (Computer Modern) or boxes (Last Resort).
    paths = [*sorted(folder.glob("DejaVu*.ttf")), *sorted(folder.glob("STIXGeneral*.ttf"))]
    fonts = [ft2font.FT2Font(str(path)) for path in sorted(paths, key=lambda path: path.name != "DejaVuSans.ttf")]
    files = collections.Counter(code for font in fonts for code in font.get_charmap())
    drawings: dict[str, dict[bytes, np.ndarray]] = collections.defaultdict(dict)
    for font in fonts:
        for code, index in font.get_charmap().items():
            if files[code] >= styles and _is_letter(chr(code)):
                font.load_glyph(index, ft2font.LoadFlags.NO_SCALE)
                if len(outline := font.get_path()[0]):  # [points, (x, y)] in units of the font / 64, hence exact
                    outline = outline - outline.min(axis=0)
                    font.set_size(40 * font.units_per_EM / (64 * outline.max()), 72)
                    font.set_text(chr(code), flags=ft2font.LoadFlags.NO_HINTING)
                    font.draw_glyphs_to_bitmap()
                    drawings[chr(code)].setdefault(outline.tobytes(), _centre(font.get_image()))
    return drawings


def _centre(image: np.ndarray) -> np.ndarray:
    """The ink of an image in the middle of uint8[56, 56]."""
    rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
    ink = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return np.pad(ink, [((56 - side) // 2, 56 - side - (56 - side) // 2) for side in ink.shape])


def _distort(picture: Array, angle: Array, scale: Array, shear: Array, right: Array, down: Array) -> Array:
    """One picture uint8[56, 56] as an image uint8[28, 28, 1]: sheared, scaled, turned (radians) and shifted (pixels).

    The pixel p of the image, from its middle, shows the place A⁻¹(p - t) of the picture, A = R(angle) scale [1 k; 0 1].
    """
    down_axis, right_axis = jnp.mgrid[:28, :28].astype(jnp.float32) - 13.5
    x, y = right_axis - right, down_axis - down
    x, y = jnp.cos(angle) * x + jnp.sin(angle) * y, jnp.cos(angle) * y - jnp.sin(angle) * x
    x, y = (x - shear * y) / scale, y / scale
    image = jax.scipy.ndimage.map_coordinates(picture.astype(jnp.float32), [27.5 + 2 * y, 27.5 + 2 * x], order=1)
    return jnp.round(image).astype(jnp.uint8)[:, :, None]
