"""Derivatives of a solved inner problem, from the equation that its solution satisfies."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from metajax._checked import checked
from metajax.differentiate.closures import hoist_constants
from metajax.differentiate.mixed_derivatives import products_of_step
from metajax.differentiate.solvers import Solver, conjugate_gradient
from metajax.differentiate.strategies import Inner, Strategy, descend, result
from metajax.types import Array, PyTree, Scalar


@checked
def implicit(
    solver: Solver | None = None, *, tolerance: Scalar = 1e-3, stop: float | None = None
) -> Strategy:
    """Derivatives of the minimum that the steps reached, by the implicit function theorem.

    Where ∇_θ L(θ*, η) = 0, the theorem gives dθ*/dη = -H⁻¹ ∂²L/∂θ∂η with H = ∂²L/∂θ². A cotangent v
    costs one linear solve, H w = v on the whole support set, and one mixed product: the memory of
    one step. The start gets a gradient only through `inner_loop(proximity=...)`, as in iMAML,
    because a minimum does not depend on where the steps started.

    The equation is that of the inner loss. So weight decay belongs in the loss or in `proximity`,
    and not in the optimizer (`optax.adamw`). The optimizer must not close over anything that is
    differentiated.

    The derivative is right only as far as the steps converged, and the result does not show that.
    `check_meta_gradient` reports the norm of the inner gradient, and `stop` makes it a condition. A
    learned `Rule`, `path` and forward mode are errors; for a second derivative, take `jax.jacrev`
    twice instead of `jax.hessian`.

    Args:
        solver: `conjugate_gradient()` where None; `neumann(...)`, `dense()`, or any function
            (product, b) -> solution.
        tolerance: a solve with |Hw - v| above tolerance · |v| gives NaN cotangents, so that
            `outer_loop` leaves out the chunk of tasks and counts it. `math.inf` accepts any
            solution.
        stop: ends the steps when the norm of the inner gradient is at most this. The number of
            steps is then an upper bound, and the cotangents are NaN if the steps run out first.
            None takes all steps and checks nothing.

    Raises:
        ValueError: a tolerance or stop that is not positive; on adaptation, `stop` together with
            `sample`.

    Source: Rajeswaran et al. 2019, arXiv 1909.04630; Lorraine, Vicol and Duvenaud 2020,
    arXiv 1911.02590.
    """
    if not tolerance > 0 or (stop is not None and not stop > 0):
        raise ValueError(f"{tolerance=} and {stop=} must be positive; stop may be None.")
    invert = conjugate_gradient() if solver is None else solver

    def solve(inner: Inner, keys: Array) -> PyTree:
        if stop is not None and inner.loss is not inner.whole_loss:
            raise ValueError(
                "implicit(stop=...) needs the gradient of the whole support set; leave out sample=."
            )
        if not len(keys):
            return inner.fast
        inner = hoist_constants(inner, keys)

        @jax.custom_vjp
        def minimum(fast: PyTree, inputs: PyTree, keys: Array) -> PyTree:
            problem = inner._replace(fast=fast, inputs=inputs)
            if stop is not None:
                return _descend_until(problem, keys, stop)
            return result(problem, descend(jax.grad(inner.loss), problem, keys))

        def forward(fast: PyTree, inputs: PyTree, keys: Array) -> tuple[PyTree, Any]:
            # It calls itself, so that a second derivative is implicit too. The residuals are
            # copies, because JAX 0.10 mixes them up in a scan.
            solution = minimum(fast, inputs, keys)
            return solution, jax.tree.map(jnp.copy, (solution, inputs, keys[-1]))

        def backward(residuals: Any, v: PyTree) -> tuple[None, PyTree, None]:
            fast, inputs, key = residuals
            gradient, product = jax.linearize(
                lambda fast: jax.grad(inner.whole_loss)(fast, inputs, key), fast
            )
            w = invert(product, v)
            residual = optax.tree.norm(optax.tree.sub(product(w), v))
            missed = residual > tolerance * optax.tree.norm(v)
            if stop is not None:
                missed |= optax.tree.norm(gradient) > stop
            minus_w = optax.tree.scale(-1, w)
            _, of_inputs = products_of_step(inner.whole_loss, fast, inputs, minus_w, key)
            of_inputs = jax.tree.map(lambda leaf: jnp.where(missed, jnp.nan, leaf), of_inputs)
            return None, of_inputs, None

        minimum.defvjp(forward, backward)
        return minimum(inner.fast, inner.inputs, keys)

    return Strategy(solve, through_optimizer=False, through_steps=False)


def _descend_until(inner: Inner, keys: Array, stop: float) -> PyTree:
    """Descends until the norm of the gradient is at most `stop`, or the keys are used up."""
    optimizer = optax.with_extra_args_support(inner.optimizer)

    def slope(fast: PyTree, number: Array) -> PyTree:
        key = keys[jnp.minimum(number, len(keys) - 1)]
        return jax.grad(inner.loss)(fast, inner.inputs, key)

    def goes_on(carry: Any) -> Array:
        _, _, gradient, number = carry
        return (optax.tree.norm(gradient) > stop) & (number < len(keys))

    def step(carry: Any) -> Any:
        fast, state, gradient, number = carry
        extra = {}
        if inner.needs_value:
            key = keys[jnp.minimum(number, len(keys) - 1)]
            extra = {"value": inner.loss(fast, inner.inputs, key), "grad": gradient}
        updates, state = optimizer.update(gradient, state, fast, **extra)
        fast = optax.apply_updates(fast, updates)
        return fast, state, slope(fast, number + 1), number + 1

    first = slope(inner.fast, jnp.int32(0))
    start = (inner.fast, inner.optimizer.init(inner.fast), first, jnp.int32(0))
    fast, *_ = jax.lax.while_loop(goes_on, step, start)
    return fast
