"""Cross-entropy that is also charged for probabilities that are not what they say."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from metajax._checked import checked
from metajax._tree import largest, reference_rows, row_weights
from metajax.losses.classification import classes_of, entropy_of_labels
from metajax.losses.row_means import or_one, wide_type
from metajax.types import Apply, Array, Batch, Loss, Metrics, Params, Size


@checked
def calibrated_cross_entropy(apply: Apply, *, strength: float = 1.0, bins: Size = 15) -> Loss:
    """Cross-entropy plus a calibration error that can be differentiated, for the outer loop.

    With the confidence cᵢ = maxₖ pᵢₖ, aᵢ = 1 where the answer is right, and the membership
    uᵢᵦ ∝ exp(-(cᵢ - ξᵦ)² / (2 h²)) of each row in bins at ξᵦ with h half a bin wide, it adds

        strength · Σᵦ |Σᵢ wᵢ uᵢᵦ (aᵢ - cᵢ)| / Σᵢ wᵢ.

    The derivative passes through the confidence and the membership, not through the answer. Give it
    to `query_loss` as the loss of the query set; an inner loop may use another. Labels, weights and
    errors are those of `cross_entropy`.

    Args:
        apply: (params, x, key, reference=...) -> logits [examples, ways].
        strength: factor of the calibration error, 0 or more.
        bins: number of bins.

    Returns:
        A loss with the metrics "accuracy" and "calibration_error".

    Raises:
        ValueError: a strength below 0; when traced, logits that are not [examples, ways], and as
            `cross_entropy`.

    >>> from metajax.types import Params
    >>> loss = calibrated_cross_entropy(lambda params, x, key, reference: x)
    >>> batch = Batch(x=jnp.array([[99.0, 0.0], [99.0, 0.0]]), y=jnp.array([0, 1]))
    >>> loss(Params({}, {}), batch, None)[1]["calibration_error"].item()  # sure, and half right
    0.5

    Source: Karandikar et al. 2021, arXiv 2108.00106, with exponent 1; as an outer objective,
    Bohdal, Yang and Hospedales 2021, arXiv 2106.09613.
    """
    if not strength >= 0:
        raise ValueError(f"{strength=} must be 0 or more.")

    @checked
    def loss(params: Params, batch: Batch, key: Array | None) -> tuple[Array, Metrics]:
        logits = apply(params, batch.x, key, reference=reference_rows(batch))
        if logits.ndim != 2:
            raise ValueError(f"Logits must be [examples, ways], got {logits.shape}.")
        value, metrics = entropy_of_labels(logits, batch)
        y, one_or_nan = classes_of(logits, batch)
        confidence = largest(jax.nn.softmax(logits.astype(wide_type(logits))), -1)
        right = (logits.argmax(axis=-1) == y).astype(confidence.dtype)
        weight = row_weights(batch).astype(confidence.dtype)
        centres = ((jnp.arange(bins) + 0.5) / bins).astype(confidence.dtype)
        distance_NxB = (confidence[:, None] - centres[None]) * 2 * bins
        member_NxB = jax.nn.softmax(-(distance_NxB**2) / 2, axis=1)
        gaps = (member_NxB * (weight * (right - confidence))[:, None]).sum(axis=0)
        error = jnp.abs(gaps).sum() / or_one(weight.sum()) * one_or_nan.astype(gaps.dtype)
        return value + strength * error, {**metrics, "calibration_error": error}

    return loss
