"""Decision fusion: each modality has a head of its own."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx

from metajax._checked import checked
from metajax.nets.fusion.protocol import Features, Fused, per_name, softmax_present, stack
from metajax.types import Size


@checked
class Late(nnx.Module):
    """Decision fusion: the weighted mean of one linear head per modality, with learned weights.

    y = Σₘ pₘ wₘ (fₘ Kₘ + bₘ) / Σₘ pₘ wₘ with w = exp ℓ. Its output is that of the net: `Multimodal`
    adds no head.

    Args:
        names: names of the modalities.
        width: width of the features of each modality.
        outputs: width of the output, the number of ways.
        rngs: for the weights.

    Raises:
        ValueError: no names, or equal ones.

    Parameters: M (width outputs + outputs + 1).
    """

    decides = True

    def __init__(self, names: Sequence[str], width: Size, outputs: Size, *, rngs: nnx.Rngs):
        self.heads = per_name(names, lambda: nnx.Linear(width, outputs, rngs=rngs))
        self.logits = per_name(names, lambda: nnx.Param(jnp.zeros(())))

    def __call__(self, features: Features, present: Features) -> Fused:
        """Fuses {name: [n, width]} with {name: bool[n]} to [n, outputs] and weights."""
        names, features_MxNxD, present_MxN = stack(features, present, sorted(self.heads))
        pairs = zip(names, features_MxNxD, strict=True)
        outputs_MxNxK = jnp.stack([self.heads[name](f_NxD) for name, f_NxD in pairs])
        logits_M = jnp.stack([self.logits[name][...] for name in names])
        logits_MxN = jnp.broadcast_to(logits_M[:, None], present_MxN.shape)
        weights_MxN = softmax_present(logits_MxN, present_MxN)
        mean_NxK = (weights_MxN[:, :, None] * outputs_MxNxK).sum(axis=0)
        return Fused(mean_NxK, dict(zip(names, weights_MxN, strict=True)))
