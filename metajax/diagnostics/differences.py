"""Random directions, steps and relative differences, which finite differences are made of."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import DTypeLike

from metajax.types import Array, PyTree


def random_direction(leaf: Array, key: Array) -> Array:
    """A random direction of length 1 in the space of a leaf, with its shape and dtype."""
    normal = jax.random.normal(key, jnp.shape(leaf), jnp.result_type(leaf))
    return normal / jnp.linalg.norm(normal.ravel())


def step_widths(dtype: DTypeLike) -> np.ndarray:
    """Six steps of central differences, the longest first: half the distances between two points.

    From 10 ∛ε to √ε of the dtype. A long step crosses kinks and has a truncation error, a short one
    has a rounding error. Where neighbouring steps agree, the difference is accurate.
    """
    eps = float(jnp.finfo(dtype).eps)
    return np.geomspace(10 * eps ** (1 / 3), eps ** (1 / 2), 6)


def relative_difference(found: PyTree, expected: PyTree) -> Array:
    """|found - expected| / |expected|, with norms over all leaves."""
    return optax.tree.norm(optax.tree.sub(found, expected)) / optax.tree.norm(expected)
