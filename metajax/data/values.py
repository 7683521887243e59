"""The values of examples: several modalities as one input, checks, and the declared scale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from metajax._checked import checked
from metajax._checks import check_names, shapes
from metajax.types import Array, Modalities, PyTree, Series

Scale: TypeAlias = float | tuple[tuple[str, float], ...] | None
"""What values are divided by after a draw: one number, (modality, number) pairs, or nothing."""

IF_MISSING = (
    "drop or repair them. Where values are missing, make them a modality of their own and say in "
    "which rows it is present: "
    "x = metajax.data.as_modalities({name: values}, present={name: bool[examples]})"
)
"""What to do about rows of x that are not finite."""


@checked
def as_modalities(
    value: Mapping[str, PyTree], present: Mapping[str, Array] | None = None
) -> Modalities:
    """Makes and checks a `Modalities`: several views of the same examples.

    A modality that `present` does not name is present in all examples.

    Args:
        value: {name: pytree of arrays [examples, ...]}.
        present: {name: bool[examples]}, whether the example has this modality.

    Returns:
        The checked `Modalities`, with a mask for every modality.

    Raises:
        ValueError: no modality, an unknown name in `present`, or shapes that do not fit.

    >>> value = {"image": jnp.ones((2, 8, 8, 1)), "audio": jnp.ones((2, 99))}
    >>> as_modalities(value, {"audio": jnp.array([True, False])}).present["image"].tolist()
    [True, True]
    """
    lengths = {
        name: {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(part)}
        for name, part in value.items()
    }
    different = set().union(*lengths.values())
    has_leaves = all(lengths.values())
    if len(different) != 1 or different == {()} or not has_leaves:
        raise ValueError(f"Every modality must have the same number of examples, got {lengths}.")
    mask_shape = different.pop()
    present = dict(present or {})
    check_names(present, value)
    for name in value:
        mask = present.setdefault(name, jnp.ones(mask_shape, bool))
        _check_mask(name, mask, mask_shape)
    return Modalities(dict(value), present)


def as_scale(scale: float | Mapping[str, float] | Scale) -> Scale:
    """Checks a scale, and makes it hashable so that it can be static.

    Args:
        scale: a number, {modality: number}, or None.

    Returns:
        A float, a sorted tuple of (modality, number) pairs, or None.

    Raises:
        ValueError: a number that is not positive and finite.

    >>> as_scale({"wave": 32768, "image": 255})
    (('image', 255.0), ('wave', 32768.0))
    """
    if scale is None:
        return None
    if isinstance(scale, Mapping | tuple):
        pairs = sorted(dict(scale).items())
        return tuple((name, _positive(number)) for name, number in pairs)
    return _positive(scale)


def scaled(x: PyTree, scale: Scale) -> PyTree:
    """Divides stored integers by the declared scale, as float32. Lengths of a `Series` stay.

    Args:
        x: pytree of arrays, or a `Modalities`.
        scale: as `as_scale` returns it. A number scales every array of x, which is not a
            `Modalities`; pairs scale the modalities that they name. None scales nothing.

    Returns:
        x, with scaled arrays as float32.

    Raises:
        ValueError: one number for `Modalities`, modalities that x lacks, or an array that is
            scaled and is not of integers.

    >>> scaled(jnp.array([0, -16384], jnp.int16), 32768.0).tolist()
    [0.0, -0.5]
    """
    if scale is None:
        return x
    if isinstance(scale, float) and isinstance(x, Modalities):
        raise ValueError(
            f"x has the modalities {sorted(x.value)}, so scale must be {{modality: number}}, "
            f"got {scale}."
        )
    if isinstance(scale, float):
        return _divided(x, scale, "x")
    if not isinstance(x, Modalities):
        raise ValueError(
            f"scale names the modalities {dict(scale)}, but x has none; give one number instead."
        )
    numbers = dict(scale)
    check_names(numbers, x.value)
    value = {
        name: _divided(part, numbers[name], name) if name in numbers else part
        for name, part in x.value.items()
    }
    return x._replace(value=value)


def is_row_numbers(x: PyTree) -> bool:
    """Whether x is one integer for each example, so that it can be the numbers of rows."""
    is_array = isinstance(x, jax.Array | np.ndarray)
    return is_array and x.ndim == 1 and jnp.issubdtype(x.dtype, jnp.integer)


def check_values(name: str, leaf: np.ndarray) -> None:
    """Checks that values are finite and keep their value in the dtype that JAX gives them.

    Raises:
        ValueError: the first rows whose values are not finite or too large.
    """
    kept = jax.dtypes.canonicalize_dtype(leaf.dtype)
    is_real = jnp.issubdtype(kept, jnp.inexact)
    if is_real and (rows := _rows_with(~np.isfinite(leaf))):
        remedy = IF_MISSING if name.startswith("x") else "drop or repair them"
        raise ValueError(f"{name} is not finite in rows {rows}; {remedy}.")
    if kept == leaf.dtype:
        return
    with np.errstate(over="ignore"):
        cast = leaf.astype(kept)
    changed = ~np.isfinite(cast) if is_real else cast != leaf
    if rows := _rows_with(changed):
        raise ValueError(
            f"{name} is too large for {kept} in rows {rows}; rescale it, or set jax_enable_x64."
        )


def _check_mask(name: str, mask: Array, shape: tuple[int, ...]) -> None:
    """Checks that the mask of a modality is one bool for each example."""
    is_bool = jnp.issubdtype(jnp.result_type(mask), jnp.bool_)
    if not is_bool or jnp.shape(mask) != shape:
        raise ValueError(
            f"present[{name!r}] must be bool{list(shape)}, one for each example, "
            f"got {shapes(mask)}."
        )


def _positive(number: Any) -> float:
    """The number as a float, checked."""
    is_number = isinstance(number, int | float | np.number) and not isinstance(number, bool)
    if not is_number or not 0 < number < np.inf:
        raise ValueError(f"scale must be positive, such as 255 for images, got {number!r}.")
    return float(number)


def _divided(part: PyTree, number: float, name: str) -> PyTree:
    """The arrays of one modality, divided by a number."""

    def divide(leaf: Array) -> Array:
        if not jnp.issubdtype(leaf.dtype, jnp.integer):
            raise ValueError(
                f"Only stored integers are scaled, but scale={number:g} is declared for {name} of "
                f"{shapes(leaf)}; leave it out of scale."
            )
        return leaf.astype(jnp.float32) / number

    def divide_part(leaf: Array | Series) -> Array | Series:
        if isinstance(leaf, Series):
            return leaf._replace(value=divide(leaf.value))
        return divide(leaf)

    return jax.tree.map(divide_part, part, is_leaf=lambda leaf: isinstance(leaf, Series))


def _rows_with(marked: np.ndarray) -> list[int]:
    """The first rows in which something is marked."""
    return np.flatnonzero(marked.reshape(len(marked), -1).any(axis=1))[:10].tolist()
