"""Letters of the fonts inside matplotlib: few-shot images that need no download.

A class is a letter, and each font gives one image of it. Classes are grouped by script, so that
whole scripts can be held out. Two things would make the task too easy, and both are undone here:

- A letter looks almost the same in all fonts, so that raw pixels would be enough. Each image is
  distorted, once.
- Fonts draw letters of different scripts alike (Latin A, Greek Alpha, Cyrillic A). These are one
  class, which belongs to all of its scripts.
"""

from __future__ import annotations

import contextlib
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from metajax._checked import checked
from metajax._checks import check_count
from metajax.data.datasets import Dataset, dataset
from metajax.data.sets.caches import UNREADABLE, cache_path, write_cache
from metajax.data.sets.glyph_fonts import drawn_classes
from metajax.types import Array, Count

_FORMAT = 1  # of the cache file: raise it when the images would change

# Least and greatest angle, scale, shear, shift right and shift down.
_LEAST = np.array([-np.pi / 12, 0.8, -0.2, -3.0, -3.0])
_GREATEST = np.array([np.pi / 12, 1.2, 0.2, 3.0, 3.0])


@checked
def glyphs(
    *, styles: int = 12, seed: Count = 0, cache: str | os.PathLike[str] | None = None
) -> Dataset:
    """Every letter that at least `styles` fonts draw, as uint8 images [28, 28, 1] with ink = 255.

    A class has a name such as "Greek/GREEK SMALL LETTER ALPHA", or, where letters look alike in
    DejaVu Sans, "Cyrillic+Greek+Latin/LATIN CAPITAL LETTER A"; it then has the drawings of the
    first of them. No drawing is in two classes. Drawn images are float32 in [0, 1].

    The first call takes some seconds, later ones read a file.

    Args:
        styles: the least number of drawings of a class, 2 to 16. Fewer styles give more scripts.
        seed: of the distortions.
        cache: folder of the file, by default the user's cache folder. A damaged file is replaced.
            Where nothing can be written, a warning says so, and every call draws anew.

    Raises:
        ValueError: `styles` or `seed` out of range.
        ImportError: matplotlib or platformdirs is missing.
    """
    check_count("styles", styles, 2)  # one for the support set, and one for the query set
    path = cache_path(f"glyphs-{_FORMAT}", f"styles{styles}-seed{seed}", cache)
    with contextlib.suppress(*UNREADABLE):
        return read_cache(path)
    drawn = drawn_classes(styles)
    values = distortions(len(drawn.pictures), seed)
    x = np.asarray(jax.lax.map(_distort_row, (drawn.pictures, values), batch_size=512))
    write_cache(path, x=x, y=drawn.labels, names=drawn.names)
    return dataset(x, drawn.labels, names=drawn.names, scale=255)


def distortions(number: int, seed: int | list[int]) -> np.ndarray:
    """Random (angle, scale, shear, right, down), float32[number, 5]; shifts are in pixels of 28."""
    uniform = np.random.default_rng(seed).uniform(_LEAST, _GREATEST, (number, 5))
    return uniform.astype(np.float32)


def distort(
    picture: Array, angle: Array, scale: Array, shear: Array, right: Array, down: Array
) -> Array:
    """A picture uint8[56, 56] as an image uint8[28, 28, 1]: sheared, scaled, turned and shifted.

    The pixel p of the image, counted from its middle, shows the place A⁻¹(p - t) of the picture,
    with A = R(angle) scale [1 k; 0 1], k the shear and t the shift.

    Args:
        picture: of twice the size.
        angle: in radians, clockwise.
        scale: a factor.
        shear: pixels to the right for each pixel down.
        right: pixels of the image.
        down: pixels of the image.
    """
    down_axis, right_axis = jnp.mgrid[:28, :28].astype(jnp.float32) - 13.5
    x = right_axis - right
    y = down_axis - down
    turned_x = jnp.cos(angle) * x + jnp.sin(angle) * y
    turned_y = jnp.cos(angle) * y - jnp.sin(angle) * x
    x = (turned_x - shear * turned_y) / scale
    y = turned_y / scale
    places = [27.5 + 2 * y, 27.5 + 2 * x]
    image = jax.scipy.ndimage.map_coordinates(picture.astype(jnp.float32), places, order=1)
    return jnp.round(image).astype(jnp.uint8)[:, :, None]


def _distort_row(row: tuple[Array, Array]) -> Array:
    """`distort` for a pair (picture, values); one function, so that it is compiled once."""
    picture, values = row
    return distort(picture, *values)


def read_cache(path: pathlib.Path) -> Dataset:
    """The data set that an earlier call wrote.

    Raises:
        Exception: one of `UNREADABLE` if the file is missing or damaged.
    """
    with path.open("rb") as file:  # given a path, np.load leaves a damaged file open
        stored = np.load(file)
        x, y, names = stored["x"], stored["y"], stored["names"]
    if x.shape[1:] != (28, 28, 1) or x.dtype != np.uint8:
        raise ValueError(f"Not a file of glyphs: {x.shape=}, {x.dtype=}.")
    return dataset(x, y, names=names, scale=255)
