"""Linear solvers for `implicit`: each gives H⁻¹b from products with H."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from metajax._checks import check_count
from metajax._tree import unit_vectors
from metajax.types import PyTree

Solver = Callable[[Callable[[PyTree], PyTree], PyTree], PyTree]
"""(v -> Hv, right side b) -> about H⁻¹b, for a symmetric H."""


def conjugate_gradient(*, steps: int = 100, tolerance: float = 1e-6) -> Solver:
    """`jax.scipy`'s conjugate gradient, for a positive definite H: a minimum, or any loss with enough proximity.

    Args:
        steps: upper bound.
        tolerance: relative residual to end at.
    """
    check_count("steps", steps, 1)
    return lambda product, b: jax.scipy.sparse.linalg.cg(product, b, tol=tolerance, maxiter=steps)[
        0
    ]


def neumann(*, terms: int, rate: float) -> Solver:
    """H⁻¹ ≈ α Σₖ (I - αH)ᵏ, k = 0 … terms: like that many steps of descent, and stable where they are (α < 2/|H|).

    Args:
        terms: number of products with H.
        rate: α.

    Raises:
        ValueError: terms below 0, or a rate that is not positive.
    """
    check_count("terms", terms, 0)
    if not rate > 0:
        raise ValueError(f"{rate=} must be positive, and below 2 over the largest eigenvalue of H.")

    def solver(product: Callable[[PyTree], PyTree], b: PyTree) -> PyTree:
        def term(carry: tuple[PyTree, PyTree], _: None) -> tuple[tuple[PyTree, PyTree], None]:
            power, total = carry
            power = jax.tree.map(lambda p, hp: p - rate * hp, power, product(power))
            return (power, optax.tree.add(total, power)), None

        return optax.tree.scale(rate, jax.lax.scan(term, (b, b), length=terms)[0][1])

    return solver


def dense() -> Solver:
    """Writes H out and solves: n products and n² memory for n fast weights, any H that is not singular."""

    def solver(product: Callable[[PyTree], PyTree], b: PyTree) -> PyTree:
        flat, unravel = ravel_pytree(b)
        matrix = jax.vmap(lambda row: ravel_pytree(product(unravel(row)))[0])(unit_vectors(flat))
        wide = jnp.promote_types(flat.dtype, jnp.float32)  # LAPACK knows nothing shorter
        return unravel(
            jnp.linalg.solve(matrix.T.astype(wide), flat.astype(wide)).astype(flat.dtype)
        )

    return solver
