"""Means over rows by weight, and two views of the same rows."""

from __future__ import annotations

import jax.numpy as jnp

from metajax._tree import keep_rows
from metajax.types import Array


def weighted_mean(values_N: Array, weight_N: Array) -> Array:
    """Σᵢ wᵢ vᵢ / Σᵢ wᵢ, and 0 where all weights are 0."""
    weight_N = weight_N.astype(jnp.promote_types(weight_N.dtype, jnp.float32))
    total = weight_N.sum()
    return (values_N * weight_N).sum() / jnp.where(total > 0, total, 1)


def paired_rows(first: Array, second: Array, weight: Array | None) -> tuple[Array, Array, Array]:
    """Two views of the same rows, and the weights of the rows, ready for a `weighted_mean`.

    Args:
        first: [n, ...], two axes or more.
        second: [n, ...], two axes or more.
        weight: [n]. None gives every row the weight 1.

    Returns:
        (first, second, weights [n]), all in float32 or wider, with zeros in the rows of weight 0.

    Raises:
        ValueError: views that do not have n rows each, or weights that are not [n].
    """
    first_shape, second_shape = jnp.shape(first), jnp.shape(second)
    weight_shape = first_shape[:1] if weight is None else jnp.shape(weight)
    enough_axes = len(first_shape) > 1 and len(second_shape) > 1 and len(weight_shape) == 1
    if not enough_axes or not first_shape[0] == second_shape[0] == weight_shape[0]:
        raise ValueError(
            "Both views must be [n, ...], two axes or more, with weights [n], got shapes "
            f"{(first_shape, second_shape, weight_shape)}."
        )
    dtype = jnp.promote_types(jnp.result_type(first, second), jnp.float32)
    weight_N = jnp.ones(weight_shape, dtype) if weight is None else weight.astype(dtype)
    first, second = keep_rows(weight_N > 0, (jnp.asarray(first), jnp.asarray(second)))
    return first.astype(dtype), second.astype(dtype), weight_N
