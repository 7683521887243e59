"""Checks at the boundary of the library: each error states what must be and what was given."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metajax.types import Array, PyTree


def shapes(tree: PyTree) -> PyTree:
    """The tree with "dtype[shape]" in place of each array, for error messages."""

    def shape(leaf: Any) -> str:
        if not hasattr(leaf, "dtype"):
            return type(leaf).__name__
        return f"{leaf.dtype}{list(jnp.shape(leaf))}"

    return jax.tree.map(shape, tree)


def shorten(text: str, most: int = 300) -> str:
    """The text, cut off after so many characters."""
    return text if len(text) <= most else f"{text[:most]} ..."


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Checks that a value is a whole number. NumPy's integers are; True and False are not.

    Raises:
        ValueError: not a whole number, or below `least`.
    """
    is_whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not is_whole or value < least:
        raise ValueError(f"{name} must be a whole number, {least} or more, got {value!r}.")


def has_integers(y: Any) -> bool:
    """Whether something is an array of integers."""
    return hasattr(y, "dtype") and jnp.issubdtype(y.dtype, jnp.integer)


def check_labels(y: Any, name: str = "Labels") -> None:
    """Checks that labels are one integer for each example.

    Raises:
        ValueError: not int[examples].
    """
    if not has_integers(y) or jnp.ndim(y) != 1:
        raise ValueError(f"{name} must be int[examples], got {shapes(y)}.")


def check_no_list(x: Any, what: str) -> None:
    """Checks that inputs are not a list: JAX would take its parts for several inputs.

    Raises:
        ValueError: a list.
    """
    if isinstance(x, list):
        raise ValueError(
            f"{what} is a list of {len(x)}; stack examples with jnp.stack, or give several "
            "inputs of each example as a tuple or dict."
        )


def check_integers(name: str, y: Any, shape: tuple[int, ...]) -> None:
    """Checks that labels or targets are integers of a shape.

    Raises:
        ValueError: another type or shape.
    """
    if not has_integers(y) or jnp.shape(y) != shape:
        raise ValueError(f"{name} must be integers of shape {list(shape)}, got {shapes(y)}.")


def not_classes(y: Array, classes: int, weight: Array | None = None, *, least: int = 0) -> Array:
    """Which labels are outside least … classes - 1, in rows whose weight is not 0.

    Compiled code cannot raise. Its caller makes the result NaN where this is True.

    Args:
        y: int[examples, ...].
        classes: number of classes.
        weight: [examples]; None gives every row the weight 1.
        least: the smallest label; -1 where that marks a row without a label.

    Returns:
        bool[examples, ...].

    Raises:
        ValueError: such a label, where labels and weights are concrete.
    """
    # NumPy computes concrete values also while something else is traced.
    numpy = np if is_concrete(y, weight) else jnp
    y = numpy.asarray(y).astype(np.int64) if numpy is np else signed(jnp.asarray(y))
    wrong = (y < least) | (y >= classes)
    if weight is not None:
        wrong &= (numpy.asarray(weight) != 0).reshape(-1, *(1,) * (y.ndim - 1))
    if numpy is np and wrong.any():
        found = np.unique(y[wrong])[:10].tolist()
        raise ValueError(
            f"Labels must be integers from {least} to {classes - 1}, the classes that there are "
            f"outputs for, got {found}. Number the classes from 0, make as many outputs as there "
            "are classes, and give rows that should be ignored the weight 0."
        )
    return wrong


def signed(y: Array) -> Array:
    """The labels in a signed type of at least 32 bits.

    JAX takes 256 for 0 beside uint8, and -1 for 255, so that no label could be compared with them.
    """
    return y.astype(jnp.int64 if y.dtype.itemsize == 8 else jnp.int32)


def check_row_weights(weight: Any, rows: int) -> None:
    """Checks that weights are one number, 0 or more, for each row. None has nothing to check.

    Raises:
        ValueError: another shape, or a negative weight where they are concrete.
    """
    if weight is None:
        return
    dtype = getattr(weight, "dtype", None)
    kinds = (jnp.floating, jnp.integer, jnp.bool_)
    is_number = dtype is not None and any(jnp.issubdtype(dtype, kind) for kind in kinds)
    if not is_number or jnp.shape(weight) != (rows,):
        raise ValueError(
            f"Weights must have shape [{rows}], one number for each row, got {shapes(weight)}."
        )
    if is_concrete(weight) and (np.asarray(weight) < 0).any():
        least = np.asarray(weight).min()
        raise ValueError(f"Weights must be 0 or more, got {least}.")


def is_concrete(*trees: PyTree) -> bool:
    """Whether all arrays have values to look at, because none is traced."""
    return not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(trees))


def check_positive(name: str, value: Any) -> None:
    """Checks that a number is above 0 and finite, where it is concrete.

    Raises:
        ValueError: the name and the number.
    """
    if is_concrete(value) and not 0 < value < float("inf"):
        raise ValueError(f"{name} must be above 0 and finite, got {value}.")


def check_names(names: Iterable[str], known: Iterable[str], what: str = "the modalities") -> None:
    """Checks that names are among those that are known.

    Raises:
        ValueError: the names that are not, and those that are known.
    """
    known = sorted(known)
    if unknown := sorted(set(names) - set(known)):
        raise ValueError(f"{unknown} are not among {what}, which are {known}.")


def check_no_modality_missing(entries: Iterable[str], needed: Iterable[str], what: str) -> None:
    """Checks that something has an entry for each modality.

    Raises:
        ValueError: the modalities without an entry.
    """
    entries = sorted(entries)
    if missing := sorted(set(needed) - set(entries)):
        raise ValueError(f"{what} has entries for {entries}; add one for each of {missing}.")


def check_rows(tree: PyTree, what: str) -> int:
    """Checks that all leaves have the same number of rows, and returns it.

    Raises:
        ValueError: no leaf, no row, or leaves that differ.
    """
    numbers = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(tree)}
    if len(numbers) != 1 or numbers <= {(), (0,)}:
        raise ValueError(
            f"Every leaf of {what} must have the same, positive length of its first axis, got "
            f"{shapes(tree)}."
        )
    return numbers.pop()[0]


def check_fast_entry(params: Any, entry: str) -> None:
    """Checks that an entry of the fast weights can be written.

    Raises:
        ValueError: fast weights that are not a dict.
    """
    if not isinstance(params.fast, dict):
        got = type(params.fast).__name__
        raise ValueError(f"params.fast must be a dict to write its entry {entry!r}, got {got}.")


def check_metric_names(metrics: Iterable[str], reserved: Iterable[str]) -> None:
    """Checks that no metric has the name of something else in the same record.

    Raises:
        ValueError: the metrics whose names are taken.
    """
    if taken := sorted(set(metrics) & set(reserved)):
        raise ValueError(
            f"The loss gives metrics with the names {taken}, which a record already has; rename "
            "them."
        )


def check_loss_value(result: object) -> Array:
    """Checks what a loss returned, and returns the loss without the metrics.

    Raises:
        ValueError: not (scalar, metrics).
    """
    if not isinstance(result, tuple) or len(result) != 2 or jnp.shape(result[0]) != ():
        got = jax.tree.map(jnp.shape, result)
        raise ValueError(f"A loss must return (scalar, metrics), got {got} as shapes.")
    return result[0]


def check_state(state: Any) -> None:
    """Checks that something is the state of an outer loop, which counts its steps.

    Raises:
        ValueError: something else.
    """
    if not hasattr(state, "step"):
        raise ValueError(f"state must be what outer.init(params) returns, got {shapes(state)}.")


def takes(function: Callable[..., Any], name: str) -> bool:
    """Whether a function has a parameter of this name, so that it can be given one."""
    parameters = inspect.signature(function).parameters.values()
    return any(parameter.name == name for parameter in parameters)
