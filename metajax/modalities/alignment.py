"""Losses that bring the features of aligned pairs together, and how well one retrieves the other.

Row i of `first` and row i of `second` are two views of one example. A row's weight is what it counts as an anchor; one
of weight 0 is neither an anchor nor a negative, and what stands in it has no meaning.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular

from metajax.types import Array


def info_nce(
    first: Array, second: Array, *, temperature: float | Array = 0.07, weight: Array | None = None
) -> Array:
    """Contrastive loss of CLIP: each row picks its partner among all, in both directions.

    L = -½ Σᵢ wᵢ (log softmaxⱼ(sᵢⱼ/τ)[i] + log softmaxⱼ(sⱼᵢ/τ)[i]) / Σᵢ wᵢ, with the cosine sᵢⱼ = x̂ᵢ·ŷⱼ. That of n rows
    which are all alike is log n.

    Args:
        first: x [n, d].
        second: y [n, d].
        temperature: τ > 0; CLIP learns log(1/τ), from this default on.
        weight: [n]; None counts every row once.

    Raises:
        ValueError: features that are not of one shape [n, d], or weights that are not [n].

    Source: Radford et al. 2021, arXiv 2103.00020.

    >>> round(info_nce(jnp.ones((3, 2)), jnp.ones((3, 2))).item(), 4)  # log 3
    1.0986
    """
    cosine_NxN, weight_N = _cosines(first, second, weight)
    candidates_NxN = (weight_N > 0)[None, :] | jnp.eye(len(weight_N), dtype=bool)
    logits_NxN = cosine_NxN / temperature
    there = jax.nn.logsumexp(logits_NxN, axis=1, where=candidates_NxN)
    back = jax.nn.logsumexp(logits_NxN.T, axis=1, where=candidates_NxN)
    return _mean((there + back) / 2 - jnp.diagonal(logits_NxN), weight_N)


def sigmoid_loss(
    first: Array,
    second: Array,
    *,
    scale: float | Array = 10.0,
    bias: float | Array = -10.0,
    weight: Array | None = None,
) -> Array:
    """Contrastive loss of SigLIP: is this a pair? asked of every two rows by themselves, without a softmax.

    L = -Σᵢⱼ wᵢⱼ log σ(zᵢⱼ (a x̂ᵢ·ŷⱼ + b)) / Σᵢ wᵢ with zᵢᵢ = 1 and zᵢⱼ = -1 elsewhere; wᵢⱼ = (wᵢ + wⱼ)/2 where both rows
    count, and 0 elsewhere.

    Args:
        first: x [n, d].
        second: y [n, d].
        scale: a > 0; SigLIP learns log a, from this default on.
        bias: b; learned as well. So low a start makes up for the many negatives.
        weight: [n]; None counts every row once.

    Raises:
        ValueError: as for `info_nce`.

    Source: Zhai et al. 2023, arXiv 2303.15343.
    """
    cosine_NxN, weight_N = _cosines(first, second, weight)
    sign_NxN = 2 * jnp.eye(len(weight_N), dtype=cosine_NxN.dtype) - 1
    loss_NxN = -jax.nn.log_sigmoid(sign_NxN * (scale * cosine_NxN + bias))
    counts_N = (weight_N > 0).astype(weight_N.dtype)
    return _mean((loss_NxN @ counts_N + loss_NxN.T @ counts_N) / 2, weight_N)


def triplet(
    first: Array, second: Array, *, margin: float | Array = 0.2, weight: Array | None = None
) -> Array:
    """Ranking loss against the hardest negative in the batch, in both directions.

    L = Σᵢ wᵢ ([m - sᵢᵢ + maxⱼ≠ᵢ sᵢⱼ]₊ + [m - sᵢᵢ + maxⱼ≠ᵢ sⱼᵢ]₊) / Σᵢ wᵢ, with cosines s. The hardest and not all of
    them, for a sum over many easy negatives hides the one that retrieval gets wrong. Without a negative it is 0.

    Args:
        first: x [n, d].
        second: y [n, d].
        margin: m, by how much the partner must be closer.
        weight: [n]; None counts every row once.

    Raises:
        ValueError: as for `info_nce`.

    Source: Faghri et al. 2018 (VSE++), arXiv 1707.05612.
    """
    cosine_NxN, weight_N = _cosines(first, second, weight)
    negative_NxN = (weight_N > 0)[None, :] & ~jnp.eye(len(weight_N), dtype=bool)
    there, back = (
        jnp.where(negative_NxN, s, -jnp.inf).max(axis=1) for s in (cosine_NxN, cosine_NxN.T)
    )
    gap_N = margin - jnp.diagonal(cosine_NxN)
    return _mean(jax.nn.relu(gap_N + there) + jax.nn.relu(gap_N + back), weight_N)


def cca(
    first: Array,
    second: Array,
    *,
    regularisation: float | Array = 1e-4,
    weight: Array | None = None,
) -> Array:
    """Deep CCA: minus the sum of the canonical correlations, those of the best-correlated linear projections.

    L = -Σₖ √(ρₖ² + δ²), with ρ the singular values of Σ₁₁^-½ Σ₁₂ Σ₂₂^-½, where Σ₁₂ = Σᵢ wᵢ (xᵢ - x̄)(yᵢ - ȳ)ᵀ / Σᵢ wᵢ,
    and rI is added to Σ₁₁ and Σ₂₂. But for r, no invertible linear map of either side changes it. δ = 0.001 makes it
    smooth where correlations vanish, as some always do with fewer rows than features. Its derivatives are exact and
    finite in every order, also where correlations coincide.

    Args:
        first: x [n, d].
        second: y [n, e].
        regularisation: r > 0.
        weight: [n]; None counts every row once.

    Raises:
        ValueError: features that are not [n, d] and [n, e], or weights that are not [n].

    Source: Andrew et al. 2013, "Deep canonical correlation analysis", ICML.
    """
    first, second, weight_N = _rows(first, second, weight, same=False)
    if (
        first.shape[1] < second.shape[1]
    ):  # there are no more correlations than features of the smaller side
        first, second = second, first
    share_N = (weight_N / jnp.where(weight_N.sum() > 0, weight_N.sum(), 1))[:, None]
    first, second = ((x - (share_N * x).sum(axis=0)[None]) for x in (first, second))
    ridge = [regularisation * jnp.eye(x.shape[1], dtype=x.dtype) for x in (first, second)]
    within_first, within_second = (
        (share_N * x).T @ x + r for x, r in zip((first, second), ridge, strict=True)
    )
    across = (share_N * first).T @ second
    half = solve_triangular(jnp.linalg.cholesky(within_first), across, lower=True)
    correlation = solve_triangular(jnp.linalg.cholesky(within_second), half.T, lower=True).T
    return -jnp.trace(
        _root(correlation.T @ correlation + 1e-6 * jnp.eye(second.shape[1], dtype=second.dtype))
    )


def recall(first: Array, second: Array, k: int, *, weight: Array | None = None) -> Array:
    """How often the partner in `second` is among the k rows closest to a row of `first`, by cosine.

    A row as close as the partner counts as closer, so that features which are all alike retrieve nothing. Of the other
    direction, `recall(second, first, k)`.

    Args:
        first: queries [n, d].
        second: what is searched [n, d].
        k: 1 or more.
        weight: [n]; None counts every row once.

    Raises:
        ValueError: as for `info_nce`; k below 1.

    >>> views = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    >>> recall(views, views, 1).item(), recall(views, views[::-1], 1).item(), recall(views, views[::-1], 2).item()
    (1.0, 0.0, 1.0)
    """
    if k < 1:
        raise ValueError(f"{k=} must be 1 or more.")
    cosine_NxN, weight_N = _cosines(first, second, weight)
    others_NxN = (weight_N > 0)[None, :] & ~jnp.eye(len(weight_N), dtype=bool)
    farther_NxN = cosine_NxN < jnp.diagonal(cosine_NxN)[:, None]
    rank_N = (others_NxN & ~farther_NxN).sum(axis=1)
    return _mean((rank_N < k).astype(weight_N.dtype), weight_N)


def _rows(
    first: Array, second: Array, weight: Array | None, same: bool
) -> tuple[Array, Array, Array]:
    """Features in float32 or wider, zeros in the rows that do not count, and the weights in the same dtype."""
    shapes = [
        jnp.shape(first),
        jnp.shape(second),
        jnp.shape(first)[:1] if weight is None else jnp.shape(weight),
    ]
    paired = [len(shape) for shape in shapes] == [2, 2, 1] and len(
        {shape[0] for shape in shapes}
    ) == 1
    if not paired or (same and shapes[0] != shapes[1]):
        need = "[n, d] and [n, d]" if same else "[n, d] and [n, e]"
        raise ValueError(f"Pairs must be {need} with weights [n], got shapes {shapes}.")
    dtype = jnp.promote_types(jnp.result_type(first, second), jnp.float32)
    weight_N = jnp.ones(shapes[2], dtype) if weight is None else weight.astype(dtype)
    counts_Nx1 = (weight_N > 0)[:, None]
    return (
        jnp.where(counts_Nx1, first, 0).astype(dtype),
        jnp.where(counts_Nx1, second, 0).astype(dtype),
        weight_N,
    )


def _cosines(first: Array, second: Array, weight: Array | None) -> tuple[Array, Array]:
    """Cosine of each row of the first and each of the second [n, n], and the weights [n]; of a zero row it is 0."""
    first, second, weight_N = _rows(first, second, weight, same=True)
    return _unit(first) @ _unit(second).T, weight_N


def _unit(x: Array) -> Array:
    square = (x**2).sum(axis=1, keepdims=True)
    return jnp.where(square > 0, x / jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


def _mean(values_N: Array, weight_N: Array) -> Array:
    """Mean by weight; zero where nothing counts."""
    total = weight_N.sum()
    return (values_N * weight_N).sum() / jnp.where(total > 0, total, 1)


@jax.custom_jvp
def _root(a: Array) -> Array:
    """R = A^½ of a symmetric, positive definite matrix."""
    values, vectors = jnp.linalg.eigh(a)
    return (vectors * jnp.sqrt(jnp.maximum(values, jnp.finfo(a.dtype).eps))[None]) @ vectors.T


@_root.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    """R dR + dR R = dA, as a solve: eigenvectors, whose derivative blows up where values coincide, have none here."""
    root, (change,) = _root(*primals), tangents
    values, vectors = jnp.linalg.eigh(jax.lax.stop_gradient(root))

    def solve(_: object, c: Array) -> Array:
        return (
            vectors @ ((vectors.T @ c @ vectors) / (values[:, None] + values[None, :])) @ vectors.T
        )

    return root, jax.lax.custom_linear_solve(
        lambda x: root @ x + x @ root, change, solve, symmetric=True
    )
