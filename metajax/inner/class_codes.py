"""A code for each class, read from pairs of examples and decoded to a head (LEO)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from metajax._checked import checked
from metajax._class_means import weighted_one_hot
from metajax._tree import keep_rows, widened
from metajax.inner.amortised import amortize
from metajax.inner.heads import absent_bias, embed_support
from metajax.types import Adaptation, Apply, Array, Batch, Params, PyTree, Size


@checked
def latent_codes(
    embed: Apply, encode: Apply, relate: Apply, ways: Size, *, entry: str = "latent"
) -> Adaptation:
    """Writes a random code for each class, whose distribution is read from pairs of examples.

    (μₖ, log σₖ) = Σᵢⱼ wᵢ wⱼ [yᵢ = k] r([e(xᵢ), e(xⱼ)]) / Σᵢⱼ wᵢ wⱼ [yᵢ = k] over all pairs of
    labelled examples, and zₖ = μₖ + σₖ ε with ε ~ N(0, I). Without support, μ = 0 and σ = 1.

    Args:
        embed: (params, x, key, reference=...) -> features [examples, d].
        encode: the net e as a function of `params.slow["encode"]`: [n, d] -> [n, h].
        relate: the net r as a function of `params.slow["relate"]`: [pairs, 2 h] -> [pairs, 2 h].
        ways: number of classes.
        entry: the entry of `params.fast` to write, {"code", "start", "mean", "log_deviation"}, each
            [ways, h], and "bias" [ways]. An inner loop may move the code; the start remains what
            was drawn. The bias is -1e9 for a class without support, and 0 for all if no class has
            any.

    Raises:
        ValueError: when traced, features that are not [examples, d], or labels that are not
            int[examples].

    Source: Rusu et al. 2019, arXiv 1807.05960, equations 4 and 5.
    """

    def write(params: Params, support: Batch, key: Array) -> PyTree:
        embed_key, draw_key = jax.random.split(key)
        features_NxD = widened(embed_support(embed, params, support, embed_key))
        classes_NxW = weighted_one_hot(support, ways).astype(features_NxD.dtype)
        weight_N = classes_NxW.sum(axis=1)
        features_NxD = keep_rows(weight_N > 0, features_NxD)
        code_NxH = encode(Params({}, params.slow["encode"]), features_NxD)
        number, width = code_NxH.shape
        shape = (number, number, width)
        both = [jnp.broadcast_to(one, shape) for one in (code_NxH[:, None], code_NxH[None])]
        pairs_PxE = jnp.concatenate(both, axis=2).reshape(-1, 2 * width)
        read_PxE = relate(Params({}, params.slow["relate"]), pairs_PxE)
        read_NxNxE = read_PxE.reshape(number, number, 2 * width)
        of_pairs_WxE = jnp.einsum("nw,m,nme->we", classes_NxW, weight_N, read_NxNxE)
        total_Wx1 = (classes_NxW.sum(axis=0) * weight_N.sum())[:, None]
        of_class_WxE = of_pairs_WxE / jnp.where(total_Wx1 > 0, total_Wx1, 1)
        mean_WxH, log_deviation_WxH = jnp.split(of_class_WxE, 2, axis=1)
        normal_WxH = jax.random.normal(draw_key, mean_WxH.shape, mean_WxH.dtype)
        drawn_WxH = mean_WxH + jnp.exp(log_deviation_WxH) * normal_WxH
        return {
            "code": drawn_WxH,
            "start": drawn_WxH,
            "mean": mean_WxH,
            "log_deviation": log_deviation_WxH,
            "bias": absent_bias(classes_NxW),
        }

    return amortize(lambda params, key: (), write, entry=entry)


@checked
def decoded_head(embed: Apply, decode: Apply, *, entry: str = "latent") -> Apply:
    """The network whose head is decoded from a code for each class.

    (mₖ, uₖ) = d(zₖ) and logitsₖ = f(x)·wₖ + biasₖ with wₖ = mₖ + softplus(uₖ) ε. With a key, as in
    training, ε ~ N(0, I); without one it is 0.

    Args:
        embed: (params, x, key, reference=...) -> features [examples, d].
        decode: the net d as a function of `params.slow["decode"]`: [ways, h] -> [ways, 2 d].
        entry: the entry of `params.fast` that `latent_codes` wrote.

    Returns:
        (params, x, key=None, *, reference=None) -> logits [examples, ways].

    Source: Rusu et al. 2019, arXiv 1807.05960, equation 6.
    """

    @checked
    def apply(
        params: Params, x: PyTree, key: Array | None = None, *, reference: Array | None = None
    ) -> Array:
        keys = (None, None) if key is None else tuple(jax.random.split(key))
        features_QxD = widened(embed(params, x, keys[0], reference=reference))
        code_WxH = params.fast[entry]["code"]
        decoded_WxE = decode(Params({}, params.slow["decode"]), code_WxH)
        kernel_WxD, spread_WxD = jnp.split(decoded_WxE, 2, axis=1)
        if keys[1] is not None:
            normal_WxD = jax.random.normal(keys[1], kernel_WxD.shape, kernel_WxD.dtype)
            kernel_WxD += jax.nn.softplus(spread_WxD) * normal_WxD
        return features_QxD @ kernel_WxD.T + params.fast[entry]["bias"][None]

    return apply
