"""Layers that are fast when every task has weights of its own, and normalisation as a declared policy."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx

from metajax._types import Array

Pool: TypeAlias = Callable[[Array], Array]

Norm: TypeAlias = Callable[..., nnx.Module]
"""(features, rngs=...) -> module with __call__(x, reference=None, pool=None): the policies below.

`pool` is a maximum over places, such as `max_pool`, of what the norm gives. It is taken before the last multiplication,
which then has a quarter of the work: max(x·s + t) = max(x·sign s)·|s| + t.
"""


class Conv(nnx.Module):
    """3x3 convolution without a bias, zero-padded ("SAME"), as shifts and a product of matrices.

    Under `vmap` over weights that differ from task to task, `lax.conv` becomes a grouped convolution, which XLA lowers
    badly on a CPU; shifted copies and one product do not care. What is left is memory traffic, so there are two ways:
    `patches` of all nine neighbours times the kernel, or three shifts before the product and three after it, which
    write 3 (inputs + outputs) numbers a place instead of 9 inputs. The latter is taken where it was measured to be
    faster, on a CPU where it writes less; every other backend gets patches. docs/performance.md has the figures.

    Args:
        inputs: channels of the input.
        outputs: channels of the output.
        stride: 1 or more.
        rngs: for the weights, He-normal.
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1, rngs: nnx.Rngs):
        self.kernel = nnx.Param(nnx.initializers.he_normal()(rngs.params(), (3, 3, inputs, outputs)))
        self.stride = stride

    def __call__(self, x: Array) -> Array:
        """[n, height, width, inputs] -> [n, ⌈height / stride⌉, ⌈width / stride⌉, outputs]."""
        kernel = self.kernel[...]
        inputs, outputs = kernel.shape[2:]
        if jax.default_backend() == "cpu" and self.stride == 1 and outputs < 2 * inputs:
            return in_two_passes(x, kernel)
        return in_one_pass(x, kernel, self.stride)


def in_one_pass(x: Array, kernel: Array, stride: int = 1) -> Array:
    """All nine neighbours times the kernel."""
    neighbours = patches(x, stride)
    inputs, outputs = kernel.shape[2:]
    return (neighbours.reshape(-1, 9 * inputs) @ kernel.reshape(-1, outputs)).reshape(*neighbours.shape[:3], -1)


def in_two_passes(x: Array, kernel: Array) -> Array:
    """Neighbours across, times all rows of the kernel, and then the sum of what comes from above, here and below."""
    n, height, width, inputs = x.shape
    x = jnp.pad(x, ((0, 0), (0, 0), (1, 1), (0, 0)))
    across = jnp.concatenate([x[:, :, column : column + width] for column in range(3)], axis=-1)
    kernel = kernel.transpose(1, 2, 0, 3).reshape(3 * inputs, -1)
    narrow = jnp.promote_types(x.dtype, kernel.dtype)
    wide = jnp.promote_types(narrow, jnp.float32)  # for the sum of three
    product = jnp.matmul(across.reshape(-1, 3 * inputs), kernel, preferred_element_type=wide)
    rows = product.reshape(n, height, width, 3, -1)
    above = jnp.pad(rows[:, :-1, :, 0], ((0, 0), (1, 0), (0, 0), (0, 0)))
    below = jnp.pad(rows[:, 1:, :, 2], ((0, 0), (0, 1), (0, 0), (0, 0)))
    return (above + rows[:, :, :, 1] + below).astype(narrow)


def patches(x: Array, stride: int = 1) -> Array:
    """The 3x3 neighbourhood of each place: [n, h, w, c] -> [n, ⌈h/stride⌉, ⌈w/stride⌉, 9c], zero-padded as "SAME"."""
    height, width = x.shape[1:3]
    rows, columns = -(-height // stride), -(-width // stride)
    tall, wide = (rows - 1) * stride + 3, (columns - 1) * stride + 3
    before = max(tall - height, 0) // 2, max(wide - width, 0) // 2
    after = tall - height - before[0], wide - width - before[1]
    x = jnp.pad(x, ((0, 0), (before[0], max(after[0], 0)), (before[1], max(after[1], 0)), (0, 0)))
    across = [slice(column, column + wide - 2, stride) for column in range(3)]
    down = [slice(row, row + tall - 2, stride) for row in range(3)]
    if stride == 1:  # In two passes: the same copies in fewer operations, which compile faster.
        x = jnp.concatenate([x[:, :, column] for column in across], axis=-1)
        return jnp.concatenate([x[:, row] for row in down], axis=-1)
    return jnp.concatenate([x[:, row, column] for row in down for column in across], axis=-1)


def max_pool(x: Array) -> Array:
    """Maximum of 2x2 windows: [n, h, w, c] -> [n, ⌊h/2⌋, ⌊w/2⌋, c]. Of a tie the first has the derivative.

    Values are compared with each other and never with a maximum: under rematerialisation XLA may round the two
    differently, and a derivative masked by `x == max` then silently loses windows.
    """
    images, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2].reshape(images, height // 2, 2, width // 2, 2, channels)
    x = _larger(x[:, :, 0], x[:, :, 1])
    return _larger(x[:, :, :, 0], x[:, :, :, 1])


def _larger(first: Array, second: Array) -> Array:
    """The larger of two, or NaN where one is."""
    return jnp.where((first >= second) | jnp.isnan(first), first, second)


class TaskNorm(nnx.Module):
    """Batch normalisation by the statistics of the batch at hand; none are stored.

    Over a query set it is transductive, as MAML was published; `episode(inductive=True)` makes the support set the
    reference instead. Written as one scale and one shift, which halves the memory traffic: y = x·s + t with
    s = γ/√(E[x²] - E[x]² + ε) and t = β - E[x]·s.

    Args:
        features: channels, the last axis.
        epsilon: added to the variance.
        rngs: not used.
    """

    def __init__(self, features: int, *, epsilon: float = 1e-5, rngs: nnx.Rngs | None = None):
        self.scale = nnx.Param(jnp.ones(features))
        self.shift = nnx.Param(jnp.zeros(features))
        self.epsilon = epsilon

    def __call__(self, x: Array, reference: Array | None = None, pool: Pool | None = None) -> Array:
        """[n, ..., features] -> the same, pooled; statistics over the rows of `reference`, bool[n], or all."""
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        axes = tuple(range(x.ndim - 1))
        if reference is None:
            mean, square = wide.mean(axes), (wide**2).mean(axes)
        else:
            rows = (reference > 0).astype(wide.dtype)
            rows = rows.reshape(-1, *(1,) * (x.ndim - 1)) / jnp.maximum(rows.sum(), 1)
            mean, square = ((value * rows).sum(0).mean(tuple(range(x.ndim - 2))) for value in (wide, wide**2))
        return _affine(x, mean, jnp.maximum(square - mean**2, 0), self, pool)


class FrozenNorm(nnx.Module):
    """Normalisation by the statistics of a pretrained net: `mean` and `variance` are constants, never learned.

    Args:
        features: channels, the last axis.
        mean: [features]; zeros where None.
        variance: [features]; ones where None.
        epsilon: added to the variance.
        rngs: not used.
    """

    def __init__(
        self,
        features: int,
        *,
        mean: Array | None = None,
        variance: Array | None = None,
        epsilon: float = 1e-5,
        rngs: nnx.Rngs | None = None,
    ):
        self.mean = nnx.BatchStat(jnp.zeros(features) if mean is None else mean)
        self.variance = nnx.BatchStat(jnp.ones(features) if variance is None else variance)
        self.scale = nnx.Param(jnp.ones(features))
        self.shift = nnx.Param(jnp.zeros(features))
        self.epsilon = epsilon

    def __call__(self, x: Array, reference: Array | None = None, pool: Pool | None = None) -> Array:
        """[n, ..., features] -> the same, pooled."""
        return _affine(x, self.mean[...], self.variance[...], self, pool)


class GroupNorm(nnx.Module):
    """Normalisation of each example by itself, over places and groups of channels.

    Args:
        features: channels, the last axis.
        groups: number of groups; divides `features`.
        epsilon: added to the variance.
        rngs: not used.

    Source: Wu and He 2018, arXiv 1803.08494.
    """

    def __init__(self, features: int, *, groups: int = 8, epsilon: float = 1e-5, rngs: nnx.Rngs | None = None):
        if groups < 1 or features % groups:
            raise ValueError(f"{groups=} must divide {features=}.")
        self.scale = nnx.Param(jnp.ones(features))
        self.shift = nnx.Param(jnp.zeros(features))
        self.groups, self.epsilon = groups, epsilon

    def __call__(self, x: Array, reference: Array | None = None, pool: Pool | None = None) -> Array:
        """[n, ..., features] -> the same, pooled."""
        grouped = x.reshape(len(x), -1, self.groups, x.shape[-1] // self.groups)
        wide = grouped.astype(jnp.promote_types(x.dtype, jnp.float32))
        mean = wide.mean((1, 3), keepdims=True)
        centred = wide - mean
        scaled = centred / jnp.sqrt((centred**2).mean((1, 3), keepdims=True) + self.epsilon)
        return _last(scaled.reshape(x.shape).astype(x.dtype), self.scale[...], self.shift[...], pool)


class NoNorm(nnx.Module):
    """No normalisation: a bias in its place.

    Args:
        features: channels, the last axis.
        rngs: not used.
    """

    def __init__(self, features: int, *, rngs: nnx.Rngs | None = None):
        self.shift = nnx.Param(jnp.zeros(features))

    def __call__(self, x: Array, reference: Array | None = None, pool: Pool | None = None) -> Array:
        """[n, ..., features] -> the same, pooled."""
        return _last(x, jnp.ones_like(self.shift[...]), self.shift[...], pool)


def _affine(x: Array, mean: Array, variance: Array, norm: TaskNorm | FrozenNorm, pool: Pool | None) -> Array:
    """Normalises, scales and shifts in one multiplication and one addition."""
    scale = norm.scale[...] / jnp.sqrt(variance + norm.epsilon)
    return _last(x, scale, norm.shift[...] - mean * scale, pool)


def _last(x: Array, scale: Array, shift: Array, pool: Pool | None) -> Array:
    """pool(x·scale + shift), both along the last axis, in the dtype of x."""
    scale, shift = (vector.reshape(*(1,) * (x.ndim - 1), -1).astype(x.dtype) for vector in (scale, shift))
    if pool is not None:
        sign = jnp.where(scale < 0, -1, 1).astype(x.dtype)
        x, scale = pool(x * sign), scale * sign
    return x * scale + shift
