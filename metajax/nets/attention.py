"""Attention over tokens of which some are padding, and the transformer that is made of it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from metajax._checked import checked
from metajax.nets.long_attention import LONG, check_order, chunked_attention, in_order
from metajax.nets.tokens import keep_valid
from metajax.types import Array, Count, Size


@checked
class Attention(nnx.Module):
    """Multi-head attention: each query reads a weighted mean of the valid tokens.

    y = concat_h[softmax(Q_h·K_hᵀ / √d)·V_h]·O with d = width / heads.

    There are no biases. A bias of the keys would cancel in the softmax, and with a bias of the
    output a query without a valid token could not give zero. Of more than 512 queries or tokens,
    only a chunk of the scores is in memory at a time; see `chunked_attention`.

    Args:
        width: width of queries, tokens and outputs.
        heads: number of heads; divides `width`.
        causal: whether query i reads the tokens up to i only.
        window: how many tokens a query of a causal attention reads at most, its own the last of
            them; None means all before it.
        rngs: for the weights.

    Raises:
        ValueError: heads that do not divide the width; a window without `causal`.

    Source: Vaswani et al. 2017, arXiv 1706.03762.
    """

    def __init__(
        self,
        width: Size,
        heads: Size,
        *,
        causal: bool = False,
        window: Size | None = None,
        rngs: nnx.Rngs,
    ):
        if heads < 1 or width % heads:
            raise ValueError(f"{heads=} must divide {width=}.")
        check_order(0, 0, causal, window)
        self.query = nnx.Linear(width, width, use_bias=False, rngs=rngs)
        self.key = nnx.Linear(width, width, use_bias=False, rngs=rngs)
        self.value = nnx.Linear(width, width, use_bias=False, rngs=rngs)
        self.output = nnx.Linear(width, width, use_bias=False, rngs=rngs)
        self.heads = heads
        self.causal = causal
        self.window = window

    def __call__(
        self,
        queries: Array,
        tokens: Array,
        valid: Array | None = None,
        values: Array | None = None,
    ) -> Array:
        """What the queries read of the tokens.

        Args:
            queries: [n, q, width].
            tokens: [n, t, width].
            valid: bool[n, t], which tokens may be read; None means all. A query without a valid
                token in its reach gives zero.
            values: [n, t, width], what is read where a token is attended to. None means the tokens.

        Returns:
            [n, q, width].
        """
        tokens = keep_valid(tokens, valid)
        values = tokens if values is None else keep_valid(values, valid)
        query = self._split(self.query(queries))
        key = self._split(self.key(tokens))
        value = self._split(self.value(values))
        if max(queries.shape[1], tokens.shape[1]) > LONG:
            mean = chunked_attention(
                query, key, value, valid, causal=self.causal, window=self.window
            )
            return self.output(mean.reshape(queries.shape))
        root = np.sqrt(query.shape[-1]).astype(query.dtype)
        scores = jnp.einsum("nqhd,nthd->nhqt", query, key) / root
        length = tokens.shape[1]
        check_order(queries.shape[1], length, self.causal, self.window)
        # The lowest number, not -inf: without a valid token the weights stay finite.
        lowest = jnp.finfo(scores.dtype).min
        if valid is not None:
            scores = jnp.where(valid[:, None, None], scores, lowest)
        if not self.causal:
            share = jax.nn.softmax(scores)
        else:
            place = jnp.arange(length)
            in_reach = in_order(place, place, self.window)[None, None]
            if valid is not None:
                in_reach = in_reach & valid[:, None, None]
            # Without a valid token in reach the softmax would read all others, later ones too.
            share = jax.nn.softmax(jnp.where(in_reach, scores, lowest)) * in_reach
        mean = jnp.einsum("nhqt,nthd->nqhd", share, value)
        return self.output(mean.reshape(queries.shape))

    def _split(self, x: Array) -> Array:
        """[n, t, width] -> [n, t, heads, width / heads]."""
        return x.reshape(*x.shape[:2], self.heads, -1)


class Block(nnx.Module):
    """One layer of a transformer that normalises before attention and before the hidden layer.

    x ← x + Attention(LN(x), LN(context)),  x ← x + W₂·gelu(W₁·LN(x)).

    Args:
        width: width of the tokens. The hidden layer is four times as wide.
        heads: number of heads; divides `width`.
        causal: whether tokens read none after them.
        window: how many tokens one reads at most, as in `Attention`.
        rngs: for the weights.

    Source: Xiong et al. 2020, arXiv 2002.04745.
    """

    def __init__(
        self,
        width: Size,
        heads: Size,
        *,
        causal: bool = False,
        window: Size | None = None,
        rngs: nnx.Rngs,
    ):
        self.before_attention = nnx.LayerNorm(width, rngs=rngs)
        self.attention = Attention(width, heads, causal=causal, window=window, rngs=rngs)
        self.before_hidden = nnx.LayerNorm(width, rngs=rngs)
        self.hidden = nnx.Linear(width, 4 * width, rngs=rngs)
        self.output = nnx.Linear(4 * width, width, rngs=rngs)

    def __call__(
        self, tokens: Array, valid: Array | None = None, context: Array | None = None
    ) -> Array:
        """The tokens after they have read the context, or each other.

        Args:
            tokens: [n, t, width].
            valid: which of what is read is valid: bool[n, t] without a context, bool[n, s] with
                one. None means all.
            context: [n, s, width], what the tokens read. None means that they read each other.

        Returns:
            [n, t, width].
        """
        if context is None:
            tokens = keep_valid(tokens, valid)
            context = tokens
        else:
            context = keep_valid(context, valid)
        queries = self.before_attention(tokens)
        tokens += self.attention(queries, self.before_attention(context), valid)
        hidden = jax.nn.gelu(self.hidden(self.before_hidden(tokens)))
        return tokens + self.output(hidden)


@checked
class Transformer(nnx.Module):
    """Blocks in which tokens read each other, and a normalisation at the end.

    It does not know the order of the tokens; add `positions` to them where order counts.

    Args:
        width: width of the tokens.
        layers: number of blocks.
        heads: number of heads; divides `width`.
        causal: whether tokens read none after them.
        window: how many tokens one reads at most in a layer, as in `Attention`.
        rngs: for the weights.
    """

    def __init__(
        self,
        width: Size,
        layers: Count,
        heads: Size,
        *,
        causal: bool = False,
        window: Size | None = None,
        rngs: nnx.Rngs,
    ):
        block = lambda: Block(width, heads, causal=causal, window=window, rngs=rngs)
        self.blocks = nnx.List([block() for _ in range(layers)])
        self.norm = nnx.LayerNorm(width, rngs=rngs)

    def __call__(self, tokens: Array, valid: Array | None = None) -> Array:
        """The tokens after they have read each other; zero where they are not valid.

        Args:
            tokens: [n, t, width].
            valid: bool[n, t]; None means that all tokens are valid.

        Returns:
            [n, t, width].
        """
        for block in self.blocks:
            tokens = block(tokens, valid)
        return keep_valid(self.norm(keep_valid(tokens, valid)), valid)


@checked
def positions(length: int, width: int) -> Array:
    """Sines and cosines that distinguish positions, for any length.

    p[t, 2i] = sin(t / 10000^(2i / width)),  p[t, 2i + 1] = cos(t / 10000^(2i / width)).

    Args:
        length: number of positions.
        width: width of the tokens that they are added to.

    Returns:
        float[length, width].

    >>> positions(5, 4)[0].tolist()
    [0.0, 1.0, 0.0, 1.0]

    Source: Vaswani et al. 2017, arXiv 1706.03762.
    """
    column = np.arange(width)
    even_column = column // 2 * 2
    angle = np.arange(length)[:, None] / 10000.0 ** (even_column / width)[None]
    return jnp.asarray(np.where(column[None] % 2, np.cos(angle), np.sin(angle)))
