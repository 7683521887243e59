"""Linear solvers for `implicit`: each computes H⁻¹b from products with H."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from metajax._checked import checked
from metajax._tree import unit_vectors
from metajax.types import Count, PyTree, Size

Solver: TypeAlias = Callable[[Callable[[PyTree], PyTree], PyTree], PyTree]
"""(v -> Hv, right-hand side b) -> approximately H⁻¹b, for a symmetric H."""


@checked
def conjugate_gradient(*, steps: Size = 100, tolerance: float = 1e-6) -> Solver:
    """JAX's conjugate gradient method, for a positive definite H.

    H is positive definite at a strict minimum, and for any loss with enough proximity.

    Args:
        steps: largest number of steps.
        tolerance: relative residual at which it stops.

    Raises:
        ValueError: steps below 1.
    """

    def solver(product: Callable[[PyTree], PyTree], b: PyTree) -> PyTree:
        solution, _ = jax.scipy.sparse.linalg.cg(product, b, tol=tolerance, maxiter=steps)
        return solution

    return solver


@checked
def neumann(*, terms: Count, rate: float) -> Solver:
    """The Neumann series H⁻¹b ≈ α Σₖ (I - αH)ᵏ b, k = 0 … terms.

    It equals terms + 1 steps of gradient descent on ½xᵀHx - bᵀx from zero, and converges where
    they do: α < 2 / (largest eigenvalue of H).

    Args:
        terms: number of products with H.
        rate: α.

    Returns:
        (product v -> Hv, right-hand side b) -> approximately H⁻¹b, all of them pytrees of one
        structure.

    Raises:
        ValueError: terms below 0, or a rate that is not positive.
    """
    if not rate > 0:
        raise ValueError(f"{rate=} must be positive, and below 2 over the largest eigenvalue of H.")

    def solver(product: Callable[[PyTree], PyTree], b: PyTree) -> PyTree:
        def term(carry: tuple[PyTree, PyTree], _: None) -> tuple[tuple[PyTree, PyTree], None]:
            power, total = carry
            power = jax.tree.map(lambda p, hp: p - rate * hp, power, product(power))
            return (power, optax.tree.add(total, power)), None

        (_, total), _ = jax.lax.scan(term, (b, b), length=terms)
        return optax.tree.scale(rate, total)

    return solver


@checked
def dense() -> Solver:
    """Builds the matrix H and solves: n products and n² memory for n fast weights.

    It needs only that H is not singular.
    """

    def solver(product: Callable[[PyTree], PyTree], b: PyTree) -> PyTree:
        flat, unravel = ravel_pytree(b)
        column = lambda unit: ravel_pytree(product(unravel(unit)))[0]
        matrix = jax.vmap(column)(unit_vectors(flat)).T
        wide = jnp.promote_types(flat.dtype, jnp.float32)  # LAPACK has no half precision
        solution = jnp.linalg.solve(matrix.astype(wide), flat.astype(wide))
        return unravel(solution.astype(flat.dtype))

    return solver
