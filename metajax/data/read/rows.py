"""Rows that were read from files, put together: with gaps, as modalities, as a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from metajax.data.datasets import Dataset, dataset
from metajax.types import Modalities, PyTree


def all_present(value: Mapping[str, PyTree], shape: int | tuple[int, ...]) -> Modalities:
    """Modalities of which none is missing.

    Unlike `as_modalities` it makes NumPy arrays, so that it runs where no device may be used.

    Args:
        value: {name: pytree of arrays}, with the axes `shape` first.
        shape: number of examples, or the shape of the first axes.
    """
    present: dict[str, Any] = {name: np.ones(shape, bool) for name in value}
    return Modalities(dict(value), present)


def fill_gaps(column: str, values: np.ndarray, present: np.ndarray) -> np.ndarray:
    """One row for each example, zero where the example has no value.

    Args:
        column: name of the column, for the error.
        values: [number of True in present, ...].
        present: bool[examples].

    Raises:
        ValueError: not one row for each example that has a value.
    """
    if values.shape[:1] != (present.sum(),):
        raise ValueError(
            f"Need one row for each of the {present.sum()} values in {column!r}, "
            f"got shape {values.shape}."
        )
    filled = np.zeros((len(present), *values.shape[1:]), values.dtype)
    filled[present] = values
    return filled


def kept_dataset(
    x: PyTree,
    class_names: Sequence[str],
    kept: np.ndarray,
    scale: float | Mapping[str, float] | None,
    what: str = "image",
) -> Dataset:
    """The kept rows as a data set. Its classes are in the order of their names.

    Args:
        x: pytree of arrays [rows, ...].
        class_names: the class of each row, by name.
        kept: bool[rows], which rows were read.
        scale: as in `dataset`.
        what: what could not be read, for the error.

    Raises:
        ValueError: a class without a row that is kept.
    """
    names, labels = np.unique(class_names, return_inverse=True)
    if lost := np.setdiff1d(labels, labels[kept]).tolist():
        raise ValueError(
            f"No {what} of the classes {names[lost[:10]].tolist()} can be read; "
            "repair or remove them."
        )
    x = jax.tree.map(lambda leaf: leaf[kept], x)
    return dataset(x, labels[kept], names=names.tolist(), scale=scale)
