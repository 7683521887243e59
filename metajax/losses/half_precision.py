"""A network that is computed in another floating-point type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from metajax._checked import checked
from metajax.losses.row_means import wide_type
from metajax.types import Apply, Array, Params, PyTree


@checked
def computed_in(apply: Callable[..., Any], dtype: Any = jnp.bfloat16) -> Apply:
    """The same network, computed inside in another floating-point type, such as bfloat16.

    Use it for speed and memory where the hardware has fast 16-bit arithmetic. Weights, their
    updates and the loss keep their own type: a fast weight stored as bfloat16 would lose every
    update smaller than 1/512 of its value.

    Args:
        apply: (params, x, key, **options) -> outputs.
        dtype: the type that all floating-point weights and inputs are cast to.

    Returns:
        A network whose floating-point outputs are float32 or wider.

    >>> from metajax.types import Params
    >>> apply = computed_in(lambda params, x, key: params.fast * x)
    >>> apply(Params(jnp.float32(1 / 3), ()), jnp.float32(1), None)
    Array(0.33398438, dtype=float32)

    Source: Micikevicius et al. 2018, arXiv 1710.03740 (master weights).
    """

    def narrow(params: Params, x: PyTree, key: Array | None = None, **options: Any) -> PyTree:
        params, x = jax.tree.map(lambda leaf: _cast_float(leaf, dtype), (params, x))
        outputs = apply(params, x, key, **options)
        return jax.tree.map(lambda leaf: _cast_float(leaf, wide_type(leaf)), outputs)

    return narrow


def _cast_float(leaf: Array, dtype: Any) -> Array:
    """The leaf in another type if it is floating-point, else as it is."""
    if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
        return leaf
    return jnp.asarray(leaf, dtype)
