"""Normalisation layers whose statistics are a visible choice; none of them stores what a task computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import jax.numpy as jnp
from flax import nnx

from metajax.types import Array

Pool: TypeAlias = Callable[[Array], Array]

Norm: TypeAlias = Callable[..., nnx.Module]
"""(features, rngs=...) -> module with __call__(x, reference=None, pool=None): the policies below.

`pool` is a maximum over places, such as `max_pool`, of what the norm gives. It is taken before the last multiplication,
which then has a quarter of the work: max(x·s + t) = max(x·sign s)·|s| + t.
"""


class TaskNorm(nnx.Module):
    """Batch normalisation by the statistics of the batch at hand; none are stored.

    Over a query set it is transductive, as MAML was published; `query_loss(inductive=True)` makes the support set the
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
            mean, square = (
                (value * rows).sum(0).mean(tuple(range(x.ndim - 2))) for value in (wide, wide**2)
            )
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

    def __init__(
        self, features: int, *, groups: int = 8, epsilon: float = 1e-5, rngs: nnx.Rngs | None = None
    ):
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
        return _last(
            scaled.reshape(x.shape).astype(x.dtype), self.scale[...], self.shift[...], pool
        )


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


def _affine(
    x: Array, mean: Array, variance: Array, norm: TaskNorm | FrozenNorm, pool: Pool | None
) -> Array:
    """Normalises, scales and shifts in one multiplication and one addition."""
    scale = norm.scale[...] / jnp.sqrt(variance + norm.epsilon)
    return _last(x, scale, norm.shift[...] - mean * scale, pool)


def _last(x: Array, scale: Array, shift: Array, pool: Pool | None) -> Array:
    """pool(x·scale + shift), both along the last axis, in the dtype of x."""
    scale, shift = (
        vector.reshape(*(1,) * (x.ndim - 1), -1).astype(x.dtype) for vector in (scale, shift)
    )
    if pool is not None:
        sign = jnp.where(scale < 0, -1, 1).astype(x.dtype)
        x, scale = pool(x * sign), scale * sign
    return x * scale + shift
