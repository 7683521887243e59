"""Glyphs as three modalities: the picture, the outline as the way of a pen, and the name in words."""

from __future__ import annotations

import contextlib
import os

import numpy as np

from metajax.data.datasets import Dataset, dataset
from metajax.data.read.data_files import all_present
from metajax.data.sets.caches import UNREADABLE, cache_path, write_cache
from metajax.data.sets.glyph_fonts import Path, drawn_classes
from metajax.data.sets.glyph_images import distortions, glyphs
from metajax.data.strokes import resample

_FORMAT = 1  # of the cache file: raise it when the outlines would change

_PIECES = 8  # straight lines that a curve is cut into

_HALF = 10  # half of a letter's longer side in pixels of the image, and one unit of the outline

_MOVE, _CURVE, _CUBIC, _CLOSE = 1, 3, 4, 79  # matplotlib's codes


def glyph_modalities(
    *,
    points: int = 64,
    styles: int = 12,
    seed: int = 0,
    cache: str | os.PathLike[str] | None = None,
) -> Dataset:
    """The letters of `glyphs`, each also as its outline: x is a `Modalities` of image and outline, always present.

    image is that of `glyphs`. outline is float32[points, (x, y, t, start)] as `resample` makes it, a stroke for each
    closed curve and y downward as in an image: the edge of the same drawing in the same font, turned, scaled, sheared
    and shifted as the image is, but with random values of its own, so that it is a second view and no copy. Its unit is
    half of the letter's longer side before that. The third modality, words, belongs to the class: `glyph_words`.

    Args:
        points: of each outline; the letter with the most closed curves has 6.
        styles: as in `glyphs`.
        seed: of both distortions.
        cache: as in `glyphs`.

    Raises:
        ValueError: `styles` or `seed` out of range, or fewer points than a letter has closed curves.
        ImportError: matplotlib or platformdirs is missing.
    """
    images = glyphs(styles=styles, seed=seed, cache=cache)
    path = cache_path(f"outlines-{_FORMAT}", f"points{points}-styles{styles}-seed{seed}", cache)
    shape = len(images.y), points, 4
    outline = None
    with contextlib.suppress(*UNREADABLE), path.open("rb") as file, np.load(file) as stored:
        outline = stored["outline"]
    if outline is None or outline.shape != shape or outline.dtype != np.float32:
        vertices, starts, offsets = _flatten(drawn_classes(styles)[3])
        plain = resample(vertices * [1, -1], starts, offsets, number=points)
        outline = _distort(plain, distortions(len(plain), [seed, 1]))
        write_cache(path, outline=outline)
    return dataset(
        all_present(image=np.asarray(images.x), outline=outline),
        np.asarray(images.y),
        names=images.names,
    )


def glyph_words(name: str, *, script: bool = True) -> str:
    """The name of a class of `glyphs` in words, the Unicode name of its letter; `script=False` leaves its script out.

    A name tells the script, and what letters of other scripts are called alike ("small letter alpha"): where scripts
    are held out, words without the script are the harder and the fairer description.

    >>> glyph_words("Greek/GREEK SMALL LETTER ALPHA"), glyph_words("Greek/GREEK SMALL LETTER ALPHA", script=False)
    ('greek small letter alpha', 'small letter alpha')
    """
    scripts, _, letter = name.lower().rpartition("/")
    if not script:
        for prefix in scripts.split("+"):
            letter = letter.removeprefix(f"{prefix} ")
    return letter


def _flatten(paths: list[Path]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points on the outlines [rows, (x, y)], where their closed curves start, and the offsets of the letters.

    All letters at once: each vertex ends a quadratic Bézier curve from the last one, (1-u)² a + 2u(1-u) c + u² b; a
    straight line needs only its end, and the vertex before a curve's end is its control point c.
    """
    vertices = np.concatenate([path[0] for path in paths])
    codes = np.concatenate([path[1] for path in paths])
    if (codes == _CUBIC).any():
        raise ValueError(
            "A font with cubic curves; only the TrueType fonts of matplotlib, with quadratic ones, are read."
        )
    move, curve = codes == _MOVE, codes == _CURVE
    control = curve & (np.cumsum(curve) % 2 == 1)  # they come in pairs: control point, end
    row = np.arange(len(codes))
    opened = np.maximum.accumulate(np.where(move, row, 0))
    end = np.where((codes == _CLOSE)[:, None], vertices[opened], vertices)
    bent = curve & ~control
    begin = end[np.maximum(row - np.where(bent, 2, 1), 0)]
    u = (np.arange(_PIECES) + 1)[None, :, None] / _PIECES
    a, b, c = (corner[:, None] for corner in (begin, end, vertices[np.maximum(row - 1, 0)]))
    points = (1 - u) ** 2 * a + 2 * u * (1 - u) * c + u**2 * b  # [rows, pieces, 2]
    last = np.arange(_PIECES) == _PIECES - 1
    used = (bent[:, None] | last[None]) & ~control[:, None]
    offsets = np.cumsum([0, *(len(path[1]) for path in paths)])
    kept = np.concatenate([[0], np.cumsum(used.sum(axis=1))])
    return points[used], np.broadcast_to(move[:, None], used.shape)[used], kept[offsets]


def _distort(outline: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Outlines p [letters, points, 4] as A p + t with A = R(angle) scale [1 k; 0 1], as the image is distorted."""
    angle, scale, shear, right, down = values.T[:, :, None]
    x, y = scale * (outline[:, :, 0] + shear * outline[:, :, 1]), scale * outline[:, :, 1]
    turned = (
        np.cos(angle) * x - np.sin(angle) * y + right / _HALF,
        np.sin(angle) * x + np.cos(angle) * y + down / _HALF,
    )
    return np.stack([*turned, outline[:, :, 2], outline[:, :, 3]], axis=2).astype(np.float32)
