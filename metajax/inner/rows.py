"""Rows of a batch: chosen ones, and those of each step for `inner_loop(sample=...)`."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from metajax._checked import checked
from metajax._checks import has_integers, shapes
from metajax._tree import count_rows, row_weights
from metajax.types import Array, Batch, Sample, Size


@checked
def take(batch: Batch, rows: Array) -> Batch:
    """The given rows of a batch, in the given order. `info`, which belongs to classes, stays whole.

    Args:
        batch: n examples.
        rows: int[k], from 0 to n - 1. An index out of range takes the nearest row.

    Raises:
        ValueError: rows that are not integers.

    >>> batch = Batch(x=jnp.array([10, 20, 30]), y=jnp.array([0, 1, 2]))
    >>> take(batch, jnp.array([2, 0])).x.tolist()
    [30, 10]
    """
    if not has_integers(rows):
        raise ValueError(f"rows must be int[k], got {shapes(rows)}.")
    without_info = batch._replace(info=())
    taken = jax.tree.map(lambda leaf: jnp.take(leaf, rows, axis=0, mode="clip"), without_info)
    return taken._replace(info=batch.info)


@checked
def minibatch(size: Size) -> Sample[Batch]:
    """Draws rows without replacement, for `inner_loop(sample=minibatch(size))`.

    Padded rows, which are those of weight 0, are drawn only after all others. A batch without
    weights has no padding.

    Args:
        size: number of rows.

    Returns:
        (batch, key) -> batch of `size` rows.

    Raises:
        ValueError: size below 1; when traced, more than there are rows.

    >>> weight = jnp.array([1.0, 0.0, 0.0, 1.0])
    >>> batch = Batch(x=jnp.arange(4), y=jnp.arange(4), weight=weight)
    >>> sorted(minibatch(2)(batch, jax.random.key(0)).x.tolist())
    [0, 3]
    """

    @checked
    def sample(batch: Batch, key: Array) -> Batch:
        number = count_rows(batch)
        if size > number:
            raise ValueError(f"Cannot draw {size=} rows from {number} without replacement.")
        padded = row_weights(batch) <= 0
        order = jax.random.uniform(key, (number,)) + padded
        return take(batch, jnp.argsort(order)[:size])

    return sample


@checked
def in_order(size: Size) -> Sample[Batch]:
    """Walks through the rows in their order, for `inner_loop(sample=in_order(size))`.

    Step k learns from the rows from k·size to (k + 1)·size - 1, and after the last row from the
    first ones again. One optimizer walks through the whole support set, so that its momentum
    carries on; `online` starts it anew in each chunk, and scores chunks. It walks through rows of
    weight 0, too.

    Args:
        size: number of rows of a step.

    Returns:
        (batch, key, step) -> batch of `size` rows.

    Raises:
        ValueError: size below 1; when traced, more than there are rows, no number of the step, or
            rows and a size whose least common multiple is 2³¹ or more.

    >>> batch = Batch(x=jnp.arange(5), y=jnp.arange(5))
    >>> in_order(2)(batch, jax.random.key(0), step=2).x.tolist()
    [4, 0]
    """

    @checked
    def sample(batch: Batch, key: Array, step: Array | int | None = None) -> Batch:
        number = count_rows(batch)
        if size > number:
            raise ValueError(f"Cannot take {size=} rows from {number} in one step.")
        if step is None:
            raise ValueError(
                "in_order needs step=, the number of the step. inner_loop gives it to a sampler "
                "that has this argument; penalized and persistent give it to none."
            )
        if math.lcm(number, size) >= 2**31:
            raise ValueError(
                f"Take a size that divides the {number} rows, or more of them: {size=}."
            )
        period = number // math.gcd(number, size)  # then the walk begins anew at the first row
        return take(batch, (step % period * size + jnp.arange(size)) % number)

    return sample
