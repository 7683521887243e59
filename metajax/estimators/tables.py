"""A classifier and a regressor that read a table in context."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import check_array, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from metajax.estimators.columns import columns_of, learned_column
from metajax.nets import functional, trained_tables
from metajax.types import Array, Gaussian, PyTree

AT_ONCE = 256
"""Rows that are predicted at once."""

CELLS = 5e7
"""Largest number of pairs of cells that are compared at once, which bounds the memory."""


class _Table(BaseEstimator):
    """What the classifier and the regressor share: reading a table and predicting in parts."""

    def __init__(self, *, rows: int = 1000, parts: int = 4, random_state: int = 0):
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

    def _fit_columns(self, X: Any, targets: np.ndarray) -> np.ndarray:
        """Learns how to encode the columns, and encodes them, float32[rows, columns]."""
        if self.rows < 1 or self.parts < 1:
            raise ValueError(
                f"rows and parts must be 1 or more, got rows={self.rows}, parts={self.parts}."
            )
        columns, names = columns_of(X)
        self.n_features_in_ = len(columns)
        if names is not None:
            self.feature_names_in_ = np.array(names, dtype=object)
        elif hasattr(self, "feature_names_in_"):
            del self.feature_names_in_
        number = len(columns[0])
        if number != len(targets):
            raise ValueError(f"X has {number} rows and y has {len(targets)}.")
        self._columns = [learned_column(column) for column in columns]
        return self._encoded(columns)

    def _encode(self, X: Any) -> np.ndarray:
        """Columns encoded as in `fit`, float32[rows, columns]."""
        check_is_fitted(self)
        columns, names = columns_of(X)
        expected = getattr(self, "feature_names_in_", None)
        if names is not None and expected is not None and list(expected) != list(names):
            raise ValueError(
                "The feature names should match those that were passed during fit, got "
                f"{list(names)} and not {list(expected)}."
            )
        if len(columns) != self.n_features_in_:
            raise ValueError(
                f"X has {len(columns)} features, but {type(self).__name__} is expecting "
                f"{self.n_features_in_} features as input."
            )
        return self._encoded(columns)

    def _encoded(self, columns: list[np.ndarray]) -> np.ndarray:
        each = [kind.encode(cells) for kind, cells in zip(self._columns, columns, strict=True)]
        return np.stack(each, axis=1)

    def _read(self, x: np.ndarray, targets: np.ndarray, classes: int | None) -> None:
        """Reads the labelled rows, in several parts where there are more than fit."""
        most = min(self.rows, max(1, int(np.sqrt(CELLS / x.shape[1]))))
        number = min(self.parts, -(-len(x) // most))
        order = np.random.default_rng(self.random_state).permutation(len(x))
        if classes is not None and number > 1:
            # Each part gets its share of every class.
            order = order[np.argsort(targets[order], kind="stable")]
        read, _, self._params = _programs(None if classes is None else _padded(classes, 2))
        self._contexts = []
        for part in range(number):
            rows = order[part::number][:most] if number == self.parts else order[part::number]
            size = _padded(len(rows), 16)
            x_part = _filled(x[rows], size, _padded(x.shape[1], 4))
            y_part = np.zeros((size, *targets.shape[1:]), targets.dtype)
            y_part[: len(rows)] = targets[rows]
            weight = (np.arange(size) < len(rows)).astype(np.float32)
            self._contexts.append(read(self._params, x_part, y_part, weight))

    def _predictions(self, X: Any, classes: int | None) -> Iterator[list[Any]]:
        """For each chunk of rows, what each part predicts."""
        x = self._encode(X)
        _, predict, _ = _programs(None if classes is None else _padded(classes, 2))
        context = self._contexts[0]
        known, columns = context["cells"].shape
        at_once = max(16, min(AT_ONCE, int(CELLS / known / columns)))
        for start in range(0, len(x), at_once):
            chunk = x[start : start + at_once]
            filled = _filled(chunk, at_once, columns)
            outputs = [predict(self._params, filled, context) for context in self._contexts]
            yield jax.tree.map(functools.partial(_on_host, rows=len(chunk)), outputs)


class TableClassifier(ClassifierMixin, _Table):
    """Classifies the rows of a table, without training: a net reads the labelled rows in context.

    The net is `nets.trained_tables`. `fit` reads the labelled rows, in less than a second but for
    compilation, which each new size of a table needs; sizes are rounded up to powers of 2.

    X may be an array, a list of rows, a data frame of pandas or polars, or a sparse matrix. Columns
    are numbers, booleans, texts, categories or dates; a text or category that `fit` has not seen is
    a missing cell. Cells may be missing: NaN, None, NaT. Classes may be anything that sorts, and
    any number of them, one class too. Columns that do not vary are ignored.

    Args:
        rows: largest number of labelled rows that are read together. Fewer are read where a table
            has so many columns that this bounds the memory.
        parts: a larger table is read in several random parts, at most this many, whose
            probabilities are averaged. Rows beyond parts times rows are not used.
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
            ValueError: no rows or columns, infinite numbers, complex numbers, missing classes, or
                another number of rows than of classes.
        """
        labels = column_or_1d(y, warn=True)
        check_array(labels, ensure_2d=False, dtype=None, input_name="y")
        check_classification_targets(labels)
        x = self._fit_columns(X, labels)
        self.classes_, places = np.unique(labels, return_inverse=True)
        self._read(x, places.astype(np.int32), len(self.classes_))
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
        """
        targets = check_array(
            column_or_1d(y, warn=True), ensure_2d=False, dtype=np.float64, input_name="y"
        )
        x = self._fit_columns(X, targets)
        # In float64, so that a large mean does not cost digits of the target.
        self._mean, self._deviation = float(targets.mean()), float(targets.std()) or 1.0
        standard = (targets - self._mean) / self._deviation
        self._read(x, standard[:, None].astype(np.float32), None)
        return self

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """The mean of each row, float64[rows], and with `return_std` its standard deviation."""
        check_is_fitted(self)
        means, deviations = [], []
        for parts in self._predictions(X, None):
            mean = np.mean([one.mean[:, 0] for one in parts], axis=0)
            square = np.mean([one.variance[:, 0] + one.mean[:, 0] ** 2 for one in parts], axis=0)
            means.append(self._mean + self._deviation * mean)
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


def _filled(x: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """The table with more rows and columns, whose cells are missing."""
    filled = np.full((rows, columns), np.nan, np.float32)
    filled[: x.shape[0], : x.shape[1]] = x
    return filled
