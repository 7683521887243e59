"""Fusions by linear layers over all modalities side by side."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from metajax.nets.fusion.protocol import Features, Fused, _kernel, _per_name, stack


class Concatenation(nnx.Module):
    """One linear layer over all modalities side by side: y = W [f₁; ...; f_M] + b, with zeros for the absent.

    Args:
        names: of the modalities.
        width: of each and of the answer.
        rngs: for the weights.

    Parameters: M width² + width.
    """

    def __init__(self, names: Sequence[str], width: int, *, rngs: nnx.Rngs):
        self.kernel = _per_name(names, lambda: _kernel(rngs, len(names) * width, width, width))
        self.bias = nnx.Param(jnp.zeros(width))

    def __call__(self, features: Features, present: Features) -> Fused:
        """{name: [n, width]} and {name: bool[n]} -> [n, width]."""
        names, f_MxNxD, _ = stack(features, present, self.kernel)
        parts = [f_NxD @ self.kernel[name][...] for name, f_NxD in zip(names, f_MxNxD, strict=True)]
        return Fused(sum(parts) + self.bias[None], {})


class Deep(nnx.Module):
    """Deep fusion: a concatenation, then layers over what it made: y = Wₗ gelu(... gelu(W₀ [f₁; ...; f_M] + b₀)) + bₗ.

    Args:
        names: of the modalities.
        width: of each, of the hidden layers and of the answer.
        layers: linear layers after the concatenation.
        rngs: for the weights.

    Parameters: (M + layers) width² + (1 + layers) width.
    """

    def __init__(self, names: Sequence[str], width: int, *, layers: int = 2, rngs: nnx.Rngs):
        self.first = Concatenation(names, width, rngs=rngs)
        self.layers = nnx.List([nnx.Linear(width, width, rngs=rngs) for _ in range(layers)])

    def __call__(self, features: Features, present: Features) -> Fused:
        """{name: [n, width]} and {name: bool[n]} -> [n, width]."""
        y = self.first(features, present).features
        for layer in self.layers:
            y = layer(jax.nn.gelu(y))
        return Fused(y, {})
