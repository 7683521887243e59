"""Deep canonical correlation analysis: features of two modalities that correlate."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular

from metajax._checked import checked
from metajax.modalities.rows import paired_rows
from metajax.types import Array, Scalar


@checked
def cca(
    first: Array,
    second: Array,
    *,
    regularisation: Scalar = 1e-4,
    weight: Array | None = None,
) -> Array:
    """Deep CCA: minus the sum of the canonical correlations of two views.

    Use it to align features of different widths, or where similar directions matter more than equal
    values: apart from the regularisation r, an invertible linear map of either view changes
    nothing. L = -Σₖ √(ρₖ² + δ²), where ρ are the singular values of Σ₁₁^-½ Σ₁₂ Σ₂₂^-½ with

        Σ₁₂ = Σᵢ wᵢ (xᵢ - x̄)(yᵢ - ȳ)ᵀ / Σᵢ wᵢ,

    and rI is added to Σ₁₁ and Σ₂₂. δ = 0.001 makes the loss smooth where a correlation is 0, which
    always happens with fewer rows than features. Its derivatives are exact and finite in every
    order, also where correlations are equal.

    Args:
        first: x [n, d].
        second: y [n, e].
        regularisation: r > 0.
        weight: [n]. None gives every row the weight 1.

    Raises:
        ValueError: features that are not [n, d] and [n, e], or weights that are not [n].

    Source: Andrew et al. 2013, "Deep canonical correlation analysis", ICML.
    """
    if jnp.ndim(first) != 2 or jnp.ndim(second) != 2:
        shapes = (jnp.shape(first), jnp.shape(second))
        raise ValueError(f"Pairs must be [n, d] and [n, e], got shapes {shapes}.")
    first, second, weight_N = paired_rows(first, second, weight)
    # There are no more correlations than features of the narrower view.
    wide, narrow = (first, second) if first.shape[1] >= second.shape[1] else (second, first)
    share_Nx1 = (weight_N / jnp.where(weight_N.sum() > 0, weight_N.sum(), 1))[:, None]
    wide = wide - (share_Nx1 * wide).sum(axis=0)[None]
    narrow = narrow - (share_Nx1 * narrow).sum(axis=0)[None]

    across = (share_Nx1 * wide).T @ narrow
    root_of_wide = jnp.linalg.cholesky(_covariance(wide, share_Nx1, regularisation))
    root_of_narrow = jnp.linalg.cholesky(_covariance(narrow, share_Nx1, regularisation))
    half = solve_triangular(root_of_wide, across, lower=True)
    correlation = solve_triangular(root_of_narrow, half.T, lower=True).T
    delta_squared = 1e-6 * jnp.eye(narrow.shape[1], dtype=narrow.dtype)
    return -jnp.trace(_matrix_root(correlation.T @ correlation + delta_squared))


def _covariance(x_NxD: Array, share_Nx1: Array, regularisation: Scalar) -> Array:
    """The covariance of centred features plus rI, [d, d]."""
    ridge_DxD = regularisation * jnp.eye(x_NxD.shape[1], dtype=x_NxD.dtype)
    return (share_Nx1 * x_NxD).T @ x_NxD + ridge_DxD


@jax.custom_jvp
def _matrix_root(a: Array) -> Array:
    """R = A^½ of a symmetric positive definite matrix."""
    values, vectors = jnp.linalg.eigh(a)
    roots = jnp.sqrt(jnp.maximum(values, jnp.finfo(a.dtype).eps))
    return (vectors * roots[None]) @ vectors.T


@_matrix_root.defjvp
def _matrix_root_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    """The tangent dR solves R dR + dR R = dA.

    Eigenvectors have no finite derivative where eigenvalues are equal. Here they only help to solve
    a linear system, whose solution is differentiated without them.
    """
    root = _matrix_root(*primals)
    (change,) = tangents
    values, vectors = jnp.linalg.eigh(jax.lax.stop_gradient(root))

    def product(x: Array) -> Array:
        return root @ x + x @ root

    def solve(_: object, b: Array) -> Array:
        rotated = vectors.T @ b @ vectors
        return vectors @ (rotated / (values[:, None] + values[None, :])) @ vectors.T

    return root, jax.lax.custom_linear_solve(product, change, solve, symmetric=True)
