"""Class means that rows without a label refine."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from metajax._checked import checked
from metajax._checks import signed
from metajax._class_means import class_means, weighted_one_hot
from metajax._tree import keep_rows, row_weights, widened
from metajax.inner.amortised import amortize
from metajax.inner.closed_form import nearest_mean_head
from metajax.inner.heads import ABSENT, embed_support
from metajax.types import Adaptation, Apply, Array, Batch, Count, Params, PyTree, Size

INITIAL_RADIUS = 100.0
"""Radius of the cluster of distractors before learning, as in the authors' code."""


@checked
def soft_kmeans(
    embed: Apply,
    ways: Size,
    *,
    steps: Count = 1,
    distractors: bool = False,
    entry: str = "head",
) -> Adaptation:
    """Writes the head of class means that soft k-means refines with the unlabelled rows.

    cₖ starts as the mean of the labelled rows of class k. Each step shares every row xⱼ that has
    the label -1 among the classes, zⱼₖ ∝ exp(-|f(xⱼ) - cₖ|²), and takes the means anew:
    cₖ ← (Σᵢ [yᵢ = k] f(xᵢ) + Σⱼ zⱼₖ f(xⱼ)) / (Σᵢ [yᵢ = k] + Σⱼ zⱼₖ). All sums are weighted by the
    weights of the rows. Without unlabelled rows it is `prototypes`.

    Args:
        embed: (params, x, key, reference=...) -> features [examples, d].
        ways: number of classes.
        steps: number of refinements. The paper takes one.
        distractors: whether unlabelled rows may belong to no class. A further cluster at 0 then
            takes its share, exp(-|f(xⱼ)|²/r² - log r), with a learned radius r in `params.rule`.
        entry: the entry of `params.fast` to write, {"kernel": [d, ways], "bias": [ways]}.

    Raises:
        ValueError: when traced, features that are not [examples, d], or labels that are not
            int[examples].

    >>> from metajax.nets import identity_encoder
    >>> support = Batch(jnp.array([[0.0], [9.0], [1.0], [8.0]]), jnp.array([0, 1, -1, -1]))
    >>> adaptation = soft_kmeans(identity_encoder, ways=2)
    >>> adapted = adaptation.adapt(Params({}, {}), support, jax.random.key(0))
    >>> adapted.fast["head"]["kernel"].tolist()  # two times the means 0.5 and 8.5
    [[1.0, 17.0]]

    Source: Ren et al. 2018, arXiv 1803.00676, sections 3.1.1 and 3.1.2.
    """

    def init(params: Params, key: Array) -> PyTree:
        return {"log_radius": jnp.log(INITIAL_RADIUS)} if distractors else ()

    def encode(params: Params, support: Batch, key: Array) -> PyTree:
        given_NxD = embed_support(embed, params, support, key)
        classes_NxW = weighted_one_hot(support, ways)
        unlabelled_N = jnp.where(signed(support.y) < 0, row_weights(support), 0)
        is_used_N = (classes_NxW != 0).any(axis=1) | (unlabelled_N != 0)
        features_NxD = keep_rows(is_used_N, widened(given_NxD))
        mean_WxD, weight_W = class_means(features_NxD, classes_NxW)
        for _ in range(steps):
            logits_NxW = _logits(features_NxD, mean_WxD, weight_W)
            if distractors:
                of_none_Nx1 = _distractor_logits(features_NxD, params.rule["log_radius"])
                logits_NxW = jnp.concatenate([logits_NxW, of_none_Nx1], axis=1)
            share_NxW = jax.nn.softmax(logits_NxW)[:, :ways]
            mean_WxD, _ = class_means(features_NxD, classes_NxW + unlabelled_N[:, None] * share_NxW)
        kernel_DxW, bias_W = nearest_mean_head(mean_WxD.astype(given_NxD.dtype), weight_W)
        return {"kernel": kernel_DxW, "bias": bias_W}

    return amortize(init, encode, entry=entry)


def _logits(features_NxD: Array, mean_WxD: Array, weight_W: Array) -> Array:
    """-|f - c|² for every row and class, -1e9 for a class without support."""
    square_NxW = ((features_NxD[:, None] - mean_WxD[None]) ** 2).sum(axis=2)
    return jnp.where(weight_W[None] > 0, -square_NxW, ABSENT)


def _distractor_logits(features_NxD: Array, log_radius: Array) -> Array:
    """-|f|²/r² - log r for every row. The constant of the paper is that of every class."""
    square_Nx1 = (features_NxD**2).sum(axis=1, keepdims=True)
    return -square_Nx1 * jnp.exp(-2 * log_radius) - log_radius
