"""Fusions that multiply modalities with each other."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx

from metajax._checked import checked
from metajax.nets.fusion.protocol import (
    Features,
    Fused,
    per_name,
    random_kernel,
    softmax_present,
    stack,
)
from metajax.types import Array, Size


@checked
class Tensor(nnx.Module):
    """Every product of entries of different modalities: y = W vec([1; f₁] ⊗ ... ⊗ [1; f_M]) + b.

    Of an absent modality only the 1 is left, so the products of the others stay.

    Args:
        names: names of the modalities.
        width: width of each modality and of the output.
        rngs: for the weights.

    Parameters: (width + 1)ᴹ width + width; `LowRankTensor` has fewer.
    Source: Zadeh et al. 2017, arXiv 1707.07250.
    """

    def __init__(self, names: Sequence[str], width: Size, *, rngs: nnx.Rngs):
        self.names = tuple(sorted(names))
        sizes = (width + 1,) * len(names)
        self.kernel = random_kernel(rngs, math.prod(sizes), *sizes, width)
        self.bias = nnx.Param(jnp.zeros(width))

    def __call__(self, features: Features, present: Features) -> Fused:
        """Fuses {name: [n, width]} with {name: bool[n]} to [n, width]."""
        _, features_MxNxD, _ = stack(features, present, self.names)
        examples = features_MxNxD.shape[1]
        y = jnp.broadcast_to(self.kernel[...][None], (examples, *self.kernel.shape))
        for f_NxE in _append_to_one(features_MxNxD):
            y = jnp.einsum("ne,ne...->n...", f_NxE, y)
        return Fused(y + self.bias[None], {})


@checked
class LowRankTensor(nnx.Module):
    """Tensor fusion whose W is a sum of `rank` products: y = Σᵣ Πₘ (Aₘᵣ [1; fₘ]) + b.

    Args:
        names: names of the modalities.
        width: width of each modality and of the output.
        rank: number of products. With (width + 1)ᴹ⁻¹ of them every W of `Tensor` can be written.
        rngs: for the weights.

    Raises:
        ValueError: a rank below 1; no names, or equal ones.

    Parameters: M rank (width + 1) width + width.
    Source: Liu et al. 2018, arXiv 1806.00064.
    """

    def __init__(self, names: Sequence[str], width: Size, *, rank: Size, rngs: nnx.Rngs):
        if rank < 1:
            raise ValueError(f"{rank=} must be 1 or more.")
        fan = (width + 1) * rank
        self.factors = per_name(names, lambda: random_kernel(rngs, fan, rank, width + 1, width))
        self.bias = nnx.Param(jnp.zeros(width))

    def __call__(self, features: Features, present: Features) -> Fused:
        """Fuses {name: [n, width]} with {name: bool[n]} to [n, width]."""
        names, features_MxNxD, _ = stack(features, present, sorted(self.factors))
        product = jnp.ones(())
        for name, f_NxE in zip(names, _append_to_one(features_MxNxD), strict=True):
            factor_RxNxD = jnp.einsum("ne,red->rnd", f_NxE, self.factors[name][...])
            product = product * factor_RxNxD
        return Fused(product.sum(axis=0) + self.bias[None], {})


@checked
class Multiplicative(nnx.Module):
    """A bilinear form for every pair of modalities, and a linear layer.

    y = Σ_{l<m} f_l · B_lm · f_m + Σₘ Wₘ fₘ + b.

    Args:
        names: names of the modalities.
        width: width of each modality and of the output.
        rngs: for the weights.

    Raises:
        ValueError: no names, or equal ones.

    Parameters: ½ M (M - 1) width³ + M width² + width.
    Source: Jayakumar et al. 2020, "Multiplicative interactions and where to find them", ICLR.
    """

    def __init__(self, names: Sequence[str], width: Size, *, rngs: nnx.Rngs):
        self.pairs = tuple(itertools.combinations(sorted(names), 2))
        fan = len(names) * width
        self.linear = per_name(names, lambda: random_kernel(rngs, fan, width, width))
        forms = [random_kernel(rngs, width**2, width, width, width) for _ in self.pairs]
        self.forms = nnx.List(forms)
        self.bias = nnx.Param(jnp.zeros(width))

    def __call__(self, features: Features, present: Features) -> Fused:
        """Fuses {name: [n, width]} with {name: bool[n]} to [n, width]."""
        names, features_MxNxD, _ = stack(features, present, sorted(self.linear))
        f = dict(zip(names, features_MxNxD, strict=True))
        y_NxD = sum(f[name] @ self.linear[name][...] for name in names) + self.bias[None]
        for (first, second), form in zip(self.pairs, self.forms, strict=True):
            y_NxD = y_NxD + jnp.einsum("na,abc,nb->nc", f[first], form[...], f[second])
        return Fused(y_NxD, {})


@checked
class ProductOfExperts(nnx.Module):
    """Each modality gives a mean and a precision; the result is the mean of the product.

    y = Σₘ pₘ tₘ μₘ / (1 + Σₘ pₘ tₘ), tₘ = exp(Tₘ fₘ + cₘ). It is the mean of the product of the
    Gaussians N(μₘ, 1/tₘ), μₘ = Mₘ fₘ, and of a prior N(0, 1), which alone is left where nothing is
    present. A weight is the share of a modality in Σₘ pₘ tₘ, averaged over entries.

    Args:
        names: names of the modalities.
        width: width of each modality and of the output.
        rngs: for the weights.

    Raises:
        ValueError: no names, or equal ones.

    Parameters: M (2 width² + width).
    Source: Wu and Goodman 2018, arXiv 1802.05335.
    """

    def __init__(self, names: Sequence[str], width: Size, *, rngs: nnx.Rngs):
        self.means = per_name(names, lambda: random_kernel(rngs, width, width, width))
        self.precisions = per_name(names, lambda: nnx.Linear(width, width, rngs=rngs))

    def __call__(self, features: Features, present: Features) -> Fused:
        """Fuses {name: [n, width]} with {name: bool[n]} to [n, width] and weights."""
        names, features_MxNxD, present_MxN = stack(features, present, sorted(self.means))
        pairs = list(zip(names, features_MxNxD, strict=True))
        mean_MxNxD = jnp.stack([f_NxD @ self.means[name][...] for name, f_NxD in pairs])
        log_t_MxNxD = jnp.stack([self.precisions[name](f_NxD) for name, f_NxD in pairs])
        share_MxNxD = _shares_beside_prior(log_t_MxNxD, present_MxN)
        weights_MxN = softmax_present(log_t_MxNxD, present_MxN[:, :, None]).mean(axis=2)
        y_NxD = (share_MxNxD * mean_MxNxD).sum(axis=0)
        return Fused(y_NxD, dict(zip(names, weights_MxN, strict=True)))


def _shares_beside_prior(log_t_MxNxD: Array, present_MxN: Array) -> Array:
    """tₘ / (1 + Σₘ pₘ tₘ), as a softmax that has the prior first: an exponential would overflow."""
    prior_1xNxD = jnp.zeros_like(log_t_MxNxD[:1])
    prior_1xN = present_MxN[:1] | True
    log_t = jnp.concatenate([prior_1xNxD, log_t_MxNxD])
    present = jnp.concatenate([prior_1xN, present_MxN])
    return softmax_present(log_t, present[:, :, None])[1:]


def _append_to_one(features_MxNxD: Array) -> Array:
    """[1; f] for every modality, [M, n, 1 + width]."""
    one = jnp.ones_like(features_MxNxD[:, :, :1])
    return jnp.concatenate([one, features_MxNxD], axis=2)
