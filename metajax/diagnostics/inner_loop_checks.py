"""Whether the inner loop is one that each strategy can differentiate correctly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from metajax._checks import check_loss_value
from metajax.diagnostics.differences import random_direction, relative_difference, step_widths
from metajax.differentiate.mixed_derivatives import mixed_products
from metajax.differentiate.solvers import Solver
from metajax.differentiate.strategies import Inner
from metajax.types import Adaptation, Array, Loss, Params, PyTree, Task


def check_inner_loop(
    adaptation: Adaptation,
    loss: Loss,
    params: Params,
    task: Task,
    key: Array,
    solver: Solver,
) -> tuple[Array, Array, Array, Array]:
    """Computes the last four fields of `Check`, at the fast weights where the steps ended.

    Args:
        adaptation: an adaptation with an inner problem.
        loss: the loss of the query set.
        params: meta-parameters, with the rule filled in.
        task: one task.
        key: for the task, and for the random direction.
        solver: the linear solver of `implicit`.

    Returns:
        (asymmetry, stopped, inner_gradient, solve_residual).
    """
    assert adaptation.inner is not None
    adapt_key, query_key = jax.random.split(key)
    inner: Inner = adaptation.inner(params, task.support)
    adapted = adaptation.adapt(params, task.support, adapt_key)

    def gradient(fast: PyTree) -> PyTree:
        return jax.grad(inner.whole_loss)(fast, inner.inputs, adapt_key)

    def hessian_product(u: PyTree) -> PyTree:
        return jax.jvp(gradient, (adapted.fast,), (u,))[1]

    def query_value(fast: PyTree) -> Array:
        return check_loss_value(loss(adapted._replace(fast=fast), task.query, query_key))

    v = jax.grad(query_value)(adapted.fast)
    start_norm = optax.tree.norm(gradient(params.fast))
    end_norm = optax.tree.norm(gradient(adapted.fast))
    return (
        _asymmetry(inner, adapted.fast, adapt_key, v),
        _stopped(gradient, hessian_product, adapted.fast, key),
        end_norm / start_norm,
        relative_difference(hessian_product(solver(hessian_product, v)), v),
    )


def _asymmetry(inner: Inner, fast: PyTree, key: Array, v: PyTree) -> Array:
    """Relative difference between reverse over reverse and forward over reverse."""

    def gradient(fast: PyTree, inputs: PyTree) -> PyTree:
        return jax.grad(inner.whole_loss)(fast, inputs, key)

    reverse = jax.vjp(gradient, fast, inner.inputs)[1](v)
    forward = mixed_products(inner.whole_loss, fast, inner.inputs, key=key, u=v)
    # The forward products are None for inputs that have no derivative, such as integers.
    pairs = [
        (one, other)
        for one, other in zip(_leaves(reverse), _leaves(forward), strict=True)
        if other is not None
    ]
    return relative_difference([forward for _, forward in pairs], [reverse for reverse, _ in pairs])


def _stopped(
    gradient: Callable[[PyTree], PyTree],
    hessian_product: Callable[[PyTree], PyTree],
    fast: PyTree,
    key: Array,
) -> Array:
    """Least relative difference of a product with the inner Hessian to finite differences."""
    leaves, structure = jax.tree.flatten(fast)
    keys = jax.random.split(key, len(leaves))
    u = jax.tree.unflatten(structure, map(random_direction, leaves, keys))
    product = hessian_product(u)
    dtype = jnp.result_type(*jax.tree.leaves(fast))

    def gradient_at(step: Array) -> PyTree:
        move = lambda leaf, along: leaf + step.astype(leaf.dtype) * along
        return gradient(jax.tree.map(move, fast, u))

    def difference(width: Array) -> Array:
        ahead, behind = gradient_at(width), gradient_at(-width)
        quotient = jax.tree.map(lambda one, other: (one - other) / (2 * width), ahead, behind)
        return relative_difference(product, quotient)

    return jax.lax.map(difference, jnp.asarray(step_widths(dtype), dtype)).min()


def _leaves(tree: PyTree) -> list[Any]:
    """The leaves, None included."""
    return jax.tree.leaves(tree, is_leaf=lambda leaf: leaf is None)
