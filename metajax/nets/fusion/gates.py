"""Fusions in which the features decide how much each modality counts."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from metajax._checked import checked
from metajax.nets.fusion.linear import Concatenation
from metajax.nets.fusion.protocol import (
    Features,
    Fused,
    per_name,
    random_kernel,
    softmax_present,
    stack,
)
from metajax.types import Size


@checked
class Gated(nnx.Module):
    """The gated multimodal unit: a gate for each modality and entry, computed from all modalities.

    y = Σₘ zₘ ⊙ tanh(Vₘ fₘ), z = softmaxₘ(Uₘ [f₁; ...; f_M] + cₘ). The gates of absent modalities
    are zero, and those of the others sum to 1. A weight is the mean of the gates over entries.

    Args:
        names: names of the modalities.
        width: width of each modality and of the output.
        rngs: for the weights.

    Raises:
        ValueError: no names, or equal ones.

    Parameters: M width² + M² width² + M width.
    Source: Arevalo et al. 2017, arXiv 1702.01992, with a softmax instead of a sigmoid.
    """

    def __init__(self, names: Sequence[str], width: Size, *, rngs: nnx.Rngs):
        self.gates = per_name(names, lambda: Concatenation(names, width, rngs=rngs))
        self.values = per_name(names, lambda: random_kernel(rngs, width, width, width))

    def __call__(self, features: Features, present: Features) -> Fused:
        """Fuses {name: [n, width]} with {name: bool[n]} to [n, width] and weights."""
        names, features_MxNxD, present_MxN = stack(features, present, sorted(self.gates))
        gates = [self.gates[name](features, present).features for name in names]
        gates_MxNxD = softmax_present(jnp.stack(gates), present_MxN[:, :, None])
        pairs = zip(names, features_MxNxD, strict=True)
        values = [jnp.tanh(f_NxD @ self.values[name][...]) for name, f_NxD in pairs]
        y_NxD = (gates_MxNxD * jnp.stack(values)).sum(axis=0)
        return Fused(y_NxD, dict(zip(names, gates_MxNxD.mean(axis=2), strict=True)))


@checked
class MixtureOfExperts(nnx.Module):
    """One expert per modality, and a gate that each modality computes for itself.

    y = Σₘ gₘ Eₘ(fₘ), g = softmaxₘ(vₘ·fₘ + cₘ) over those that are present, and
    Eₘ(f) = relu(f W₁ + b₁) W₂.

    Args:
        names: names of the modalities.
        width: width of each modality, of the hidden layers and of the output.
        rngs: for the weights.

    Raises:
        ValueError: no names, or equal ones.

    Parameters: M (2 width² + 2 width + 1).
    Source: Jacobs et al. 1991, doi 10.1162/neco.1991.3.1.79, with one expert for each modality.
    """

    def __init__(self, names: Sequence[str], width: Size, *, rngs: nnx.Rngs):
        self.hidden = per_name(names, lambda: nnx.Linear(width, width, rngs=rngs))
        self.output = per_name(names, lambda: random_kernel(rngs, width, width, width))
        self.gates = per_name(names, lambda: nnx.Linear(width, 1, rngs=rngs))

    def __call__(self, features: Features, present: Features) -> Fused:
        """Fuses {name: [n, width]} with {name: bool[n]} to [n, width] and weights."""
        names, features_MxNxD, present_MxN = stack(features, present, sorted(self.hidden))
        outputs = []
        gates = []
        for name, f_NxD in zip(names, features_MxNxD, strict=True):
            hidden = jax.nn.relu(self.hidden[name](f_NxD))
            outputs.append(hidden @ self.output[name][...])
            gates.append(self.gates[name](f_NxD)[:, 0])
        gates_MxN = softmax_present(jnp.stack(gates), present_MxN)
        y_NxD = (gates_MxN[:, :, None] * jnp.stack(outputs)).sum(axis=0)
        return Fused(y_NxD, dict(zip(names, gates_MxN, strict=True)))
