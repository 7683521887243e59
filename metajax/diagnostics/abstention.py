"""What is gained where a classifier does not answer, and how well a score tells two kinds apart."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax._checked import checked
from metajax._checks import check_row_weights
from metajax._tree import as_floating, widened
from metajax.types import Array


class RiskCoverage(NamedTuple):
    """Errors against the share of the questions that are answered, the surest first.

    Attributes:
        coverage: [n], share of the questions that are answered.
        risk: [n], share of these answers that is wrong; 0 where nothing is answered.
        threshold: [n], the confidence of the last of them. Where others have the same confidence,
            answering from it on covers them, too.
    """

    coverage: Array
    risk: Array
    threshold: Array

    @property
    def area(self) -> Array:
        """The mean risk over all coverages.

        With an error rate e it is e if the confidence says nothing, and about
        e + (1 - e) log(1 - e) if all wrong answers come last.
        """
        before = jnp.concatenate([jnp.zeros(1, self.coverage.dtype), self.coverage[:-1]])
        return (self.risk * (self.coverage - before)).sum()


@checked
def risk_coverage(confidence: Array, right: Array, *, weight: Array | None = None) -> RiskCoverage:
    """Sorts answers by confidence, and counts the errors among the surest.

    Answers of equal confidence count as if their order were drawn.

    Args:
        confidence: [n], such as the greatest probability.
        right: bool[n].
        weight: [n]; None counts all answers once.

    Raises:
        ValueError: arrays of other shapes.

    >>> found = risk_coverage(jnp.array([0.9, 0.6, 0.8]), jnp.array([True, False, True]))
    >>> found.risk.round(2).tolist(), found.threshold.round(2).tolist()
    ([0.0, 0.0, 0.33], [0.9, 0.8, 0.6])

    Source: El-Yaniv and Wiener 2010, JMLR 11; Geifman and El-Yaniv 2017, arXiv 1705.08500.
    """
    _check_pair(confidence, right, "right", weight)
    confidence = widened(as_floating(confidence))
    weight = jnp.ones(len(confidence)) if weight is None else weight
    order = jnp.argsort(-confidence)
    sure, weight = confidence[order], weight[order].astype(confidence.dtype)
    wrong = weight * ~right[order].astype(bool)
    group = jnp.cumsum(jnp.concatenate([jnp.zeros(1, bool), sure[1:] != sure[:-1]]))
    total = lambda values: jax.ops.segment_sum(values, group, len(sure))[group]
    in_group = total(weight)
    wrong = weight * total(wrong) / jnp.where(in_group > 0, in_group, 1)
    answered = jnp.cumsum(weight)
    risk = jnp.cumsum(wrong) / jnp.where(answered > 0, answered, 1)
    risk = jnp.where(jnp.isnan(sure).any(), jnp.nan, risk)
    return RiskCoverage(answered / answered[-1], risk, sure)


@checked
def auroc(scores: Array, positive: Array, *, weight: Array | None = None) -> Array:
    """The probability that a positive example has a higher score than another one.

    Equal scores count one half. 0.5 is chance. It is NaN without both kinds.

    Args:
        scores: [n].
        positive: bool[n].
        weight: [n]; None counts all examples once.

    Raises:
        ValueError: arrays of other shapes.

    >>> float(auroc(jnp.array([0.1, 0.4, 0.35, 0.8]), jnp.array([False, False, True, True])))
    0.75

    Source: Hanley and McNeil 1982, Radiology 143.
    """
    _check_pair(scores, positive, "positive", weight)
    scores = widened(as_floating(scores))
    weight = jnp.ones(len(scores)) if weight is None else weight
    weight = weight.astype(scores.dtype)
    order = jnp.argsort(scores)
    in_order = scores[order]
    negative = jnp.where(positive[order].astype(bool), 0, weight[order])
    below = jnp.concatenate([jnp.zeros(1, scores.dtype), jnp.cumsum(negative)])
    left = below[jnp.searchsorted(in_order, scores, side="left")]
    right = below[jnp.searchsorted(in_order, scores, side="right")]
    own = jnp.where(positive.astype(bool), weight, 0)
    found = (own * (left + right) / 2).sum() / (own.sum() * below[-1])
    return jnp.where(jnp.isnan(scores).any(), jnp.nan, found)


def _check_pair(scores: Array, other: Array, name: str, weight: Array | None) -> None:
    """Checks that both are [n], of one or more."""
    if jnp.ndim(scores) != 1 or len(scores) < 1 or jnp.shape(other) != jnp.shape(scores):
        raise ValueError(
            f"Both must be [n] of one or more: the scores are {jnp.shape(scores)}, and {name} "
            f"{jnp.shape(other)}."
        )
    check_row_weights(weight, len(scores))
