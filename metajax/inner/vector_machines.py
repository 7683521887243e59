"""An adaptation that writes the head of a multi-class support vector machine."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from metajax._checked import checked
from metajax._class_means import weighted_one_hot
from metajax._tree import keep_rows, widened
from metajax.inner.amortised import without_padding
from metajax.inner.heads import absent_bias, embed_support, write_head
from metajax.types import Adaptation, Apply, Array, Batch, Params, Size

WIDEST_GAP = 0.01
"""Duality gap, as a part of the loss of a head of zeros, above which the dual is not solved."""


@checked
def support_vectors(
    embed: Apply, ways: Size, *, penalty: float = 0.1, entry: str = "head"
) -> Adaptation:
    """Writes the head of a linear support vector machine (MetaOptNet).

    W = argmin ½|W|² + C Σᵢ wᵢ maxₖ (1 - [k = yᵢ] + f(xᵢ)·Wₖ - f(xᵢ)·W_yᵢ), the machine of Crammer
    and Singer, without a bias. The logits are a f(x)·Wₖ with a learned scale a in `params.rule`.
    Its dual, a quadratic program of examples x ways numbers, is solved by `qpax`, and so are the
    derivatives. A head whose duality gap is above 1 % of the loss at W = 0 is NaN, because the dual
    was not solved.

    Args:
        embed: (params, x, key, reference=...) -> features [examples, d].
        ways: number of classes. A class without support takes no part, and gets the bias -1e9,
            unless no class has any.
        penalty: C.
        entry: the entry of `params.fast` to write, {"kernel": [d, ways], "bias": [ways]}.

    Raises:
        ImportError: qpax is not installed.
        ValueError: a penalty that is not above 0; on adaptation, a rule that was not initialised;
            when traced, features that are not [examples, d], or labels that are not int[examples].

    Source: Lee et al. 2019, arXiv 1904.03758; the machine, Crammer and Singer 2001.
    """
    if not penalty > 0:
        raise ValueError(f"penalty must be above 0, got {penalty}.")
    _solver()

    @checked
    def init(params: Params, key: Array) -> Params:
        return params._replace(rule={"scale": jnp.ones(())})

    @checked
    def adapt(params: Params, support: Batch, key: Array) -> Params:
        if not isinstance(params.rule, dict) or "scale" not in params.rule:
            raise ValueError(
                f"params.rule is {params.rule!r}; call params = adaptation.init(params, key) first."
            )
        support = without_padding(support)
        given_NxD = embed_support(embed, params, support, key)
        classes_NxW = weighted_one_hot(support, ways)
        features_NxD = keep_rows((classes_NxW != 0).any(axis=1), widened(given_NxD))
        classes_NxW = classes_NxW.astype(features_NxD.dtype)
        dual_NxW = _solve_dual(features_NxD, classes_NxW, penalty)
        kernel_DxW = features_NxD.T @ dual_NxW
        gap = _duality_gap(features_NxD, classes_NxW, dual_NxW, kernel_DxW, penalty)
        kernel_DxW = jnp.where(gap <= WIDEST_GAP, params.rule["scale"] * kernel_DxW, jnp.nan)
        bias_W = absent_bias(classes_NxW).astype(given_NxD.dtype)
        return write_head(params, entry, kernel_DxW.astype(given_NxD.dtype), bias_W)

    return Adaptation(init, adapt)


def _solver() -> Any:
    try:
        import qpax
    except ImportError as error:
        raise ImportError(
            "Support vector machines need qpax: pip install 'metajax[svm]'."
        ) from error
    return qpax


def _solve_dual(features_NxD: Array, classes_NxW: Array, penalty: float) -> Array:
    """The dual variables α of the machine, [examples, ways].

    They minimise ½ Σᵢⱼₖ αᵢₖ αⱼₖ xᵢ·xⱼ - Σᵢ αᵢ_yᵢ with Σₖ αᵢₖ = 0 and αᵢₖ ≤ C wᵢ [yᵢ = k]. The
    program is solved for βᵢₖ = αᵢₖ / (C wᵢ), whose bounds are 1 and 0. Variables of absent rows and
    classes are kept at 0 by a program of their own, ½ β² with β ≤ 1.
    """
    examples, ways = classes_NxW.shape
    dtype = features_NxD.dtype
    weight_N = classes_NxW.sum(axis=1)
    counts_N = weight_N > 0
    mean_weight = weight_N.sum() / jnp.maximum(counts_N.sum(), 1)
    mean_weight = jnp.where(mean_weight > 0, mean_weight, 1)
    used_V = (counts_N[:, None] & classes_NxW.any(axis=0)[None]).reshape(-1)

    scaled_NxD = weight_N[:, None] * features_NxD
    products_NxN = (penalty / mean_weight) * scaled_NxD @ scaled_NxD.T
    quadratic_VxV = jnp.kron(products_NxN, jnp.eye(ways, dtype=dtype))
    quadratic_VxV = jnp.where(used_V[:, None] & used_V[None], quadratic_VxV, 0)
    rounding = 10 * jnp.finfo(dtype).eps * jnp.trace(quadratic_VxV)
    quadratic_VxV += jnp.diag(jnp.where(used_V, rounding, 1))
    of_row_NxV = jnp.kron(jnp.eye(examples), jnp.ones(ways)).astype(dtype)
    of_row_NxV *= (used_V | ~jnp.repeat(counts_N, ways))[None]
    is_own_NxW = (classes_NxW > 0).astype(dtype)
    solved_V = _solve_program(
        quadratic_VxV,
        -(classes_NxW / mean_weight).reshape(-1),
        of_row_NxV,
        jnp.zeros(examples, dtype),
        jnp.eye(examples * ways, dtype=dtype),
        jnp.where(used_V, is_own_NxW.reshape(-1), 1),
    )
    return penalty * weight_N[:, None] * solved_V.reshape(examples, ways)


@jax.custom_vjp
def _solve_program(*program: Array) -> Array:
    """Argmin ½ xᵀQx + qᵀx with A x = b and G x ≤ h, of the program Q, q, A, b, G, h."""
    is_double = program[0].dtype == jnp.float64
    tolerance, relaxation = (1e-11, 1e-7) if is_double else (1e-4, 1e-4)
    with jax.numpy_rank_promotion("allow"):  # qpax relies on it
        return _solver().solve_qp_primal(
            *program, solver_tol=tolerance, target_kappa=relaxation, max_iter=50
        )


def _solve_forward(*program: Array) -> tuple[Array, Any]:
    return jax.vjp(_solve_program.fun, *program)


def _solve_backward(pullback: Any, cotangent: Array) -> tuple[Array, ...]:
    with jax.numpy_rank_promotion("allow"):
        return pullback(cotangent)


_solve_program.defvjp(_solve_forward, _solve_backward)


def _duality_gap(
    features_NxD: Array, classes_NxW: Array, dual_NxW: Array, kernel_DxW: Array, penalty: float
) -> Array:
    """Loss of the head minus value of the dual, as a part of the loss of a head of zeros."""
    weight_N = classes_NxW.sum(axis=1)
    is_present_W = classes_NxW.any(axis=0)[None]
    is_own_NxW = classes_NxW > 0
    scores_NxW = features_NxD @ kernel_DxW
    own_Nx1 = jnp.where(is_own_NxW, scores_NxW, 0).sum(axis=1, keepdims=True)
    margins_NxW = jnp.where(is_present_W, scores_NxW + 1 - is_own_NxW, -jnp.inf)
    hinge = penalty * jnp.where(
        weight_N > 0, weight_N * (margins_NxW.max(axis=1) - own_Nx1[:, 0]), 0
    )
    square = (kernel_DxW**2).sum()
    value = jnp.where(is_own_NxW, dual_NxW, 0).sum() - square / 2
    total = penalty * weight_N.sum()
    gap = (square / 2 + hinge.sum() - value) / jnp.where(total > 0, total, 1)
    return jax.lax.stop_gradient(gap)
