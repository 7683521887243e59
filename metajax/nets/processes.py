"""Neural processes: nets that read examples of a function and predict its values elsewhere.

Each has two methods: `read(x, y, weight)` makes a context of the examples, and
`predict(x, context)` gives a `Gaussian` for each new input. Rows of weight 0 have no influence, and
neither has the order of the rows. Without any example they predict from an empty context.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from metajax._checked import checked
from metajax._tree import as_floating
from metajax.nets.attention import Attention, Block
from metajax.nets.layers import check_channels
from metajax.nets.perceptrons import MLP
from metajax.types import Array, Gaussian, PyTree, Size

TAPS = 5
"""Points of the grid that a convolution of `ConvolutionalProcess` reads."""


@checked
class ConditionalProcess(nnx.Module):
    """A conditional neural process (CNP): the context is the mean of the encoded examples.

    r = Σᵢ wᵢ h(xᵢ, yᵢ) / Σᵢ wᵢ, and (mean, s) = g(r, x) with the deviation
    least + (1 - least) softplus(s).

    Args:
        inputs: numbers in x.
        outputs: numbers in y.
        width: of all layers.
        least_deviation: lower bound of the predicted standard deviation.
        rngs: for the weights.

    >>> net = ConditionalProcess(1, 1, width=8, rngs=nnx.Rngs(0))
    >>> context = net.read(jnp.ones((5, 1)), jnp.ones((5, 1)), jnp.ones(5))
    >>> net.predict(jnp.ones((3, 1)), context).mean.shape
    (3, 1)

    Source: Garnelo et al. 2018, arXiv 1807.01613; the bound of the deviation as in the authors'
    code, github.com/google-deepmind/neural-processes.
    """

    def __init__(
        self,
        inputs: Size,
        outputs: Size,
        *,
        width: Size = 128,
        least_deviation: float = 0.1,
        rngs: nnx.Rngs,
    ):
        self.encoder = MLP(inputs + outputs, (width, width, width), width, rngs=rngs)
        self.decoder = MLP(inputs + width, (width, width), 2 * outputs, rngs=rngs)
        self.least_deviation = least_deviation

    def read(self, x: Array, y: Array, weight: Array) -> Array:
        """The context [width] of examples x [n, inputs], y [n, outputs] with weights [n]."""
        encoded = self.encoder(jnp.concatenate([x, y], axis=1))
        total = weight.sum()
        return weight.astype(encoded.dtype) @ encoded / jnp.where(total > 0, total, 1)

    def predict(self, x: Array, context: Array) -> Gaussian:
        """Predictions [n, outputs] for inputs [n, inputs]."""
        everywhere = jnp.broadcast_to(context, (len(x), *context.shape))
        return gaussian_of(
            self.decoder(jnp.concatenate([x, everywhere], axis=1)), self.least_deviation
        )


@checked
class AttentiveProcess(nnx.Module):
    """An attentive neural process (ANP) without a latent: each input attends to the examples.

    Keys and queries are features of x. The values are the encoded examples after self-attention.

    Args:
        inputs: numbers in x.
        outputs: numbers in y.
        width: of all layers.
        heads: number of heads of attention; divides `width`.
        least_deviation: lower bound of the predicted standard deviation.
        rngs: for the weights.

    Source: the deterministic path of Kim et al. 2019, arXiv 1901.05761.
    """

    def __init__(
        self,
        inputs: Size,
        outputs: Size,
        *,
        width: Size = 128,
        heads: Size = 8,
        least_deviation: float = 0.1,
        rngs: nnx.Rngs,
    ):
        self.encoder = MLP(inputs + outputs, (width, width), width, rngs=rngs)
        self.among = Attention(width, heads, rngs=rngs)
        self.places = MLP(inputs, (width,), width, rngs=rngs)
        self.across = CrossRead(width, heads, rngs=rngs)
        self.decoder = MLP(inputs + width, (width, width), 2 * outputs, rngs=rngs)
        self.least_deviation = least_deviation

    def read(self, x: Array, y: Array, weight: Array) -> PyTree:
        """The places and values of examples x [n, inputs], y [n, outputs], and which are valid."""
        valid = weight > 0
        values = self.encoder(jnp.concatenate([x, y], axis=1))[None]
        values += self.among(values, values, valid[None])
        return {"places": self.places(x), "values": values[0], "valid": valid}

    def predict(self, x: Array, context: PyTree) -> Gaussian:
        """Predictions [n, outputs] for inputs [n, inputs]."""
        found = self.across(self.places(x), context["places"], context["values"], context["valid"])
        return gaussian_of(self.decoder(jnp.concatenate([x, found], axis=1)), self.least_deviation)


@checked
class TransformerProcess(nnx.Module):
    """A transformer neural process (TNP-D): examples and inputs are tokens that read the examples.

    An example is the token (x, y), an input the token (x, 0). In every layer both attend to the
    tokens of the examples, so that predictions do not depend on each other. The layers normalise
    before attention, with a hidden layer of four times the width; those of the authors' code
    normalise after it, with twice the width.

    Args:
        inputs: numbers in x.
        outputs: numbers in y.
        width: of the tokens.
        layers: number of layers.
        heads: number of heads of attention; divides `width`.
        least_deviation: lower bound of the predicted standard deviation.
        rngs: for the weights.

    Source: Nguyen and Grover 2022, arXiv 2207.04179, section 3.1; width, layers, heads and the
    bound of the deviation as in the authors' code, github.com/tung-nd/TNP-pytorch.
    """

    def __init__(
        self,
        inputs: Size,
        outputs: Size,
        *,
        width: Size = 64,
        layers: Size = 6,
        heads: Size = 4,
        least_deviation: float = 0.05,
        rngs: nnx.Rngs,
    ):
        self.embedder = MLP(inputs + outputs, (width, width, width), width, rngs=rngs)
        self.blocks = nnx.List([Block(width, heads, rngs=rngs) for _ in range(layers)])
        self.predictor = MLP(width, (2 * width,), 2 * outputs, rngs=rngs)
        self.outputs = outputs
        self.least_deviation = least_deviation

    def read(self, x: Array, y: Array, weight: Array) -> PyTree:
        """What each layer reads of examples x [n, inputs], y [n, outputs], and which are valid."""
        valid = weight > 0
        tokens = self.embedder(jnp.concatenate([x, y], axis=1))[None]
        layers = []
        for block in self.blocks:
            layers.append(tokens[0])
            tokens = block(tokens, valid[None])
        return {"tokens": jnp.stack(layers), "valid": valid}

    def predict(self, x: Array, context: PyTree) -> Gaussian:
        """Predictions [n, outputs] for inputs [n, inputs]."""
        unknown = jnp.zeros((len(x), self.outputs), x.dtype)
        tokens = self.embedder(jnp.concatenate([x, unknown], axis=1))[None]
        for block, known in zip(self.blocks, context["tokens"], strict=True):
            tokens = block(tokens, context["valid"][None], known[None])
        return gaussian_of(self.predictor(tokens[0]), self.least_deviation)


@checked
class ConvolutionalProcess(nnx.Module):
    """A convolutional conditional neural process (ConvCNP) of one input.

    Examples are smoothed onto a grid: a density Σᵢ wᵢ k(t - xᵢ), and Σᵢ wᵢ k(t - xᵢ) yᵢ divided by
    it, with k(d) = exp(-½ (d/l)²). Convolutions go along the grid, and predictions are smoothed
    back to x. If examples and inputs move together by a multiple of the spacing, the predictions
    move with them, as long as the grid has a margin around them. Examples or inputs outside of the
    grid give NaN.

    Args:
        outputs: numbers in y.
        low: first point of the grid.
        high: last point of the grid.
        points: number of points of the grid.
        width: channels of the convolutions.
        layers: number of convolutions, each with five taps and added to its input.
        least_deviation: lower bound of the predicted standard deviation.
        rngs: for the weights.

    Raises:
        ValueError: a grid that does not ascend or has less than two points; when called, x that is
            not [n, 1].

    Source: Gordon et al. 2020, arXiv 1910.13556, sections 4 and 5.
    """

    def __init__(
        self,
        outputs: Size,
        *,
        low: float,
        high: float,
        points: Size = 128,
        width: Size = 32,
        layers: Size = 6,
        least_deviation: float = 0.1,
        rngs: nnx.Rngs,
    ):
        if not (low < high and points > 1):
            raise ValueError(
                f"The grid needs low < high and two points or more, got {low=}, {high=}, {points=}."
            )
        self.grid = tuple(np.linspace(low, high, points).tolist())
        spacing = (high - low) / (points - 1)
        log_length = jnp.log(2 * spacing)
        self.read_length = nnx.Param(log_length)
        self.predict_length = nnx.Param(log_length)
        self.first = nnx.Linear(2 * outputs, width, rngs=rngs)
        self.blocks = nnx.List([nnx.Linear(TAPS * width, width, rngs=rngs) for _ in range(layers)])
        self.last = nnx.Linear(width, 2 * outputs, rngs=rngs)
        self.least_deviation = least_deviation

    def read(self, x: Array, y: Array, weight: Array) -> Array:
        """The functions on the grid, [points, 2 outputs], of examples x [n, 1], y [n, outputs]."""
        place = self._places(jnp.where((weight > 0)[:, None], as_floating(x), self.grid[0]))
        near = smoothing(jnp.asarray(self.grid, place.dtype), place, self.read_length[...])
        near *= weight.astype(near.dtype)[None]
        density = near.sum(axis=1, keepdims=True)
        mean = near @ y / jnp.maximum(density, 1e-6)
        signal = jnp.concatenate([jnp.broadcast_to(density, mean.shape), mean], axis=1)
        channels = self.first(signal)
        for block in self.blocks:
            channels += block(neighbours(jax.nn.relu(channels)))
        return self.last(jax.nn.relu(channels))

    def predict(self, x: Array, context: Array) -> Gaussian:
        """Predictions [n, outputs] for inputs [n, 1]."""
        place = self._places(x)
        grid = jnp.asarray(self.grid, place.dtype)
        near = smoothing(place, grid, self.predict_length[...])
        near /= jnp.maximum(near.sum(axis=1, keepdims=True), 1e-6)
        return gaussian_of(near @ context, self.least_deviation)

    def _places(self, x: Array) -> Array:
        """Inputs [n, 1] as places [n], NaN outside of the grid."""
        check_channels("ConvolutionalProcess", x, 1)
        place = as_floating(x)[:, 0]
        is_outside = (place < self.grid[0]) | (place > self.grid[-1])
        return jnp.where(is_outside, jnp.nan, place)


class CrossRead(nnx.Module):
    """Multi-head attention whose keys come from places and whose values do not.

    Args:
        width: of places, values and outputs.
        heads: number of heads; divides `width`.
        rngs: for the weights.
    """

    def __init__(self, width: Size, heads: Size, *, rngs: nnx.Rngs):
        self.query = nnx.Linear(width, width, use_bias=False, rngs=rngs)
        self.key = nnx.Linear(width, width, use_bias=False, rngs=rngs)
        self.value = nnx.Linear(width, width, use_bias=False, rngs=rngs)
        self.output = nnx.Linear(width, width, use_bias=False, rngs=rngs)
        self.heads = heads

    def __call__(self, queries: Array, places: Array, values: Array, valid: Array) -> Array:
        """What queries [q, width] read of the values [n, width] at places [n, width]."""
        split = lambda rows: rows.reshape(len(rows), self.heads, -1)
        query = split(self.query(queries))
        key = split(self.key(places))
        value = split(self.value(values))
        scores = jnp.einsum("qhd,nhd->hqn", query, key) / np.sqrt(query.shape[-1])
        scores = jnp.where(valid[None, None], scores, jnp.finfo(scores.dtype).min)
        shares = jnp.where(valid.any(), jax.nn.softmax(scores), 0)
        found = jnp.einsum("hqn,nhd->qhd", shares, value)
        return self.output(found.reshape(queries.shape))


def neighbours(channels: Array) -> Array:
    """Each point with the two on either side, [points, width] -> [points, 5 width].

    A linear map of it is a convolution, which XLA computes many times faster so on a CPU.
    """
    margin = TAPS // 2
    padded = jnp.pad(channels, ((margin, margin), (0, 0)))
    shifted = [padded[shift : shift + len(channels)] for shift in range(TAPS)]
    return jnp.concatenate(shifted, axis=1)


def smoothing(to: Array, of: Array, log_length: Array) -> Array:
    """exp(-½ ((to - of)/l)²), [to, of]."""
    scaled = (to[:, None] - of[None]) / jnp.exp(log_length).astype(to.dtype)
    return jnp.exp(-(scaled**2) / 2)


def gaussian_of(raw: Array, least_deviation: float) -> Gaussian:
    """The `Gaussian` of numbers [n, 2 outputs]: means, and deviations before a softplus."""
    mean, spread = jnp.split(raw, 2, axis=-1)
    deviation = least_deviation + (1 - least_deviation) * jax.nn.softplus(spread)
    return Gaussian(mean, deviation**2)
