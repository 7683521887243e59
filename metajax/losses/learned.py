"""A loss that a net computes."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from metajax._checked import checked
from metajax._tree import keep_rows, reference_rows
from metajax.losses.classification import classes_of
from metajax.losses.regression import check_targets
from metajax.losses.row_means import weighted_mean, wide_type
from metajax.types import Apply, Array, Batch, Loss, Metrics, Params


@checked
def learned_loss(apply: Apply, measure: Apply, *, part: str = "measure") -> Loss:
    """A loss that a net computes from each output and its target: the inner loss of ML³.

    Σᵢ wᵢ meanₖ softplus(m(oᵢₖ, tᵢₖ)) / Σᵢ wᵢ. The outer loop learns the net m. The targets of
    labels are one-hot, and m also reads log softmax(oᵢ)ₖ, so that it knows the other outputs.
    Classes are read one at a time, so that they have no order.

    Args:
        apply: (params, x, key, reference=...) -> outputs [examples, k].
        measure: the net m as a function of its own params and of the numbers that it reads: [rows,
            3] -> [rows, 1] for labels, in the order output, log-probability, target; [rows, 2] for
            numbers, output and target.
        part: the entry of `params.slow` with the weights of m.

    Returns:
        A loss of batches with labels int[examples] or targets float[examples, k]. It has no
        metrics.

    Raises:
        ValueError: when traced, labels or targets of another shape; where labels are concrete,
            those that are not classes.

    Source: Bechtle et al. 2021, arXiv 1906.05374.
    """

    @checked
    def loss(params: Params, batch: Batch, key: Array | None) -> tuple[Array, Metrics]:
        outputs = apply(params, batch.x, key, reference=reference_rows(batch))
        outputs = outputs.astype(wide_type(outputs))
        one_or_nan = jnp.ones((), outputs.dtype)
        if jnp.issubdtype(batch.y.dtype, jnp.floating):
            check_targets(outputs, batch.y)
            y = batch.y if batch.weight is None else keep_rows(batch.weight > 0, batch.y)
            read = [outputs, y.astype(outputs.dtype)]
        else:
            y, one_or_nan = classes_of(outputs, batch)
            target = jax.nn.one_hot(y, outputs.shape[-1], dtype=outputs.dtype)
            read = [outputs, jax.nn.log_softmax(outputs), target]
        numbers = jnp.stack(read, axis=-1)
        weights = Params({}, params.slow[part])
        values = measure(weights, numbers.reshape(-1, len(read))).reshape(outputs.shape)
        mean = weighted_mean(jax.nn.softplus(values), batch)
        return mean * one_or_nan.astype(mean.dtype), {}

    return loss
