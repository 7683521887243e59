"""Sentences as vectors: a transformer with the layout of BERT."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from metajax._checked import checked
from metajax.nets.attention import Attention
from metajax.nets.text import check_token_ids, look_up
from metajax.nets.tokens import TokenEncoder, keep_valid, pool_tokens
from metajax.types import Array, Count, Size


class PostNormBlock(nnx.Module):
    """One layer of BERT: attention, then a hidden layer, each added to its input and normalised.

    x ← LN(x + Attention(x)),  x ← LN(x + W₂·gelu(W₁·x)).

    The attention is `Attention` with a bias where it makes a difference: on the queries and on the
    output. BERT also has one on the keys, which cancels in the softmax, and one on the values,
    which is equal to a bias of the output.

    Args:
        width: width of the tokens. The hidden layer is four times as wide.
        heads: number of heads; divides `width`.
        rngs: for the weights.

    Source: Vaswani et al. 2017, arXiv 1706.03762.
    """

    def __init__(self, width: Size, heads: Size, *, rngs: nnx.Rngs):
        self.attention = Attention(width, heads, rngs=rngs)
        self.attention.query = nnx.Linear(width, width, rngs=rngs)
        self.attention.output = nnx.Linear(width, width, rngs=rngs)
        self.after_attention = nnx.LayerNorm(width, epsilon=1e-12, rngs=rngs)
        self.hidden = nnx.Linear(width, 4 * width, rngs=rngs)
        self.output = nnx.Linear(4 * width, width, rngs=rngs)
        self.after_hidden = nnx.LayerNorm(width, epsilon=1e-12, rngs=rngs)

    def __call__(self, tokens: Array, valid: Array) -> Array:
        """The tokens after they have read each other.

        Args:
            tokens: [n, t, width].
            valid: bool[n, t].

        Returns:
            [n, t, width].
        """
        tokens = self.after_attention(tokens + self.attention(tokens, tokens, valid))
        hidden = jax.nn.gelu(self.hidden(tokens), approximate=False)
        return self.after_hidden(tokens + self.output(hidden))


@checked
class SentenceEncoder(TokenEncoder):
    """BERT with mean pooling: texts of similar meaning become vectors of similar direction.

    f = m / |m|, where m is the mean of the valid tokens of the last layer. `embed` gives f, and
    `__call__` a linear head of it. How far a text is padded changes nothing. Compared with the
    published net, the pooling layer is left out, because sentence vectors do not use it, and the
    embedding of the first segment is added to that of the positions.

    Args:
        vocabulary: number of token ids, including 0, which is padding at the end of a text. An id
            out of range is an error, and gives NaN in compiled code.
        outputs: width of the head.
        width: width of the tokens and of a sentence.
        layers: number of blocks.
        heads: number of heads; divides `width`.
        longest: number of tokens of the longest text.
        rngs: for the weights.

    Raises:
        ValueError: heads that do not divide the width; when called, ids that are not integers or
            out of range, or texts longer than `longest`.

    >>> net = SentenceEncoder(100, 5, width=8, layers=1, heads=2, longest=16, rngs=nnx.Rngs(0))
    >>> net(jnp.array([[7, 3, 9, 0, 0], [2, 0, 0, 0, 0]])).shape
    (2, 5)

    Sources: BERT, Devlin et al. 2018, arXiv 1810.04805; the mean of tokens, Reimers and Gurevych
    2019, arXiv 1908.10084.
    """

    def __init__(
        self,
        vocabulary: Size,
        outputs: Size,
        *,
        width: Size = 384,
        layers: Count = 6,
        heads: Size = 12,
        longest: Size = 512,
        rngs: nnx.Rngs,
    ):
        small = nnx.initializers.normal(0.02)
        self.words = nnx.Param(small(rngs.params(), (vocabulary, width)))
        self.places = nnx.Param(small(rngs.params(), (longest, width)))
        self.norm = nnx.LayerNorm(width, epsilon=1e-12, rngs=rngs)
        self.blocks = nnx.List([PostNormBlock(width, heads, rngs=rngs) for _ in range(layers)])
        self.head = nnx.Linear(width, outputs, rngs=rngs)

    def features(self, x: Array, reference: Array | None = None) -> tuple[Array, Array]:
        """The features of each token.

        Args:
            x: int[n, t] with zeros at the end.
            reference: not used; there are no statistics over texts.

        Returns:
            (features [n, t, width], valid bool[n, t]).

        Raises:
            ValueError: ids that are not int[n, t] or outside the vocabulary, or texts longer than
                `longest`.
        """
        check_token_ids(x)
        length = x.shape[1]
        longest = len(self.places[...])
        if length > longest:
            raise ValueError(f"Texts of {length} tokens are longer than {longest=}; cut them.")
        valid = x != 0
        words = keep_valid(look_up(self.words[...], x), valid)
        tokens = self.norm(words + self.places[...][None, :length])
        for block in self.blocks:
            tokens = block(tokens, valid)
        return keep_valid(tokens, valid), valid

    def embed(self, x: Array, reference: Array | None = None) -> Array:
        """The vector of each text, of length 1: int[n, t] -> [n, width]; zero without tokens."""
        mean = pool_tokens(*self.features(x))
        wide = mean.astype(jnp.promote_types(mean.dtype, jnp.float32))  # float16 has no 1e-12
        square = jnp.maximum((wide**2).sum(axis=1, keepdims=True), 1e-12)
        return (wide * jax.lax.rsqrt(square)).astype(mean.dtype)
