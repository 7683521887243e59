"""An adaptation that writes a Gaussian for each class, and the network that measures by them."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from metajax._checked import checked
from metajax._class_means import class_means, weighted_one_hot
from metajax._tree import keep_rows, widened
from metajax.inner.amortised import amortize
from metajax.inner.heads import ABSENT, embed_support, written_head
from metajax.types import Adaptation, Apply, Array, Batch, Params, PyTree, Size


@checked
def class_covariances(embed: Apply, ways: Size, *, entry: str = "head") -> Adaptation:
    """Writes the mean and a regularised covariance of the features of each class.

    Qₖ = λₖ Σₖ + (1 - λₖ) Σ + I with λₖ = nₖ / (nₖ + 1), where nₖ is the weight of class k, Σₖ the
    covariance of its features, and Σ that of all labelled examples. A covariance is divided by
    n - 1, and by 1 where n is less than 2. Beside large covariances, what is added to the diagonal
    grows with their rounding. What is written are no weights: an inner loop after it in a chain
    would move means and covariances apart.

    Args:
        embed: (params, x, key, reference=...) -> features [examples, d].
        ways: number of classes.
        entry: the entry of `params.fast` to write, {"mean": [ways, d], "factor": [ways, d, d],
            "bias": [ways]}: the factor is that of Cholesky, Q = factor factorᵀ, and the bias is
            -1e9 for a class without support, else 0.

    Raises:
        ValueError: when traced, features that are not [examples, d], or labels that are not
            int[examples].

    Source: Bateni et al. 2020, arXiv 1912.03432, equations 2 to 4.
    """

    def encode(params: Params, support: Batch, key: Array) -> PyTree:
        features_NxD = widened(embed_support(embed, params, support, key))
        classes_NxW = weighted_one_hot(support, ways).astype(features_NxD.dtype)
        features_NxD = keep_rows((classes_NxW != 0).any(axis=1), features_NxD)
        mean_WxD, weight_W = class_means(features_NxD, classes_NxW)
        own_WxDxD = _covariances(features_NxD, classes_NxW)
        all_1xDxD = _covariances(features_NxD, classes_NxW.sum(axis=1, keepdims=True))
        share_W = (weight_W / (weight_W + 1)).reshape(-1, 1, 1)
        mixed_WxDxD = share_W * own_WxDxD + (1 - share_W) * all_1xDxD
        trace_W = jnp.trace(mixed_WxDxD, axis1=1, axis2=2).reshape(-1, 1, 1)
        rounding_W = 4 * jnp.finfo(features_NxD.dtype).eps * trace_W
        identity_1xDxD = jnp.eye(features_NxD.shape[1], dtype=features_NxD.dtype)[None]
        covariance_WxDxD = mixed_WxDxD + (1 + rounding_W) * identity_1xDxD
        is_absent_W = (weight_W == 0) & (weight_W != 0).any()
        return {
            "mean": mean_WxD,
            "factor": jnp.linalg.cholesky(covariance_WxDxD),
            "bias": jnp.where(is_absent_W, ABSENT, 0).astype(features_NxD.dtype),
        }

    return amortize(lambda params, key: (), encode, entry=entry)


@checked
def mahalanobis_head(embed: Apply, *, entry: str = "head") -> Apply:
    """The network that compares features with written classes by their covariances.

    logitsₖ = -½ (f(x) - μₖ)ᵀ Qₖ⁻¹ (f(x) - μₖ).

    Args:
        embed: (params, x, key, reference=...) -> features [examples, d].
        entry: the entry of `params.fast` that `class_covariances` wrote.

    Returns:
        (params, x, key=None, *, reference=None) -> logits [examples, ways].

    Raises:
        ValueError: when called, fast weights without that entry.

    Source: Bateni et al. 2020, arXiv 1912.03432. The authors' code leaves out the factor ½.
    """

    def read(params: Params, head: PyTree, features_QxD: Array) -> Array:
        def logits_of(mean_D: Array, factor_DxD: Array, bias: Array) -> Array:
            offset_DxQ = (widened(features_QxD) - mean_D[None]).T
            scaled_DxQ = jax.scipy.linalg.solve_triangular(factor_DxD, offset_DxQ, lower=True)
            return bias - (scaled_DxQ**2).sum(axis=0) / 2

        return jax.vmap(logits_of, out_axes=1)(head["mean"], head["factor"], head["bias"])

    return written_head(embed, read, entry=entry)


def _covariances(features_NxD: Array, classes_NxW: Array) -> Array:
    """The covariance of the features of each class, [ways, d, d]."""
    mean_WxD, weight_W = class_means(features_NxD, classes_NxW)
    offset_NxWxD = features_NxD[:, None] - mean_WxD[None]
    sum_WxDxD = jnp.einsum("nw,nwd,nwe->wde", classes_NxW, offset_NxWxD, offset_NxWxD)
    return sum_WxDxD / jnp.maximum(weight_W - 1, 1).reshape(-1, 1, 1)
