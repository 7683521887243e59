"""Weighted means over the rows of a batch, in float32 or wider."""

from __future__ import annotations

import jax.numpy as jnp

from metajax._checks import check_row_weights
from metajax.types import Array, Batch


def weighted_mean(values: Array, batch: Batch) -> Array:
    """Mean over the rows by weight, of the mean of each row; zero where all weights are zero."""
    check_row_weights(batch.weight, len(values))
    if not len(values):
        return jnp.zeros((), values.dtype)
    if batch.weight is None:
        return values.mean()
    per_row = values.reshape(len(values), -1).mean(axis=1)
    # float16 ends at 65504, which a sum of weights may exceed.
    weight = batch.weight.astype(jnp.promote_types(batch.weight.dtype, per_row.dtype))
    return (per_row * weight).sum() / or_one(weight.sum())


def or_one(total: Array) -> Array:
    """A total to divide by: 1 where it is zero."""
    return jnp.where(total > 0, total, 1)


def wide_type(values: Array) -> jnp.dtype:
    """At least float32, so that a mean over half-precision outputs loses nothing."""
    return jnp.promote_types(values.dtype, jnp.float32)
