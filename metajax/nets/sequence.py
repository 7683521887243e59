"""Encoders of time series and strokes: a recurrent net, convolution over time, a transformer.

They take an array [n, t, channels], or a `Series` where lengths differ; how far a series is padded changes nothing.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from metajax.nets.attention import TokenEncoder, Transformer, clear, positions
from metajax.nets.norms import Norm, TaskNorm
from metajax.types import Array, PyTree, Series


class GRU(TokenEncoder):
    """A recurrent net with gates, read forward; its features are the last state.

    r, z = σ(W x + U h + b),  h̃ = tanh(W x + r·(U h) + b),  h ← (1 - z)·h̃ + z·h, from h = 0. Past the end of a series
    the state stays as it is. The last token that has a meaning is the answer of `__call__`.

    Args:
        inputs: channels of the input.
        outputs: width of the head.
        width: of the state.
        rngs: for the weights.

    Source: Cho et al. 2014, arXiv 1406.1078; with r outside the product, as cuDNN has it.
    """

    def __init__(self, inputs: int, outputs: int, *, width: int = 64, rngs: nnx.Rngs):
        self.input = nnx.Linear(inputs, 3 * width, rngs=rngs)
        self.state = nnx.Linear(width, 3 * width, use_bias=False, rngs=rngs)
        self.head = nnx.Linear(width, outputs, rngs=rngs)
        self.inputs = inputs

    def features(self, x: Array | Series, reference: Array | None = None) -> tuple[Array, Array]:
        """[n, t, inputs] -> (states [n, t, width], bool[n, t]: which of them have a meaning)."""
        value, valid = read(x, self.inputs)
        kernel = self.state.kernel[...]
        driven = self.input(value).astype(jnp.result_type(value, kernel))

        def step(state: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
            driven, here = now
            reset_x, update_x, candidate_x = jnp.split(driven, 3, axis=-1)
            reset_h, update_h, candidate_h = jnp.split(state @ kernel, 3, axis=-1)
            update = jax.nn.sigmoid(update_x + update_h)
            candidate = jnp.tanh(candidate_x + jax.nn.sigmoid(reset_x + reset_h) * candidate_h)
            state = jnp.where(here[:, None], (1 - update) * candidate + update * state, state)
            return state, state

        start = (
            0 * driven[:, 0, : len(kernel)]
        )  # made of the input, so that it varies as it under shard_map
        _, states = jax.lax.scan(step, start, (driven.swapaxes(0, 1), valid.swapaxes(0, 1)))
        return states.swapaxes(0, 1), valid

    def embed(self, x: Array | Series, reference: Array | None = None) -> Array:
        """[n, t, inputs] -> the last state [n, width]; zero for a series of no length."""
        return self.features(x)[0][:, -1]


class TemporalConv(TokenEncoder):
    """Blocks of convolution over three steps of time, normalisation and ReLU; the mean over time at the end.

    As patches times a matrix, for the reason that `Conv` gives. The norm takes each step for an example: statistics
    count no step without a meaning, and `GroupNorm` normalises every step by itself. The mean of the tokens that have a
    meaning is the answer of `__call__`.

    Args:
        inputs: channels of the input.
        outputs: width of the head.
        width: channels of every block.
        blocks: number of blocks.
        stride: of every block; window i of three steps is centred at step stride·i.
        norm: policy of normalisation: `TaskNorm`, `GroupNorm`, `FrozenNorm` or `NoNorm`.
        rngs: for the weights.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        width: int = 64,
        blocks: int = 3,
        stride: int = 2,
        norm: Norm = TaskNorm,
        rngs: nnx.Rngs,
    ):
        init = nnx.initializers.he_normal()
        channels = [inputs] + [width] * (blocks - 1)
        self.convolutions = nnx.List(
            [
                nnx.Linear(3 * c, width, use_bias=False, kernel_init=init, rngs=rngs)
                for c in channels
            ]
        )
        self.norms = nnx.List([norm(width, rngs=rngs) for _ in channels])
        self.head = nnx.Linear(width, outputs, rngs=rngs)
        self.inputs, self.stride = inputs, stride

    def features(self, x: Array | Series, reference: Array | None = None) -> tuple[Array, Array]:
        """[n, t, inputs] -> (features [n, ⌈t / strideᵇ⌉, width], bool of it: which have a meaning), after b blocks."""
        value, valid = read(x, self.inputs)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            value, valid = convolution(windows(value, self.stride)), valid[:, :: self.stride]
            counted = valid if reference is None else valid & (reference > 0)[:, None]
            steps = norm(value.reshape(-1, value.shape[-1]), counted.reshape(-1))
            value = clear(jax.nn.relu(steps.reshape(value.shape)), valid)
        return value, valid


class SequenceTransformer(TokenEncoder):
    """A transformer over steps of time, told apart by sines and cosines, so that there is no longest series.

    The mean of the tokens that have a meaning is the answer of `__call__`.

    Args:
        inputs: channels of the input.
        outputs: width of the head.
        width: of the tokens inside.
        layers: number of blocks.
        heads: divides `width`.
        rngs: for the weights.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        width: int = 64,
        layers: int = 2,
        heads: int = 4,
        rngs: nnx.Rngs,
    ):
        self.input = nnx.Linear(inputs, width, rngs=rngs)
        self.transformer = Transformer(width, layers, heads, rngs=rngs)
        self.head = nnx.Linear(width, outputs, rngs=rngs)
        self.inputs = inputs

    def features(self, x: Array | Series, reference: Array | None = None) -> tuple[Array, Array]:
        """[n, t, inputs] -> (features [n, t, width], bool[n, t]: which of them have a meaning)."""
        value, valid = read(x, self.inputs)
        tokens = self.input(value)
        tokens += positions(*tokens.shape[1:])[None].astype(tokens.dtype)
        return self.transformer(tokens, valid), valid


class Front(TokenEncoder):
    """What turns another modality into a series, in front of an encoder of series, whose head becomes its own."""

    def __init__(self, sequence: TokenEncoder):
        self.sequence = sequence
        self.head = (
            sequence.head
        )  # One module with two paths; Flax lists it by the first in the alphabet, as "head".

    def series(self, x: PyTree, reference: Array | None = None) -> Series:
        """The modality as a series [n, t, channels]."""
        raise NotImplementedError(f"{type(self).__name__} must say how it makes a series.")

    def features(self, x: PyTree, reference: Array | None = None) -> tuple[Array, Array]:
        """-> (features of each step [n, t, features], bool[n, t]: which of them have a meaning)."""
        return self.sequence.features(self.series(x, reference), reference)

    def embed(self, x: PyTree, reference: Array | None = None) -> Array:
        """-> [n, features], as the encoder of series has it."""
        return self.sequence.embed(self.series(x, reference), reference)


def read(x: Array | Series, channels: int | None = None) -> tuple[Array, Array]:
    """An array or a series -> (value [n, t, ...], zero past the length, and bool[n, t], true before it).

    Raises:
        ValueError: not as many channels as are asked for.
    """
    value = x.value if isinstance(x, Series) else x
    if channels is not None and (value.ndim != 3 or value.shape[-1] != channels):
        raise ValueError(
            f"The encoder takes [n, t, {channels}], got {list(value.shape)}; make it with inputs=channels."
        )
    if not isinstance(x, Series):
        return value, jnp.ones(value.shape[:2], bool)
    valid = jnp.arange(value.shape[1])[None] < x.length[:, None]
    return clear(value, valid), valid


def windows(x: Array, stride: int = 1) -> Array:
    """Three steps around every `stride`-th: [n, t, c] -> [n, ⌈t / stride⌉, 3c], zero before the start and past the end.

    >>> windows(jnp.array([[[1], [2], [3]]]), stride=2).tolist()
    [[[0, 1, 2], [2, 3, 0]]]
    """
    x = jnp.pad(x, ((0, 0), (1, 1), (0, 0)))
    return jnp.concatenate(
        [x[:, shift : x.shape[1] - 2 + shift : stride] for shift in range(3)], axis=-1
    )
