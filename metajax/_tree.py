"""Small helpers over pytrees: rows, weights and masks."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from metajax._checks import check_no_list, check_rows
from metajax.types import Array, Batch, Modalities, PyTree


def count_rows(batch: Batch) -> int:
    """Number of rows, padded ones included."""
    check_no_list(batch.x, "x")
    return jax.tree.leaves(batch.x)[0].shape[0]


def count_tasks(tasks: PyTree) -> int:
    """Number of tasks: the length of the leading axis that all leaves share."""
    return check_rows(tasks, "tasks")


def row_weights(batch: Batch) -> Array:
    """The weight of each row, float[examples]: `batch.weight`, or ones."""
    return jnp.ones(count_rows(batch), jnp.float32) if batch.weight is None else batch.weight


def reference_rows(batch: Batch) -> Array | None:
    """The rows that normalisation statistics come from, bool[examples], or None for all rows."""
    if batch.reference is not None or batch.weight is None:
        return batch.reference
    return batch.weight > 0


def concatenate(first: Batch, second: Batch) -> Batch:
    """Rows of the first batch, then rows of the second. `info` is that of the first.

    Either may have weights or reference rows; the rows of the other then count, all of them.
    """
    if any(part.weight is not None or part.reference is not None for part in (first, second)):
        first, second = (part._replace(weight=row_weights(part)) for part in (first, second))
        first, second = (part._replace(reference=reference_rows(part)) for part in (first, second))
    joined = jax.tree.map(
        lambda a, b: jnp.concatenate([a, b]), first._replace(info=()), second._replace(info=())
    )
    return joined._replace(info=first.info)


def widened(leaf: Array) -> Array:
    """The leaf in float32 where it has a narrower floating-point type, so that a mean is exact.

    >>> widened(jnp.ones(2, jnp.bfloat16)).dtype, widened(jnp.ones(2, jnp.uint8)).dtype
    (dtype('float32'), dtype('uint8'))
    """
    is_float = jnp.issubdtype(leaf.dtype, jnp.floating)
    return leaf.astype(jnp.float32) if is_float and leaf.dtype.itemsize < 4 else leaf


def along(rows: Array, leaf: Array) -> Array:
    """An array over the first axes of a leaf, reshaped to broadcast over its other axes.

    >>> along(jnp.ones(3), jnp.ones((3, 28, 28))).shape
    (3, 1, 1)
    """
    return rows.reshape(rows.shape + (1,) * (leaf.ndim - rows.ndim))


def as_floating(leaf: Array) -> Array:
    """An array of integers or booleans as float32, with the same values; any other as it is.

    Integers would wrap in sums, and what is cast to their type would lose its fraction.

    >>> as_floating(jnp.array([200, 100], jnp.uint8)).sum().item()
    300.0
    """
    if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
        return leaf
    return jnp.asarray(leaf, jnp.promote_types(jnp.result_type(leaf), jnp.float32))


def keep_rows(mask: Array, tree: PyTree) -> PyTree:
    """The tree with zeros in the rows where the mask is False, so that no NaN there is used.

    Args:
        mask: bool[...], over the first axes of every leaf.
        tree: pytree of arrays.
    """
    return jax.tree.map(lambda leaf: jnp.where(along(mask, leaf), leaf, jnp.zeros_like(leaf)), tree)


def clear_absent(x: Modalities) -> Modalities:
    """The same with zeros where a modality is absent, so that no NaN there is used."""
    return x._replace(
        value={name: keep_rows(x.present[name], part) for name, part in x.value.items()}
    )


def unit_vectors(flat: Array) -> Array:
    """The unit vectors [n, n] of the space of a finite vector [n]."""
    # The vector is added, times zero, so that the result varies over devices as it does.
    return jnp.eye(flat.size, dtype=flat.dtype) + 0 * flat[None]


def varying_like(tree: PyTree, other: PyTree) -> PyTree:
    """The tree as varying over the axes of `jax.shard_map` that the other tree varies over.

    The gradient with respect to replicated weights is summed over devices. That of varying weights
    is the gradient of each device's own data. Outside `jax.shard_map` nothing varies.
    """
    axes = frozenset[str]().union(*map(_varying_axes, jax.tree.leaves(other)))

    def vary(leaf: Array) -> Array:
        missing = tuple(sorted(axes - _varying_axes(leaf)))
        return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(vary, tree) if axes else tree


def _varying_axes(leaf: Array) -> frozenset[str]:
    return jax.typeof(leaf).manual_axis_type.varying


def largest(values: Array, axis: int) -> Array:
    """The maximum along an axis. The first of equal maxima receives the gradient.

    The derivative of `jnp.max` goes to the values that equal the maximum. A compiler that computes
    the values again may round them differently, and then none is equal and the derivative is lost.

    >>> jax.jit(jax.grad(lambda x: largest(x, 0)))(jnp.array([1.0, 3.0, 3.0])).tolist()
    [0.0, 1.0, 0.0]
    """
    place = jnp.argmax(values, axis, keepdims=True)
    return jnp.take_along_axis(values, place, axis).squeeze(axis)
