"""Fusions that read the modalities as a sequence: a convolution and a recurrent unit.

The order is that of their argument `names`, so it is part of the net.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from metajax._checked import checked
from metajax.nets.fusion.averages import mean
from metajax.nets.fusion.protocol import Features, Fused, random_kernel, stack
from metajax.types import Array, Size


@checked
class StackedConvolution(nnx.Module):
    """A convolution of width three over the modalities as a sequence.

    y = meanₘ relu(Σⱼ Kⱼ fₘ₊ⱼ + b). The mean is over those that are present. An absent modality
    reads as zero, as do the places beyond the ends.

    Args:
        names: names of the modalities, in the order in which to read them; two or more, because the
            outer kernels would read nothing of a single one.
        width: width of each modality and of the output.
        rngs: for the weights.

    Raises:
        ValueError: fewer than two names, or equal ones.

    Parameters: 3 width² + width.
    """

    def __init__(self, names: Sequence[str], width: Size, *, rngs: nnx.Rngs):
        self.names = _check_sequence(names)
        kernels = [random_kernel(rngs, 3 * width, width, width)[...] for _ in range(3)]
        self.kernel = nnx.Param(jnp.stack(kernels))
        self.bias = nnx.Param(jnp.zeros(width))

    def __call__(self, features: Features, present: Features) -> Fused:
        """Fuses {name: [n, width]} with {name: bool[n]} to [n, width]."""
        names, features_MxNxD, present_MxN = stack(features, present, self.names)
        padded = jnp.pad(features_MxNxD, ((1, 1), (0, 0), (0, 0)))
        shifted = [padded[j : j + len(names)] @ self.kernel[j] for j in range(3)]
        y_MxNxD = jax.nn.relu(sum(shifted) + self.bias[None, None])
        convolved = dict(zip(names, y_MxNxD, strict=True))
        here = dict(zip(names, present_MxN, strict=True))
        return Fused(mean(convolved, here).features, {})


@checked
class Recurrent(nnx.Module):
    """A gated recurrent unit that reads one modality after the other and skips the absent ones.

    z, r = σ([x, h] Z), σ([x, h] R);  h ← (1 - z) ⊙ h + z ⊙ tanh([x, r ⊙ h] C), from h = 0; y = h.

    Args:
        names: names of the modalities, in the order in which to read them; two or more, because the
            first has no state to read.
        width: width of each modality and of the output.
        rngs: for the weights.

    Raises:
        ValueError: fewer than two names, or equal ones.

    Parameters: 6 width² + 3 width.
    Source: Cho et al. 2014, arXiv 1406.1078.
    """

    def __init__(self, names: Sequence[str], width: Size, *, rngs: nnx.Rngs):
        self.names = _check_sequence(names)
        self.update = nnx.Linear(2 * width, width, rngs=rngs)
        self.reset = nnx.Linear(2 * width, width, rngs=rngs)
        self.candidate = nnx.Linear(2 * width, width, rngs=rngs)

    def __call__(self, features: Features, present: Features) -> Fused:
        """Fuses {name: [n, width]} with {name: bool[n]} to [n, width]."""
        _, features_MxNxD, present_MxN = stack(features, present, self.names)
        h_NxD = jnp.zeros_like(features_MxNxD[0])
        for x_NxD, present_N in zip(features_MxNxD, present_MxN, strict=True):
            h_NxD = jnp.where(present_N[:, None], self._step(x_NxD, h_NxD), h_NxD)
        return Fused(h_NxD, {})

    def _step(self, x: Array, h: Array) -> Array:
        """The state after it has read one modality."""
        both = jnp.concatenate([x, h], axis=1)
        z = jax.nn.sigmoid(self.update(both))
        r = jax.nn.sigmoid(self.reset(both))
        kept = (1 - z) * h
        candidate = jnp.tanh(self.candidate(jnp.concatenate([x, r * h], axis=1)))
        return kept + z * candidate


def _check_sequence(names: Sequence[str]) -> tuple[str, ...]:
    """The names, which must be two or more that differ."""
    if len(names) < 2 or len(set(names)) != len(names):
        raise ValueError(
            "A fusion that reads modalities in order needs two or more names that differ, "
            f"got {list(names)}."
        )
    return tuple(names)
