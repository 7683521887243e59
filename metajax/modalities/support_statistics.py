"""Statistics of a support set that show how well a modality separates the classes of a task."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from metajax._class_means import class_means
from metajax._tree import as_floating, keep_rows, largest
from metajax.inner.heads import ABSENT
from metajax.modalities.rows import weighted_mean
from metajax.types import Array

STATISTICS = (
    "leave-one-out accuracy",
    "leave-one-out margin",
    "separation",
    "closest pair",
    "entropy",
    "coverage",
)
"""The names of what `modality_statistics` returns, in this order."""


def modality_statistics(features_NxD: Array, present_N: Array, classes_NxW: Array) -> Array:
    """Statistics of one modality in a support set, [6], named by `STATISTICS`.

    - Leave-one-out accuracy and margin: each example is classified by class means without it.
      The margin is squashed by tanh.
    - Separation: the mean squared distance of class means, as log(1 + d²).
    - Closest pair: the smallest squared distance of class means, as log(1 + d²).
    - Entropy: that of the leave-one-out predictions, divided by log ways.
    - Coverage: the fraction of classes that have an example in which the modality is present.

    Classes without any support have no influence.

    Args:
        features_NxD: of the modality, [examples, d].
        present_N: bool[examples], where it is present.
        classes_NxW: one-hot labels times row weights, [examples, ways].
    """
    dtype = as_floating(features_NxD).dtype
    features_NxD = keep_rows(present_N, features_NxD)
    features_NxD = features_NxD.astype(jnp.promote_types(dtype, jnp.float32))
    classes_NxW = classes_NxW.astype(features_NxD.dtype)
    supported_W = classes_NxW.sum(axis=0) > 0
    ways = supported_W.sum()
    classes_NxW = keep_rows(present_N, classes_NxW)

    scores_NxW = leave_one_out_scores(features_NxD, classes_NxW)
    logits_NxW = jnp.where(supported_W[None], scores_NxW, ABSENT)
    margin_N = _margins(logits_NxW, classes_NxW.argmax(axis=1))
    entropy_N = _entropies(logits_NxW) / jnp.log(jnp.maximum(ways, 2))
    separation, closest = _class_distances(features_NxD, classes_NxW)
    covered = (classes_NxW.sum(axis=0) > 0).sum()

    weight_N = classes_NxW.sum(axis=1)
    statistics = (
        weighted_mean(margin_N > 0, weight_N),
        weighted_mean(jnp.tanh(margin_N / 4), weight_N),
        jnp.log1p(separation),
        jnp.log1p(closest),
        weighted_mean(entropy_N, weight_N),
        covered / jnp.maximum(ways, 1),
    )
    return jnp.stack(statistics).astype(dtype)


def leave_one_out_scores(features_NxD: Array, classes_NxW: Array) -> Array:
    """Scores of nearest class means, each example left out of the mean of its own class.

    A class that is left without an example gets the mean score of the other classes.

    Args:
        features_NxD: [examples, d].
        classes_NxW: one-hot labels times row weights, [examples, ways].

    Returns:
        2 f·c - |c|², [examples, ways].
    """
    features_NxD = as_floating(features_NxD)
    sum_WxD = classes_NxW.T @ features_NxD
    own_NxWxD = classes_NxW[:, :, None] * features_NxD[:, None]
    others_NxW = classes_NxW.sum(axis=0)[None] - classes_NxW
    has_others_NxW = others_NxW > 1e-6
    weight_NxW = jnp.where(has_others_NxW, others_NxW, 1)
    mean_NxWxD = (sum_WxD[None] - own_NxWxD) / weight_NxW[:, :, None]

    product_NxW = (features_NxD[:, None] * mean_NxWxD).sum(axis=2)
    score_NxW = 2 * product_NxW - (mean_NxWxD**2).sum(axis=2)
    number_N = jnp.maximum(has_others_NxW.sum(axis=1), 1)
    neutral_N = keep_rows(has_others_NxW, score_NxW).sum(axis=1) / number_N
    return jnp.where(has_others_NxW, score_NxW, neutral_N[:, None])


def _margins(logits_NxW: Array, label_N: Array) -> Array:
    """The logit of the label minus the largest other logit, [examples]."""
    is_label_NxW = jax.nn.one_hot(label_N, logits_NxW.shape[1]) > 0
    own_N = jnp.take_along_axis(logits_NxW, label_N[:, None], axis=1)[:, 0]
    return own_N - largest(jnp.where(is_label_NxW, ABSENT, logits_NxW), 1)


def _entropies(logits_NxW: Array) -> Array:
    """The entropy of each prediction in nats, [examples]."""
    log_p_NxW = jax.nn.log_softmax(logits_NxW)
    return -(jnp.exp(log_p_NxW) * log_p_NxW).sum(axis=1)


def _class_distances(features_NxD: Array, classes_NxW: Array) -> tuple[Array, Array]:
    """The mean and the smallest squared distance of two class means; 0 without two classes."""
    mean_WxD, weight_W = class_means(features_NxD, classes_NxW)
    square_WxW = ((mean_WxD[:, None] - mean_WxD[None]) ** 2).sum(axis=2)
    covered_W = weight_W > 0
    pairs_WxW = jnp.triu(covered_W[:, None] & covered_W[None], 1)
    mean = jnp.where(pairs_WxW, square_WxW, 0).sum() / jnp.maximum(pairs_WxW.sum(), 1)
    smallest = -largest(jnp.where(pairs_WxW, -square_WxW, -jnp.inf).ravel(), 0)
    return mean, jnp.where(pairs_WxW.any(), smallest, 0)
