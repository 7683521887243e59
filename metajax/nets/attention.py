"""Tokens of which some have no meaning: attention over them, the transformer made of it, and what encoders share."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from metajax.types import Array, PyTree


class Attention(nnx.Module):
    """Each query takes a mean of the tokens, weighed by how well it matches them; several times side by side.

    y = concat_h[softmax(Q_h·K_hᵀ / √d)·V_h]·O with d = width / heads. There are no biases: one on the keys would cancel
    in the softmax, and with one on the output a query that has nothing to read could not answer zero.

    Args:
        width: of queries, tokens and answers.
        heads: divides `width`.
        rngs: for the weights.

    Raises:
        ValueError: heads that do not divide the width.

    Source: Vaswani et al. 2017, arXiv 1706.03762.
    """

    def __init__(self, width: int, heads: int, *, rngs: nnx.Rngs):
        if heads < 1 or width % heads:
            raise ValueError(f"{heads=} must divide {width=}.")
        self.query, self.key, self.value, self.output = (
            nnx.Linear(width, width, use_bias=False, rngs=rngs) for _ in range(4)
        )
        self.heads = heads

    def __call__(self, queries: Array, tokens: Array, valid: Array | None = None) -> Array:
        """Reads the tokens.

        Args:
            queries: [n, q, width].
            tokens: [n, t, width].
            valid: bool[n, t], which tokens have a meaning; None for all. A query that has none answers zero.

        Returns:
            [n, q, width].
        """
        tokens = clear(tokens, valid)
        query, key, value = (
            layer(x).reshape(*x.shape[:2], self.heads, -1)
            for layer, x in ((self.query, queries), (self.key, tokens), (self.value, tokens))
        )
        scores = jnp.einsum("nqhd,nthd->nhqt", query, key) / np.sqrt(query.shape[-1]).astype(
            query.dtype
        )
        if (
            valid is not None
        ):  # The lowest number and not -inf: with nothing to read the weights are finite, on values 0.
            scores = jnp.where(valid[:, None, None], scores, jnp.finfo(scores.dtype).min)
        answer = jnp.einsum("nhqt,nthd->nqhd", jax.nn.softmax(scores), value)
        return self.output(answer.reshape(queries.shape))


class Block(nnx.Module):
    """One layer of a transformer: attention, then two linear layers, each normalised before and added to its input.

    x ← x + Attention(LN(x), LN(context)),  x ← x + W₂·gelu(W₁·LN(x)).

    Args:
        width: of the tokens; the hidden layer is four times as wide.
        heads: divides `width`.
        rngs: for the weights.

    Source: normalised before, Xiong et al. 2020, arXiv 2002.04745.
    """

    def __init__(self, width: int, heads: int, *, rngs: nnx.Rngs):
        self.before_attention = nnx.LayerNorm(width, rngs=rngs)
        self.attention = Attention(width, heads, rngs=rngs)
        self.before_hidden = nnx.LayerNorm(width, rngs=rngs)
        self.hidden = nnx.Linear(width, 4 * width, rngs=rngs)
        self.output = nnx.Linear(4 * width, width, rngs=rngs)

    def __call__(
        self, tokens: Array, valid: Array | None = None, context: Array | None = None
    ) -> Array:
        """Tokens that have read the context, or each other.

        Args:
            tokens: [n, t, width].
            valid: bool of what is read, which of it has a meaning: [n, t], or [n, s] with a context; None for all.
            context: [n, s, width], what the tokens read instead of each other.

        Returns:
            [n, t, width].
        """
        if context is None:
            tokens = context = clear(tokens, valid)
        else:
            context = clear(context, valid)
        tokens += self.attention(
            self.before_attention(tokens), self.before_attention(context), valid
        )
        return tokens + self.output(jax.nn.gelu(self.hidden(self.before_hidden(tokens))))


class Transformer(nnx.Module):
    """Blocks in which tokens read each other, and a last normalisation; it knows no order (`positions` does).

    Args:
        width: of the tokens.
        layers: number of blocks.
        heads: divides `width`.
        rngs: for the weights.
    """

    def __init__(self, width: int, layers: int, heads: int, *, rngs: nnx.Rngs):
        self.blocks = nnx.List([Block(width, heads, rngs=rngs) for _ in range(layers)])
        self.norm = nnx.LayerNorm(width, rngs=rngs)

    def __call__(self, tokens: Array, valid: Array | None = None) -> Array:
        """[n, t, width] and bool[n, t], which of them have a meaning -> [n, t, width]; zero where they have none."""
        for block in self.blocks:
            tokens = block(tokens, valid)
        return clear(self.norm(clear(tokens, valid)), valid)


def positions(length: int, width: int) -> Array:
    """Sines and cosines that tell places apart, for any length: float[length, width].

    p[t, 2i] = sin(t / 10000^(2i / width)),  p[t, 2i + 1] = cos(the same).

    >>> positions(5, 4)[0].tolist()
    [0.0, 1.0, 0.0, 1.0]
    """
    column = np.arange(width)
    angle = np.arange(length)[:, None] / 10000.0 ** (column // 2 * 2 / width)[None]
    return jnp.asarray(np.where(column[None] % 2, np.cos(angle), np.sin(angle)))


def pool(tokens: Array, valid: Array | None = None) -> Array:
    """The mean of the tokens that have a meaning: [n, t, width], bool[n, t] -> [n, width]; zero where none has.

    >>> pool(jnp.array([[[1.0], [3.0], [jnp.nan]]]), jnp.array([[True, True, False]])).tolist()
    [[2.0]]
    """
    if valid is None:
        return tokens.mean(1)
    number = jnp.maximum(valid.sum(1), 1).astype(tokens.dtype)
    return clear(tokens, valid).sum(1) / number[:, None]


def clear(tokens: Array, valid: Array | None = None) -> Array:
    """The tokens, zero where they have no meaning, so that not even a NaN there comes into a gradient.

    [n, t, ...] and bool[n, t] -> [n, t, ...].
    """
    return (
        tokens
        if valid is None
        else jnp.where(valid.reshape(*valid.shape, *(1,) * (tokens.ndim - 2)), tokens, 0)
    )


class TokenEncoder(nnx.Module):
    """What the encoders of places and times share: one has a `head` and says what the `features` of each place are."""

    head: nnx.Linear

    def features(self, x: PyTree, reference: Array | None = None) -> tuple[Array, Array]:
        """-> (features of each place [n, t, features], bool[n, t]: which of them have a meaning)."""
        raise NotImplementedError(f"{type(self).__name__} must say what its features are.")

    def embed(self, x: PyTree, reference: Array | None = None) -> Array:
        """-> [n, features], the mean over places."""
        return pool(*self.features(x, reference))

    def tokens(self, x: PyTree, reference: Array | None = None) -> tuple[Array, Array]:
        """-> (tokens [n, t, outputs], bool[n, t]: which of them have a meaning)."""
        features, valid = self.features(x, reference)
        return self.head(features), valid

    def __call__(self, x: PyTree, reference: Array | None = None) -> Array:
        """-> [n, outputs]."""
        return self.head(self.embed(x, reference))
