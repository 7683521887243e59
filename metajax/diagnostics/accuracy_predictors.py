"""The accuracy of a task, predicted from its support set by what other tasks showed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import scipy.special

from metajax._checked import checked
from metajax._checks import check_labels, check_positive, is_concrete, not_classes
from metajax._tree import as_floating, widened
from metajax.diagnostics.cross_validation import HeldOut
from metajax.diagnostics.statistics import moved, sizes_of, standardized
from metajax.types import Array


class AccuracyPredictor(NamedTuple):
    """A linear prediction of the accuracy of tasks from statistics of their support sets.

    Attributes:
        centre: {statistic: its mean over the tasks that it was fitted to}.
        weights: {statistic: the change of the accuracy for each unit of it}.
        mean: mean accuracy of these tasks, which is what a constant prediction says.
        error: root of the mean squared error on a task that was left out.
        half: half the width of the 95 % interval of a prediction, Student's t times the error.
        least: the least prediction: 0, or -1 where some of the accuracies were differences below 0.
        sizes: {"examples" and "ways": (fewest, most)} of the tasks that it was fitted to, if the
            statistics have them.
    """

    centre: dict[str, Array]
    weights: dict[str, Array]
    mean: Array
    error: Array
    half: Array
    least: Array
    sizes: dict[str, tuple[Array, Array]]


@checked
def support_statistics(held_out: HeldOut) -> dict[str, Array]:
    """What a support set says of its own task, as numbers for `fit_predictor`.

    It may be compiled, and mapped over tasks.

    Args:
        held_out: of `cross_predict`, logits as outputs.

    Returns:
        scalars: the "accuracy", "probability" of the label and "entropy" of examples that are left
        out, the "usable" share of them, the "fitted_probability" and "fitted_entropy" by the
        adaptation to all, and the numbers of "examples" and "ways". Accuracy and probability are 0
        where none is usable, as with one shot.

    Raises:
        ValueError: labels that are not int[n], or fewer than two ways. Where an output that counts
            is not finite, or a label is no class in compiled code, the accuracy is NaN.
    """
    y = held_out.y
    check_labels(y)
    if held_out.support.ndim != 2 or held_out.support.shape[1] < 2:
        raise ValueError(
            "The outputs must be logits [n, ways] of two or more ways, got "
            f"{held_out.support.shape}."
        )

    def mean(values: Array, rows: Array) -> Array:
        return jnp.where(rows, values, 0).sum() / jnp.maximum(rows.sum(), 1)

    def of(logits: Array) -> tuple[Array, Array]:
        wrong = not_classes(y, logits.shape[1], held_out.counts, least=-1)
        share = jax.nn.softmax(jnp.where(wrong[:, None], jnp.nan, widened(logits)))
        own = jnp.take_along_axis(share, jnp.maximum(y, 0)[:, None], axis=1)[:, 0]
        return own, jax.scipy.special.entr(share).sum(axis=1)

    probability, entropy = of(held_out.support)
    fitted_probability, fitted_entropy = of(held_out.fitted)
    right = held_out.support.argmax(axis=1) == y
    failed = not_classes(y, held_out.support.shape[1], held_out.counts, least=-1)
    failed |= ~jnp.isfinite(held_out.support).all(axis=1)
    accuracy = mean(right, held_out.usable)
    return {
        "accuracy": jnp.where((failed & held_out.counts).any(), jnp.nan, accuracy),
        "probability": mean(probability, held_out.usable),
        "entropy": mean(entropy, held_out.counts),
        "usable": mean(held_out.usable, held_out.counts),
        "fitted_probability": mean(fitted_probability, held_out.counts),
        "fitted_entropy": mean(fitted_entropy, held_out.counts),
        "examples": held_out.counts.sum().astype(entropy.dtype),
        "ways": jnp.full((), held_out.support.shape[1], entropy.dtype),
    }


@checked
def fit_predictor(
    statistics: Mapping[str, Array], accuracy: Array, *, penalty: float = 1.0
) -> AccuracyPredictor:
    """Learns to predict the accuracy of a task from statistics of its support set.

    Ridge regression of the accuracy on standardised statistics: it minimises the sum of squared
    errors plus penalty · |weights|². Fit it to tasks of the validation
    classes with as many ways and shots as the task that is asked about. With the accuracy after
    some more labels, or the gain by one of several candidates, it predicts these.

    Args:
        statistics: {name: [tasks]}, such as `support_statistics` mapped over tasks.
        accuracy: [tasks], on their query sets, or differences of such accuracies.
        penalty: of the squared weights, above 0.

    Raises:
        ValueError: fewer than three tasks, no statistics, statistics of another number of tasks, a
            penalty that is not above 0; where they are concrete, accuracies outside -1 … 1, and
            values that are not finite.
    """
    check_positive("penalty", penalty)
    if not statistics:
        raise ValueError("fit_predictor needs a statistic or more, got none.")
    if jnp.ndim(accuracy) != 1 or len(accuracy) < 3:
        raise ValueError(f"accuracy must be [tasks] of 3 or more, got {jnp.shape(accuracy)}.")
    for name, values in statistics.items():
        if jnp.shape(values) != jnp.shape(accuracy):
            raise ValueError(
                f"The statistic {name!r} is {jnp.shape(values)}, and accuracy "
                f"{jnp.shape(accuracy)}; both must be [tasks]."
            )
    accuracy = as_floating(accuracy)
    for name, values in {**statistics, "accuracy": accuracy}.items():
        if is_concrete(values) and not jnp.isfinite(values).all():
            raise ValueError(f"{name!r} must be finite for every task, got {values}.")
    if is_concrete(accuracy) and not (jnp.abs(accuracy) <= 1).all():
        raise ValueError(
            "accuracy must be shares from 0 to 1, or differences of them, got "
            f"{accuracy.min():.3g} … {accuracy.max():.3g}; divide per cent by 100."
        )
    names, centre, scale, x = standardized(statistics, accuracy.dtype)
    mean = accuracy.mean()
    square = x.T @ x + penalty * jnp.eye(len(names), dtype=x.dtype)
    weights = jnp.linalg.solve(square, x.T @ (accuracy - mean))
    # What a fit without a task would say of it, in closed form; 1 / tasks is for the mean.
    leverage = (x * jnp.linalg.solve(square, x.T).T).sum(axis=1) + 1 / len(accuracy)
    residual = (accuracy - mean - x @ weights) / (1 - leverage)
    error = jnp.sqrt((residual**2).mean())
    degrees = max(len(accuracy) - len(names) - 1, 1)
    as_dict = lambda values: dict(zip(names, values, strict=True))
    return AccuracyPredictor(
        as_dict(centre),
        as_dict(weights / scale),
        mean,
        error,
        float(scipy.special.stdtrit(degrees, 0.975)) * error,
        jnp.where((accuracy < 0).any(), -1.0, 0.0).astype(accuracy.dtype),
        sizes_of(statistics),
    )


@checked
def predict_accuracy(
    predictor: AccuracyPredictor, statistics: Mapping[str, Array]
) -> tuple[Array, Array, Array]:
    """What a predictor says of the accuracy of tasks, with a 95 % interval.

    Args:
        predictor: of `fit_predictor`.
        statistics: {name: scalar, or [tasks]}, of the names that it was fitted to.

    Returns:
        (accuracy, lower end, upper end), all from the least to 1. They are NaN where the numbers of
        examples or ways are outside those of the tasks that it was fitted to.

    Raises:
        ValueError: statistics of other names; where they are concrete, such numbers.
    """
    found = predictor.mean + moved(statistics, predictor.centre, predictor.weights, predictor.sizes)
    clip = lambda values: jnp.clip(values, predictor.least, 1)
    return clip(found), clip(found - predictor.half), clip(found + predictor.half)
