"""Whether a query belongs to any of the classes of its task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax._checked import checked
from metajax._checks import check_labels, check_positive, not_classes
from metajax._tree import as_floating, row_weights, widened
from metajax.types import Array, Batch

NEWTON_STEPS = 25
"""Of the logistic regression; it converges in about six."""


class Scope(NamedTuple):
    """A learned score of belonging to a class of the task.

    Attributes:
        centre: {score: its mean over the examples that it was fitted to}.
        weights: {score: the change of the log odds for each unit of it}.
        bias: the log odds at the centre.
    """

    centre: dict[str, Array]
    weights: dict[str, Array]
    bias: Array


@checked
def scope_scores(logits: Array, features: Array, support: Batch) -> dict[str, Array]:
    """Scores of queries that are meant to be high where a query belongs to a class of its task.

    - "probability": the greatest probability;
    - "energy": log Σₖ exp(logitsₖ), for heads whose logits have a meaning of their own. Those of
      `prototypes` leave -|f(x)|² out, so that their energy grows with the length of the features;
    - "distance": minus the distance of the features to the nearest class mean, divided by the mean
      distance between the class means;
    - "neighbour": the greatest cosine of the features with those of a support example.

    Args:
        logits: [q, ways], of the queries.
        features: [q, d], of the queries.
        support: the support set, features [n, d] as x, and labels int[n].

    Returns:
        {score: [q]}.

    Raises:
        ValueError: labels that are not int[n], one way, or features of another width.

    Source: Hendrycks and Gimpel 2017, arXiv 1610.02136 (probability); Liu et al. 2020, arXiv
    2010.03759 (energy).
    """
    check_labels(support.y)
    ways = logits.shape[1]
    if ways < 2:
        raise ValueError(f"A task needs two or more classes, got logits {logits.shape}.")
    if features.ndim != 2:
        raise ValueError(f"features must be [q, d], got {features.shape}; embed the inputs first.")
    if features.shape[1:] != support.x.shape[1:] or len(features) != len(logits):
        raise ValueError(
            f"The features of the queries are {features.shape}, those of the support set "
            f"{support.x.shape}, and the logits {logits.shape}; they must be [q, d], [n, d] and "
            "[q, ways]."
        )
    weight_N = row_weights(support)
    wrong_N = not_classes(support.y, ways, weight_N, least=-1)
    x_NxD = jnp.where(wrong_N[:, None], jnp.nan, widened(support.x))
    logits, features = widened(logits), widened(features)
    share_NxW = weight_N[:, None] * jax.nn.one_hot(support.y, ways, dtype=x_NxD.dtype)
    total_W = share_NxW.sum(axis=0)
    is_known_W = total_W > 0
    mean_WxD = (share_NxW.T @ x_NxD) / jnp.where(is_known_W, total_W, 1)[:, None]
    between_WxW = _distances(mean_WxD, mean_WxD)
    pairs_WxW = (is_known_W[:, None] & is_known_W[None]) & ~jnp.eye(ways, dtype=bool)
    unit = jnp.where(pairs_WxW, between_WxW, 0).sum() / jnp.maximum(pairs_WxW.sum(), 1)
    to_mean_QxW = jnp.where(is_known_W[None], _distances(features, mean_WxD), jnp.inf)
    direction = lambda rows: rows / jnp.maximum(jnp.linalg.norm(rows, axis=1), 1e-12)[:, None]
    cosine_QxN = direction(features) @ direction(x_NxD).T
    counts_N = (weight_N > 0) & (support.y >= 0)
    return {
        "probability": jax.nn.softmax(logits).max(axis=1),
        "energy": jax.nn.logsumexp(logits, axis=1),
        "distance": -to_mean_QxW.min(axis=1) / jnp.where(unit > 0, unit, 1),
        "neighbour": jnp.where(counts_N[None], cosine_QxN, -1).max(axis=1),
    }


def _distances(a_NxD: Array, b_MxD: Array) -> Array:
    """Euclidean distances, [n, m]."""
    return jnp.sqrt(((a_NxD[:, None] - b_MxD[None]) ** 2).sum(axis=2))


@checked
def fit_scope(scores: Mapping[str, Array], inside: Array, *, penalty: float = 1.0) -> Scope:
    """Learns, on validation tasks, to tell queries that belong to a class from others.

    Logistic regression on standardised scores, by Newton's method: it minimises
    Σᵢ wᵢ CEᵢ + penalty / 2 · |weights|². Queries of both kinds count the same in total, so that 0.5
    stands for even odds.

    Args:
        scores: {name: [n]}, such as `scope_scores` of the queries of many tasks.
        inside: bool[n], whether the query belongs to a class of its task.
        penalty: of the squared weights, above 0.

    Raises:
        ValueError: no scores, scores of another shape, or a penalty that is not above 0.
    """
    check_positive("penalty", penalty)
    if not scores:
        raise ValueError("fit_scope needs a score or more, got none.")
    for name, values in scores.items():
        if jnp.ndim(inside) != 1 or jnp.shape(values) != jnp.shape(inside):
            raise ValueError(
                f"The score {name!r} is {jnp.shape(values)}, and inside {jnp.shape(inside)}; both "
                "must be [n]."
            )
    names = sorted(scores)
    rows = as_floating(jnp.stack([scores[name] for name in names], axis=1))
    is_inside = inside.astype(bool)
    centre, spread = rows.mean(axis=0), rows.std(axis=0)
    scale = jnp.where(spread > 1e-6, spread, 1)
    x = jnp.concatenate([(rows - centre[None]) / scale[None], jnp.ones((len(rows), 1))], axis=1)
    x = x.astype(rows.dtype)
    number = jnp.where(is_inside, is_inside.sum(), (~is_inside).sum())
    weight = len(rows) / (2 * number.astype(x.dtype))
    ridge = jnp.full(len(names) + 1, penalty, x.dtype).at[-1].set(0)

    def step(_: int, beta: Array) -> Array:
        share = jax.nn.sigmoid(x @ beta)
        slope = x.T @ (weight * (share - is_inside)) + ridge * beta
        square = (x * (weight * share * (1 - share))[:, None]).T @ x + jnp.diag(ridge + 1e-6)
        return beta - jax.scipy.linalg.solve(square, slope, assume_a="pos")

    beta = jax.lax.fori_loop(0, NEWTON_STEPS, step, jnp.zeros(len(names) + 1, x.dtype))
    beta = jnp.where(is_inside.any() & ~is_inside.all(), beta, jnp.nan)
    as_dict = lambda values: dict(zip(names, values, strict=True))
    return Scope(as_dict(centre), as_dict(beta[:-1] / scale), beta[-1])


@checked
def in_scope(scope: Scope, scores: Mapping[str, Array]) -> Array:
    """The probability that a query belongs to a class of its task, at even odds.

    Args:
        scope: of `fit_scope`.
        scores: {name: [q]}, of the names that it was fitted to.

    Raises:
        ValueError: scores of other names.
    """
    if set(scores) != set(scope.weights):
        raise ValueError(f"It takes the scores {sorted(scope.weights)}, got {sorted(scores)}.")
    moved = [weight * (scores[name] - scope.centre[name]) for name, weight in scope.weights.items()]
    return jax.nn.sigmoid(scope.bias + sum(moved))
