"""Strategies that give the inner gradient a derivative of their own, from mixed products of the inner loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.ad_checkpoint import checkpoint_name

from metajax._checks import check_count
from metajax.differentiate.strategies import (
    Inner,
    InnerLoss,
    Strategy,
    _floats,
    _floats_back,
    close,
    descend,
    descend_late,
    end,
)
from metajax.types import Array, PyTree

Products = Callable[[InnerLoss, PyTree, PyTree, Array, PyTree], tuple[PyTree, PyTree]]
"""(loss, fast, inputs, key, u) -> (what u becomes in fast, what it becomes in inputs)."""


def mixed_mode(*, remat: int = 1, save_gradients: bool = True) -> Strategy:
    """Exact, with forward-over-reverse products: nothing of an inner backward pass is stored (MixFlow-MG).

    Reverse mode through g = ∇_θ L(θ, η) needs uᵀ∂g/∂θ and uᵀ∂g/∂η only. As ∂g/∂θ is symmetric, both are the
    derivative of (∇_θ L, ∇_η L) along (u, 0), one forward-mode product. Gradients pass to the start, slow weights, data
    and a rule.

    The symmetry fails where a `custom_jvp` or `custom_vjp` in the inner loss gives what is no derivative of anything,
    such as a tangent scaled by a norm: then this gradient is not that of `unroll()`, and `check_meta_gradient` says so.
    Under `stop_gradient` both are equal, for what is stopped is a constant to both. There is no forward mode.

    Args:
        remat: as in `unroll`.
        save_gradients: whether the inner gradients are kept, so that the backward pass computes again what the
            optimizer made of them, but not the gradients themselves. Only `remat` 1 and more makes use of it.

    Raises:
        ValueError: remat below 0.

    Source: Kemaev et al. 2025, arXiv 2505.00793.
    """
    check_count("remat", remat, 0)
    policy = (
        jax.checkpoint_policies.save_only_these_names("inner_gradient") if save_gradients else None
    )

    def solve(inner: Inner, keys: Array) -> PyTree:
        inner = close(inner, keys)
        gradient = _with_products(inner.loss, mixed_products)
        named = lambda *inputs: checkpoint_name(gradient(*inputs), "inner_gradient")
        return end(inner, descend(named, inner, keys, remat=remat, policy=policy))

    return Strategy(solve)


def one_step(*, difference: float | None = None) -> Strategy:
    """Differentiates the last step only, with the identity in the place of its Hessian: one mixed product, biased.

    With θ' = θ - α∇_θ L(θ, η) and the later gradient v, η gets -α vᵀ∂²L/∂θ∂η and the start gets v. This is T1-T2
    (Luketina et al. 2016, arXiv 1511.06727). An optimizer other than SGD acts on v with its own derivative, as in SAMA
    (Choe et al. 2023, arXiv 2310.05674).

    Args:
        difference: None computes the product exactly; a number takes the central difference of ∇_η L over
            θ ± u difference/|u|, which needs no second derivatives. DARTS (Liu et al. 2019, arXiv 1806.09055) has 0.01.

    Raises:
        ValueError: a difference that is not positive.
    """
    if difference is not None and not difference > 0:
        raise ValueError(
            f"difference must be positive, or None for the exact product, got {difference!r}."
        )

    def products(
        loss: InnerLoss, fast: PyTree, inputs: PyTree, key: Array, u: PyTree
    ) -> tuple[PyTree, PyTree]:
        if difference is None:
            of_inputs = mixed_products(loss, fast, inputs, key, u)[1]
        else:
            of_inputs = _difference(loss, fast, inputs, key, u, difference)
        return jax.tree.map(jnp.zeros_like, fast), of_inputs

    def solve(inner: Inner, keys: Array) -> PyTree:
        inner = close(inner, keys)
        return descend_late(
            _with_products(inner.loss, products), inner, keys, last=min(1, len(keys))
        )

    return Strategy(solve)


def mixed_products(
    loss: InnerLoss, fast: PyTree, inputs: PyTree, key: Array, u: PyTree
) -> tuple[PyTree, PyTree]:
    """(uᵀ∂²L/∂θ², uᵀ∂²L/∂θ∂η) by forward over reverse; None for what has no derivative."""
    moving, rebuild = _floats(inputs)
    slopes = jax.grad(lambda fast, moving: loss(fast, rebuild(moving), key), (0, 1))
    of_fast, of_moving = jax.jvp(lambda fast: slopes(fast, moving), (fast,), (u,))[1]
    return of_fast, _floats_back(inputs, of_moving)


def _difference(
    loss: InnerLoss, fast: PyTree, inputs: PyTree, key: Array, u: PyTree, difference: float
) -> PyTree:
    """uᵀ∂²L/∂θ∂η from two gradients on either side of θ."""
    moving, rebuild = _floats(inputs)
    norm = optax.tree.norm(u)
    size = difference / jnp.where(norm > 0, norm, 1)

    def slope(size: Array) -> list[Array]:
        moved = jax.tree.map(lambda leaf, step: (leaf + size * step).astype(leaf.dtype), fast, u)
        return jax.grad(lambda moving: loss(moved, rebuild(moving), key))(moving)

    slopes = jax.tree.map(
        lambda a, b: ((a - b) / (2 * size)).astype(a.dtype), slope(size), slope(-size)
    )
    return _floats_back(inputs, slopes)


def _with_products(
    loss: InnerLoss, products: Products
) -> Callable[[PyTree, PyTree, Array], PyTree]:
    """The gradient of the loss, with these products for its reverse mode."""

    @jax.custom_vjp
    def gradient(fast: PyTree, inputs: PyTree, key: Array) -> PyTree:
        return jax.grad(loss)(fast, inputs, key)

    def forward(fast: PyTree, inputs: PyTree, key: Array) -> tuple[PyTree, Any]:
        # Not `gradient` itself: inside a scan, JAX 0.10 mixes up the residuals of a custom_vjp that calls itself here.
        return jax.grad(loss)(fast, inputs, key), (fast, inputs, key)

    def backward(residuals: Any, u: PyTree) -> tuple[PyTree, PyTree, None]:
        fast, inputs, key = residuals
        return *products(loss, fast, inputs, key, u), None

    gradient.defvjp(forward, backward)
    return gradient
