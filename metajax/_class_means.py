"""The weighted mean of the features of each class."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from metajax._checks import check_labels, check_row_weights, not_classes, signed
from metajax._tree import as_floating, keep_rows, row_weights
from metajax.types import Array, Batch


def weighted_one_hot(batch: Batch, ways: int) -> Array:
    """One-hot labels times the weight of their row, float[examples, ways].

    The label -1 marks a row without a label, which no class counts. In compiled code the row of any
    other label that is no class is NaN.

    Raises:
        ValueError: labels that are not int[examples], or weights that are not
            [examples]; where they are concrete, labels outside -1 … ways - 1 in rows whose weight
            is not 0, or negative weights.
    """
    check_labels(batch.y)
    check_row_weights(batch.weight, len(batch.y))
    wrong_N = not_classes(batch.y, ways, batch.weight, least=-1)
    one_hot_NxW = jax.nn.one_hot(signed(batch.y), ways, dtype=jnp.float32)
    one_hot_NxW = jnp.where(wrong_N[:, None], jnp.nan, one_hot_NxW)
    return row_weights(batch)[:, None] * one_hot_NxW


def class_means(features_NxD: Array, classes_NxW: Array) -> tuple[Array, Array]:
    """Weighted mean of the features of each class, and the total weight of each class.

    cₖ = Σᵢ wᵢₖ fᵢ / Σᵢ wᵢₖ; zero for a class of weight 0.

    Args:
        features_NxD: [examples, d].
        classes_NxW: [examples, ways], such as `weighted_one_hot`.

    Returns:
        (means [ways, d] in the dtype of the features if these are floats, weights [ways]).
    """
    # NaN in a row of weight 0 is not used.
    features_NxD = keep_rows((classes_NxW != 0).any(axis=1), as_floating(features_NxD))
    # A sum of weights may exceed the largest float16.
    wide = jnp.promote_types(features_NxD.dtype, jnp.float32)
    classes_NxW = classes_NxW.astype(wide)
    weight_W = classes_NxW.sum(axis=0)
    sum_WxD = classes_NxW.T @ features_NxD.astype(wide)
    mean_WxD = sum_WxD / jnp.where(weight_W > 0, weight_W, 1)[:, None]
    return mean_WxD.astype(features_NxD.dtype), weight_W
