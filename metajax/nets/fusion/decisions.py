"""Decision fusion: each modality answers for itself."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx

from metajax.nets.fusion.protocol import Features, Fused, _per_name, _softmax, stack


class Late(nnx.Module):
    """Decision fusion: each modality answers for itself, y = Σₘ pₘ wₘ (fₘ Kₘ + bₘ) / Σₘ pₘ wₘ with w = exp ℓ learned.

    Its answer is the net's: `Multimodal` puts no head on it.

    Args:
        names: of the modalities.
        width: of each.
        outputs: width of the answer, the number of ways.
        rngs: for the weights.

    Parameters: M (width outputs + outputs + 1).
    """

    decides = True

    def __init__(self, names: Sequence[str], width: int, outputs: int, *, rngs: nnx.Rngs):
        self.heads = _per_name(names, lambda: nnx.Linear(width, outputs, rngs=rngs))
        self.logits = _per_name(names, lambda: nnx.Param(jnp.zeros(())))

    def __call__(self, features: Features, present: Features) -> Fused:
        """{name: [n, width]} and {name: bool[n]} -> [n, width]."""
        names, f_MxNxD, here_MxN = stack(features, present, self.heads)
        answers = jnp.stack([self.heads[name](f) for name, f in zip(names, f_MxNxD, strict=True)])
        weights_M = jnp.stack([self.logits[name][...] for name in names])
        weights_MxN = _softmax(jnp.broadcast_to(weights_M[:, None], here_MxN.shape), here_MxN)
        return Fused(
            (weights_MxN[:, :, None] * answers).sum(axis=0),
            dict(zip(names, weights_MxN, strict=True)),
        )
