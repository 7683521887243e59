"""Adaptations that keep the support set, whose examples every query is compared with."""

from __future__ import annotations

import jax.numpy as jnp

from metajax._checked import checked
from metajax._class_means import weighted_one_hot
from metajax._tree import keep_rows, widened
from metajax.inner.amortised import amortize
from metajax.inner.heads import ABSENT, embed_support, written_head
from metajax.types import Adaptation, Apply, Array, Batch, Params, PyTree, Size


@checked
def support_set(embed: Apply, ways: Size, *, entry: str = "head") -> Adaptation:
    """Writes the features and the classes of the support set, as nearest neighbours need them.

    The label -1 marks a row without a label, which belongs to no class. The entry does not hold
    weights: an inner loop after it in a chain would move the examples.

    Args:
        embed: (params, x, key, reference=...) -> features [examples, d].
        ways: number of classes.
        entry: the entry of `params.fast` to write, {"features": [examples, d], "classes":
            [examples, ways]}. A class is a one-hot vector times the weight of its row.

    Raises:
        ValueError: when traced, features that are not [examples, d], or labels that are not
            int[examples].

    >>> import jax
    >>> from metajax.nets import identity_encoder
    >>> support = Batch(jnp.array([[1.0], [2.0]]), jnp.array([1, 0]))
    >>> adaptation = support_set(identity_encoder, ways=2)
    >>> adapted = adaptation.adapt(Params({}, {}), support, jax.random.key(0))
    >>> adapted.fast["head"]["classes"].tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """

    def encode(params: Params, support: Batch, key: Array) -> PyTree:
        features_NxD = embed_support(embed, params, support, key)
        classes_NxW = weighted_one_hot(support, ways)
        features_NxD = keep_rows((classes_NxW != 0).any(axis=1), features_NxD)
        return {"features": features_NxD, "classes": classes_NxW}

    return amortize(lambda params, key: (), encode, entry=entry)


@checked
def cosine_attention(embed: Apply, *, entry: str = "head") -> Apply:
    """The network that attends to a written support set by the cosine of features.

    p(k | x) = Σᵢ aᵢ [yᵢ = k] with aᵢ = wᵢ exp cos(f(x), f(xᵢ)) / Σⱼ wⱼ exp cos(f(x), f(xⱼ)), and
    the logits are log p. A class without support has the logit -1e9.

    Args:
        embed: (params, x, key, reference=...) -> features [examples, d].
        entry: the entry of `params.fast` that `support_set` wrote.

    Returns:
        (params, x, key=None, *, reference=None) -> logits [examples, ways].

    Raises:
        ValueError: when called, fast weights without that entry.

    Source: Vinyals et al. 2016, arXiv 1606.04080, equation 1 and section 2.1.1.
    """

    def read(params: Params, head: PyTree, features_QxD: Array) -> Array:
        return log_attention(head, features_QxD)

    return written_head(embed, read, entry=entry)


def log_attention(head: PyTree, features_QxD: Array) -> Array:
    """Log p of `cosine_attention`, [queries, ways], for what `support_set` wrote."""
    cosine_QxN = unit(features_QxD) @ unit(head["features"]).T
    total_QxW = jnp.exp(cosine_QxN) @ head["classes"]
    present_W = (head["classes"] != 0).any(axis=0)[None]
    logits_QxW = jnp.log(jnp.where(present_W, total_QxW, 1))
    sum_Qx1 = total_QxW.sum(axis=1, keepdims=True)
    logits_QxW -= jnp.log(jnp.where(sum_Qx1 == 0, 1, sum_Qx1))  # no example counts
    return jnp.where(present_W, logits_QxW, ABSENT)


def unit(features_NxD: Array) -> Array:
    """Features of length 1, in float32 or wider; zeros stay zeros."""
    wide_NxD = widened(features_NxD)
    square_Nx1 = (wide_NxD**2).sum(axis=1, keepdims=True)
    return wide_NxD / jnp.sqrt(jnp.maximum(square_Nx1, 1e-24))
