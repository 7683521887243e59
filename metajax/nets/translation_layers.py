"""The layers of the `Translator`, and what it compares strings by."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from metajax.types import Array, Size

END = 1
"""The id that ends a target. It also stands before the first character."""

LONGEST_MATCH = 6
"""Longer matches count as this many characters."""

MASKED = -1e9
"""Score of what must not be read: finite, and no softmax gives it any weight."""


class OptionalAttention(nnx.Module):
    """Attention in which a query may also read nothing: softmax over [0, scores], with value 0.

    Args:
        width: width of queries, keys, values and outputs.
        heads: number of heads; divides `width`.
        rngs: for the weights.
    """

    def __init__(self, width: Size, heads: Size, *, rngs: nnx.Rngs):
        self.query = nnx.Linear(width, width, use_bias=False, rngs=rngs)
        self.key = nnx.Linear(width, width, use_bias=False, rngs=rngs)
        self.value = nnx.Linear(width, width, use_bias=False, rngs=rngs)
        self.output = nnx.Linear(width, width, use_bias=False, rngs=rngs)
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.heads = heads

    def __call__(
        self, states: Array, keys: Array, values: Array, valid: Array, bias: Array | float = 0.0
    ) -> Array:
        """What the states read.

        Args:
            states: [n, q, width].
            keys: [n or 1, k, width].
            values: [n or 1, k, width].
            valid: bool[n or 1, q or 1, k], what may be read.
            bias: [n, heads, q, k], added to the scores.

        Returns:
            [n, q, width].
        """
        query = self._split(self.query(self.norm(states)))
        key = self._split(self.key(keys))
        value = self._split(self.value(values))
        scores = query @ key.mT / query.shape[-1] ** 0.5 + bias
        scores = jnp.where(valid[:, None], scores, MASKED)
        with_nothing = jnp.pad(scores, ((0, 0), (0, 0), (0, 0), (1, 0)))
        weights = jax.nn.softmax(with_nothing)[..., 1:]
        return self.output((weights @ value).swapaxes(1, 2).reshape(states.shape))

    def _split(self, x: Array) -> Array:
        """[n, k, width] -> [n, heads, k, width / heads]."""
        return x.reshape(*x.shape[:2], self.heads, x.shape[-1] // self.heads).swapaxes(1, 2)


class ReadingLayer(nnx.Module):
    """States read one or more contexts in turn, then a hidden layer; each is added to its input.

    Args:
        width: width of the states. The hidden layer is twice as wide.
        heads: number of heads of each attention; divides `width`.
        reads: number of contexts.
        rngs: for the weights.
    """

    def __init__(self, width: Size, heads: Size, *, reads: Size = 1, rngs: nnx.Rngs):
        attentions = [OptionalAttention(width, heads, rngs=rngs) for _ in range(reads)]
        self.readings = nnx.List(attentions)
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.hidden = nnx.Linear(width, 2 * width, rngs=rngs)
        self.output = nnx.Linear(2 * width, width, rngs=rngs)

    def __call__(self, states: Array, *contexts: tuple[Array | None, Array]) -> Array:
        """The states after they have read the contexts.

        Args:
            states: [n, t, width].
            contexts: for each reading (context [n, k, width], valid bool[n or 1, t or 1, k]). None
                as a context means the states themselves.

        Returns:
            [n, t, width].
        """
        for attention, (context, valid) in zip(self.readings, contexts, strict=True):
            read = attention.norm(states) if context is None else context
            states += attention(states, read, read, valid)
        return states + self.output(jax.nn.gelu(self.hidden(self.norm(states))))


def match_lengths(here: Array, there: Array) -> Array:
    """How many characters up to each place of one string equal those up to each place of another.

    Copying means that what followed last time may follow again, and a net of two layers of
    attention is slow to discover it. m[t, s] = 1 + m[t - 1, s - 1] where here[t] = there[s] > 0,
    else 0. At most 6 characters are counted.

    Args:
        here: int[n, t].
        there: int[s].

    Returns:
        int32[n, t, s].

    >>> match_lengths(jnp.array([[5, 6, 7]]), jnp.array([6, 7, 5])).tolist()
    [[[0, 0, 1], [1, 0, 0], [0, 2, 0]]]
    """
    is_equal = here[:, :, None] == there[None, None]
    equal = (is_equal & (here[:, :, None] > 0)).astype(jnp.int32)
    run = equal
    length = equal
    for _ in range(LONGEST_MATCH - 1):
        before = jnp.pad(run, ((0, 0), (1, 0), (1, 0)))[:, :-1, :-1]
        run = equal * before
        length += run
    return length


def previous_characters(target: Array) -> Array:
    """The character before each place, int[n, t]; `END` before the first, 0 after the end."""
    characters = jnp.where(target == END, 0, target)
    return jnp.pad(characters, ((0, 0), (1, 0)), constant_values=END)[:, :-1]


def aligned_from_both_ends(source: Array) -> Array:
    """Sources aligned at the left, and again at the right: int[n, s] -> int[n, 2 s]."""
    length = (source > 0).sum(axis=1, keepdims=True)
    places = (jnp.arange(source.shape[1])[None] + length) % source.shape[1]
    return jnp.concatenate([source, jnp.take_along_axis(source, places, axis=1)], axis=1)


def causal_mask(length: int) -> Array:
    """bool[1, t, t]: place t may read the states up to its own."""
    return jnp.tril(jnp.ones((length, length), bool))[None]
