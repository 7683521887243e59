"""Attention over long sequences in memory that grows with their length and not its square."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from metajax._checked import checked
from metajax._checks import shapes
from metajax._tree import widened
from metajax.types import Array, Size

LONG = 512
"""The number of queries or tokens above which `Attention` takes chunks.

On a CPU, the gradient in chunks takes no longer than that of all scores at once at 512 tokens, and
half as long at 1024, where it needs a tenth of the memory; docs/performance.md has the table.
"""
CHUNK = 256
"""Queries and tokens in a chunk."""


@checked
def chunked_attention(
    queries: Array,
    keys: Array,
    values: Array,
    valid: Array | None = None,
    *,
    causal: bool = False,
    window: Size | None = None,
    chunk: Size = CHUNK,
) -> Array:
    """softmax(Q Kᵀ / √d) V of each head, with only one chunk of the scores at a time.

    The softmax is summed over chunks of the tokens, relative to the largest score so far. That
    largest score cancels, so that it needs no derivative. Each chunk is computed again where it is
    differentiated in reverse mode. These are ordinary operations with `jax.checkpoint`, so that
    reverse, forward and mixed mode are exact, to every order. Sums are in float32 or wider.

    Args:
        queries: [n, q, heads, d].
        keys: [n, t, heads, d].
        values: [n, t, heads, d].
        valid: bool[n, t], which tokens may be read; None means all. A query without a valid token
            in its reach gives zero if `causal`. Otherwise it reads a mean that means nothing;
            `Attention` has zeros as such values.
        causal: whether query i reads the tokens up to i only.
        window: how many tokens a query of a causal attention reads at most, its own the last of
            them; None means all before it.
        chunk: queries and tokens in a chunk.

    Returns:
        [n, q, heads, d], in the dtype of the queries.

    Raises:
        ValueError: shapes that do not fit each other; a causal attention of unequal numbers of
            queries and tokens; a window without `causal`.

    >>> values = jnp.arange(40.0).reshape(1, 5, 2, 4)
    >>> alike = jnp.zeros_like(values)
    >>> chunked_attention(jnp.ones((1, 3, 2, 4)), alike, values, chunk=2)[0, 0, 0].tolist()
    [16.0, 17.0, 18.0, 19.0]

    Source: Rabe and Staats 2021, arXiv 2112.05682.
    """
    n, length, *of_head = queries.shape
    if keys.shape != values.shape or [len(keys), *keys.shape[2:]] != [n, *of_head]:
        raise ValueError(
            "Queries must be [n, q, heads, d], keys and values both [n, t, heads, d], got "
            f"{shapes((queries, keys, values))}."
        )
    check_order(length, keys.shape[1], causal, window)
    root = math.sqrt(of_head[-1])
    if valid is None:
        valid = jnp.ones(keys.shape[:2], bool)
    places = jnp.arange(length)[None], jnp.arange(keys.shape[1])[None]
    tokens = tuple(_chunks(part, chunk) for part in (keys, values, valid, places[1]))

    def add(
        asked: tuple[Array, Array], sums: tuple[Array, ...], part: tuple[Array, ...]
    ) -> tuple[Array, ...]:
        """Adds a chunk of tokens to (largest score, sum of the softmax, sum of the values)."""
        query, query_at = asked
        largest, total, weighted = sums
        key, value, valid, key_at = part
        scores = widened(jnp.einsum("nqhd,nthd->nhqt", query, key)) / root
        read = valid[:, None, None]
        if causal:
            read &= in_order(query_at[0], key_at[0], window)[None, None]
        scores = jnp.where(read, scores, jnp.finfo(scores.dtype).min)
        larger = jax.lax.stop_gradient(jnp.maximum(largest, scores.max(axis=3)))
        share = jnp.exp(scores - larger[..., None])
        if causal:
            share = jnp.where(read, share, 0)  # also where no token of the chunk is in reach
        before = jnp.exp(largest - larger)
        total = total * before + share.sum(axis=3)
        added = jnp.einsum("nhqt,nthd->nhqd", share, widened(value))
        weighted = weighted * before[..., None] + added
        return larger, total, weighted

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def answer(asked: tuple[Array, Array]) -> Array:
        """One chunk of queries [n, chunk, heads, d] and their places -> [n, heads, chunk, d]."""
        query, _ = asked
        added = jax.checkpoint(functools.partial(add, asked), prevent_cse=False)
        none = jnp.zeros_like(widened(query)).transpose(0, 2, 1, 3)
        start = (jnp.full_like(none[..., 0], jnp.finfo(none.dtype).min), none[..., 0], none)
        step = lambda sums, part: (added(sums, part), None)
        (_, total, weighted), _ = jax.lax.scan(step, start, tokens)
        return weighted / jnp.where(total > 0, total, 1)[..., None]  # 0 without any token

    answers = jax.lax.map(answer, (_chunks(queries, chunk), _chunks(places[0], chunk)))
    chunks, _, _, size, _ = answers.shape
    found = answers.transpose(1, 0, 3, 2, 4).reshape(n, chunks * size, *of_head)
    return found[:, :length].astype(queries.dtype)


def check_order(queries: int, tokens: int, causal: bool, window: int | None) -> None:
    """Checks the arguments that limit what a query reads by its place."""
    if window is not None and not causal:
        raise ValueError(f"{window=} needs causal=True.")
    if causal and queries != tokens:
        raise ValueError(
            "Causal attention needs as many queries as tokens, query i at the place of token i; "
            f"got {queries} and {tokens}."
        )


def in_order(query_at: Array, key_at: Array, window: int | None) -> Array:
    """Whether a query at one place reads a token at another, bool[q, t]."""
    behind = query_at[:, None] - key_at[None]
    return (behind >= 0) & (behind < (window or np.inf))


def _chunks(x: Array, size: int) -> Array:
    """[n, t, ...] -> [chunks, n, size, ...], padded with zeros; shorter sequences are one chunk."""
    n, length = x.shape[:2]
    size = max(1, min(size, length))
    number = math.ceil(length / size)
    padding = [(0, 0), (0, number * size - length)] + [(0, 0)] * (x.ndim - 2)
    padded = jnp.pad(x, padding)
    return jnp.moveaxis(padded.reshape(n, number, size, *x.shape[2:]), 1, 0)
