"""Strategies whose inner gradient has a derivative of its own, made of mixed second derivatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jax.ad_checkpoint import checkpoint_name

from metajax._checked import checked
from metajax.differentiate.closures import cotangents_of, hoist_constants, split_floats
from metajax.differentiate.strategies import (
    Gradient,
    Inner,
    InnerLoss,
    Strategy,
    descend,
    result,
    solve_late,
)
from metajax.types import Array, Count, PyTree

Products: TypeAlias = Callable[[InnerLoss, PyTree, PyTree, PyTree, Array], tuple[PyTree, PyTree]]
"""(loss, fast, inputs, u, key) -> (cotangent of fast, cotangent of inputs)."""


@checked
def mixed_mode(*, remat: Count = 1, save_gradients: bool = True) -> Strategy:
    """Exact derivatives by forward-over-reverse products (MixFlow-MG): little memory.

    Reverse mode through g = ∇_θ L(θ, η) needs only uᵀ∂g/∂θ and uᵀ∂g/∂η. The Hessian ∂g/∂θ is
    symmetric, so both are the derivative of (∇_θ L, ∇_η L) along (u, 0): one forward-mode product.
    Nothing of an inner backward pass is stored. Gradients reach the start, slow weights, data and a
    learned rule. There is no forward mode, but `jax.hessian`, which is forward over reverse, is
    exact.

    The Hessian is not symmetric where a `custom_jvp` or `custom_vjp` in the inner loss returns
    something that is not a derivative, such as a tangent that is scaled by a norm. The gradient
    then differs from that of `unroll()`, and `check_meta_gradient` reports it. `stop_gradient` is
    no problem: both strategies treat what is stopped as a constant.

    Args:
        remat: as in `unroll`.
        save_gradients: whether the inner gradients are kept. The backward pass then computes again
            what the optimizer made of them, and not the gradients themselves. It has an effect for
            `remat` of 1 or more.

    Raises:
        ValueError: remat below 0.

    Source: Kemaev et al. 2025, arXiv 2505.00793.
    """
    policy = None
    if save_gradients:
        policy = jax.checkpoint_policies.save_only_these_names("inner_gradient")

    def solve(inner: Inner, keys: Array) -> PyTree:
        inner = hoist_constants(inner, keys)
        gradient = _gradient_with(inner.loss, products_of_step)

        def named(fast: PyTree, inputs: PyTree, key: Array) -> PyTree:
            return checkpoint_name(gradient(fast, inputs, key), "inner_gradient")

        # With JAX_REMAT3=1, JAX 0.10 has no vmap of names; all is then computed again.
        has_names = not (_remat3() and jax.__version_info__ < (0, 11))
        step_gradient = named if save_gradients and remat and has_names else gradient
        return result(inner, descend(step_gradient, inner, keys, remat=remat, policy=policy))

    return Strategy(solve)


@checked
def one_step(*, difference: float | None = None) -> Strategy:
    """Differentiates the last step only, with the identity in place of its Hessian: biased.

    With θ' = θ - α∇_θ L(θ, η) and the later gradient v, η gets -α vᵀ∂²L/∂θ∂η and the start gets v:
    one mixed product. This is T1-T2. An optimizer other than SGD acts on v with its own derivative,
    as in SAMA.

    Args:
        difference: None computes the product exactly. A number takes the central difference of
            ∇_η L over θ ± u difference/|u|, which needs no second derivatives. DARTS has 0.01.

    Raises:
        ValueError: a difference that is not positive.

    Source: T1-T2, Luketina et al. 2016, arXiv 1511.06727; SAMA, Choe et al. 2023, arXiv 2310.05674;
    DARTS, Liu et al. 2019, arXiv 1806.09055.
    """
    if difference is not None and not difference > 0:
        raise ValueError(
            f"difference must be positive, or None for the exact product, got {difference!r}."
        )

    def products(
        loss: InnerLoss, fast: PyTree, inputs: PyTree, u: PyTree, key: Array
    ) -> tuple[PyTree, PyTree]:
        if difference is None:
            _, of_inputs = products_of_step(loss, fast, inputs, u, key)
        else:
            of_inputs = _central_difference(loss, fast, inputs, u, key, difference)
        return jax.tree.map(jnp.zeros_like, fast), of_inputs

    def solve(inner: Inner, keys: Array) -> PyTree:
        inner = hoist_constants(inner, keys)
        return solve_late(_gradient_with(inner.loss, products), inner, keys, min(1, len(keys)))

    return Strategy(solve)


@checked
def mixed_products(
    loss: InnerLoss, fast: PyTree, inputs: PyTree, u: PyTree, key: Array
) -> tuple[PyTree, PyTree]:
    """(uᵀ∂²L/∂θ², uᵀ∂²L/∂θ∂η) by forward over reverse, for an inner loss L(θ, η).

    Args:
        loss: L.
        fast: θ.
        inputs: η. Integers and keys among it get None.
        u: like the fast weights.
        key: of the loss.
    """
    return products_of_step(loss, fast, inputs, u, key)


def products_of_step(
    loss: InnerLoss, fast: PyTree, inputs: PyTree, u: PyTree, key: Array
) -> tuple[PyTree, PyTree]:
    """`mixed_products` with the key of a step, which may have the number of the step with it."""
    floats, rebuild = split_floats(inputs)

    def value(fast: PyTree, floats: list[Array]) -> Array:
        return loss(fast, rebuild(floats), key)

    def slopes(fast: PyTree) -> tuple[PyTree, list[Array]]:
        return jax.grad(value, (0, 1))(fast, floats)

    _, (of_fast, of_floats) = jax.jvp(slopes, (fast,), (u,))
    return of_fast, cotangents_of(inputs, of_floats)


def _central_difference(
    loss: InnerLoss, fast: PyTree, inputs: PyTree, u: PyTree, key: Array, difference: float
) -> PyTree:
    """uᵀ∂²L/∂θ∂η from two gradients, on either side of θ."""
    floats, rebuild = split_floats(inputs)
    norm = optax.tree.norm(u)
    size = difference / jnp.where(norm > 0, norm, 1)

    def slope(size: Array) -> list[Array]:
        moved = jax.tree.map(lambda leaf, step: (leaf + size * step).astype(leaf.dtype), fast, u)
        return jax.grad(lambda floats: loss(moved, rebuild(floats), key))(floats)

    def quotient(after: Array, before: Array) -> Array:
        return ((after - before) / (2 * size)).astype(after.dtype)

    return cotangents_of(inputs, jax.tree.map(quotient, slope(size), slope(-size)))


def _gradient_with(loss: InnerLoss, products: Products) -> Gradient:
    """The gradient of the loss, with these products as its reverse mode."""

    @jax.custom_vjp
    def gradient(fast: PyTree, inputs: PyTree, key: Array) -> PyTree:
        return jax.grad(loss)(fast, inputs, key)

    def forward(fast: PyTree, inputs: PyTree, key: Array) -> tuple[PyTree, Any]:
        # Not `gradient` itself: inside a scan, JAX 0.10 mixes up the residuals of a custom_vjp
        # that calls itself here.
        residuals = (fast, inputs, key)
        if _remat3():
            # JAX 0.12 mixes up residuals that are arguments, where a scan of checkpointed steps is
            # differentiated twice. Without the flag, copies would cost memory for nothing.
            residuals = jax.tree.map(jnp.copy, residuals)
        return jax.grad(loss)(fast, inputs, key), residuals

    def backward(residuals: Any, u: PyTree) -> tuple[PyTree, PyTree, None]:
        fast, inputs, key = residuals
        of_fast, of_inputs = products(loss, fast, inputs, u, key)
        return of_fast, of_inputs, None

    gradient.defvjp(forward, backward)
    return gradient


def _remat3() -> bool:
    """Whether JAX runs its experiment `JAX_REMAT3=1`; see docs/differentiate.md."""
    return bool(getattr(jax.config, "jax_remat3", False))
