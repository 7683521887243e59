"""Tokens of which some are padding: their mask, their mean, and base classes of encoders."""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx

from metajax._checked import checked
from metajax._tree import as_floating, keep_rows
from metajax.types import Array, PyTree, Series


def keep_valid(tokens: Array, valid: Array | None = None) -> Array:
    """The tokens, with zeros where they are not valid, so that no NaN there reaches a gradient.

    Args:
        tokens: [n, t, ...].
        valid: bool[n, t]; None means that all tokens are valid.

    Returns:
        [n, t, ...].
    """
    return tokens if valid is None else keep_rows(valid, tokens)


def pool_tokens(tokens: Array, valid: Array | None = None) -> Array:
    """The mean of the valid tokens of each example; zero where no token is valid.

    Args:
        tokens: [n, t, width]. Tokens that are not valid may hold anything, NaN included.
        valid: bool[n, t]; None means that all tokens are valid.

    Returns:
        [n, width].

    >>> tokens = jnp.array([[[1.0], [3.0], [jnp.nan]]])
    >>> pool_tokens(tokens, jnp.array([[True, True, False]])).tolist()
    [[2.0]]
    """
    tokens = as_floating(tokens)
    if valid is None:
        return tokens.mean(1)
    count = jnp.maximum(valid.sum(1), 1).astype(tokens.dtype)
    return keep_valid(tokens, valid).sum(1) / count[:, None]


def read_series(x: Array | Series, channels: int | None = None) -> tuple[Array, Array]:
    """The values and the mask of an array or of a `Series`.

    Args:
        x: [n, t, ...] without padding, or a `Series`.
        channels: the number of channels that the encoder was made for; None checks nothing.

    Returns:
        (values [n, t, ...], zero at and after the length, valid bool[n, t]).

    Raises:
        ValueError: not [n, t, channels].
    """
    value = x.value if isinstance(x, Series) else x
    if channels is not None and (value.ndim != 3 or value.shape[-1] != channels):
        raise ValueError(
            f"The encoder takes [n, t, {channels}], got {list(value.shape)}; "
            "make it with inputs=channels."
        )
    if not isinstance(x, Series):
        return value, jnp.ones(value.shape[:2], bool)
    valid = jnp.arange(value.shape[1])[None] < x.length[:, None]
    return keep_valid(value, valid), valid


@checked
class TokenEncoder(nnx.Module):
    """Base class of encoders that have features for each place or time step.

    A subclass sets `head` and defines `features`. It inherits the mean over tokens (`embed`), the
    head of each token (`tokens`), and the head of the mean (`__call__`). `Multimodal` hands
    `tokens` to a fusion that reads tokens.

    Attributes:
        head: linear layer from features to outputs.
    """

    head: nnx.Linear

    def features(self, x: PyTree, reference: Array | None = None) -> tuple[Array, Array]:
        """The features of each token.

        Args:
            x: inputs of n examples.
            reference: bool[n], the examples that normalisation statistics are computed from. None
                means all examples.

        Returns:
            (features [n, t, features], valid bool[n, t]).
        """
        raise NotImplementedError(f"{type(self).__name__} must define features(x, reference).")

    def embed(self, x: PyTree, reference: Array | None = None) -> Array:
        """The mean of the features of all valid tokens, [n, features]."""
        return pool_tokens(*self.features(x, reference))

    def tokens(self, x: PyTree, reference: Array | None = None) -> tuple[Array, Array]:
        """The head of each token: (tokens [n, t, outputs], valid bool[n, t])."""
        features, valid = self.features(x, reference)
        return self.head(features), valid

    def __call__(self, x: PyTree, reference: Array | None = None) -> Array:
        """The head of the embedding, [n, outputs]."""
        return self.head(self.embed(x, reference))


class FrontEnd(TokenEncoder):
    """Base class of encoders that turn their modality into a series, for an encoder of series.

    A subclass defines `series`. The head is that of the encoder of series.

    Args:
        sequence: encoder of series.
    """

    def __init__(self, sequence: TokenEncoder):
        self.sequence = sequence
        # One module with two paths. Flax lists its weights under the first in the alphabet, "head".
        self.head = sequence.head

    def series(self, x: PyTree, reference: Array | None = None) -> Series:
        """The modality as a series [n, t, channels]."""
        raise NotImplementedError(f"{type(self).__name__} must define series(x, reference).")

    def features(self, x: PyTree, reference: Array | None = None) -> tuple[Array, Array]:
        """The features of each step: (features [n, t, features], valid bool[n, t])."""
        return self.sequence.features(self.series(x, reference), reference)

    def embed(self, x: PyTree, reference: Array | None = None) -> Array:
        """The embedding that the encoder of series gives, [n, features]."""
        return self.sequence.embed(self.series(x, reference), reference)
