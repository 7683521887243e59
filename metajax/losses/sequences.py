"""The loss of sequences of characters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from metajax._checked import checked
from metajax._checks import check_integers, check_row_weights, not_classes, signed
from metajax._tree import row_weights
from metajax.losses.row_means import or_one, wide_type
from metajax.types import Array, Batch, Loss, Metrics, Params


@checked
def sequence_cross_entropy(apply: Callable[..., Any]) -> Loss:
    """Sequences: -Σᵢₜ wᵢ log p(yᵢₜ) / Σᵢₜ wᵢ over the characters of all targets, without padding.

    It has two metrics. "characters" is the fraction of characters that are the likeliest ones
    after the true characters before them. "accuracy" is the fraction of whole targets with all
    their characters correct in this sense; a target without any is not counted. By induction, these
    are the targets that greedy translation would write exactly, so the accuracy needs no decoding.

    Args:
        apply: (params, x, key) -> log-probabilities [n, t, characters].

    Returns:
        A loss of batches with targets int[n, t], in which 0 is padding.

    Raises:
        ValueError: when traced, targets that are not int[n, t], or weights that are not [n]; where
            they are concrete, targets that are not characters, or negative weights.

    >>> import jax
    >>> from metajax.types import Params
    >>> loss = sequence_cross_entropy(lambda params, x, key: x)
    >>> likely = jnp.log(jnp.array([[[0.1, 0.8, 0.1], [0.2, 0.2, 0.6]]]))
    >>> metrics = loss(Params({}, {}), Batch(likely, jnp.array([[1, 1]])), jax.random.key(0))[1]
    >>> metrics["characters"].item(), metrics["accuracy"].item()
    (0.5, 0.0)
    """

    @checked
    def loss(params: Params, batch: Batch, key: Array | None) -> tuple[Array, Metrics]:
        log_p_NxTxC = apply(params, batch.x, key)
        check_integers("Targets", batch.y, log_p_NxTxC.shape[:-1])
        check_row_weights(batch.weight, len(batch.y))
        number = log_p_NxTxC.shape[-1]
        wrong_NxT = not_classes(batch.y, number, batch.weight)
        y_NxT = signed(batch.y)
        y_NxT = jnp.where((y_NxT >= 0) & (y_NxT < number), y_NxT, 0)
        log_p_NxTxC = log_p_NxTxC.astype(wide_type(log_p_NxTxC))
        weight_N = row_weights(batch).astype(log_p_NxTxC.dtype)
        weight_NxT = weight_N[:, None] * (y_NxT > 0)
        characters = or_one(weight_NxT.sum())
        correct_NxT = log_p_NxTxC.argmax(axis=-1) == y_NxT
        whole_N = (correct_NxT | (y_NxT == 0)).all(axis=1)
        target_N = weight_N * (y_NxT > 0).any(axis=1)
        log_p_NxT = jnp.take_along_axis(log_p_NxTxC, y_NxT[..., None], axis=-1)[..., 0]
        log_p_NxT = jnp.where(weight_NxT > 0, log_p_NxT, 0)  # padding may be impossible, -inf
        value = -(weight_NxT * log_p_NxT).sum() / characters
        value *= jnp.where(wrong_NxT.any(), jnp.nan, 1)
        # The likeliest character of scores that are NaN would be the first.
        one = jnp.where(jnp.isnan(value), jnp.nan, 1)
        metrics = {
            "accuracy": one * (target_N * whole_N).sum() / or_one(target_N.sum()),
            "characters": one * (weight_NxT * correct_NxT).sum() / characters,
        }
        return value, metrics

    return loss
