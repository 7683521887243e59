"""Fusions that multiply modalities with each other."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx

from metajax.nets.fusion.protocol import Features, Fused, _kernel, _per_name, _softmax, stack
from metajax.types import Array


class Tensor(nnx.Module):
    """Every product of entries of different modalities: y = W vec([1; f₁] ⊗ ... ⊗ [1; f_M]) + b.

    An absent modality leaves the 1, hence the products of the others.

    Args:
        names: of the modalities.
        width: of each and of the answer.
        rngs: for the weights.

    Parameters: (width + 1)ᴹ width + width; `LowRankTensor` has fewer.
    Source: Zadeh et al. 2017, arXiv 1707.07250.
    """

    def __init__(self, names: Sequence[str], width: int, *, rngs: nnx.Rngs):
        self.names = tuple(sorted(names))
        sizes = (width + 1,) * len(names)
        self.kernel = _kernel(rngs, math.prod(sizes), *sizes, width)
        self.bias = nnx.Param(jnp.zeros(width))

    def __call__(self, features: Features, present: Features) -> Fused:
        """{name: [n, width]} and {name: bool[n]} -> [n, width]."""
        _, f_MxNxD, _ = stack(features, present, self.names)
        y = jnp.broadcast_to(self.kernel[...][None], (f_MxNxD.shape[1], *self.kernel.shape))
        for f_NxE in _with_one(f_MxNxD):
            y = jnp.einsum("ne,ne...->n...", f_NxE, y)
        return Fused(y + self.bias[None], {})


class LowRankTensor(nnx.Module):
    """Tensor fusion whose W is a sum of `rank` products: y = Σᵣ Πₘ (Aₘᵣ [1; fₘ]) + b.

    Args:
        names: of the modalities.
        width: of each and of the answer.
        rank: number of products; with (width + 1)ᴹ⁻¹ every W of `Tensor` can be written.
        rngs: for the weights.

    Parameters: M rank (width + 1) width + width.
    Source: Liu et al. 2018, arXiv 1806.00064.
    """

    def __init__(self, names: Sequence[str], width: int, *, rank: int, rngs: nnx.Rngs):
        if rank < 1:
            raise ValueError(f"{rank=} must be 1 or more.")
        self.factors = _per_name(
            names, lambda: _kernel(rngs, (width + 1) * rank, rank, width + 1, width)
        )
        self.bias = nnx.Param(jnp.zeros(width))

    def __call__(self, features: Features, present: Features) -> Fused:
        """{name: [n, width]} and {name: bool[n]} -> [n, width]."""
        names, f_MxNxD, _ = stack(features, present, self.factors)
        product = jnp.ones(())
        for name, f_NxE in zip(names, _with_one(f_MxNxD), strict=True):
            product = product * jnp.einsum("ne,red->rnd", f_NxE, self.factors[name][...])
        return Fused(product.sum(axis=0) + self.bias[None], {})


class Multiplicative(nnx.Module):
    """A bilinear form for every pair, and a linear layer: y = Σ_{l<m} f_l · B_lm · f_m + Σₘ Wₘ fₘ + b.

    Args:
        names: of the modalities.
        width: of each and of the answer.
        rngs: for the weights.

    Parameters: ½ M (M - 1) width³ + M width² + width.
    Source: Jayakumar et al. 2020, "Multiplicative interactions and where to find them", ICLR.
    """

    def __init__(self, names: Sequence[str], width: int, *, rngs: nnx.Rngs):
        self.pairs = tuple(itertools.combinations(sorted(names), 2))
        self.linear = _per_name(names, lambda: _kernel(rngs, len(names) * width, width, width))
        self.forms = nnx.List([_kernel(rngs, width**2, width, width, width) for _ in self.pairs])
        self.bias = nnx.Param(jnp.zeros(width))

    def __call__(self, features: Features, present: Features) -> Fused:
        """{name: [n, width]} and {name: bool[n]} -> [n, width]."""
        names, f_MxNxD, _ = stack(features, present, self.linear)
        f = dict(zip(names, f_MxNxD, strict=True))
        y = sum(f[name] @ self.linear[name][...] for name in names) + self.bias[None]
        for (first, second), form in zip(self.pairs, self.forms, strict=True):
            y = y + jnp.einsum("na,abc,nb->nc", f[first], form[...], f[second])
        return Fused(y, {})


class ProductOfExperts(nnx.Module):
    """Each modality says where the answer is and how surely: y = Σₘ pₘ tₘ μₘ / (1 + Σₘ pₘ tₘ), tₘ = exp(Tₘ fₘ + cₘ).

    The mean of the product of Gaussians N(μₘ, 1/tₘ), μₘ = Mₘ fₘ, and of a prior N(0, 1), which alone is left where
    nothing is present. A weight is the share of its modality in Σₘ pₘ tₘ, averaged over entries.

    Args:
        names: of the modalities.
        width: of each and of the answer.
        rngs: for the weights.

    Parameters: M (2 width² + width).
    Source: Wu and Goodman 2018, arXiv 1802.05335.
    """

    def __init__(self, names: Sequence[str], width: int, *, rngs: nnx.Rngs):
        self.means = _per_name(names, lambda: _kernel(rngs, width, width, width))
        self.precisions = _per_name(names, lambda: nnx.Linear(width, width, rngs=rngs))

    def __call__(self, features: Features, present: Features) -> Fused:
        """{name: [n, width]} and {name: bool[n]} -> [n, width]."""
        names, f_MxNxD, here_MxN = stack(features, present, self.means)
        pairs = list(zip(names, f_MxNxD, strict=True))
        mean_MxNxD = jnp.stack([f @ self.means[name][...] for name, f in pairs])
        log_t_MxNxD = jnp.stack([self.precisions[name](f) for name, f in pairs])
        # Shares of the precision, that of the prior first: a softmax does not overflow where an exponential would.
        log_t = jnp.concatenate([jnp.zeros_like(log_t_MxNxD[:1]), log_t_MxNxD])
        share_MxNxD = _softmax(log_t, jnp.concatenate([here_MxN[:1] | True, here_MxN])[:, :, None])[
            1:
        ]
        weights_MxN = _softmax(log_t_MxNxD, here_MxN[:, :, None]).mean(axis=2)
        return Fused(
            (share_MxNxD * mean_MxNxD).sum(axis=0), dict(zip(names, weights_MxN, strict=True))
        )


def _with_one(f_MxNxD: Array) -> Array:
    """[1; f] of every modality."""
    return jnp.concatenate([jnp.ones_like(f_MxNxD[:, :, :1]), f_MxNxD], axis=2)
