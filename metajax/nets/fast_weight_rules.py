"""What the rules of fast weights share.

A rule says how the fast weights of a layer learn from the tokens that it reads. It is written
twice. `by_token` changes the weights token by token, and reads as its paper's equation does.
`at_once` takes all tokens of a chunk in a few matrix products and never makes the weights between
two of them; it is the dual form, and equal up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from metajax.types import Array

Weights: TypeAlias = tuple[Array, ...]
"""Matrices [outputs, inputs] of a memory, with a gelu between two of them."""


class Tokens(NamedTuple):
    """What one head reads of a chunk of c tokens. Those that are not valid are not learned from.

    Attributes:
        query: [c, d], where the memory is read.
        key: [c, d], where a value is stored.
        value: [c, d], what is stored.
        rate: [c], the step size of each token, 0 or more, and 0 for those that are not valid.
        valid: bool[c].
        keep: [c], the share of the weights that stays at each token, from 0 to 1 and 1 for those
            that are not valid; None means all.
        momentum: [c], the share of the momentum that stays at each token; None means no momentum.
    """

    query: Array
    key: Array
    value: Array
    rate: Array
    valid: Array
    keep: Array | None = None
    momentum: Array | None = None


class FastRule(NamedTuple):
    """How fast weights learn from tokens.

    Attributes:
        start: (weights) -> state.
        by_token: (state, tokens) -> (outputs [c, d], state), for tokens within one chunk.
        at_once: the same in matrix products.
        finish: state -> state at the end of a chunk.
        linear: whether the memory must be one matrix.
        momentum: whether the rule has momentum.
        first_rate: where a learned step size starts, between 0 and 1.
    """

    start: Callable[[Weights], Any]
    by_token: Callable[[Any, Tokens], tuple[Array, Any]]
    at_once: Callable[[Any, Tokens], tuple[Array, Any]]
    finish: Callable[[Any], Any]
    linear: bool
    momentum: bool
    first_rate: float


def read(weights: Weights, x: Array) -> Array:
    """What a memory stores at x: Wₙ·gelu(… gelu(W₁·x)), [c, inputs] -> [c, outputs]."""
    *hidden, last = weights
    for matrix in hidden:
        x = jax.nn.gelu(x @ matrix.T)
    return x @ last.T


def same(state: Any) -> Any:
    """The state."""
    return state


def kept_within(share: Array | None, like: Array) -> Array:
    """The products of shares i + 1 to t at [t, i] for i ≤ t, and 0 above the diagonal."""
    lower = jnp.tril(jnp.ones((len(like), len(like)), like.dtype))
    if share is None:
        return lower
    total = jnp.cumsum(_safe_log(share))
    return lower * jnp.exp(lower * (total[:, None] - total[None]))


def kept_since_start(share: Array | None, like: Array) -> Array:
    """The products of shares 1 to t, [c]."""
    return jnp.ones_like(like) if share is None else jnp.exp(jnp.cumsum(_safe_log(share)))


def _safe_log(share: Array) -> Array:
    return jnp.log(jnp.maximum(share, 1e-30))
