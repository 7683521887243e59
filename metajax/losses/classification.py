"""Losses of labels: cross-entropy, and the squared error of one-hot labels."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from metajax._checked import checked
from metajax._checks import check_integers, check_row_weights, not_classes, signed
from metajax._tree import reference_rows, row_weights
from metajax.losses.row_means import weighted_mean, wide_type
from metajax.types import Apply, Array, Batch, Loss, Metrics, Params


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
        return entropy_of_labels(logits, batch)

    return loss


@checked
def one_hot_error(apply: Apply) -> Loss:
    """Classification by scores from 0 to 1: Σᵢ wᵢ Σₖ (σ(logitsᵢₖ) - [yᵢ = k])² / Σᵢ wᵢ.

    σ is the logistic function: every class is decided for itself. Labels, weights and metrics are
    those of `cross_entropy`.

    Args:
        apply: (params, x, key, reference=...) -> logits [examples, ..., ways].

    Returns:
        A loss of batches with labels int[examples, ...] and weights [examples].

    Raises:
        ValueError: as `cross_entropy`.

    >>> from metajax.types import Params
    >>> loss = one_hot_error(lambda params, x, key, reference: x)
    >>> batch = Batch(x=jnp.array([[0.0, -100.0]]), y=jnp.array([0]))
    >>> loss(Params({}, {}), batch, jax.random.key(0))[0].item()
    0.25

    Source: as the loss of relation networks, Sung et al. 2018, arXiv 1711.06025, equation 2.
    """

    @checked
    def loss(params: Params, batch: Batch, key: Array | None) -> tuple[Array, Metrics]:
        logits = apply(params, batch.x, key, reference=reference_rows(batch))
        y, one_or_nan = classes_of(logits, batch)
        scores = jax.nn.sigmoid(logits.astype(wide_type(logits)))
        errors = ((scores - jax.nn.one_hot(y, logits.shape[-1], dtype=scores.dtype)) ** 2).sum(-1)
        value = weighted_mean(errors, batch) * one_or_nan.astype(errors.dtype)
        return value, {"accuracy": _accuracy(logits, y, value, batch)}

    return loss


@checked
def semi_supervised_cross_entropy(apply: Apply) -> Loss:
    """Cross-entropy of the labelled rows, and entropy of the rows whose label is -1.

    -Σ wᵢ log pᵢ[yᵢ] / Σ wᵢ over labelled rows, minus Σ wⱼ Σₖ pⱼₖ log pⱼₖ / Σ wⱼ over the others.
    The entropy makes predictions of unlabelled rows certain. The metric "accuracy" is that of the
    labelled rows.

    Args:
        apply: (params, x, key, reference=...) -> logits [examples, ways].

    Returns:
        A loss of batches with labels int[examples] and weights [examples].

    Raises:
        ValueError: as `cross_entropy`; the label -1 is allowed.

    >>> from metajax.types import Params
    >>> loss = semi_supervised_cross_entropy(lambda params, x, key, reference: x)
    >>> batch = Batch(x=jnp.array([[99.0, 0.0], [0.0, 0.0]]), y=jnp.array([0, -1]))
    >>> round(loss(Params({}, {}), batch, jax.random.key(0))[0].item(), 4)  # 0 and log 2
    0.6931

    Source: Grandvalet and Bengio 2004; for few-shot queries, Dhillon et al. 2020, arXiv 1909.02729.
    """

    @checked
    def loss(params: Params, batch: Batch, key: Array | None) -> tuple[Array, Metrics]:
        logits = apply(params, batch.x, key, reference=reference_rows(batch))
        check_integers("Labels", batch.y, logits.shape[:-1])
        is_labelled = signed(batch.y) != -1
        weight = row_weights(batch)
        labelled = batch._replace(weight=jnp.where(is_labelled, weight, 0))
        others = batch._replace(weight=jnp.where(is_labelled, 0, weight))
        value, metrics = entropy_of_labels(logits, labelled)
        log_p = jax.nn.log_softmax(logits.astype(wide_type(logits)))
        p = jnp.exp(log_p)
        entropy = -(p * jnp.where(p > 0, log_p, 0)).sum(axis=-1)  # log p of an absent class is -∞
        return value + weighted_mean(entropy, others), metrics

    return loss


def entropy_of_labels(logits: Array, batch: Batch) -> tuple[Array, Metrics]:
    """The weighted mean of -log softmax(logits)[y], and the accuracy."""
    y, one_or_nan = classes_of(logits, batch)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits.astype(wide_type(logits)), y)
    value = weighted_mean(losses, batch) * one_or_nan.astype(losses.dtype)
    return value, {"accuracy": _accuracy(logits, y, value, batch)}


def classes_of(logits: Array, batch: Batch) -> tuple[Array, Array]:
    """Labels, of which wrong ones are 0, and NaN if there is a wrong one in a row that counts.

    The second is a factor of the loss, so that the gradient is NaN as well; else it is 1.
    """
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
    return jnp.where((y >= 0) & (y < ways), y, 0), jnp.where(wrong.any(), jnp.nan, 1)


def _accuracy(logits: Array, y: Array, value: Array, batch: Batch) -> Array:
    """The weighted part of the rows whose largest logit is that of their class, [].

    It is NaN where the loss is: the largest of logits that are NaN would be the first.
    """
    correct = (logits.argmax(axis=-1) == y).astype(value.dtype)
    return jnp.where(jnp.isnan(value), jnp.nan, weighted_mean(correct, batch))
