"""Losses of numbers: the squared error, and the likelihood of a Gaussian."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from metajax._checked import checked
from metajax._tree import keep_rows, reference_rows
from metajax.losses.row_means import weighted_mean, wide_type
from metajax.types import Apply, Array, Batch, Gaussian, Loss, Metrics, Params


@checked
def squared_error(apply: Apply) -> Loss:
    """Regression: Σᵢ wᵢ |f(xᵢ) - yᵢ|² / (k Σᵢ wᵢ), where k is the number of entries of one target.

    A batch whose weights are all zero has the loss 0. It is computed in float32 or wider.

    Args:
        apply: (params, x, key, reference=...) -> predictions [examples, ...]. `reference` are the
            rows that normalisation statistics come from, bool[examples], or None for all rows.
            `nets.from_function` makes one of a function (params, x).

    Returns:
        A loss of batches with targets of the shape of the predictions. It has no metrics.

    Raises:
        ValueError: when traced, targets and predictions that differ in shape, or weights that are
            not [examples]; where they are concrete, negative weights.

    >>> import jax
    >>> from metajax.types import Params
    >>> loss = squared_error(lambda params, x, key, reference: x)
    >>> batch = Batch(x=jnp.array([[1.0], [2.0]]), y=jnp.array([[0.0], [0.0]]))
    >>> loss(Params({}, {}), batch, jax.random.key(0))[0].item()
    2.5
    """

    @checked
    def loss(params: Params, batch: Batch, key: Array | None) -> tuple[Array, Metrics]:
        predictions = apply(params, batch.x, key, reference=reference_rows(batch))
        check_targets(predictions, batch.y)
        y = batch.y if batch.weight is None else keep_rows(batch.weight > 0, batch.y)
        squares = (predictions.astype(wide_type(predictions)) - y) ** 2
        return weighted_mean(squares, batch), {}

    return loss


@checked
def gaussian_log_loss(apply: Callable[..., Gaussian]) -> Loss:
    """Regression with uncertainty: -Σᵢ wᵢ log N(yᵢ; mean, variance) / (k Σᵢ wᵢ).

    k is the number of entries of one target, so that the loss is that of one number. It has the
    metric "squared_error", that of the mean. It is computed in float32 or wider.

    Args:
        apply: (params, x, key, reference=...) -> `Gaussian` [examples, ...].

    Returns:
        A loss of batches with targets of the shape of the mean.

    Raises:
        ValueError: when traced, outputs that are no `Gaussian`, a variance or targets that have
            another shape than the mean, or weights that are not [examples].

    >>> import jax
    >>> from metajax.types import Params
    >>> loss = gaussian_log_loss(lambda params, x, key, reference: Gaussian(x, jnp.ones_like(x)))
    >>> value, metrics = loss(Params({}, {}), Batch(jnp.zeros((1, 1)), jnp.ones((1, 1))), None)
    >>> round(float(value), 4), float(metrics["squared_error"])  # (log 2π + 1) / 2
    (1.4189, 1.0)
    """

    @checked
    def loss(params: Params, batch: Batch, key: Array | None) -> tuple[Array, Metrics]:
        outputs = apply(params, batch.x, key, reference=reference_rows(batch))
        if not isinstance(outputs, Gaussian):
            raise ValueError(f"The network must return a Gaussian, got {type(outputs).__name__}.")
        check_targets(outputs.mean, batch.y)
        if jnp.shape(outputs.variance) != outputs.mean.shape:
            raise ValueError(
                f"The mean has shape {outputs.mean.shape} and the variance "
                f"{jnp.shape(outputs.variance)}; make them equal."
            )
        mean, variance = (leaf.astype(wide_type(leaf)) for leaf in outputs)
        y = batch.y if batch.weight is None else keep_rows(batch.weight > 0, batch.y)
        squares = (mean - y) ** 2
        losses = (squares / variance + jnp.log(2 * jnp.pi * variance)) / 2
        return weighted_mean(losses, batch), {"squared_error": weighted_mean(squares, batch)}

    return loss


def check_targets(predictions: Array, y: Array) -> None:
    """Checks that targets have the shape of the predictions."""
    if predictions.shape != y.shape:
        raise ValueError(
            f"Targets have shape {y.shape}, predictions {predictions.shape}; make them equal."
        )
