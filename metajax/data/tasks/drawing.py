"""How rows are drawn from a data set, on the device."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from metajax.data.datasets import Dataset
from metajax.types import Array, Batch, PyTree, Task


def task_of(dataset: Dataset, chosen: Array, turns: Array | None, bits: Array, shots: int) -> Task:
    """The task of these classes int32[ways], turned int32[ways] times, values as stored.

    Of each class as many examples are drawn as `bits`, uint32[shots + queries, ways], has rows.
    """
    rows = dataset.start[chosen][:, None] + jax.vmap(draw)(bits.T, dataset.count[chosen])

    def batch(rows: Array) -> Batch:
        x = jax.tree.map(lambda leaf: leaf[rows.reshape(-1)], dataset.x)
        x = x if turns is None else turn(x, jnp.repeat(turns, rows.shape[1]))
        return Batch(x=x, y=jnp.repeat(jnp.arange(len(chosen), dtype=jnp.int32), rows.shape[1]))

    support = batch(rows[:, :shots])._replace(info=info_of(dataset, chosen))
    return Task(support=support, query=batch(rows[:, shots:]))


def draw(bits: Array, total: int | Array) -> Array:
    """Integers from 0 to total - 1 without replacement, in random order, one for each of the random uint32[number].

    The first steps of a Fisher-Yates shuffle, which never builds the shuffled array: `total` may be traced and large,
    and the cost is that of `number` steps over `number` entries. Uniform up to a factor of 1 ± total / 2³²; a number
    above `total` repeats entries.
    """
    steps = jnp.arange(len(bits), dtype=jnp.int32)
    targets = steps + (bits % jnp.maximum(total - steps, 1).astype(jnp.uint32)).astype(jnp.int32)

    def step(moved: Array, now: Array) -> tuple[Array, Array]:
        """`moved[j]` is what step j put in the place `targets[j]`; a place untouched holds its own number."""

        def content(place: Array) -> Array:
            last = jnp.max(jnp.where((targets == place) & (steps < now), steps, -1))
            return jnp.where(last >= 0, moved[last], place)

        return moved.at[now].set(content(now)), content(targets[now])

    return jax.lax.scan(step, jnp.zeros_like(targets), steps, unroll=4)[
        1
    ]  # steps this small cost what they start


def scaled(drawn: PyTree) -> PyTree:
    """The same tasks or batch, with x as `episodes` and `batches` scale it."""
    scale = lambda part: (
        part._replace(x=jax.tree.map(_real, part.x)) if isinstance(part, Batch) else part
    )
    return jax.tree.map(scale, drawn, is_leaf=lambda part: isinstance(part, Batch))


def info_of(dataset: Dataset, classes: Array) -> PyTree:
    """What is known of these classes, images as float32 in [0, 1]."""
    picked = jax.tree.map(lambda leaf: leaf[classes], dataset.info)
    return jax.tree.map(lambda leaf: _real(leaf) if leaf.dtype == jnp.uint8 else leaf, picked)


def rows_of(dataset: Dataset, rows: Array) -> PyTree:
    """The examples in these rows, images and waves as float32."""
    return jax.tree.map(lambda leaf: _real(leaf[rows]), dataset.x)


def _real(values: Array) -> Array:
    """uint8 (an image) as float32 in [0, 1], int16 (a wave) in [-1, 1), and everything else as it is."""
    scale = {jnp.dtype(jnp.uint8): 255, jnp.dtype(jnp.int16): 32768}.get(values.dtype)
    return values if scale is None else values.astype(jnp.float32) / scale


def turn(x: Array, turns: Array) -> Array:
    """Square images [n, size, size, channels], each turned by `turns` quarters, int[n]."""
    if not hasattr(x, "ndim") or x.ndim != 4 or x.shape[1] != x.shape[2]:
        raise ValueError(
            f"Rotations need square images [n, size, size, channels], got {jax.tree.map(jnp.shape, x)}."
        )
    quarters = jnp.stack([jnp.rot90(x, quarter, axes=(1, 2)) for quarter in range(4)])
    return quarters[turns, jnp.arange(len(x))]
