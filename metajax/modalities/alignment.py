"""Losses that align the features of two modalities, and how well one retrieves the other.

Row i of `first` and row i of `second` are two views of one example. `weight` is the weight of each
row as an anchor. A row of weight 0 is neither an anchor nor a negative, and its values are ignored.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from metajax._checked import checked
from metajax._checks import check_positive
from metajax._tree import largest
from metajax.modalities.rows import paired_rows, weighted_mean
from metajax.types import Array, Scalar, Size


@checked
def info_nce(
    first: Array, second: Array, *, temperature: Scalar = 0.07, weight: Array | None = None
) -> Array:
    """The contrastive loss of CLIP: each row picks its partner among all, in both directions.

    L = -½ Σᵢ wᵢ (log softmaxⱼ(sᵢⱼ/τ)[i] + log softmaxⱼ(sⱼᵢ/τ)[i]) / Σᵢ wᵢ, with the cosine
    sᵢⱼ = x̂ᵢ·ŷⱼ. If all n rows are equal, it is log n.

    Args:
        first: x [n, d].
        second: y [n, d].
        temperature: τ > 0. CLIP learns log(1/τ), starting from this default.
        weight: [n]. None gives every row the weight 1.

    Raises:
        ValueError: features that are not of one shape [n, d], weights that are not [n], or a
            temperature that is not above 0.

    >>> round(info_nce(jnp.ones((3, 2)), jnp.ones((3, 2))).item(), 4)  # log 3
    1.0986

    Source: Radford et al. 2021, arXiv 2103.00020.
    """
    check_positive("temperature", temperature)
    cosine_NxN, weight_N = _cosines(first, second, weight)
    candidate_NxN = (weight_N > 0)[None, :] | jnp.eye(len(weight_N), dtype=bool)
    logits_NxN = cosine_NxN / temperature
    forth_N = jax.nn.logsumexp(logits_NxN, axis=1, where=candidate_NxN)
    back_N = jax.nn.logsumexp(logits_NxN.T, axis=1, where=candidate_NxN)
    return weighted_mean((forth_N + back_N) / 2 - jnp.diagonal(logits_NxN), weight_N)


@checked
def sigmoid_loss(
    first: Array,
    second: Array,
    *,
    scale: Scalar = 10.0,
    bias: Scalar = -10.0,
    weight: Array | None = None,
) -> Array:
    """The contrastive loss of SigLIP: whether any two rows are a pair, without a softmax.

    L = -Σᵢⱼ wᵢⱼ log σ(zᵢⱼ (a x̂ᵢ·ŷⱼ + b)) / Σᵢ wᵢ, with zᵢᵢ = 1 and zᵢⱼ = -1 elsewhere. wᵢⱼ is
    (wᵢ + wⱼ)/2 where both rows have a positive weight, and 0 elsewhere.

    Args:
        first: x [n, d].
        second: y [n, d].
        scale: a > 0. SigLIP learns log a, starting from this default.
        bias: b. SigLIP learns it, too. The default is low because most pairs are negatives.
        weight: [n]. None gives every row the weight 1.

    Raises:
        ValueError: as for `info_nce`.

    Source: Zhai et al. 2023, arXiv 2303.15343.
    """
    cosine_NxN, weight_N = _cosines(first, second, weight)
    sign_NxN = 2 * jnp.eye(len(weight_N), dtype=cosine_NxN.dtype) - 1
    loss_NxN = -jax.nn.log_sigmoid(sign_NxN * (scale * cosine_NxN + bias))
    valid_N = (weight_N > 0).astype(weight_N.dtype)
    return weighted_mean((loss_NxN @ valid_N + loss_NxN.T @ valid_N) / 2, weight_N)


@checked
def triplet(
    first: Array, second: Array, *, margin: Scalar = 0.2, weight: Array | None = None
) -> Array:
    """The ranking loss against the hardest negative in the batch, in both directions (VSE++).

    L = Σᵢ wᵢ ([m - sᵢᵢ + maxⱼ≠ᵢ sᵢⱼ]₊ + [m - sᵢᵢ + maxⱼ≠ᵢ sⱼᵢ]₊) / Σᵢ wᵢ, with cosines s. In a sum
    over all negatives, the many easy ones would hide the hardest one, which decides retrieval.
    Without a negative the loss is 0.

    Args:
        first: x [n, d].
        second: y [n, d].
        margin: m, how much larger the cosine of the partner must be.
        weight: [n]. None gives every row the weight 1.

    Raises:
        ValueError: as for `info_nce`.

    Source: Faghri et al. 2018 (VSE++), arXiv 1707.05612.
    """
    cosine_NxN, weight_N = _cosines(first, second, weight)
    negative_NxN = (weight_N > 0)[None, :] & ~jnp.eye(len(weight_N), dtype=bool)
    forth_N = largest(jnp.where(negative_NxN, cosine_NxN, -jnp.inf), 1)
    back_N = largest(jnp.where(negative_NxN, cosine_NxN.T, -jnp.inf), 1)
    gap_N = margin - jnp.diagonal(cosine_NxN)
    return weighted_mean(jax.nn.relu(gap_N + forth_N) + jax.nn.relu(gap_N + back_N), weight_N)


@checked
def recall(first: Array, second: Array, k: Size, *, weight: Array | None = None) -> Array:
    """Recall at k: how often the partner of a row is among the k closest rows of `second`.

    The partner of row i of `first` is row i of `second`. Closeness is the cosine. A row that is
    exactly as close as the partner counts as closer: if all features are equal, the recall is 0.
    `recall(second, first, k)` is the other direction.

    Args:
        first: queries [n, d].
        second: candidates [n, d], among which the partner is searched.
        k: 1 or more.
        weight: [n]. A pair of weight 0 is neither a query nor a candidate. None gives every pair
            the weight 1.

    Returns:
        The weighted fraction of the queries, a scalar; NaN if a feature is NaN in a row
        whose weight is not 0, and 0 if all weights are.

    Raises:
        ValueError: as for `info_nce`, or k below 1.

    >>> views = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    >>> recall(views, views, 1).item(), recall(views, views[::-1], 1).item()
    (1.0, 0.0)
    """
    cosine_NxN, weight_N = _cosines(first, second, weight)
    others_NxN = (weight_N > 0)[None, :] & ~jnp.eye(len(weight_N), dtype=bool)
    farther_NxN = cosine_NxN < jnp.diagonal(cosine_NxN)[:, None]
    rank_N = (others_NxN & ~farther_NxN).sum(axis=1)
    # A comparison with NaN is false, which would count as an answer.
    found_N = jnp.where(jnp.isnan(cosine_NxN).any(), jnp.nan, (rank_N < k).astype(weight_N.dtype))
    return weighted_mean(found_N, weight_N)


def _cosines(first: Array, second: Array, weight: Array | None) -> tuple[Array, Array]:
    """The cosine of each row of the first and each of the second [n, n], and the weights [n].

    The cosine of a zero row is 0.

    Raises:
        ValueError: features that are not of one shape [n, d], or weights that are not [n].
    """
    shapes = (jnp.shape(first), jnp.shape(second))
    if shapes[0] != shapes[1] or len(shapes[0]) != 2:
        raise ValueError(f"Pairs must be [n, d] and [n, d], got shapes {shapes}.")
    first, second, weight_N = paired_rows(first, second, weight)
    return _unit_rows(first) @ _unit_rows(second).T, weight_N


def _unit_rows(x_NxD: Array) -> Array:
    """The rows divided by their length; zero rows stay zero, and NaN stays NaN."""
    square_Nx1 = (x_NxD**2).sum(axis=1, keepdims=True)
    length_Nx1 = jnp.sqrt(jnp.where(square_Nx1 == 0, 1, square_Nx1))
    return jnp.where(square_Nx1 == 0, 0, x_NxD / length_Nx1)
