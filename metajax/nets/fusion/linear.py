"""Fusions by linear layers over all modalities side by side."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from metajax._checked import checked
from metajax.nets.fusion.protocol import Features, Fused, per_name, random_kernel, stack
from metajax.types import Count, Size


@checked
class Concatenation(nnx.Module):
    """One linear layer over all modalities side by side: y = W [f₁; ...; f_M] + b.

    An absent modality counts as zeros.

    Args:
        names: names of the modalities.
        width: width of each modality and of the output.
        rngs: for the weights.

    Raises:
        ValueError: no names, or equal ones.

    Parameters: M width² + width.
    """

    def __init__(self, names: Sequence[str], width: Size, *, rngs: nnx.Rngs):
        fan = len(names) * width
        self.kernel = per_name(names, lambda: random_kernel(rngs, fan, width, width))
        self.bias = nnx.Param(jnp.zeros(width))

    def __call__(self, features: Features, present: Features) -> Fused:
        """Fuses {name: [n, width]} with {name: bool[n]} to [n, width]."""
        names, features_MxNxD, _ = stack(features, present, sorted(self.kernel))
        pairs = zip(names, features_MxNxD, strict=True)
        parts = [f_NxD @ self.kernel[name][...] for name, f_NxD in pairs]
        return Fused(sum(parts) + self.bias[None], {})


@checked
class Deep(nnx.Module):
    """Deep fusion: a concatenation, then hidden layers over the result.

    y = Wₗ gelu(... gelu(W₀ [f₁; ...; f_M] + b₀)) + bₗ.

    Args:
        names: names of the modalities.
        width: width of each modality, of the hidden layers and of the output.
        layers: linear layers after the concatenation.
        rngs: for the weights.

    Raises:
        ValueError: no names, or equal ones.

    Parameters: (M + layers) width² + (1 + layers) width.
    """

    def __init__(self, names: Sequence[str], width: Size, *, layers: Count = 2, rngs: nnx.Rngs):
        self.first = Concatenation(names, width, rngs=rngs)
        self.layers = nnx.List([nnx.Linear(width, width, rngs=rngs) for _ in range(layers)])

    def __call__(self, features: Features, present: Features) -> Fused:
        """Fuses {name: [n, width]} with {name: bool[n]} to [n, width]."""
        y_NxD = self.first(features, present).features
        for layer in self.layers:
            y_NxD = layer(jax.nn.gelu(y_NxD))
        return Fused(y_NxD, {})
