"""Random directions, steps and relative differences, which finite differences are made of."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from metajax.types import Array, PyTree


def random_direction(leaf: Array, key: Array) -> Array:
    """A random direction of length 1 in the space of a leaf, with its shape and dtype."""
    normal = jax.random.normal(key, jnp.shape(leaf), jnp.result_type(leaf))
    return normal / jnp.linalg.norm(normal.ravel())


def step_width(leaf: Array, size: float | None) -> float:
    """Half the distance between the two points of a central difference.

    Args:
        leaf: the array that is moved; only its dtype matters.
        size: the width. None is ∛ε of the dtype, which balances the truncation error, which grows
            with the width, against the rounding error, which shrinks with it.
    """
    if size is not None:
        return size
    return float(jnp.finfo(jnp.result_type(leaf)).eps) ** (1 / 3)


def relative_difference(found: PyTree, expected: PyTree) -> Array:
    """|found - expected| / |expected|, with norms over all leaves."""
    return optax.tree.norm(optax.tree.sub(found, expected)) / optax.tree.norm(expected)
