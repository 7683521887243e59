"""Images turned by 90, 180 and 270 degrees as classes of their own."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, overload

import jax
import numpy as np

from metajax._checked import checked
from metajax._checks import shapes
from metajax.data.datasets import Dataset, dataset
from metajax.data.values import is_row_numbers
from metajax.types import PyTree

_DEGREES = ("", "@90", "@180", "@270")
"""What is added to the name of a class, for each number of quarter turns."""

Fetch = Callable[[np.ndarray], PyTree]


@overload
def rotated(source: Dataset, fetch: None = None) -> Dataset: ...


@overload
def rotated(source: Dataset, fetch: Fetch) -> tuple[Dataset, Fetch]: ...


@checked
def rotated(source: Dataset, fetch: Fetch | None = None) -> Dataset | tuple[Dataset, Fetch]:
    """Makes four times as many classes: each class as it is, and turned by 90, 180 and 270 degrees.

    This is usual for Omniglot. Turn the parts of a split, not the data set before it is split, so
    that no part has turned examples of another. Class c turned by t quarters counter-clockwise is
    class c + t * classes, and is named "a@90", "a@180" and "a@270" where class c is "a". Side
    information and scale are those of class c.

    Args:
        source: images [examples, size, size, channels]; with `fetch`, their row numbers
            int[examples].
        fetch: row numbers -> images of these rows, on the host, where the data stays on disk.

    Returns:
        The data set, which takes four times the memory. With `fetch` a pair (rows, fetch) for
        `stream`, which turns images as they are read.

    Raises:
        ValueError: images that are not square (with `fetch`, when they are read), row numbers
            without `fetch`, too large row numbers, or a name that two classes have.

    >>> letters = dataset(np.arange(8).reshape(2, 2, 2, 1), [0, 1], names=["a", "b"])
    >>> turned = rotated(letters)
    >>> turned.names[:4], turned.x[2, :, :, 0].tolist()
    (('a', 'b', 'a@90', 'b@90'), [[1, 3], [0, 2]])
    """
    if fetch is None:
        _check_square(source.x)
        image = np.asarray(source.x)
        turned = [np.rot90(image, quarters, axes=(1, 2)) for quarters in range(4)]
        return _four_times(source, np.concatenate(turned))
    total = _count_numbers(source)
    numbers = np.asarray(source.x)
    turned = [numbers + quarters * total for quarters in range(4)]
    rows = _four_times(source, np.concatenate(turned))
    return rows, functools.partial(_fetch_turned, fetch, total)


def _four_times(source: Dataset, x: np.ndarray) -> Dataset:
    """The data set with these examples, of four times as many classes."""
    y = np.asarray(source.y)
    names = [name + degrees for degrees in _DEGREES for name in source.names]
    labels = np.concatenate([y + quarters * source.classes for quarters in range(4)])
    info = jax.tree.map(lambda leaf: np.concatenate([np.asarray(leaf)] * 4), source.info)
    return dataset(x, labels, names=names, info=info, scale=source.scale, credit=source.credit)


def _count_numbers(rows: Dataset) -> int:
    """One more than the largest row number; checks that four times as many fit into int32."""
    if not is_row_numbers(rows.x):
        raise ValueError(
            f"With fetch, x of the rows must be their numbers, int[examples], got {shapes(rows.x)}."
        )
    total = int(rows.x.max()) + 1
    if int(rows.x.min()) < 0 or 4 * total > 2**31:
        raise ValueError(
            f"Row numbers must lie in 0 to {2**29 - 1}, got {int(rows.x.min())} to {total - 1}."
        )
    return total


def _fetch_turned(fetch: Fetch, total: int, numbers: np.ndarray) -> np.ndarray:
    """The images of row numbers of a rotated data set, int[...]."""
    quarters, original = np.divmod(numbers, total)
    image = fetch(original)
    _check_square(image, leading=numbers.ndim)
    turned = np.array(image)
    for number in (1, 2, 3):
        chosen = quarters == number
        turned[chosen] = np.rot90(turned[chosen], number, axes=(1, 2))
    return turned


def _check_square(x: Any, leading: int = 1) -> None:
    """Checks that x is square images [..., size, size, channels], after `leading` other axes."""
    is_array = isinstance(x, jax.Array | np.ndarray)
    if not is_array or x.ndim != leading + 3 or x.shape[-3] != x.shape[-2]:
        raise ValueError(
            f"Rotations need square images [examples, size, size, channels], got {shapes(x)}."
        )
