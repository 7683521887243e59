"""Fusions that average, add or compare the modalities, with weights that are fixed or learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
from flax import nnx

from metajax._checked import checked
from metajax.nets.fusion.protocol import Features, Fused, stack
from metajax.types import Array


@checked
def mean(features: Features, present: Features) -> Fused:
    """The mean of the modalities that are present: y = Σₘ pₘ fₘ / Σₘ pₘ.

    Args:
        features: {name: [n, width]}.
        present: {name: bool[n]}.

    Returns:
        `Fused` with equal weights.

    >>> features = {"audio": jnp.array([[1.0], [1.0]]), "image": jnp.array([[3.0], [3.0]])}
    >>> present = {"audio": jnp.array([True, True]), "image": jnp.array([True, False])}
    >>> mean(features, present).features.tolist()
    [[2.0], [1.0]]
    """
    names, features_MxNxD, present_MxN = stack(features, present)
    ones_MxN = jnp.ones_like(features_MxNxD[:, :, 0])
    return _weighted_mean(names, features_MxNxD, present_MxN, ones_MxN)


@checked
def total(features: Features, present: Features) -> Fused:
    """The sum of the modalities that are present: y = Σₘ pₘ fₘ.

    Args:
        features: {name: [n, width]}.
        present: {name: bool[n]}.

    Returns:
        `Fused` without weights.
    """
    _, features_MxNxD, _ = stack(features, present)
    return Fused(features_MxNxD.sum(axis=0), {})


@checked
def maximum(features: Features, present: Features) -> Fused:
    """The largest of the modalities that are present, entry by entry; zero where none is.

    Of equal entries the first in alphabetical order has the derivative.

    Args:
        features: {name: [n, width]}.
        present: {name: bool[n]}.

    Returns:
        `Fused` without weights.
    """
    _, features_MxNxD, present_MxN = stack(features, present)
    best_NxD = jnp.zeros_like(features_MxNxD[0])
    found_Nx1 = jnp.zeros_like(present_MxN[0])[:, None]
    for features_NxD, present_N in zip(features_MxNxD, present_MxN, strict=True):
        present_Nx1 = present_N[:, None]
        # Values are compared with each other, never with their maximum: see `max_pool`.
        is_larger = ~found_Nx1 | (features_NxD > best_NxD) | jnp.isnan(features_NxD)
        is_larger &= present_Nx1
        best_NxD = jnp.where(is_larger, features_NxD, best_NxD)
        found_Nx1 = found_Nx1 | present_Nx1
    return Fused(best_NxD, {})


@checked
class Weighted(nnx.Module):
    """The mean with weights that are the same for all examples: y = Σₘ pₘ wₘ fₘ / Σₘ pₘ wₘ.

    Args:
        weights: {name: number}, zero or more; only their ratios count.
        learned: False keeps the weights as they are. True makes them parameters, as ℓ = log w in
            `logits`, {name: scalar}, which may be fast:
            `functional(net, fast=nnx.PathContains("logits"))`.

    Raises:
        ValueError: weights that are negative, or not above zero where they are learned.

    Parameters: one for each modality if learned, else none.
    """

    def __init__(self, weights: Mapping[str, float], *, learned: bool = False):
        smallest = min(weights.values(), default=-1.0)
        if smallest < 0 or (learned and smallest <= 0):
            raise ValueError(f"{weights=} must be zero or more, above zero where they are learned.")
        self.fixed = tuple(sorted(weights.items()))
        self.logits = _log_parameters(weights) if learned else None

    def __call__(self, features: Features, present: Features) -> Fused:
        """Fuses {name: [n, width]} with {name: bool[n]} to [n, width] and weights."""
        names, features_MxNxD, present_MxN = stack(features, present, dict(self.fixed))
        dtype = features_MxNxD.dtype
        if self.logits is None:
            weights = [jnp.asarray(weight, dtype) for _, weight in self.fixed]
        else:
            weights = [jnp.exp(self.logits[name][...]).astype(dtype) for name in names]
        weights_MxN = jnp.broadcast_to(jnp.stack(weights)[:, None], present_MxN.shape)
        return _weighted_mean(names, features_MxNxD, present_MxN, weights_MxN)


def _log_parameters(weights: Mapping[str, float]) -> nnx.Dict:
    """{name: log w} as parameters."""
    return nnx.Dict({name: nnx.Param(jnp.log(weights[name])) for name in sorted(weights)})


def _weighted_mean(
    names: Sequence[str], features_MxNxD: Array, present_MxN: Array, weights_MxN: Array
) -> Fused:
    """The weighted mean over what is present."""
    weights_MxN = jnp.where(present_MxN, weights_MxN, 0).astype(features_MxNxD.dtype)
    sum_N = weights_MxN.sum(axis=0)
    weights_MxN = weights_MxN / jnp.where(sum_N > 0, sum_N, 1)[None]
    mean_NxD = (weights_MxN[:, :, None] * features_MxNxD).sum(axis=0)
    return Fused(mean_NxD, dict(zip(names, weights_MxN, strict=True)))
