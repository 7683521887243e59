"""Normalisation policies. Statistics are computed from the rows that are given, never stored."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx

from metajax._checked import checked
from metajax._tree import along, as_floating
from metajax.nets.layers import check_channels
from metajax.types import Array, Size

Pool: TypeAlias = Callable[[Array], Array]

Norm: TypeAlias = Callable[..., nnx.Module]
"""(features, rngs=...) -> module with __call__(x, reference=None, pool=None): the policies below.

`pool` is a maximum over places, such as `max_pool`, that is taken of the normalised values. It is
taken before the last multiplication, which then has a quarter of the work:
max(x·s + t) = max(x·sign s)·|s| + t.
"""


def all_rows() -> Array | None:
    """The default reference of a layer: None, which means all rows."""
    return None


@checked
class TaskNorm(nnx.Module):
    """Batch normalisation by the statistics of the current batch; none are stored.

    Over a query set it is transductive, as MAML was published. `query_loss(inductive=True)` makes
    the support set the reference instead.

    y = x·s + t with s = γ / √(V + ε), t = β - E[x]·s and V = E[(x-c)²] - E[x-c]². One scale and one
    shift halve the memory traffic. c is one of the values, so that a variance that is small beside
    the mean is not lost to rounding.

    It warns of a batch of one example without a reference, whose statistics are its own.

    Args:
        features: number of channels, the last axis.
        epsilon: added to the variance.
        rngs: not used; every policy accepts it.

    >>> TaskNorm(1)(jnp.array([[1.0], [3.0]])).round(3).tolist()
    [[-1.0], [1.0]]
    """

    def __init__(self, features: Size, *, epsilon: float = 1e-5, rngs: nnx.Rngs | None = None):
        self.scale = nnx.Param(jnp.ones(features))
        self.shift = nnx.Param(jnp.zeros(features))
        self.epsilon = epsilon
        # `functional` replaces it in a net that hands no `reference` on to its layers.
        self.default_reference = all_rows

    def __call__(self, x: Array, reference: Array | None = None, pool: Pool | None = None) -> Array:
        """Normalises, and pools where there is a pool.

        Args:
            x: [n, ..., features].
            reference: bool[n], the rows that statistics are computed from; None means all rows.
            pool: a maximum over places, taken of the result.

        Returns:
            [n, ..., features], pooled.

        Raises:
            ValueError: another number of channels, or a reference that is not bool[n].
        """
        check_channels("TaskNorm", x, self.scale[...].size)
        reference = self.default_reference() if reference is None else reference
        if reference is None and len(x) == 1:
            warnings.warn(
                "TaskNorm normalises one example by its own statistics, so that its answer is "
                "another than among other examples. Give it several together, or train and "
                "predict with inductive=True.",
                stacklevel=3,
            )
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        rows = None
        if reference is not None:
            if jnp.shape(reference) != (len(x),):
                raise ValueError(
                    f"reference must be bool[{len(x)}], one for each row that TaskNorm gets, got "
                    f"shape {list(jnp.shape(reference))}."
                )
            rows = (reference > 0).astype(wide.dtype)
            # Where no row counts, all do: a variance of 0 would multiply x by 1/√ε.
            rows = jnp.where(rows.any(), rows, 1)
        mean, variance = _moments(wide, rows)
        return _normalise(x, mean, variance, self, pool)


@checked
class FrozenNorm(nnx.Module):
    """Normalisation by the statistics of a pretrained net, which are constants and never learned.

    Args:
        features: number of channels, the last axis.
        mean: [features]; None means zeros.
        variance: [features]; None means ones.
        epsilon: added to the variance.
        rngs: not used; every policy accepts it.
    """

    def __init__(
        self,
        features: Size,
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
        """Normalises, and pools where there is a pool: [n, ..., features] -> the same."""
        return _normalise(x, self.mean[...], self.variance[...], self, pool)


@checked
class GroupNorm(nnx.Module):
    """Normalisation of each example by itself, over places and groups of channels.

    Args:
        features: number of channels, the last axis.
        groups: number of groups; divides `features`.
        epsilon: added to the variance.
        rngs: not used; every policy accepts it.

    Raises:
        ValueError: groups that do not divide the channels; when called, another number of channels.

    Source: Wu and He 2018, arXiv 1803.08494.
    """

    def __init__(
        self,
        features: Size,
        *,
        groups: Size = 8,
        epsilon: float = 1e-5,
        rngs: nnx.Rngs | None = None,
    ):
        if groups < 1 or features % groups:
            raise ValueError(f"{groups=} must divide {features=}.")
        self.scale = nnx.Param(jnp.ones(features))
        self.shift = nnx.Param(jnp.zeros(features))
        self.groups = groups
        self.epsilon = epsilon

    def __call__(self, x: Array, reference: Array | None = None, pool: Pool | None = None) -> Array:
        """Normalises, and pools where there is a pool: [n, ..., features] -> the same."""
        check_channels("GroupNorm", x, self.scale[...].size)
        x = as_floating(x)
        grouped = x.reshape(len(x), -1, self.groups, x.shape[-1] // self.groups)
        if grouped.shape[1] * grouped.shape[3] == 1:
            raise ValueError(
                f"GroupNorm with groups={self.groups} has one value in each group of an input of "
                f"shape {list(x.shape)}, which would make every output zero; use fewer groups."
            )
        wide = grouped.astype(jnp.promote_types(x.dtype, jnp.float32))
        centred = wide - wide.mean((1, 3), keepdims=True)
        variance = (centred**2).mean((1, 3), keepdims=True)
        scaled = centred / jnp.sqrt(variance + self.epsilon)
        scaled = scaled.reshape(x.shape).astype(x.dtype)
        return _scale_and_shift(scaled, self.scale[...], self.shift[...], pool)


@checked
class NoNorm(nnx.Module):
    """No normalisation: only a bias.

    Args:
        features: number of channels, the last axis.
        rngs: not used; every policy accepts it.
    """

    def __init__(self, features: Size, *, rngs: nnx.Rngs | None = None):
        self.shift = nnx.Param(jnp.zeros(features))

    def __call__(self, x: Array, reference: Array | None = None, pool: Pool | None = None) -> Array:
        """Adds the bias, and pools where there is a pool: [n, ..., features] -> the same."""
        return _scale_and_shift(x, jnp.ones_like(self.shift[...]), self.shift[...], pool)


def _average(x: Array, rows: Array | None) -> Array:
    """The mean of each channel over places and rows: [n, ..., features] -> [features].

    rows: [n], 1 for a row that counts and 0 for others; None counts all.
    """
    if rows is None:
        return x.mean(tuple(range(x.ndim - 1)))
    share = along(rows, x) / jnp.maximum(rows.sum(), 1)
    return (x * share).sum(0).mean(tuple(range(x.ndim - 2)))


@jax.custom_jvp
def _moments(x: Array, rows: Array | None) -> tuple[Array, Array]:
    """Mean and variance of each channel, as `_average` takes them: [features] both."""
    first = 0 if rows is None else jnp.argmax(rows)
    centre = x[(first, *(size // 2 for size in x.shape[1:-1]))]
    centred = x - _as_last_axis(centre, x)
    offset = _average(centred, rows)
    square = _average(centred**2, rows)
    return centre + offset, jnp.maximum(square - offset**2, 0)


@_moments.defjvp
def _moments_jvp(
    primals: tuple[Array, Array | None], tangents: tuple[Array, Array | None]
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """That of E[x] and E[x²] - E[x]², which needs no centre and so costs less."""
    x, rows = primals
    change, _ = tangents
    mean, variance = _moments(x, rows)
    mean_change = _average(change, rows)
    square_change = 2 * _average(x * change, rows)
    return (mean, variance), (mean_change, square_change - 2 * mean * mean_change)


def _normalise(
    x: Array, mean: Array, variance: Array, norm: TaskNorm | FrozenNorm, pool: Pool | None
) -> Array:
    """Normalises, scales and shifts in one multiplication and one addition."""
    scale = norm.scale[...] / jnp.sqrt(variance + norm.epsilon)
    shift = norm.shift[...] - mean * scale
    return _scale_and_shift(x, scale, shift, pool)


def _scale_and_shift(x: Array, scale: Array, shift: Array, pool: Pool | None) -> Array:
    """pool(x·scale + shift) with scale and shift [features], in the dtype of x if x are floats."""
    x = as_floating(x)
    scale = _as_last_axis(scale, x)
    shift = _as_last_axis(shift, x)
    if pool is not None:
        sign = jnp.where(scale < 0, -1, 1).astype(x.dtype)
        x = pool(x * sign)
        scale = scale * sign
    return x * scale + shift


def _as_last_axis(vector: Array, x: Array) -> Array:
    """[features] -> [1, ..., features], with the axes and the dtype of x.

    Raises:
        ValueError: x has another number of channels, which broadcasting would hide.
    """
    check_channels("A normalisation layer", x, vector.size)
    return vector.reshape(*(1,) * (x.ndim - 1), -1).astype(x.dtype)
