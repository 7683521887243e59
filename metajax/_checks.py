"""Checks at the boundary of the library: each error states the values and the remedy."""

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
    return jax.tree.map(lambda leaf: f"{jnp.result_type(leaf)}{list(jnp.shape(leaf))}", tree)


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Checks that a value is a whole number. NumPy's integers are; True and False are not.

    Raises:
        ValueError: not a whole number, or below `least`.
    """
    is_whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not is_whole or value < least:
        raise ValueError(f"{name} must be a whole number, {least} or more, got {value!r}.")


def check_counts(least: int = 1, **numbers: Any) -> None:
    """Checks several whole numbers by name, as `check_count` does."""
    for name, value in numbers.items():
        check_count(name, value, least)


def check_labels(y: Any, name: str = "Labels") -> None:
    """Checks that labels are one integer for each example.

    Raises:
        ValueError: not int[examples].
    """
    if not jnp.issubdtype(jnp.result_type(y), jnp.integer) or jnp.ndim(y) != 1:
        raise ValueError(f"{name} must be int[examples], got {shapes(y)}.")


def check_names(names: Iterable[str], known: Iterable[str], what: str = "the modalities") -> None:
    """Checks that names are among those that are known.

    Raises:
        ValueError: the names that are not, and those that are known.
    """
    known = sorted(known)
    if unknown := sorted(set(names) - set(known)):
        raise ValueError(f"{unknown} are not among {what}, which are {known}.")


def check_entries(entries: Iterable[str], needed: Iterable[str], what: str) -> None:
    """Checks that something has an entry for each modality.

    Raises:
        ValueError: the modalities without an entry.
    """
    entries = sorted(entries)
    if missing := sorted(set(needed) - set(entries)):
        raise ValueError(f"{what} has entries for {entries}, which lack the modalities {missing}.")


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


def check_loss_value(result: object) -> Array:
    """Checks what a loss returned, and returns the loss without the metrics.

    Raises:
        ValueError: not (scalar, metrics).
    """
    if not isinstance(result, tuple) or len(result) != 2 or jnp.shape(result[0]) != ():
        got = jax.tree.map(jnp.shape, result)
        raise ValueError(f"A loss must return (scalar, metrics), got {got} as shapes.")
    return result[0]


def takes(function: Callable[..., Any], name: str) -> bool:
    """Whether a function has a parameter of this name, so that it can be given one."""
    parameters = inspect.signature(function).parameters.values()
    return any(parameter.name == name for parameter in parameters)
