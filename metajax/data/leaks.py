"""A check that parts of a data set have no example in common."""

from __future__ import annotations

import collections
import hashlib
from collections.abc import Callable, Iterator
from typing import TypeAlias

import jax
import numpy as np

from metajax._checked import checked
from metajax._checks import shapes
from metajax.data.datasets import Dataset
from metajax.data.values import is_row_numbers
from metajax.types import PyTree

OnDisk: TypeAlias = tuple[Dataset, Callable[[np.ndarray], PyTree]]
"""(rows, fetch): a data set of row numbers, and what reads those rows; see `stream`."""

_BLOCK = 256
"""Examples of a data set on disk that are in memory at once."""


@checked
def check_leaks(**parts: Dataset | OnDisk) -> None:
    """Checks that no example of one part is also in another, equal in every byte, in any class.

    Copies within a part are not a leak. Call it as `check_leaks(train=train, test=test)`.

    Args:
        **parts: data sets by the name that the error gives them, with examples of the same shapes
            and dtypes. For data on disk, a pair (rows, fetch) such as `tfds_rows` returns; all of
            it is then read once.

    Raises:
        ValueError: an example in two parts; parts whose examples differ in shape or dtype, so that
            none could be equal; single integers, such as row numbers without their `fetch`.

    >>> from metajax.data.datasets import dataset
    >>> train = dataset(np.eye(3), np.arange(3), names=["a", "b", "c"])
    >>> test = dataset(np.eye(3)[2:], [0], names=["d"])
    >>> check_leaks(train=train, test=test)
    Traceback (most recent call last):
    ValueError: 1 examples are in two parts: {"'d' of test = 'c' of train": 1}; leave them out ...
    """
    _check_comparable(parts)
    first_seen: dict[bytes, tuple[str, str]] = {}
    copies: collections.Counter[str] = collections.Counter()
    for part, source in parts.items():
        for x, names in _blocks(source):
            for digest, name in zip(_digests(x), names, strict=True):
                other_part, other_name = first_seen.setdefault(digest, (part, name))
                if other_part != part:
                    copies[f"{name!r} of {part} = {other_name!r} of {other_part}"] += 1
    if copies:
        raise ValueError(
            f"{copies.total()} examples are in two parts: {dict(copies.most_common(10))}; leave "
            f"them out of one, or put these classes into the same part."
        )


def _check_comparable(parts: dict[str, Dataset | OnDisk]) -> None:
    """Checks that the examples of all parts have the same shapes and dtypes."""
    kinds = {}
    for part, source in parts.items():
        example = jax.tree.map(lambda leaf: leaf[0], _first_examples(source))
        kinds[part] = shapes(example)
    if len({str(kind) for kind in kinds.values()}) > 1:
        raise ValueError(
            f"Only examples of the same shapes and dtypes can be compared, got {kinds}."
        )


def _first_examples(source: Dataset | OnDisk) -> PyTree:
    """Some examples of a part, along the first axis."""
    if isinstance(source, Dataset):
        return source.x
    rows, fetch = source
    return fetch(np.asarray(rows.x)[:1])


def _blocks(source: Dataset | OnDisk) -> Iterator[tuple[PyTree, list[str]]]:
    """All examples of a part and the names of their classes, block by block."""
    if isinstance(source, Dataset):
        if is_row_numbers(source.x):
            raise ValueError(
                "Examples are single integers; if they are row numbers, give (rows, fetch) instead."
            )
        yield source.x, _row_names(source)
        return
    rows, fetch = source
    names = _row_names(rows)
    for first in range(0, len(names), _BLOCK):
        block = slice(first, first + _BLOCK)
        yield fetch(np.asarray(rows.x)[block]), names[block]


def _row_names(source: Dataset) -> list[str]:
    """The name of the class of each row."""
    return [source.names[label] for label in np.asarray(source.y).tolist()]


def _digests(x: PyTree) -> list[bytes]:
    """A hash of each example, over the bytes of all its arrays."""
    leaves = jax.tree.leaves(x)
    flat = [np.ascontiguousarray(leaf).reshape(len(leaf), -1).view(np.uint8) for leaf in leaves]
    return [hashlib.sha256(b"".join(row)).digest() for row in zip(*flat, strict=True)]
