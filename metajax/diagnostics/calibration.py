"""Whether probabilities agree with how often answers are right."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax._checked import checked
from metajax._checks import (
    check_integers,
    check_row_weights,
    is_concrete,
    not_classes,
)
from metajax._tree import widened
from metajax.types import Array, Size


class Reliability(NamedTuple):
    """Confidence and accuracy of answers, by bins of confidence.

    Attributes:
        confidence: [bins], the mean probability of the answers of a bin; 0 where it has none.
        accuracy: [bins], the share of them that is right; 0 where it has none.
        share: [bins], of all answers.
    """

    confidence: Array
    accuracy: Array
    share: Array

    @property
    def error(self) -> Array:
        """The expected calibration error: Σ share · |accuracy - confidence|."""
        return (self.share * jnp.abs(self.accuracy - self.confidence)).sum()


@checked
def reliability(
    probabilities: Array, y: Array, *, weight: Array | None = None, bins: Size = 15
) -> Reliability:
    """Confidence against accuracy, in bins of equal width.

    Args:
        probabilities: [n, ways].
        y: int[n].
        weight: [n]; None counts all answers once.
        bins: number of bins.

    Raises:
        ValueError: probabilities that are negative or whose sum differs from 1 by more than 0.01;
            labels of another shape. In compiled code such a row makes the result NaN.

    >>> found = reliability(jnp.array([[0.8, 0.2], [0.6, 0.4]]), jnp.array([0, 1]), bins=2)
    >>> found.accuracy.tolist(), round(float(found.confidence[1]), 2), round(float(found.error), 2)
    ([0.0, 0.5], 0.7, 0.2)

    Source: Guo et al. 2017, arXiv 1706.04599.
    """
    wrong = _check_probabilities(probabilities, y, weight)
    probabilities = jnp.where(wrong[:, None], jnp.nan, widened(probabilities))
    weight = jnp.ones(len(y), probabilities.dtype) if weight is None else weight
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == y
    index = jnp.clip((confidence * bins).astype(jnp.int32), 0, bins - 1)
    total = lambda values: jnp.zeros(bins, confidence.dtype).at[index].add(weight * values)
    count = total(1)
    mean = lambda values: total(values) / jnp.where(count > 0, count, 1)
    return Reliability(mean(confidence), mean(right), count / count.sum())


@checked
def brier_score(probabilities: Array, y: Array, *, weight: Array | None = None) -> Array:
    """The mean of Σₖ (pₖ - [k = y])², from 0 to 2.

    Args:
        probabilities: [n, ways].
        y: int[n].
        weight: [n]; None counts all answers once.

    Raises:
        ValueError: as for `reliability`.

    >>> float(brier_score(jnp.array([[0.5, 0.5], [1.0, 0.0]]), jnp.array([0, 0])))
    0.25

    Source: Brier 1950, Monthly Weather Review 78.
    """
    wrong = _check_probabilities(probabilities, y, weight)
    probabilities = jnp.where(wrong[:, None], jnp.nan, widened(probabilities))
    gap = probabilities - jax.nn.one_hot(y, probabilities.shape[1], dtype=probabilities.dtype)
    return jnp.average((gap**2).sum(axis=1), weights=weight)


def _check_probabilities(probabilities: Array, y: Array, weight: Array | None) -> Array:
    """Checks them, and returns which labels are no class where that could not be an error."""
    if jnp.ndim(probabilities) != 2:
        raise ValueError(f"probabilities must be [n, ways], got {jnp.shape(probabilities)}.")
    check_integers("y", y, (len(probabilities),))
    check_row_weights(weight, len(y))
    wrong = not_classes(y, probabilities.shape[1], weight)
    total = probabilities.sum(axis=1)
    wrong |= (probabilities < 0).any(axis=1) | ~(jnp.abs(total - 1) <= 1e-2)
    if not is_concrete(probabilities):
        return wrong
    found = np.asarray(probabilities, np.float64)
    if not (found >= 0).all() or not np.allclose(found.sum(axis=1), 1, atol=1e-2):
        raise ValueError(
            "probabilities must be 0 or more and sum to 1 in every row, got rows that sum to "
            f"{found.sum(axis=1).min():.3g} … {found.sum(axis=1).max():.3g}; take the softmax of "
            "logits."
        )
    return wrong
