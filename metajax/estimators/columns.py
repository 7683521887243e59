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
    "texts": (str, bytes, numbers.Number, np.bool_),
}
"""What the objects of a column are. Texts with numbers among them are texts."""

FAR = 10.0
"""Widths from the median from which on the size of a number counts by its logarithm."""


def columns_of(X: Any) -> tuple[list[np.ndarray], list[Any] | None]:
    """The columns of a table, and their names if it is a data frame.

    Raises:
        ValueError: no rows, no columns, names that occur twice, or an array that is not 2D.
    """
    names = list(getattr(X, "columns", ()))
    if names:  # a data frame of pandas or polars
        if len(set(names)) < len(names):
            raise ValueError(f"The columns of X must have different names, got {names}.")
        columns = [np.asarray(X[name]) for name in names]
    else:
        if isinstance(X, np.ma.MaskedArray):
            X = np.ma.filled(X.astype(float), np.nan)
        table = X.toarray() if hasattr(X, "toarray") else np.asarray(X)
        if table.dtype.kind in "US" and not isinstance(X, np.ndarray):
            table = np.array(X, dtype=object)  # a list of rows with numbers and texts
        columns = list(check_array(table, dtype=None, ensure_all_finite=False).T)
    if not columns or not len(columns[0]):
        raise ValueError(
            f"Found array with {len(X)} sample(s) and {len(columns)} feature(s) while a minimum of "
            "1 is required."
        )
    return columns, names or None


def orders_of(X: Any) -> dict[Any, list[Any]]:
    """The categories of the columns of a data frame of pandas that are ordered, in their order."""
    kinds = {name: X[name].dtype for name in getattr(X, "columns", ())}
    return {name: [*of.categories] for name, of in kinds.items() if getattr(of, "ordered", False)}


class Column(NamedTuple):
    """How the cells of a column become numbers.

    Attributes:
        name: of the column, or its number.
        kind: "numbers", "dates", "durations" or "texts"; "missing" if no labelled cell is there.
        has_gaps: whether some of the labelled cells are missing.
        levels: the number of each text, empty for other kinds.
        center: the median, which is subtracted in float64, so that dates keep their digits.
        width: what divides: the distance of the quartiles, or else the standard deviation.
    """

    name: Any
    kind: str
    has_gaps: bool
    levels: dict[str, int]
    center: float = 0.0
    width: float = 1.0

    def encode(self, cells: np.ndarray) -> list[np.ndarray]:
        """float32[rows], NaN where a cell is missing or a text is unknown, and which are missing.

        The second one is left out where no labelled cell was missing.

        Raises:
            ValueError: cells of another kind than in fit, or infinite or complex numbers.
        """
        kind, found = _read(self.name, cells)
        # A part of a column of texts and numbers may have numbers alone.
        may_be_texts = self.kind == "texts" and cells.dtype.kind in "OUS"
        if "missing" in (kind, self.kind):
            numbers = np.full(len(cells), np.nan)
        elif kind != self.kind and not may_be_texts:
            present = next(cell for cell in cells if not is_missing(cell))
            raise ValueError(
                f"The column {self.name!r} had {self.kind} in fit and has {kind} now, such as "
                f"{present!r}."
            )
        elif self.kind == "texts":
            levels = {cell: self.levels.get(_text(cell), np.nan) for cell in set(_present(cells))}
            numbers = np.array([levels.get(cell, np.nan) for cell in cells.tolist()], float)
        else:
            assert found is not None
            numbers = _shrunk((found - self.center) / self.width)
        encoded = [numbers.astype(np.float32)]
        if self.has_gaps:
            gaps = [is_missing(cell) for cell in cells]
            encoded.append(np.array(gaps, np.float32))
        return encoded


def _shrunk(numbers: np.ndarray) -> np.ndarray:
    """Numbers of which those beyond FAR count by their logarithm."""
    far = abs(numbers) > FAR
    by_logarithm = np.sign(numbers) * FAR * (1 + np.log(np.where(far, abs(numbers), FAR) / FAR))
    return np.where(far, by_logarithm, numbers)


def learned_column(name: Any, cells: np.ndarray, order: list[Any] | None = None) -> Column:
    """How to encode a column, of its labelled cells.

    Texts are numbered in the given order, and without one by the alphabet.

    Raises:
        ValueError: infinite or complex numbers, or objects of another kind.
    """
    kind, found = _read(name, cells)
    has_gaps = kind != "missing" and any(is_missing(cell) for cell in cells)
    if kind == "texts":
        texts = [_text(cell) for cell in order or ()]
        texts = texts or sorted({_text(cell) for cell in _present(cells)})
        return Column(name, kind, has_gaps, {text: number for number, text in enumerate(texts)})
    if found is None:
        return Column(name, kind, has_gaps, {})
    present = found[~np.isnan(found)]
    largest = abs(present).max() or 1.0
    scaled = present / largest  # whose squares are finite
    low, center, high = np.quantile(scaled, [0.25, 0.5, 0.75])
    width = (high - low) or scaled.std() or 1.0
    return Column(name, kind, has_gaps, {}, largest * float(center), largest * float(width))


def _read(name: Any, cells: np.ndarray) -> tuple[str, np.ndarray | None]:
    """The kind of a column, and its cells as float64[rows], NaN where one is missing.

    Texts have no numbers, but those that all are numbers. Dates and durations are counted in
    microseconds.

    Raises:
        ValueError: infinite or complex numbers, or objects of another kind.
    """
    if cells.dtype.kind in "OUS":
        missing = np.array([is_missing(cell) for cell in cells], bool)
        present = _present(cells)
        if not present:
            return "missing", None
        kinds = [kind for kind, of in KINDS.items() if all(isinstance(c, of) for c in present)]
        if not kinds:
            other = next(c for c in present if not isinstance(c, KINDS["texts"]))
            raise ValueError(
                f"The column {name!r} has cells of several kinds, or of a kind that is not known: "
                f"{other!r} is a {type(other).__name__}. Known are numbers, booleans, texts, dates "
                "and durations."
            )
        typed = _typed(kinds[0], present)
        if typed is None:
            return "texts", None
        found = np.full(len(cells), np.nan)
        kind, found[~missing] = _read(name, typed)
        return kind, found
    if cells.dtype.kind in "mM":
        kind, unit = ("dates", "M8[us]") if cells.dtype.kind == "M" else ("durations", "m8[us]")
        counted = cells.astype(unit).astype(np.int64).astype(np.float64)
        found = np.where(np.isnat(cells), np.nan, counted)
    elif cells.dtype.kind in "biuf":
        kind, found = "numbers", cells.astype(np.float64)
    else:
        raise ValueError(f"Complex data not supported: the column {name!r} must be real numbers.")
    if np.isinf(found).any():
        raise ValueError(
            "Input X contains infinity or a value too large for dtype('float64'), in the column "
            f"{name!r}."
        )
    return ("missing", None) if np.isnan(found).all() else (kind, found)


def _typed(kind: str, present: list[Any]) -> np.ndarray | None:
    """Python objects of one kind as an array of NumPy; None for texts that are no numbers."""
    if kind == "numbers":
        is_complex = any(np.iscomplexobj(cell) for cell in present)
        try:
            return np.array(present, complex if is_complex else float)
        except OverflowError:
            return np.array([np.inf])
    if kind == "durations":
        return np.array(present, "m8[us]")
    if kind == "texts":
        try:
            found = np.array([float(cell) for cell in present])
        except (ValueError, OverflowError):
            return None
        return found if np.isfinite(found).all() else None
    # A time with a zone is that of the world's clock, which NumPy has.
    plain = [
        cell.astimezone(datetime.UTC).replace(tzinfo=None)
        if isinstance(cell, datetime.datetime) and cell.tzinfo is not None
        else cell
        for cell in present
    ]
    return np.array(plain, "M8[us]")


def _present(cells: np.ndarray) -> list[Any]:
    """The cells that are not missing."""
    return [cell for cell in cells.tolist() if not is_missing(cell)]


def _text(cell: Any) -> str:
    """The name of a category: numbers that are equal are one."""
    if isinstance(cell, numbers.Real) and not isinstance(cell, bool | np.bool_):
        return str(float(cell))
    return str(cell)


def is_missing(cell: Any) -> bool:
    """Whether a cell is None, NaN, or the NA or NaT of pandas or NumPy."""
    if cell is None or type(cell).__name__ in ("NAType", "NaTType"):
        return True
    if isinstance(cell, np.datetime64 | np.timedelta64):
        return bool(np.isnat(cell))
    return isinstance(cell, float | np.floating) and bool(cell != cell)
