"""A classifier and a regressor that read a table in context."""

from __future__ import annotations

import functools
import numbers
from collections.abc import Callable, Iterator
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import rankdata
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import check_array, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from metajax.estimators.columns import Column, columns_of, is_missing, learned_column, orders_of
from metajax.nets import functional, trained_tables
from metajax.types import Array, Gaussian, PyTree

AT_ONCE = 256
"""Rows that are predicted at once."""

MOST_COLUMNS = 100
"""Columns that are read; of more, those that rank the targets best."""

MEMORY = 3e8
"""Numbers that a part of a table may need at once."""


class _Table(BaseEstimator):
    """What the classifier and the regressor share: reading a table and predicting in parts."""

    def __init__(self, *, rows: int = 2000, parts: int = 4, random_state: int = 0):
        self.rows = rows
        self.parts = parts
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.categorical = True
        tags.input_tags.string = True
        tags.input_tags.sparse = True
        return tags

    def _fit_table(self, X: Any, targets: np.ndarray, classes: int | None) -> None:
        """Learns how to encode the columns, and reads the labelled rows.

        Where there are more rows than are read together, several parts are read.
        """
        if not all(isinstance(n, numbers.Integral) and n > 0 for n in (self.rows, self.parts)):
            raise ValueError(
                "rows and parts must be whole numbers, 1 or more, got "
                f"rows={self.rows!r}, parts={self.parts!r}."
            )
        (columns, names), orders = columns_of(X), orders_of(X)
        if len(columns[0]) != len(targets):
            raise ValueError(f"X has {len(columns[0])} rows and y has {len(targets)}.")
        encoders = [
            learned_column(name, cells, orders.get(name))
            for name, cells in zip(names or range(len(columns)), columns, strict=True)
        ]
        x = _encoded(encoders, columns)
        kept = _most_telling(x, targets)
        self._encoders, self._names, self._kept = encoders, names, kept
        self.n_features_in_ = len(columns)
        self.__dict__.pop("feature_names_in_", None)
        if names and all(isinstance(name, str) for name in names):
            self.feature_names_in_ = np.array(names, dtype=object)
        read, _, self._params = _programs(None if classes is None else _padded(classes, 2))
        parts = self._parts(targets, classes)
        self._contexts = jax.block_until_ready(
            [read(self._params, *_filled(x[rows][:, kept], targets[rows])) for rows in parts]
        )
        if not all(np.isfinite(one["solved"].alpha).all() for one in self._contexts):
            raise FloatingPointError(
                "The kernel that the net wrote for this table has no inverse in float32. Read "
                f"fewer rows at once than rows={self.rows}."
            )

    def _parts(self, targets: np.ndarray, classes: int | None) -> list[np.ndarray]:
        """The rows of each part, at random, with its share of every class."""
        most = self.rows
        while most > 16 and _memory(most, most, classes) > MEMORY:
            most = _padded(most, 16) // 2
        number = min(self.parts, -(-len(targets) // most))
        order = np.random.default_rng(self.random_state).permutation(len(targets))
        if classes is not None and number > 1:
            order = order[np.argsort(targets[order], kind="stable")]
        parts = [order[part::number] for part in range(number)]
        return [_some_of_all(part, targets, most) for part in parts]

    def _predictions(self, X: Any, classes: int | None) -> Iterator[list[Any]]:
        """For each chunk of rows, what each part predicts."""
        columns, names = columns_of(X)
        if names is not None and self._names is not None and names != self._names:
            raise ValueError(
                "The feature names should match those that were passed during fit, got "
                f"{names} and not {self._names}."
            )
        if len(columns) != self.n_features_in_:
            raise ValueError(
                f"X has {len(columns)} features, but {type(self).__name__} is expecting "
                f"{self.n_features_in_} features as input."
            )
        x = _encoded(self._encoders, columns)[:, self._kept]
        _, predict, _ = _programs(None if classes is None else _padded(classes, 2))
        at_once, known = AT_ONCE, max(len(one["cells"].counts) for one in self._contexts)
        while at_once > 16 and _memory(at_once, known, classes) > MEMORY:
            at_once //= 2
        for start in range(0, len(x), at_once):
            chunk = x[start : start + at_once]
            filled, *_ = _filled(chunk, np.zeros(len(chunk)), rows=at_once)
            outputs = [predict(self._params, filled, context) for context in self._contexts]
            yield jax.tree.map(functools.partial(_on_host, rows=len(chunk)), outputs)


class TableClassifier(ClassifierMixin, _Table):
    """Classifies the rows of a table, without training: a net reads the labelled rows in context.

    The net is `nets.trained_tables`. `fit` reads the labelled rows; each new size of a table is
    compiled once, and sizes are rounded up to powers of 2.

    X may be an array, a list of rows, a data frame of pandas or polars, or a sparse matrix. Columns
    are numbers, booleans, dates, durations, or texts and categories, which are numbered by the
    alphabet, or in their order if pandas knows one; a text that `fit` has not seen is a missing
    cell. Cells may be missing: NaN, None, NaT; which ones are is read, too. Classes are whole
    numbers, booleans or texts, any number of them, one class too. Columns that do not vary are
    ignored.

    Args:
        rows: largest number of labelled rows that are read together. Fewer are read where a table
            has 3 or more classes, so that this bounds the memory.
        parts: a larger table is read in several random parts, at most this many, whose
            probabilities are averaged. Of rows beyond that, a random draw is read.
        random_state: seed of the parts.

    Attributes:
        classes_: the classes, sorted.
        n_features_in_: number of columns.
        feature_names_in_: their names, if X has names.
    """

    def fit(self, X: Any, y: Any) -> Self:
        """Reads labelled rows.

        Args:
            X: [rows, columns].
            y: [rows], the classes.

        Raises:
            ValueError: no rows or columns, infinite numbers, complex numbers, missing classes,
                texts among other classes, or another number of rows than of classes.
            FloatingPointError: the kernel of the table has no inverse in float32.
        """
        known = (
            [label for label in y if not is_missing(label)] if isinstance(y, list | tuple) else []
        )
        if len({isinstance(label, str) for label in known}) > 1:
            raise ValueError("y mixes texts with other classes: write all of them as texts.")
        labels = column_or_1d(y, warn=True)
        if labels.dtype == object and any(is_missing(label) for label in labels):
            raise ValueError("Input y contains NaN: leave rows without a class out.")
        check_array(labels, ensure_2d=False, dtype=None, input_name="y")
        check_classification_targets(labels)
        classes, places = np.unique(labels, return_inverse=True)
        self._fit_table(X, places.astype(np.int32), len(classes))
        self.classes_ = classes
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """The probability of each class, float64[rows, classes] in the order of `classes_`."""
        check_is_fitted(self)
        number = len(self.classes_)
        chunks = []
        for parts in self._predictions(X, number):
            each = [jax.nn.softmax(jnp.asarray(logits[:, :number])) for logits in parts]
            mean = np.mean([np.asarray(one, np.float64) for one in each], axis=0)
            chunks.append(mean / mean.sum(axis=1, keepdims=True))
        return np.concatenate(chunks)

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class of each row, [rows]."""
        places = self.predict_proba(X).argmax(axis=1)
        return self.classes_[places]


class TableRegressor(RegressorMixin, _Table):
    """Predicts a number for the rows of a table, without training, as `TableClassifier` does.

    Args:
        rows: as of `TableClassifier`.
        parts: as of `TableClassifier`.
        random_state: as of `TableClassifier`.

    Attributes:
        n_features_in_: number of columns.
        feature_names_in_: their names, if X has names.
    """

    def fit(self, X: Any, y: Any) -> Self:
        """Reads labelled rows.

        Args:
            X: [rows, columns].
            y: [rows] or [rows, 1], the numbers.

        Raises:
            ValueError: no rows or columns, infinite or complex numbers, missing numbers in y,
                several targets, or another number of rows than of targets.
            FloatingPointError: the kernel of the table has no inverse in float32.
        """
        column = column_or_1d(y, warn=True)
        if column.dtype.kind in "mM":
            raise ValueError("y must be numbers, got dates or durations; convert them first.")
        targets = check_array(column, ensure_2d=False, dtype=np.float64, input_name="y")
        # In float64 and by the largest number, so that targets of any size keep their digits.
        largest = abs(targets).max() or 1.0
        scaled = targets / largest
        mean, deviation = scaled.mean(), 0.0 if (scaled == scaled[0]).all() else scaled.std()
        standard = (scaled - mean) / (deviation or 1.0)
        self._fit_table(X, standard[:, None].astype(np.float32), None)
        self._mean, self._deviation = largest * mean, largest * deviation
        return self

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """The mean of each row, float64[rows], and with `return_std` its standard deviation.

        The deviation is at least 0.05 times that of the labelled targets.
        """
        check_is_fitted(self)
        means, deviations = [], []
        for parts in self._predictions(X, None):
            mean = np.mean([one.mean[:, 0] for one in parts], axis=0)
            square = np.mean([one.variance[:, 0] + one.mean[:, 0] ** 2 for one in parts], axis=0)
            means.append(self._mean + self._deviation * mean)  # one target: the deviation is 0
            deviations.append(self._deviation * np.sqrt(np.maximum(square - mean**2, 0)))
        if return_std:
            return np.concatenate(means), np.concatenate(deviations)
        return np.concatenate(means)


@functools.cache
def _programs(
    classes: int | None,
) -> tuple[Callable[..., PyTree], Callable[..., Array | Gaussian], PyTree]:
    """(params, x, y, weight) -> context, (params, x, context) -> prediction, and the params."""
    apply, params = functional(trained_tables(classes))
    call: Callable[..., Any] = apply
    read = lambda params, x, y, weight: call(params, x, method="read", y=y, weight=weight)
    predict = lambda params, x, context: call(params, x, method="predict", context=context)
    return jax.jit(read), jax.jit(predict), params


def _on_host(leaf: Array, rows: int) -> np.ndarray:
    """The first rows in float64."""
    return np.asarray(leaf, np.float64)[:rows]


def _padded(number: int, least: int) -> int:
    """The next power of 2, so that few sizes are compiled."""
    return max(least, 1 << (number - 1).bit_length())


def _filled(
    x: np.ndarray, targets: np.ndarray, rows: int | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The table with more rows and columns, of weight 0 and missing: x, targets and weights."""
    rows = rows or _padded(len(x), 16)
    filled = np.full((rows, _padded(x.shape[1], 4)), np.nan, np.float32)
    filled[: x.shape[0], : x.shape[1]] = x
    more = np.zeros((rows - len(x), *targets.shape[1:]), targets.dtype)
    weight = (np.arange(rows) < len(x)).astype(np.float32)
    return filled, np.concatenate([targets, more]), weight


def _some_of_all(rows: np.ndarray, targets: np.ndarray, most: int) -> np.ndarray:
    """At most `most` of the rows, evenly spaced, and one of each class if they are so many."""
    if len(rows) <= most:
        return rows
    firsts = np.unique(targets[rows], axis=0, return_index=True)[1][:most]
    firsts = firsts if targets.ndim == 1 else firsts[:0]
    others = np.setdiff1d(np.arange(len(rows)), firsts)
    spaced = np.linspace(0, len(others) - 1, most - len(firsts)).astype(int)
    return rows[np.concatenate([firsts, others[spaced]])]


def _encoded(encoders: list[Column], columns: list[np.ndarray]) -> np.ndarray:
    """All columns, and which cells are missing of those that have gaps, float32[rows, ...]."""
    each = [kind.encode(cells) for kind, cells in zip(encoders, columns, strict=True)]
    return np.stack([numbers for several in each for numbers in several], axis=1)


def _most_telling(x: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The columns to read: all, or those whose ranks correlate best with a target."""
    if x.shape[1] <= MOST_COLUMNS:
        return np.arange(x.shape[1])
    of = targets if targets.ndim == 2 else targets[:, None] == np.unique(targets)[None]
    ranks = rankdata(x, axis=0, nan_policy="omit")
    standard = [(one - np.nanmean(one, axis=0)) for one in (ranks, of.astype(float))]
    standard = [np.nan_to_num(one / (np.nanstd(one, axis=0) + 1e-9)) for one in standard]
    present = np.maximum(np.isfinite(x).sum(axis=0), 1)
    best = abs(standard[0].T @ standard[1]).max(axis=1) / present
    return np.sort(np.argsort(-best, kind="stable")[:MOST_COLUMNS])


def _memory(rows: int, known: int, classes: int | None) -> float:
    """Numbers that reading or predicting rows needs: matrices of every target, and of a column."""
    rows, known = _padded(rows, 16), _padded(known, 16)
    of_targets = 1 if classes is None else _padded(classes, 2)
    return 20.0 * of_targets * known * max(rows, known)
