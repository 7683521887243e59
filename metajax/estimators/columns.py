"""The columns of a table: numbers, dates, durations and texts, and how they become float32."""

from __future__ import annotations

import datetime
import numbers
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils import check_array

KINDS: dict[str, Any] = {
    "durations": (datetime.timedelta, np.timedelta64),  # a np.timedelta64 is a Number, too
    "numbers": (numbers.Number, np.bool_),
    "dates": (datetime.date, np.datetime64),
}
"""What the objects of a column are."""


def columns_of(X: Any) -> tuple[list[np.ndarray], list[str] | None]:
    """The columns of a table, and their names if all are texts."""
    names = list(getattr(X, "columns", ()))
    if names:  # a data frame of pandas or polars
        if len(set(names)) < len(names):
            raise ValueError(f"The columns of X must have different names, got {names}.")
        columns = [np.asarray(X[name]) for name in names]
    else:
        table = check_array(
            X.toarray() if hasattr(X, "toarray") else X, dtype=None, ensure_all_finite=False
        )
        columns = list(table.T)
    if not columns or not len(columns[0]):
        raise ValueError(
            f"Found array with {len(X)} sample(s) and {len(columns)} feature(s) while a minimum of "
            "1 is required."
        )
    return columns, names if names and all(isinstance(name, str) for name in names) else None


class Column(NamedTuple):
    """How the cells of a column become numbers.

    Attributes:
        kind: "numbers", "dates", "durations" or "texts".
        levels: the number of each text, empty for other kinds.
        mean: what is subtracted, in float64, so that dates and large numbers keep their digits.
        deviation: what divides.
    """

    kind: str
    levels: dict[str, int]
    mean: float = 0.0
    deviation: float = 1.0

    def encode(self, cells: np.ndarray) -> np.ndarray:
        """float32[rows], NaN where a cell is missing or a text is unknown.

        Raises:
            ValueError: cells of another kind than in fit, or infinite or complex numbers.
        """
        kind, found = _read(cells)
        is_typed = cells.dtype.kind != "O" and kind != "texts"
        is_other = kind != self.kind and (self.kind != "texts" or is_typed)
        present = [cell for cell in cells if not _is_missing(cell)]
        if is_other and present:
            raise ValueError(
                f"A column that had {self.kind} in fit has {kind} now, such as {present[0]!r}."
            )
        if self.kind == "texts":
            levels = self.levels
            return np.array([levels.get(str(cell), np.nan) for cell in cells], np.float32)
        if found is None or is_other:
            return np.full(len(cells), np.nan, np.float32)
        return ((found - self.mean) / self.deviation).astype(np.float32)


def learned_column(cells: np.ndarray) -> Column:
    """How to encode a column, of its labelled cells.

    Raises:
        ValueError: infinite or complex numbers.
    """
    kind, found = _read(cells)
    if found is None:
        texts = sorted({str(cell) for cell in cells if not _is_missing(cell)})
        return Column(kind, {text: number for number, text in enumerate(texts)})
    present = found[~np.isnan(found)]
    largest = abs(present).max(initial=0.0) or 1.0
    scaled = present / largest  # whose squares are finite
    if not len(scaled):
        return Column(kind, {})
    return Column(kind, {}, largest * float(scaled.mean()), largest * float(scaled.std()) or 1.0)


def _read(cells: np.ndarray) -> tuple[str, np.ndarray | None]:
    """The kind of a column, and its cells as float64[rows], NaN where one is missing.

    Texts have no numbers. Dates and durations are counted in microseconds.

    Raises:
        ValueError: infinite or complex numbers.
    """
    if cells.dtype.kind == "O":
        missing = np.array([_is_missing(cell) for cell in cells], bool)
        present = [cell for cell in cells if not _is_missing(cell)]
        kind = next(
            (kind for kind, types in KINDS.items() if all(isinstance(c, types) for c in present)),
            "texts",
        )
        if kind == "texts":
            return kind, None
        found = np.full(len(cells), np.nan)
        found[~missing] = _read(_typed(kind, present))[1]
        return kind, found
    if cells.dtype.kind in "mM":
        kind, unit = ("dates", "M8[us]") if cells.dtype.kind == "M" else ("durations", "m8[us]")
        counted = cells.astype(unit).astype(np.int64).astype(np.float64)
        return kind, np.where(np.isnat(cells), np.nan, counted)
    if cells.dtype.kind in "biuf":
        found = cells.astype(np.float64)
        if np.isinf(found).any():
            raise ValueError("Input X contains infinity or a value too large for dtype('float64').")
        return "numbers", found
    if cells.dtype.kind == "c":
        raise ValueError("Complex data not supported: X must have real numbers.")
    return "texts", None


def _typed(kind: str, present: list[Any]) -> np.ndarray:
    """Python objects of one kind as an array of NumPy."""
    if kind == "numbers":
        return np.array(present, complex if any(np.iscomplexobj(c) for c in present) else float)
    if kind == "durations":
        return np.array(present, "m8[us]")
    # A time with a zone is that of the world's clock, which NumPy has.
    plain = [
        cell.astimezone(datetime.UTC).replace(tzinfo=None)
        if isinstance(cell, datetime.datetime) and cell.tzinfo is not None
        else cell
        for cell in present
    ]
    return np.array(plain, "M8[us]")


def _is_missing(cell: Any) -> bool:
    """Whether a cell is None, NaN, or the NA or NaT of pandas or NumPy."""
    if cell is None or type(cell).__name__ in ("NAType", "NaTType"):
        return True
    if isinstance(cell, np.datetime64 | np.timedelta64):
        return bool(np.isnat(cell))
    return isinstance(cell, float | np.floating) and bool(cell != cell)
