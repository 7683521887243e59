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
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax.data.datasets import Dataset, dataset, select
from metajax.data.sets.caches import UNREADABLE, cache_path, write_cache
from metajax.data.sets.glyph_fonts import drawn_classes
from metajax.types import Array

_FORMAT = 1  # of the cache file: raise it when the images would change

_RANGES = np.array(
    [[-np.pi / 12, 0.8, -0.2, -3.0, -3.0], [np.pi / 12, 1.2, 0.2, 3.0, 3.0]]
)  # of what _distort takes


def glyphs(
    *, styles: int = 12, seed: int = 0, cache: str | os.PathLike[str] | None = None
) -> Dataset:
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
        raise ValueError(
            f"Need styles >= 2 (one to learn from, one to ask) and seed >= 0, got {styles=}, {seed=}."
        )
    path = cache_path(f"glyphs-{_FORMAT}", f"styles{styles}-seed{seed}", cache)
    with contextlib.suppress(*UNREADABLE):
        return _read(path)
    pictures, y, names, _ = drawn_classes(styles)
    values = distortions(len(pictures), seed)
    x = np.asarray(
        jax.lax.map(lambda row: _distort(row[0], *row[1]), (pictures, values), batch_size=512)
    )
    write_cache(path, x=x, y=y, names=names)
    return dataset(x, y, names=names)


class ScriptSplit(NamedTuple):
    """Three data sets without a class in common; `dropped` classes were left out to keep it so."""

    train: Dataset
    validation: Dataset | None
    test: Dataset
    dropped: int


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
        raise ValueError(
            f"Unknown scripts {unknown}; there are (with their classes) {dict(known.most_common())}."
        )
    free, dropped = np.ones(dataset.classes, bool), np.zeros(dataset.classes, bool)
    kept: dict[str, Any] = {}
    for part, chosen in parts.items():
        wanted = np.array([not of_class.isdisjoint(chosen) for of_class in scripts])
        if not (wanted & free).any() and (chosen or part != "validation"):
            raise ValueError(
                f"No class is left for {part}={chosen}; name more scripts, or fewer in earlier parts."
            )
        kept[part] = select(dataset, wanted & free) if chosen else None
        free, dropped = free & ~wanted, dropped | (wanted & ~free)
    return ScriptSplit(**kept, dropped=int(dropped.sum()))


def distortions(number: int, seed: int | list[int]) -> np.ndarray:
    """Random (angle, scale, shear, right, down), float32[number, 5], with the shifts in pixels of 28."""
    return (
        np.random.default_rng(seed).uniform(_RANGES[0], _RANGES[1], (number, 5)).astype(np.float32)
    )


def _read(path: pathlib.Path) -> Dataset:
    with path.open("rb") as file:  # np.load(path) leaves a broken file open
        stored = np.load(file)
        x, y, names = stored["x"], stored["y"], stored["names"]
    if x.shape[1:] != (28, 28, 1) or x.dtype != np.uint8:
        raise ValueError(f"Not a file of glyphs: {x.shape=}, {x.dtype=}.")
    return dataset(x, y, names=names)


def _distort(
    picture: Array, angle: Array, scale: Array, shear: Array, right: Array, down: Array
) -> Array:
    """One picture uint8[56, 56] as an image uint8[28, 28, 1]: sheared, scaled, turned (radians) and shifted (pixels).

    The pixel p of the image, from its middle, shows the place A⁻¹(p - t) of the picture, A = R(angle) scale [1 k; 0 1].
    """
    down_axis, right_axis = jnp.mgrid[:28, :28].astype(jnp.float32) - 13.5
    x, y = right_axis - right, down_axis - down
    x, y = jnp.cos(angle) * x + jnp.sin(angle) * y, jnp.cos(angle) * y - jnp.sin(angle) * x
    x, y = (x - shear * y) / scale, y / scale
    image = jax.scipy.ndimage.map_coordinates(
        picture.astype(jnp.float32), [27.5 + 2 * y, 27.5 + 2 * x], order=1
    )
    return jnp.round(image).astype(jnp.uint8)[:, :, None]
