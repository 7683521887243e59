"""Fusions that take the modalities for a sequence, in alphabetical order: a convolution and a recurrent unit."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from metajax.nets.fusion.averages import mean
from metajax.nets.fusion.protocol import Features, Fused, _kernel, stack


class StackedConvolution(nnx.Module):
    """A convolution of three over the modalities as a sequence, in alphabetical order: y = meanₘ relu(Σⱼ Kⱼ fₘ₊ⱼ + b).

    The mean is over those that are present; an absent one reads as zero, as does what is beyond the ends.

    Args:
        names: of the modalities; two or more, for the outer kernels of a single one would read nothing.
        width: of each and of the answer.
        rngs: for the weights.

    Raises:
        ValueError: fewer than two names.

    Parameters: 3 width² + width.
    """

    def __init__(self, names: Sequence[str], width: int, *, rngs: nnx.Rngs):
        if len(names) < 2:
            raise ValueError(f"A convolution over modalities needs two or more, got {list(names)}.")
        self.names = tuple(sorted(names))
        self.kernel = nnx.Param(
            jnp.stack([_kernel(rngs, 3 * width, width, width)[...] for _ in range(3)])
        )
        self.bias = nnx.Param(jnp.zeros(width))

    def __call__(self, features: Features, present: Features) -> Fused:
        """{name: [n, width]} and {name: bool[n]} -> [n, width]."""
        _, f_MxNxD, here_MxN = stack(features, present, self.names)
        padded = jnp.pad(f_MxNxD, ((1, 1), (0, 0), (0, 0)))
        y_MxNxD = sum(padded[j : j + len(self.names)] @ self.kernel[j] for j in range(3))
        y_MxNxD = jax.nn.relu(y_MxNxD + self.bias[None, None])
        made = dict(zip(self.names, y_MxNxD, strict=True))
        return Fused(mean(made, dict(zip(self.names, here_MxN, strict=True))).features, {})


class Recurrent(nnx.Module):
    """A gated recurrent unit that reads the modalities in turn, in alphabetical order; it passes over the absent.

    z, r = σ([x, h] Z), σ([x, h] R);  h ← (1 - z) ⊙ h + z ⊙ tanh([x, r ⊙ h] C), from h = 0, and y = h.

    Args:
        names: of the modalities; two or more, for the first has no state to read.
        width: of each and of the answer.
        rngs: for the weights.

    Raises:
        ValueError: fewer than two names.

    Parameters: 6 width² + 3 width.
    Source: Cho et al. 2014, arXiv 1406.1078.
    """

    def __init__(self, names: Sequence[str], width: int, *, rngs: nnx.Rngs):
        if len(names) < 2:
            raise ValueError(f"Reading modalities in turn needs two or more, got {list(names)}.")
        self.names = tuple(sorted(names))
        self.update, self.reset, self.candidate = (
            nnx.Linear(2 * width, width, rngs=rngs) for _ in range(3)
        )

    def __call__(self, features: Features, present: Features) -> Fused:
        """{name: [n, width]} and {name: bool[n]} -> [n, width]."""
        _, f_MxNxD, here_MxN = stack(features, present, self.names)
        h = jnp.zeros_like(f_MxNxD[0])
        for x, here_N in zip(f_MxNxD, here_MxN, strict=True):
            both = jnp.concatenate([x, h], axis=1)
            z, r = jax.nn.sigmoid(self.update(both)), jax.nn.sigmoid(self.reset(both))
            moved = (1 - z) * h + z * jnp.tanh(self.candidate(jnp.concatenate([x, r * h], axis=1)))
            h = jnp.where(here_N[:, None], moved, h)
        return Fused(h, {})
