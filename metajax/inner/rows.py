"""Rows of a batch: chosen ones, and a random minibatch for `inner_loop(sample=...)`."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from metajax._tree import count_rows, row_weights
from metajax.types import Array, Batch


def take(batch: Batch, rows: Array) -> Batch:
    """The rows of a batch, in the order given; `info`, which belongs to classes, stays whole.

    Args:
        batch: n examples.
        rows: int[k], from 0 to n - 1; out of range picks the nearest row, as JAX's clipping does.

    >>> take(Batch(x=jnp.array([10, 20, 30]), y=jnp.array([0, 1, 2])), jnp.array([2, 0])).x.tolist()
    [30, 10]
    """
    picked = jax.tree.map(
        lambda leaf: leaf.take(rows, axis=0, mode="clip"), batch._replace(info=())
    )
    return picked._replace(info=batch.info)


def minibatch(size: int) -> Callable[[Batch, Array], Batch]:
    """(batch, key) -> that many rows, drawn without replacement, padded ones last: for `inner_loop(sample=...)`.

    Raises:
        ValueError: size below 1; when traced, more than there are rows.

    >>> batch = Batch(x=jnp.arange(4), y=jnp.arange(4), weight=jnp.array([1.0, 0.0, 0.0, 1.0]))
    >>> sorted(minibatch(2)(batch, jax.random.key(0)).x.tolist())
    [0, 3]
    """
    if size < 1:
        raise ValueError(f"{size=} must be 1 or more.")

    def sample(batch: Batch, key: Array) -> Batch:
        number = count_rows(batch)
        if size > number:
            raise ValueError(f"Cannot draw {size=} rows from {number} without replacement.")
        order = jax.random.uniform(key, (number,)) + (row_weights(batch) <= 0)
        return take(batch, jnp.argsort(order)[:size])

    return sample
