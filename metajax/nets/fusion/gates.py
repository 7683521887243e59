"""Fusions in which modalities gate or modulate each other."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from metajax.nets.fusion.linear import Concatenation
from metajax.nets.fusion.protocol import Features, Fused, _kernel, _per_name, _softmax, stack


class Gated(nnx.Module):
    """A gate for each modality and entry: y = Σₘ zₘ ⊙ tanh(Vₘ fₘ), z = softmaxₘ(Uₘ [f₁; ...; f_M] + cₘ).

    The gates of absent modalities are zero, so that those of the others sum to 1.

    Args:
        names: of the modalities.
        width: of each and of the answer.
        rngs: for the weights.

    Parameters: M width² + M² width² + M width.
    Source: the gated multimodal unit, Arevalo et al. 2017, arXiv 1702.01992, with a softmax for its sigmoid.
    """

    def __init__(self, names: Sequence[str], width: int, *, rngs: nnx.Rngs):
        self.gates = _per_name(names, lambda: Concatenation(names, width, rngs=rngs))
        self.values = _per_name(names, lambda: _kernel(rngs, width, width, width))

    def __call__(self, features: Features, present: Features) -> Fused:
        """{name: [n, width]} and {name: bool[n]} -> [n, width]."""
        names, f_MxNxD, here_MxN = stack(features, present, self.gates)
        gates_MxNxD = jnp.stack([self.gates[name](features, present).features for name in names])
        values_MxNxD = jnp.stack(
            [jnp.tanh(f @ self.values[n][...]) for n, f in zip(names, f_MxNxD, strict=True)]
        )
        z_MxNxD = _softmax(gates_MxNxD, here_MxN[:, :, None])
        return Fused(
            (z_MxNxD * values_MxNxD).sum(axis=0),
            dict(zip(names, z_MxNxD.mean(axis=2), strict=True)),
        )


class FiLM(nnx.Module):
    """The other modalities scale and shift a main one: y = (1 + Σₘ pₘ Gₘ fₘ) ⊙ f_main + Σₘ pₘ Hₘ fₘ.

    Without the main one the shifts are left, without the others the main one as it is.

    Args:
        names: of the modalities.
        width: of each and of the answer.
        main: the name of the main one.
        rngs: for the weights.

    Raises:
        ValueError: a main modality that is not among the names.

    Parameters: 2 (M - 1) width².
    Source: Perez et al. 2018, arXiv 1709.07871.
    """

    def __init__(self, names: Sequence[str], width: int, *, main: str, rngs: nnx.Rngs):
        others = [name for name in names if name != main]
        if main not in names or not others:
            raise ValueError(
                f"{main=} must be one of the names, and not the only one; got {sorted(names)}."
            )
        self.main = main
        self.scale = _per_name(others, lambda: _kernel(rngs, width, width, width))
        self.shift = _per_name(others, lambda: _kernel(rngs, width, width, width))

    def __call__(self, features: Features, present: Features) -> Fused:
        """{name: [n, width]} and {name: bool[n]} -> [n, width]."""
        names, f_MxNxD, _ = stack(features, present, [self.main, *self.scale])
        f = dict(zip(names, f_MxNxD, strict=True))
        scale = 1 + sum(f[name] @ self.scale[name][...] for name in self.scale)
        return Fused(
            scale * f[self.main] + sum(f[name] @ self.shift[name][...] for name in self.shift), {}
        )


class MixtureOfExperts(nnx.Module):
    """Each modality has an expert and says how much it should count: y = Σₘ gₘ Eₘ(fₘ), g = softmaxₘ(vₘ·fₘ + cₘ).

    Eₘ(f) = relu(f W₁ + b₁) W₂. The softmax is over those that are present.

    Args:
        names: of the modalities.
        width: of each, of the hidden layer and of the answer.
        rngs: for the weights.

    Parameters: M (2 width² + 2 width + 1).
    Source: Jacobs et al. 1991, doi 10.1162/neco.1991.3.1.79, with one expert for each modality.
    """

    def __init__(self, names: Sequence[str], width: int, *, rngs: nnx.Rngs):
        self.hidden = _per_name(names, lambda: nnx.Linear(width, width, rngs=rngs))
        self.output = _per_name(names, lambda: _kernel(rngs, width, width, width))
        self.gates = _per_name(names, lambda: nnx.Linear(width, 1, rngs=rngs))

    def __call__(self, features: Features, present: Features) -> Fused:
        """{name: [n, width]} and {name: bool[n]} -> [n, width]."""
        names, f_MxNxD, here_MxN = stack(features, present, self.hidden)
        pairs = list(zip(names, f_MxNxD, strict=True))
        answers = jnp.stack(
            [jax.nn.relu(self.hidden[name](f)) @ self.output[name][...] for name, f in pairs]
        )
        gates_MxN = _softmax(jnp.stack([self.gates[name](f)[:, 0] for name, f in pairs]), here_MxN)
        return Fused(
            (gates_MxN[:, :, None] * answers).sum(axis=0), dict(zip(names, gates_MxN, strict=True))
        )
