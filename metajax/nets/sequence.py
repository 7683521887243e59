"""Encoders of time series and strokes: a recurrent net, convolution over time, a transformer.

They take an array [n, t, channels], or a `Series` where the lengths differ. How far a series is
padded changes nothing.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from metajax._checked import checked
from metajax.nets.attention import Transformer, positions
from metajax.nets.norms import Norm, TaskNorm
from metajax.nets.tokens import TokenEncoder, keep_valid, read_series
from metajax.types import Array, Count, Series, Size


@checked
class GRU(TokenEncoder):
    """A gated recurrent net that reads forward; the embedding is its last state.

    r, z = σ(W x + U h + b),  h̃ = tanh(W x + r·(U h) + b),  h ← (1 - z)·h̃ + z·h, from h = 0. Past
    the end of a series the state stays as it is. The last valid token is the output of `__call__`.

    Args:
        inputs: channels of the series.
        outputs: width of the head.
        width: width of the state.
        rngs: for the weights.

    Raises:
        ValueError: when called, a series of other channels.

    >>> GRU(2, 5, width=8, rngs=nnx.Rngs(0))(jnp.ones((3, 6, 2))).shape
    (3, 5)

    Source: Cho et al. 2014, arXiv 1406.1078, with r outside the product, as cuDNN has it.
    """

    def __init__(self, inputs: Size, outputs: Size, *, width: Size = 64, rngs: nnx.Rngs):
        self.input = nnx.Linear(inputs, 3 * width, rngs=rngs)
        self.state = nnx.Linear(width, 3 * width, use_bias=False, rngs=rngs)
        self.head = nnx.Linear(width, outputs, rngs=rngs)
        self.inputs = inputs

    def features(self, x: Array | Series, reference: Array | None = None) -> tuple[Array, Array]:
        """The state after each step.

        Args:
            x: [n, t, inputs], or a `Series`.
            reference: not used; there are no statistics.

        Returns:
            (states [n, t, width], valid bool[n, t]).
        """
        value, valid = read_series(x, self.inputs)
        kernel = self.state.kernel[...]
        driven = self.input(value).astype(jnp.result_type(value, kernel))

        def step(state: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
            driven, here = now
            reset_x, update_x, candidate_x = jnp.split(driven, 3, axis=-1)
            reset_h, update_h, candidate_h = jnp.split(state @ kernel, 3, axis=-1)
            update = jax.nn.sigmoid(update_x + update_h)
            candidate = jnp.tanh(candidate_x + jax.nn.sigmoid(reset_x + reset_h) * candidate_h)
            moved = (1 - update) * candidate + update * state
            state = jnp.where(here[:, None], moved, state)
            return state, state

        # Zeros made of the input, so that under shard_map they vary over devices as it does.
        start = 0 * driven[:, 0, : len(kernel)]
        _, states = jax.lax.scan(step, start, (driven.swapaxes(0, 1), valid.swapaxes(0, 1)))
        return states.swapaxes(0, 1), valid

    def embed(self, x: Array | Series, reference: Array | None = None) -> Array:
        """The last state, [n, width]; zero for a series of length 0."""
        states, _ = self.features(x)
        return states[:, -1]


@checked
class TemporalConv(TokenEncoder):
    """Blocks of convolution over three steps, normalisation and ReLU; the mean over time.

    The convolution is a product of windows and a matrix, for the reason that `Conv` gives. The norm
    treats each step as an example: statistics are over valid steps only, and `GroupNorm` normalises
    each step by itself. The mean of the valid tokens is the output of `__call__`.

    Args:
        inputs: channels of the series.
        outputs: width of the head.
        width: channels of every block.
        blocks: number of blocks.
        stride: stride of every block. Window i of three steps is centred at step stride·i.
        norm: policy of normalisation: `TaskNorm`, `GroupNorm`, `FrozenNorm` or `NoNorm`.
        rngs: for the weights.

    Raises:
        ValueError: when called, a series of other channels.
    """

    def __init__(
        self,
        inputs: Size,
        outputs: Size,
        *,
        width: Size = 64,
        blocks: Size = 3,
        stride: Size = 2,
        norm: Norm = TaskNorm,
        rngs: nnx.Rngs,
    ):
        init = nnx.initializers.he_normal()
        convolutions = []
        for channels in [inputs] + [width] * (blocks - 1):
            layer = nnx.Linear(3 * channels, width, use_bias=False, kernel_init=init, rngs=rngs)
            convolutions.append(layer)
        self.convolutions = nnx.List(convolutions)
        self.norms = nnx.List([norm(width, rngs=rngs) for _ in self.convolutions])
        self.head = nnx.Linear(width, outputs, rngs=rngs)
        self.inputs = inputs
        self.stride = stride

    def features(self, x: Array | Series, reference: Array | None = None) -> tuple[Array, Array]:
        """The features of each step that is left after b blocks.

        Args:
            x: [n, t, inputs], or a `Series`.
            reference: bool[n], the series that normalisation statistics are computed from. None
                means all series.

        Returns:
            (features [n, ⌈t / strideᵇ⌉, width], valid bool[n, ⌈t / strideᵇ⌉]).
        """
        value, valid = read_series(x, self.inputs)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            value = convolution(windows(value, self.stride))
            valid = valid[:, :: self.stride]
            counted = valid if reference is None else valid & (reference > 0)[:, None]
            steps = norm(value.reshape(-1, value.shape[-1]), counted.reshape(-1))
            value = keep_valid(jax.nn.relu(steps.reshape(value.shape)), valid)
        return value, valid


@checked
class SequenceTransformer(TokenEncoder):
    """A transformer over time steps, for series of any length.

    Positions are sines and cosines. The mean of the valid tokens is the output of `__call__`.

    Args:
        inputs: channels of the series.
        outputs: width of the head.
        width: width of the tokens inside.
        layers: number of blocks.
        heads: number of heads; divides `width`.
        rngs: for the weights.

    Raises:
        ValueError: when called, a series of other channels.
    """

    def __init__(
        self,
        inputs: Size,
        outputs: Size,
        *,
        width: Size = 64,
        layers: Count = 2,
        heads: Size = 4,
        rngs: nnx.Rngs,
    ):
        self.input = nnx.Linear(inputs, width, rngs=rngs)
        self.transformer = Transformer(width, layers, heads, rngs=rngs)
        self.head = nnx.Linear(width, outputs, rngs=rngs)
        self.inputs = inputs

    def features(self, x: Array | Series, reference: Array | None = None) -> tuple[Array, Array]:
        """The features of each step.

        Args:
            x: [n, t, inputs], or a `Series`.
            reference: not used; there are no statistics over series.

        Returns:
            (features [n, t, width], valid bool[n, t]).
        """
        value, valid = read_series(x, self.inputs)
        tokens = self.input(value)
        tokens += positions(*tokens.shape[1:])[None].astype(tokens.dtype)
        return self.transformer(tokens, valid), valid


def windows(x: Array, stride: int = 1) -> Array:
    """Three steps around every `stride`-th step, with zeros before the start and past the end.

    Args:
        x: [n, t, channels].
        stride: 1 or more.

    Returns:
        [n, ⌈t / stride⌉, 3 channels].

    >>> windows(jnp.array([[[1], [2], [3]]]), stride=2).tolist()
    [[[0, 1, 2], [2, 3, 0]]]
    """
    x = jnp.pad(x, ((0, 0), (1, 1), (0, 0)))
    last = x.shape[1] - 2
    return jnp.concatenate([x[:, shift : last + shift : stride] for shift in range(3)], axis=-1)
