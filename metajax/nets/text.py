"""Text: token ids in front of an encoder of series."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from metajax._checked import checked
from metajax._checks import is_concrete
from metajax.nets.sequence import GRU, SequenceTransformer, TemporalConv
from metajax.nets.tokens import FrontEnd
from metajax.types import Array, Series, Size


@checked
class Text(FrontEnd):
    """A learned vector for each token id, then an encoder of series. Texts may have any length.

    Args:
        vocabulary: number of token ids, including 0, which is padding at the end of a text. An id
            out of range is an error, and gives NaN in compiled code.
        sequence: what reads the vectors: a `GRU`, `TemporalConv` or `SequenceTransformer`. Its
            `inputs` is the width of a vector.
        rngs: for the vectors, which are standard normal.

    Raises:
        ValueError: when called, ids that are not integers.

    >>> sequence = TemporalConv(16, 5, stride=1, rngs=nnx.Rngs(0))
    >>> text = Text(100, sequence, rngs=nnx.Rngs(1))
    >>> text(jnp.array([[7, 3, 9, 0, 0], [2, 0, 0, 0, 0]])).shape
    (2, 5)
    """

    def __init__(
        self,
        vocabulary: Size,
        sequence: GRU | TemporalConv | SequenceTransformer,
        *,
        rngs: nnx.Rngs,
    ):
        super().__init__(sequence)
        self.embedding = nnx.Param(jax.random.normal(rngs.params(), (vocabulary, sequence.inputs)))

    def series(self, x: Array, reference: Array | None = None) -> Series:
        """The vectors of a text.

        Args:
            x: int[n, t] with zeros at the end. A zero before another token is read as a token.
            reference: not used; there are no statistics.

        Returns:
            A series [n, t, inputs].

        Raises:
            ValueError: ids that are not int[n, t], or outside the vocabulary.
        """
        check_token_ids(x)
        length = jnp.where(x != 0, jnp.arange(1, x.shape[1] + 1), 0).max(axis=1, initial=0)
        return Series(look_up(self.embedding[...], x), length)


def check_token_ids(x: Array) -> None:
    """Checks that texts are token ids.

    Raises:
        ValueError: not int[n, t].
    """
    if x.ndim != 2 or not jnp.issubdtype(x.dtype, jnp.integer):
        raise ValueError(
            f"Text must be token ids int[n, t], got {x.dtype}{list(x.shape)}; turn words into ids "
            "first, such as with metajax.data.tokenize."
        )


def look_up(vectors: Array, ids: Array) -> Array:
    """The vector of each id.

    Indexing would take the last vector for an id that has none, without a word.

    Args:
        vectors: [vocabulary, width].
        ids: int[...].

    Returns:
        [..., width], NaN for an id outside 0 … vocabulary - 1.

    Raises:
        ValueError: such an id, where it is concrete.
    """
    if is_concrete(ids):
        outside = np.unique(ids)
        outside = outside[(outside < 0) | (outside >= len(vectors))]
        if outside.size:
            raise ValueError(
                f"Ids must be from 0 to {len(vectors) - 1}, the last of the vocabulary, got "
                f"{outside[:10].tolist()}; make the vocabulary of the net as large as the text's."
            )
    known = vectors.at[ids]
    return known.get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
