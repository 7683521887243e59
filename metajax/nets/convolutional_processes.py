"""A neural process that moves with its examples: convolutions along a grid."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from metajax._checked import checked
from metajax._tree import as_floating
from metajax.nets.layers import check_channels
from metajax.nets.processes import gaussian_of
from metajax.types import Array, Gaussian, Size

TAPS = 5
"""Points of the grid that a convolution of `ConvolutionalProcess` reads."""


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
