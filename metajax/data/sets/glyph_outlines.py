"""Glyphs as three modalities: the picture, the outline as a pen trajectory, the name in words."""

from __future__ import annotations

import contextlib
import os
import pathlib

import numpy as np

from metajax._checked import checked
from metajax.data.datasets import Dataset, dataset
from metajax.data.read.rows import all_present
from metajax.data.sets.caches import UNREADABLE, cache_path, write_cache
from metajax.data.sets.glyph_fonts import Outline, drawn_classes
from metajax.data.sets.glyph_images import distortions, glyphs
from metajax.data.strokes import resample

_FORMAT = 1  # of the cache file: raise it when the outlines would change
_PIECES = 8  # straight lines that replace a curve
_HALF = 10  # pixels of the image in one unit of the outline: half of a letter's longer side
_MOVE, _CURVE, _CUBIC, _CLOSE = 1, 3, 4, 79  # matplotlib's codes of vertices


@checked
def glyph_modalities(
    *,
    points: int = 64,
    styles: int = 12,
    seed: int = 0,
    cache: str | os.PathLike[str] | None = None,
) -> Dataset:
    """The letters of `glyphs`, each also as its outline.

    x is a `Modalities` of image and outline, both always present. The image is that of `glyphs`.
    The outline is float32[points, (x, y, t, start)] as `resample` makes it, with a stroke for each
    closed curve and y downward as in an image. It is the edge of the same drawing in the same font,
    turned, scaled, sheared and shifted as images are, but with random values of its own: a second
    view, not a copy. Its unit is half of the letter's longer side before the distortion.

    The third modality, words, belongs to the class: see `glyph_words`.

    Args:
        points: number of points of each outline; the letter with the most closed curves has 6.
        styles: as in `glyphs`.
        seed: of both distortions.
        cache: as in `glyphs`.

    Raises:
        ValueError: `styles` or `seed` out of range, or fewer points than closed curves of a letter.
        ImportError: matplotlib or platformdirs is missing.
    """
    images = glyphs(styles=styles, seed=seed, cache=cache)
    path = cache_path(f"outlines-{_FORMAT}", f"points{points}-styles{styles}-seed{seed}", cache)
    shape = (len(images.y), points, 4)
    outline = _read_cache(path)
    if outline is None or outline.shape != shape or outline.dtype != np.float32:
        vertices, starts, offsets = flatten_curves(drawn_classes(styles).outlines)
        downward = vertices * [1, -1]
        plain = resample(downward, starts, offsets, number=points)
        outline = _distort(plain, distortions(len(plain), [seed, 1]))
        write_cache(path, outline=outline)
    x = all_present({"image": np.asarray(images.x), "outline": outline}, len(outline))
    return dataset(x, np.asarray(images.y), names=images.names, scale={"image": 255})


@checked
def glyph_words(name: str, *, script: bool = True) -> str:
    """The name of a class of `glyphs` in words: the Unicode name of its letter in lower case.

    A name tells the script, and which letters of other scripts have the same name ("small letter
    alpha"). Where scripts are held out, words without the script are the harder and fairer
    description.

    Args:
        name: of the class.
        script: False leaves the script out.

    >>> glyph_words("Greek/GREEK SMALL LETTER ALPHA")
    'greek small letter alpha'
    >>> glyph_words("Greek/GREEK SMALL LETTER ALPHA", script=False)
    'small letter alpha'
    """
    scripts, _, letter = name.lower().rpartition("/")
    if not script:
        for prefix in scripts.split("+"):
            letter = letter.removeprefix(f"{prefix} ")
    return letter


def flatten_curves(outlines: list[Outline]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points on the outlines of all letters, with straight lines in place of curves.

    Each vertex ends a quadratic Bézier curve from the last one, (1-u)² a + 2u(1-u) c + u² b, whose
    control point c is the vertex before its end. A straight line needs only its end.

    Returns:
        (points [rows, (x, y)], bool[rows] where closed curves start, offsets int[letters + 1]).

    Raises:
        ValueError: a font with cubic curves.
    """
    vertices = np.concatenate([outline[0] for outline in outlines])
    codes = np.concatenate([outline[1] for outline in outlines])
    if (codes == _CUBIC).any():
        raise ValueError(
            "A font has cubic curves; only the TrueType fonts of matplotlib, "
            "with quadratic curves, can be read."
        )
    row = np.arange(len(codes))
    move = codes == _MOVE
    curve = codes == _CURVE
    # Vertices of curves come in pairs: control point, end.
    is_control = curve & (np.cumsum(curve) % 2 == 1)
    is_bent = curve & ~is_control
    opened = np.maximum.accumulate(np.where(move, row, 0))
    end = np.where((codes == _CLOSE)[:, None], vertices[opened], vertices)
    begin = end[np.maximum(row - np.where(is_bent, 2, 1), 0)]
    control = vertices[np.maximum(row - 1, 0)]

    u = (np.arange(_PIECES) + 1)[None, :, None] / _PIECES
    a, b, c = begin[:, None], end[:, None], control[:, None]
    points = (1 - u) ** 2 * a + 2 * u * (1 - u) * c + u**2 * b  # [rows, pieces, 2]
    is_last = np.arange(_PIECES) == _PIECES - 1
    used = (is_bent[:, None] | is_last[None]) & ~is_control[:, None]
    starts = np.broadcast_to(move[:, None], used.shape)[used]
    offsets = np.cumsum([0, *(len(outline[1]) for outline in outlines)])
    used_before = np.concatenate([[0], np.cumsum(used.sum(axis=1))])
    return points[used], starts, used_before[offsets]


def _read_cache(path: pathlib.Path) -> np.ndarray | None:
    """The outlines that an earlier call wrote, or None."""
    with contextlib.suppress(*UNREADABLE), path.open("rb") as file, np.load(file) as stored:
        return stored["outline"]
    return None


def _distort(outline: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Outlines p [letters, points, 4] as A p + t with A = R(angle) scale [1 k; 0 1], as images."""
    angle, scale, shear, right, down = values.T[:, :, None]
    x = scale * (outline[:, :, 0] + shear * outline[:, :, 1])
    y = scale * outline[:, :, 1]
    turned_x = np.cos(angle) * x - np.sin(angle) * y + right / _HALF
    turned_y = np.sin(angle) * x + np.cos(angle) * y + down / _HALF
    columns = [turned_x, turned_y, outline[:, :, 2], outline[:, :, 3]]
    return np.stack(columns, axis=2).astype(np.float32)
