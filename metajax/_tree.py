"""Small helpers over pytrees."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from metajax._types import Array, Batch, Modalities, PyTree


def modalities(value: Mapping[str, PyTree], present: Mapping[str, Array] | None = None) -> Modalities:
    """Several views of the same examples, checked; a modality that `present` does not name is there in all of them.

    Args:
        value: {name: pytree of arrays [examples, ...]}.
        present: {name: bool[examples]}.

    Raises:
        ValueError: no modality, an unknown name in `present`, or shapes that do not fit.

    >>> value = {"image": jnp.ones((2, 8, 8, 1)), "audio": jnp.ones((2, 99))}
    >>> modalities(value, {"audio": jnp.array([True, False])}).present["image"].tolist()
    [True, True]
    """
    present = dict(present or {})
    sizes = {name: {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(views)} for name, views in value.items()}
    shape: tuple[int, ...] = next(iter(next(iter(sizes.values()), ())), ())
    if not shape or any(size != {shape} for size in sizes.values()):
        raise ValueError(f"Every modality must have the same number of examples, got {sizes}.")
    if unknown := sorted(present.keys() - value.keys()):
        raise ValueError(f"present names {unknown}, but the modalities are {sorted(value)}.")
    for name in value:
        here = present.setdefault(name, jnp.ones(shape, bool))
        if not jnp.issubdtype(jnp.result_type(here), jnp.bool_) or jnp.shape(here) != shape:
            got = f"{jnp.result_type(here)}{list(jnp.shape(here))}"
            raise ValueError(f"present[{name!r}] must be bool{list(shape)}, one for each example, got {got}.")
    return Modalities(dict(value), present)


def blank(x: Modalities) -> Modalities:
    """The same with zeros where a modality is absent, so that what stood there reaches no output and no gradient."""

    def clear(leaf: Array, here: Array) -> Array:
        here = here.reshape(-1, *(1,) * (leaf.ndim - 1))
        return jnp.where(here, leaf, jnp.zeros_like(leaf))

    value = {name: jax.tree.map(lambda leaf: clear(leaf, x.present[name]), x.value[name]) for name in x.value}  # noqa: B023
    return x._replace(value=value)


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
