"""Text: token ids in front of any encoder of series."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from metajax.nets.sequence import GRU, Front, SequenceTransformer, TemporalConv
from metajax.types import Array, Series


class Text(Front):
    """A vector for each token id, then an encoder of series; text may have any length.

    Args:
        vocabulary: number of token ids, with 0, the padding at the end of a text. An id out of range gives NaN.
        sequence: what reads the vectors: a `GRU`, `TemporalConv` or `SequenceTransformer`; its `inputs` is the width of
            a vector.
        rngs: for the vectors, which are standard normal.

    >>> text = Text(100, TemporalConv(16, 5, stride=1, rngs=nnx.Rngs(0)), rngs=nnx.Rngs(1))
    >>> text(jnp.array([[7, 3, 9, 0, 0], [2, 0, 0, 0, 0]])).shape
    (2, 5)
    """

    def __init__(
        self, vocabulary: int, sequence: GRU | TemporalConv | SequenceTransformer, *, rngs: nnx.Rngs
    ):
        super().__init__(sequence)
        self.embedding = nnx.Param(jax.random.normal(rngs.params(), (vocabulary, sequence.inputs)))

    def series(self, x: Array, reference: Array | None = None) -> Series:
        """int[n, t], zeros at the end -> a series [n, t, inputs].

        Raises:
            ValueError: ids that are not integers.
        """
        if x.ndim != 2 or not jnp.issubdtype(x.dtype, jnp.integer):
            raise ValueError(
                f"Text must be token ids int[n, t], got {x.dtype}{list(x.shape)}; number the words first."
            )
        return Series(jnp.take(self.embedding[...], x, axis=0), (x != 0).sum(1))
