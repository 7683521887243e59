"""Keys of inner steps that also say which step it is.

A strategy hands each step one entry of an array of keys. A numbered entry is a pair of keys; the
words of the second are the number of the step.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from metajax.types import Array


def numbered(keys: Array) -> Array:
    """Keys [steps] as numbered ones, [steps, 2]."""
    words = jax.random.key_data(keys)
    number = jnp.zeros_like(words).at[:, -1].set(jnp.arange(len(words), dtype=words.dtype))
    if _has_key_type(keys):
        number = jax.random.wrap_key_data(number, impl=jax.random.key_impl(keys))
    return jnp.stack([keys, number], axis=1)


def read_number(key: Array) -> tuple[Array, Array | None]:
    """(key, number of the step) of one entry; the number is None where there is none."""
    if jnp.ndim(key) == (0 if _has_key_type(key) else 1):
        return key, None
    key, number = key
    return key, jax.random.key_data(number)[-1].astype(jnp.int32)


def _has_key_type(key: Array) -> bool:
    """Whether these are keys of `jax.random.key`; those of `PRNGKey` are arrays of words."""
    return jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
