"""Temperatures that make probabilities agree with how often answers are right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from metajax._checked import checked
from metajax._checks import (
    check_integers,
    check_positive,
    check_row_weights,
    is_concrete,
    not_classes,
)
from metajax._tree import widened
from metajax.diagnostics.statistics import moved, sizes_of, standardized
from metajax.types import Array, Scalar

HALVINGS = 60
"""Of the interval in which the temperature is looked for."""
MOST = 7.0
"""The logarithm of a temperature is from minus this to this."""
STEPS = 60
"""Of the optimizer that fits the temperatures of many tasks."""


class TemperaturePredictor(NamedTuple):
    """A prediction of the temperature of tasks from statistics of their support sets.

    Attributes:
        centre: {statistic: its mean over the tasks that it was fitted to}.
        weights: {statistic: the change of the logarithm of the temperature for each unit of it}.
        shared: the best temperature for all of these tasks alike.
        log_mean: the logarithm of the temperature at the centre.
        sizes: {"examples" and "ways": (fewest, most)} of these tasks, if the statistics have them.
    """

    centre: dict[str, Array]
    weights: dict[str, Array]
    shared: Array
    log_mean: Array
    sizes: dict[str, tuple[Array, Array]]


@checked
def best_temperature(
    logits: Array,
    y: Array,
    *,
    weight: Array | None = None,
    centre: Scalar = 1.0,
    strength: float = 0.0,
) -> Array:
    """The temperature T whose softmax(logits / T) has the least cross-entropy.

    T minimises  Σᵢ wᵢ CE(logitsᵢ / T, yᵢ) + strength / 2 · (centre / T - 1)²,  which is convex in
    1 / T; the zero of its derivative is found by halving an interval. The temperature of one task,
    from few examples that are left out, needs a strength of about one to ten and, as its centre,
    the temperature of other tasks. With strength 0, where all answers are right, the least T is
    best, and where the logits are worse than chance, the greatest: it ends at exp(-7) or exp(7).
    It is NaN where no example counts and the strength is 0.

    Args:
        logits: [n, ways], of examples that were not learned from: validation tasks, or
            `cross_predict`.
        y: int[n].
        weight: [n]; None counts all answers once.
        centre: the temperature without any example, above 0.
        strength: how many examples it is worth, 0 or more.

    Raises:
        ValueError: labels of another shape, a strength below 0, or a centre that is not above 0.

    Source: Guo et al. 2017, arXiv 1706.04599.
    """
    check_positive("centre", centre)
    if not strength >= 0:
        raise ValueError(f"{strength=} must be 0 or more.")
    check_integers("y", y, (len(logits),))
    check_row_weights(weight, len(y))
    wrong = not_classes(y, logits.shape[1], weight)
    logits = jnp.where(wrong[:, None], jnp.nan, widened(logits))
    weight = jnp.ones(len(y), logits.dtype) if weight is None else weight
    logits = jnp.where(weight[:, None] == 0, 0, logits)
    own = jnp.take_along_axis(logits, y[:, None], axis=1)[:, 0]

    def slope(log_scale: Array) -> Array:
        scale = jnp.exp(log_scale)
        share = jax.nn.softmax(scale * logits)
        of_examples = (weight[:, None] * share * (logits - own[:, None])).sum()
        return of_examples + strength * centre * (centre * scale - 1)

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = (low + high) / 2
        is_right_of_it = slope(middle) <= 0  # it underflows to 0 where all answers are right
        return jnp.where(is_right_of_it, middle, low), jnp.where(is_right_of_it, high, middle)

    start = jnp.asarray(-MOST, logits.dtype), jnp.asarray(MOST, logits.dtype)
    low, high = jax.lax.fori_loop(0, HALVINGS, halve, start)
    is_known = ~jnp.isnan(slope(low)) & ((weight.sum() > 0) | (strength > 0))
    return jnp.where(is_known, jnp.exp(-(low + high) / 2), jnp.nan)


@checked
def fit_temperature(
    statistics: Mapping[str, Array], logits: Array, y: Array, *, penalty: float = 1.0
) -> TemperaturePredictor:
    """Learns, on the queries of validation tasks, which temperature a task needs.

    The temperature is log Tₜ = b + w · sₜ for the standardised statistics sₜ of the support set of
    task t. It minimises  Σₜ meanᵢ CE(logitsₜᵢ / Tₜ, yₜᵢ) + penalty / 2 · |w|²  by L-BFGS, from the
    temperature that is best for all tasks alike. As in `best_temperature`, a temperature is at
    least exp(-7), where it ends if all answers are right, and at most exp(7).

    Args:
        statistics: {name: [tasks]}, such as `support_statistics` mapped over tasks.
        logits: [tasks, queries, ways].
        y: int[tasks, queries].
        penalty: of the squared weights, above 0.

    Raises:
        ValueError: arrays of other shapes, fewer than three tasks, no queries, no statistics, or a
            penalty that is not above 0; where they are concrete, labels that are no class and
            statistics that are not finite. In compiled code these make the temperatures NaN.

    >>> scale = jnp.array([1.0, 2.0, 4.0, 8.0])  # of the logits of each task
    >>> logits = scale[:, None, None] * jnp.tile(jnp.array([1.1, 0.0]), (4, 4, 1))
    >>> y = jnp.tile(jnp.array([0, 0, 0, 1]), (4, 1))  # 1.1 is right in three of four
    >>> statistics = {"log scale": jnp.log(scale)}
    >>> found = fit_temperature(statistics, logits, y, penalty=1e-3)
    >>> predict_temperature(found, statistics).round(1).tolist()
    [1.0, 2.0, 4.0, 8.0]
    """
    check_positive("penalty", penalty)
    if not statistics:
        raise ValueError("fit_temperature needs a statistic or more, got none.")
    if jnp.ndim(logits) != 3 or len(logits) < 3 or 0 in jnp.shape(logits):
        raise ValueError(
            "logits must be [tasks, queries, ways] of 3 tasks or more with queries, got "
            f"{jnp.shape(logits)}."
        )
    tasks, queries, ways = logits.shape
    check_integers("y", y, (tasks, queries))
    for name, values in statistics.items():
        if jnp.shape(values) != (tasks,):
            raise ValueError(f"The statistic {name!r} is {jnp.shape(values)}, must be [{tasks}].")
        if is_concrete(values) and not jnp.isfinite(values).all():
            raise ValueError(f"{name!r} must be finite for every task, got {values}.")
    shared = best_temperature(logits.reshape(-1, ways), y.reshape(-1))
    logits = widened(logits)
    names, centre, scale, x = standardized(statistics, logits.dtype)

    def objective(beta: Array) -> Array:
        log_temperature = jnp.clip(beta[0] + x @ beta[1:], -MOST, MOST)
        divided = logits * jnp.exp(-log_temperature)[:, None, None]
        losses = optax.softmax_cross_entropy_with_integer_labels(divided, y)
        return losses.mean(axis=1).sum() + penalty / 2 * (beta[1:] ** 2).sum()

    optimizer = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(objective)

    def step(_: int, carry: tuple[Array, optax.OptState]) -> tuple[Array, optax.OptState]:
        beta, state = carry
        value, grad = value_and_grad(beta, state=state)
        updates, state = optimizer.update(
            grad, state, beta, value=value, grad=grad, value_fn=objective
        )
        return optax.apply_updates(beta, updates), state

    start = jnp.zeros(1 + len(names), logits.dtype).at[0].set(jnp.log(shared))
    beta, _ = jax.lax.fori_loop(0, STEPS, step, (start, optimizer.init(start)))
    as_dict = lambda values: dict(zip(names, values, strict=True))
    return TemperaturePredictor(
        as_dict(centre), as_dict(beta[1:] / scale), shared, beta[0], sizes_of(statistics)
    )


@checked
def predict_temperature(predictor: TemperaturePredictor, statistics: Mapping[str, Array]) -> Array:
    """The temperature of tasks by statistics of their support sets.

    Args:
        predictor: of `fit_temperature`.
        statistics: {name: scalar, or [tasks]}, of the names that it was fitted to.

    Returns:
        scalar, or [tasks], from exp(-7) to exp(7). NaN where the numbers of examples or ways are
        outside those of the tasks that it was fitted to.

    Raises:
        ValueError: statistics of other names; where they are concrete, such numbers.
    """
    found = moved(statistics, predictor.centre, predictor.weights, predictor.sizes)
    return jnp.exp(jnp.clip(predictor.log_mean + found, -MOST, MOST))
