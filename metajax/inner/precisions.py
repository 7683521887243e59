"""Class means weighted by a learned precision of every example (Gaussian prototypes)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from metajax._checked import checked
from metajax._class_means import weighted_one_hot
from metajax._tree import keep_rows, widened
from metajax.inner.amortised import amortize
from metajax.inner.heads import absent_bias, embed_support, written_head
from metajax.types import Adaptation, Apply, Array, Batch, Params, PyTree, Size


@checked
def gaussian_prototypes(embed: Apply, ways: Size, *, entry: str = "head") -> Adaptation:
    """Writes the precision-weighted mean and the precision of each class.

    A net gives features f(x) and, from as many further numbers r(x), the precisions
    s(x) = 1 + softplus(r(x)). Sₖ = Σᵢ wᵢ [yᵢ = k] s(xᵢ) and cₖ = Σᵢ wᵢ [yᵢ = k] s(xᵢ) f(xᵢ) / Sₖ.

    Args:
        embed: (params, x, key, reference=...) -> [examples, 2 d]: f(x), and then r(x).
        ways: number of classes.
        entry: the entry of `params.fast` to write, {"mean": [ways, d], "precision": [ways, d],
            "bias": [ways]}. The bias is -1e9 for a class without support, and 0 for all if no class
            has any.

    Raises:
        ValueError: when traced, features that are not [examples, 2 d], or labels that are not
            int[examples].

    Source: Fort 2017, arXiv 1708.02735, with a diagonal covariance.
    """

    def encode(params: Params, support: Batch, key: Array) -> PyTree:
        given_NxE = widened(embed_support(embed, params, support, key))
        if given_NxE.shape[1] % 2:
            raise ValueError(
                "The net must return an even number of features, half of them precisions, got "
                f"shape {given_NxE.shape}."
            )
        classes_NxW = weighted_one_hot(support, ways).astype(given_NxE.dtype)
        given_NxE = keep_rows((classes_NxW != 0).any(axis=1), given_NxE)
        features_NxD, raw_NxD = jnp.split(given_NxE, 2, axis=1)
        precision_NxD = 1 + jax.nn.softplus(raw_NxD)
        precision_WxD = classes_NxW.T @ precision_NxD
        is_present_Wx1 = classes_NxW.any(axis=0)[:, None]
        sum_WxD = classes_NxW.T @ (precision_NxD * features_NxD)
        return {
            "mean": sum_WxD / jnp.where(is_present_Wx1, precision_WxD, 1),
            "precision": precision_WxD,
            "bias": absent_bias(classes_NxW),
        }

    return amortize(lambda params, key: (), encode, entry=entry)


@checked
def precision_head(embed: Apply, *, entry: str = "head") -> Apply:
    """The network that measures distances by the precision of each class.

    logitsₖ = -Σ_d Sₖ_d (f(x)_d - cₖ_d)².

    Args:
        embed: (params, x, key, reference=...) -> [examples, 2 d], as in `gaussian_prototypes`. The
            precision of a query is not used.
        entry: the entry of `params.fast` that `gaussian_prototypes` wrote.

    Returns:
        (params, x, key=None, *, reference=None) -> logits [examples, ways].

    Raises:
        ValueError: when called, fast weights without that entry.

    Source: Fort 2017, arXiv 1708.02735.
    """

    def read(params: Params, head: PyTree, given_QxE: Array) -> Array:
        features_QxD = widened(given_QxE[:, : head["mean"].shape[1]])
        square_QxWxD = (features_QxD[:, None] - head["mean"][None]) ** 2
        return head["bias"][None] - (square_QxWxD * head["precision"][None]).sum(axis=2)

    return written_head(embed, read, entry=entry)
