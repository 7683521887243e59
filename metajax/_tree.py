"""Small helpers over pytrees."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from metajax._types import Array, Batch, PyTree


def take(batch: Batch, rows: Array) -> Batch:
    """The rows of a batch, in the order given; `info`, which belongs to classes, stays whole.

    Args:
        batch: n examples.
        rows: int[k], from 0 to n - 1; out of range picks the nearest row, as JAX's clipping does.

    >>> take(Batch(x=jnp.array([10, 20, 30]), y=jnp.array([0, 1, 2])), jnp.array([2, 0])).x.tolist()
    [30, 10]
    """
    picked = jax.tree.map(lambda leaf: leaf.take(rows, axis=0, mode="clip"), batch._replace(info=()))
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
        number = examples(batch)
        if size > number:
            raise ValueError(f"Cannot draw {size=} rows from {number} without replacement.")
        order = jax.random.uniform(key, (number,)) + (weights(batch) <= 0)
        return take(batch, jnp.argsort(order)[:size])

    return sample


def concatenate(first: Batch, second: Batch) -> Batch:
    """Rows of the first batch, then rows of the second; `info` is the first's."""
    joined = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first._replace(info=()), second._replace(info=()))
    return joined._replace(info=first.info)


def examples(batch: Batch) -> int:
    """Number of rows, padded ones included."""
    return jax.tree.leaves(batch.x)[0].shape[0]


def weights(batch: Batch) -> Array:
    """What each row counts, float[examples]: `batch.weight`, or ones."""
    return jnp.ones(examples(batch), jnp.float32) if batch.weight is None else batch.weight


def references(batch: Batch) -> Array | None:
    """Which rows give normalisation statistics, [examples], or None for all of them."""
    if batch.reference is not None or batch.weight is None:
        return batch.reference
    return batch.weight > 0


def directions(flat: Array) -> Array:
    """The unit vectors [n, n] of the space of a finite vector [n]."""
    return jnp.eye(flat.size, dtype=flat.dtype) + 0 * flat[None]  # made of it, so that it varies as it under shard_map


def shapes(tree: PyTree) -> PyTree:
    """The tree with "dtype[shape]" in place of arrays, for messages."""
    return jax.tree.map(lambda leaf: f"{jnp.result_type(leaf)}{list(jnp.shape(leaf))}", tree)
