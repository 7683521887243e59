"""Fusions that average, add or compare the modalities, by weights that are fixed or learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
from flax import nnx

from metajax.nets.fusion.protocol import Features, Fused, stack
from metajax.types import Array


def mean(features: Features, present: Features) -> Fused:
    """The mean of the modalities that are present: y = Σₘ pₘ fₘ / Σₘ pₘ."""
    names, f_MxNxD, here_MxN = stack(features, present)
    return _weigh(names, f_MxNxD, here_MxN, jnp.ones_like(f_MxNxD[:, :, 0]))


def total(features: Features, present: Features) -> Fused:
    """The sum of the modalities that are present: y = Σₘ pₘ fₘ."""
    return Fused(stack(features, present)[1].sum(axis=0), {})


def maximum(features: Features, present: Features) -> Fused:
    """The largest of the modalities that are present, entry by entry; zero where none is. Of a tie the first counts."""
    _, f_MxNxD, here_MxN = stack(features, present)
    best = jnp.zeros_like(f_MxNxD[0])
    known_Nx1 = jnp.zeros_like(here_MxN[0])[:, None]
    for f_NxD, here_N in zip(f_MxNxD, here_MxN, strict=True):
        # Values are compared with each other, never with a maximum: see `max_pool`.
        best = jnp.where(here_N[:, None] & (~known_Nx1 | (f_NxD > best)), f_NxD, best)
        known_Nx1 = known_Nx1 | here_N[:, None]
    return Fused(best, {})


class Weighted(nnx.Module):
    """The mean by weights that are the same for all examples: y = Σₘ pₘ wₘ fₘ / Σₘ pₘ wₘ.

    Args:
        weights: {name: positive number}; only their ratios count.
        learned: whether they are parameters, as ℓ = log w in `logits`, {name: scalar}, or stay as they are. As
            parameters they may be fast: `functional(net, fast=nnx.PathContains("logits"))`.

    Raises:
        ValueError: weights that are negative, or not above zero where they are learned.

    Parameters: one for each modality if learned, else none.
    """

    def __init__(self, weights: Mapping[str, float], *, learned: bool = False):
        if min(weights.values(), default=-1.0) < 0 or (learned and min(weights.values()) <= 0):
            raise ValueError(f"{weights=} must be zero or more, above zero where they are learned.")
        self.fixed = tuple(sorted(weights.items()))
        self.logits = (
            nnx.Dict({n: nnx.Param(jnp.log(w)) for n, w in self.fixed}) if learned else None
        )

    def __call__(self, features: Features, present: Features) -> Fused:
        """{name: [n, width]} and {name: bool[n]} -> [n, width]."""
        names, f_MxNxD, here_MxN = stack(features, present, [name for name, _ in self.fixed])
        weights = [
            w if self.logits is None else jnp.exp(self.logits[name][...]) for name, w in self.fixed
        ]
        weights_M = jnp.stack([jnp.asarray(weight, f_MxNxD.dtype) for weight in weights])
        return _weigh(
            names, f_MxNxD, here_MxN, jnp.broadcast_to(weights_M[:, None], here_MxN.shape)
        )


def _weigh(names: Sequence[str], f_MxNxD: Array, here_MxN: Array, weights_MxN: Array) -> Fused:
    """The mean by weights over what is present."""
    weights_MxN = jnp.where(here_MxN, weights_MxN, 0).astype(f_MxNxD.dtype)
    sum_N = weights_MxN.sum(axis=0)
    weights_MxN = weights_MxN / jnp.where(sum_N > 0, sum_N, 1)[None]
    return Fused(
        (weights_MxN[:, :, None] * f_MxNxD).sum(axis=0), dict(zip(names, weights_MxN, strict=True))
    )
