"""Losses of a network, (params, batch, key) -> (scalar, metrics): weighted means over the rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from metajax._checked import checked
from metajax._checks import check_integers, check_row_weights, not_classes, signed
from metajax._tree import keep_rows, reference_rows, row_weights
from metajax.types import Apply, Array, Batch, Gaussian, Loss, Metrics, Params, PyTree


@checked
def computed_in(apply: Callable[..., Any], dtype: Any = jnp.bfloat16) -> Apply:
    """The same network, computed inside in another floating-point type, such as bfloat16.

    Use it for speed and memory where the hardware has fast 16-bit arithmetic. Weights, their
    updates and the loss keep their own type: a fast weight stored as bfloat16 would lose every
    update smaller than 1/512 of its value.

    Args:
        apply: (params, x, key, **options) -> outputs.
        dtype: the type that all floating-point weights and inputs are cast to.

    Returns:
        A network whose floating-point outputs are float32 or wider.

    >>> from metajax.types import Params
    >>> apply = computed_in(lambda params, x, key: params.fast * x)
    >>> apply(Params(jnp.float32(1 / 3), ()), jnp.float32(1), None)
    Array(0.33398438, dtype=float32)

    Source: Micikevicius et al. 2018, arXiv 1710.03740 (master weights).
    """

    def narrow(params: Params, x: PyTree, key: Array | None = None, **options: Any) -> PyTree:
        params, x = jax.tree.map(lambda leaf: _cast_float(leaf, dtype), (params, x))
        outputs = apply(params, x, key, **options)
        return jax.tree.map(lambda leaf: _cast_float(leaf, _wide_type(leaf)), outputs)

    return narrow


@checked
def cross_entropy(apply: Apply) -> Loss:
    """Classification: -Σᵢ wᵢ log softmax(logitsᵢ)[yᵢ] / Σᵢ wᵢ, with the metric "accuracy".

    An example may have one label, or one for each of its pixels or tokens; the loss of such an
    example is the mean over them. A batch whose weights are all zero has the loss 0 and the
    accuracy 0. The loss is computed in float32 or wider.

    A row that should be ignored has weight 0. A label outside 0 … ways - 1 in any other row is an
    error where the labels are concrete, and makes the loss NaN in compiled code.

    Args:
        apply: (params, x, key, reference=...) -> logits [examples, ..., ways]. `reference` are the
            rows that normalisation statistics come from, bool[examples], or None for all rows.
            `nets.from_function` makes one of a function (params, x).

    Returns:
        A loss of batches with labels int[examples, ...] and weights [examples].

    Raises:
        ValueError: when traced, labels or weights of another shape, or logits for one class only;
            where they are concrete, labels that are not classes, or negative weights.

    >>> from metajax.types import Params
    >>> loss = cross_entropy(lambda params, x, key, reference: x)
    >>> batch = Batch(x=jnp.array([[2.0, 0.0], [0.0, 1.0]]), y=jnp.array([0, 0]))
    >>> loss(Params({}, {}), batch, jax.random.key(0))[1]["accuracy"].item()
    0.5
    """

    @checked
    def loss(params: Params, batch: Batch, key: Array | None) -> tuple[Array, Metrics]:
        logits = apply(params, batch.x, key, reference=reference_rows(batch))
        check_integers("Labels", batch.y, logits.shape[:-1])
        ways = logits.shape[-1]
        if ways < 2:
            raise ValueError(
                f"Logits have shape {list(logits.shape)}: the last axis is the classes, of which "
                "there must be two or more. For two classes, give the net two outputs."
            )
        check_row_weights(batch.weight, len(batch.y))
        wrong = not_classes(batch.y, ways, batch.weight)
        y = signed(batch.y)
        y = jnp.where((y >= 0) & (y < ways), y, 0)
        wide = logits.astype(_wide_type(logits))
        losses = optax.softmax_cross_entropy_with_integer_labels(wide, y)
        correct = (logits.argmax(axis=-1) == y).astype(losses.dtype)
        # A factor, so that the gradient is NaN as well.
        one_or_nan = jnp.where(wrong.any(), jnp.nan, 1).astype(losses.dtype)
        value = _weighted_mean(losses, batch) * one_or_nan
        # The largest of logits that are NaN would be the first.
        accuracy = jnp.where(jnp.isnan(value), jnp.nan, _weighted_mean(correct, batch))
        return value, {"accuracy": accuracy}

    return loss


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

    >>> from metajax.types import Params
    >>> loss = squared_error(lambda params, x, key, reference: x)
    >>> batch = Batch(x=jnp.array([[1.0], [2.0]]), y=jnp.array([[0.0], [0.0]]))
    >>> loss(Params({}, {}), batch, jax.random.key(0))[0].item()
    2.5
    """

    @checked
    def loss(params: Params, batch: Batch, key: Array | None) -> tuple[Array, Metrics]:
        predictions = apply(params, batch.x, key, reference=reference_rows(batch))
        _check_targets(predictions, batch.y)
        y = batch.y if batch.weight is None else keep_rows(batch.weight > 0, batch.y)
        squares = (predictions.astype(_wide_type(predictions)) - y) ** 2
        return _weighted_mean(squares, batch), {}

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
        _check_targets(outputs.mean, batch.y)
        if jnp.shape(outputs.variance) != outputs.mean.shape:
            raise ValueError(
                f"The mean has shape {outputs.mean.shape} and the variance "
                f"{jnp.shape(outputs.variance)}; make them equal."
            )
        mean, variance = (leaf.astype(_wide_type(leaf)) for leaf in outputs)
        y = batch.y if batch.weight is None else keep_rows(batch.weight > 0, batch.y)
        squares = (mean - y) ** 2
        losses = (squares / variance + jnp.log(2 * jnp.pi * variance)) / 2
        return _weighted_mean(losses, batch), {"squared_error": _weighted_mean(squares, batch)}

    return loss


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
        log_p_NxTxC = log_p_NxTxC.astype(_wide_type(log_p_NxTxC))
        weight_N = row_weights(batch).astype(log_p_NxTxC.dtype)
        weight_NxT = weight_N[:, None] * (y_NxT > 0)
        characters = _or_one(weight_NxT.sum())
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
            "accuracy": one * (target_N * whole_N).sum() / _or_one(target_N.sum()),
            "characters": one * (weight_NxT * correct_NxT).sum() / characters,
        }
        return value, metrics

    return loss


def _check_targets(predictions: Array, y: Array) -> None:
    """Checks that targets have the shape of the predictions."""
    if predictions.shape != y.shape:
        raise ValueError(
            f"Targets have shape {y.shape}, predictions {predictions.shape}; make them equal."
        )


def _cast_float(leaf: Array, dtype: Any) -> Array:
    """The leaf in another type if it is floating-point, else as it is."""
    if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
        return leaf
    return jnp.asarray(leaf, dtype)


def _wide_type(values: Array) -> jnp.dtype:
    """At least float32, so that a mean over half-precision outputs loses nothing."""
    return jnp.promote_types(values.dtype, jnp.float32)


def _weighted_mean(values: Array, batch: Batch) -> Array:
    """Mean over the rows by weight, of the mean of each row; zero where all weights are zero."""
    check_row_weights(batch.weight, len(values))
    if batch.weight is None:
        return values.mean()
    per_row = values.reshape(len(values), -1).mean(axis=1)
    # float16 ends at 65504, which a sum of weights may exceed.
    weight = batch.weight.astype(jnp.promote_types(batch.weight.dtype, per_row.dtype))
    return (per_row * weight).sum() / _or_one(weight.sum())


def _or_one(total: Array) -> Array:
    """A total to divide by: 1 where it is zero."""
    return jnp.where(total > 0, total, 1)
