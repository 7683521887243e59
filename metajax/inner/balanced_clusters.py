"""Clusters of equal size: k-means whose assignments are a plan of optimal transport."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax._checked import checked
from metajax._tree import as_floating, keep_rows, varying_like, widened
from metajax.types import Array, Count, Size

MOST_STEPS = 2000
"""Largest number of steps of Sinkhorn's algorithm in an assignment."""

TOLERANCE = 1e-3
"""Where the algorithm stops: how far the weight of a cluster is from 1/K, as a part of it."""


class Clusters(NamedTuple):
    """What a clustering found.

    Attributes:
        centre: [clusters, d].
        share: [examples, clusters], the share of each row in each cluster. The shares of a row add
            up to 1, those of a row of weight 0 to 0.
    """

    centre: Array
    share: Array


@checked
def sinkhorn_kmeans(
    features: Array,
    clusters: Size,
    *,
    weight: Array | None = None,
    temperature: float = 0.1,
    steps: Count = 10,
) -> Clusters:
    """K-means with clusters of equal weight.

    The plan P minimises Σᵢₖ Pᵢₖ |fᵢ - cₖ|² - T H(P) among those with Σₖ Pᵢₖ = wᵢ / Σ w and
    Σᵢ Pᵢₖ = 1/K, where H is the entropy, and cₖ = K Σᵢ Pᵢₖ fᵢ, in turn. The centres start at rows
    far from each other: the one farthest from the mean, and then each the farthest from those
    before. The distances are divided by the mean squared distance from the mean, so that the scale
    of the features does not matter. No derivative passes through the clusters.

    Args:
        features: [examples, d].
        clusters: K.
        weight: [examples], the weight of each row; None is 1.
        temperature: T. A small one makes the shares 0 or 1.
        steps: assignments after the first.

    Raises:
        ValueError: features that are not [examples, d], a temperature that is not above 0, or
            fewer rows than clusters.

    >>> found = sinkhorn_kmeans(jnp.array([[0.0], [1.0], [8.0], [9.0]]), 2)
    >>> found.share.argmax(axis=1).tolist(), found.centre.round(2).tolist()
    ([0, 0, 1, 1], [[0.5], [8.5]])

    Source: Huang et al. 2019, arXiv 1902.08605; the plan, Cuturi 2013, arXiv 1306.0895.
    """
    if jnp.ndim(features) != 2 or len(features) < clusters:
        raise ValueError(
            f"features must be [examples, d] with {clusters} examples or more, one for each "
            f"cluster, got shape {jnp.shape(features)}."
        )
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}.")
    features_NxD = jax.lax.stop_gradient(widened(as_floating(features)))
    weight_N = jnp.ones(len(features)) if weight is None else weight
    weight_N = weight_N.astype(features_NxD.dtype)
    counts_N = weight_N > 0
    features_NxD = keep_rows(counts_N, features_NxD)
    total = weight_N.sum()
    part_N = jnp.where(total > 0, weight_N / jnp.where(total > 0, total, 1), 1 / len(features))
    mean_1xD = (part_N @ features_NxD)[None]
    spread = part_N @ ((features_NxD - mean_1xD) ** 2).sum(axis=1)
    scale = temperature * jnp.where(spread > 0, spread, 1)

    def shares_of(centre_KxD: Array) -> Array:
        return _plan(_squares(features_NxD, centre_KxD) / scale, part_N)

    def step(_: int, centre_KxD: Array) -> Array:
        return clusters * shares_of(centre_KxD).T @ features_NxD

    start_KxD = _far_rows(features_NxD, counts_N, mean_1xD, clusters)
    centre_KxD = jax.lax.fori_loop(0, steps, step, start_KxD)
    plan_NxK = shares_of(centre_KxD)
    centre_KxD = clusters * plan_NxK.T @ features_NxD
    share_NxK = plan_NxK / jnp.where(counts_N, part_N, 1)[:, None]
    return Clusters(centre_KxD, jnp.where(counts_N[:, None], share_NxK, 0))


def _squares(rows_NxD: Array, centre_KxD: Array) -> Array:
    """|f - c|² for every row and centre, [rows, centres]."""
    return ((rows_NxD[:, None] - centre_KxD[None]) ** 2).sum(axis=2)


def _far_rows(features_NxD: Array, counts_N: Array, mean_1xD: Array, clusters: int) -> Array:
    """Rows far from each other, [clusters, d]."""
    nearest_N = _squares(features_NxD, mean_1xD)[:, 0]
    chosen = []
    for number in range(clusters):
        place = jnp.where(counts_N, nearest_N, -1).argmax()
        chosen.append(features_NxD[place])
        distance_N = _squares(features_NxD, chosen[-1][None])[:, 0]
        nearest_N = distance_N if number == 0 else jnp.minimum(nearest_N, distance_N)
    return jnp.stack(chosen)


def _plan(cost_NxK: Array, part_N: Array) -> Array:
    """The plan of transport with these costs, whose rows add up to part_N: Sinkhorn's algorithm."""
    clusters = cost_NxK.shape[1]
    log_part_N = jnp.log(jnp.where(part_N > 0, part_N, 1))
    log_part_N = jnp.where(part_N > 0, log_part_N, -jnp.inf)

    def plan(of_columns_K: Array) -> Array:
        """The plan whose rows add up exactly."""
        return part_N[:, None] * jax.nn.softmax(of_columns_K[None] - cost_NxK, axis=1)

    def is_open(state: tuple[Array, Array]) -> Array:
        number, of_columns_K = state
        far = jnp.abs(clusters * plan(of_columns_K).sum(axis=0) - 1).max()
        return (number < MOST_STEPS) & (far > TOLERANCE)

    def step(state: tuple[Array, Array]) -> tuple[Array, Array]:
        number, of_columns_K = state
        of_rows_N = log_part_N - jax.nn.logsumexp(of_columns_K[None] - cost_NxK, axis=1)
        of_columns_K = -jax.nn.logsumexp(of_rows_N[:, None] - cost_NxK, axis=0)
        return number + 1, of_columns_K - jnp.log(jnp.asarray(clusters, cost_NxK.dtype))

    start = (jnp.int32(0), jnp.zeros(clusters, cost_NxK.dtype))
    start = varying_like(start, (cost_NxK, part_N))
    return plan(jax.lax.while_loop(is_open, step, start)[1])
