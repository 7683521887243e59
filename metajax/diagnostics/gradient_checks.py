"""Whether a meta-gradient can be trusted: finite differences, and what makes one silently wrong."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metajax.differentiate.mixed_products import mixed_products
from metajax.differentiate.solvers import Solver, conjugate_gradient
from metajax.differentiate.strategies import Inner
from metajax.outer.task_losses import query_loss
from metajax.types import Adaptation, Array, Loss, Params, PyTree, Task


class Check(NamedTuple):
    """What `check_meta_gradient` found; `print` it.

    Attributes:
        difference: for every leaf of Params, |slope - finite difference| along one random direction, over the largest
            of |finite difference|, what is usual along such a direction (|gradient| / √n for n numbers in the leaf),
            and a thousandth of the same for all leaves.
        zero: leaves whose gradient is zero throughout.
        not_finite: leaves whose gradient has a NaN or an infinity.
        asymmetry: relative difference between what reverse over reverse and forward over reverse make of the inner
            loss; far from 0, `mixed_mode`, `one_step` and `implicit` are wrong. NaN without an inner loop, as are those
            that follow.
        stopped: relative difference between the derivative of the inner gradient and its finite difference; far from
            0, something in the inner loss stops gradients, and no strategy gives the derivative of what the loop does.
        inner_gradient: norm of the inner gradient where the steps ended, over its norm where they started; far from 0,
            `implicit` is wrong.
        solve_residual: |Hw - v| / |v| of the linear solve that `implicit` would do; far from 0, it is wrong.
    """

    difference: dict[str, float]
    zero: list[str]
    not_finite: list[str]
    asymmetry: float
    stopped: float
    inner_gradient: float
    solve_residual: float

    def __str__(self) -> str:
        lines = [
            f"{name}: relative difference from finite differences {d:.1e}"
            for name, d in self.difference.items()
        ]
        lines += [f"{name}: the gradient is zero" for name in self.zero]
        lines += [f"{name}: the gradient is not finite" for name in self.not_finite]
        lines.append(
            f"asymmetry of the inner Hessian {self.asymmetry:.1e}: mixed_mode, one_step and implicit need 0"
        )
        lines.append(
            f"inner Hessian against finite differences {self.stopped:.1e}: far from 0, the inner loss has a "
            "stop_gradient or straight-through estimator, and every strategy takes what it stops for a constant"
        )
        lines.append(f"inner gradient, end over start {self.inner_gradient:.1e}: implicit needs 0")
        lines.append(f"residual of the implicit solve {self.solve_residual:.1e}: implicit needs 0")
        return "\n".join(lines)


def check_meta_gradient(
    adaptation: Adaptation,
    loss: Loss,
    params: Params,
    task: Task,
    key: Array,
    *,
    solver: Solver | None = None,
    size: float | None = None,
) -> Check:
    """Compares a meta-gradient with finite differences, and looks for what makes one silently wrong.

    Finite differences know nothing of strategies: they show the bias of a biased one, a `stop_gradient` in the inner
    loss, and an inner solve that has not converged under `implicit`. Use float64 where you can; in float32 the
    differences themselves are good to a few percent.

    Args:
        adaptation: an `inner_loop`, or anything else: then the last four findings are NaN.
        loss: of the query set.
        params: with the rule filled in.
        task: one task, of concrete arrays.
        key: for the task, and for the directions.
        solver: that of `implicit`; `conjugate_gradient()` where None.
        size: length of the finite differences, along directions of length 1; ∛ε of the dtype where None.
    """
    task_loss = jax.jit(lambda params: query_loss(adaptation, loss)(params, task, key)[0])
    slopes = jax.jit(jax.grad(task_loss))(params)
    usual = _usual(jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(slopes)]))
    difference, zero, not_finite = {}, [], []
    leaves, structure = jax.tree.flatten(params)
    for number, (path, slope) in enumerate(jax.tree_util.tree_leaves_with_path(slopes)):
        name, leaf = jax.tree_util.keystr(path).removeprefix("."), leaves[number]
        if not np.isfinite(slope).all():
            not_finite.append(name)
        elif not np.any(slope):
            zero.append(name)
        direction, width = _direction(leaf, jax.random.fold_in(key, number)), _width(leaf, size)
        ends = []
        for sign in (1, -1):
            moved = [*leaves[:number], leaf + sign * width * direction, *leaves[number + 1 :]]
            ends.append(float(task_loss(jax.tree.unflatten(structure, moved))))
        expected, found = (ends[0] - ends[1]) / (2 * width), float((slope * direction).sum())
        scale = max(abs(expected), _usual(slope), 1e-3 * usual if np.isfinite(usual) else 0.0)
        difference[name] = abs(found - expected) / (scale or 1.0)
    if adaptation.inner is None:
        return Check(difference, zero, not_finite, *[float("nan")] * 4)
    invert = conjugate_gradient() if solver is None else solver
    findings = jax.jit(
        lambda params: _check_inner(adaptation, loss, params, task, key, invert, size)
    )(params)
    return Check(difference, zero, not_finite, *map(float, findings))


def _check_inner(
    adaptation: Adaptation,
    loss: Loss,
    params: Params,
    task: Task,
    key: Array,
    invert: Solver,
    size: float | None,
) -> tuple[Array, Array, Array, Array]:
    """(asymmetry, stopped, inner gradient, residual of the solve), the first two and the last where the steps ended."""
    adapt_key, query_key = jax.random.split(key)
    assert adaptation.inner is not None
    inner: Inner = adaptation.inner(params, task.support)
    adapted = adaptation.adapt(params, task.support, adapt_key)
    gradient = lambda fast, inputs=inner.inputs: jax.grad(inner.whole)(fast, inputs, adapt_key)
    v = jax.grad(lambda fast: loss(adapted._replace(fast=fast), task.query, query_key)[0])(
        adapted.fast
    )

    pull = jax.vjp(gradient, adapted.fast, inner.inputs)[1](v)
    push = mixed_products(inner.whole, adapted.fast, inner.inputs, adapt_key, v)
    pairs = [(a, b) for a, b in zip(*map(_leaves, (pull, push)), strict=True) if b is not None]
    asymmetry = _relative([b for _, b in pairs], [a for a, _ in pairs])

    product = lambda u: jax.jvp(gradient, (adapted.fast,), (u,))[1]
    u = jax.tree.map(lambda leaf: _direction(leaf, key), adapted.fast)
    ends = [
        gradient(
            jax.tree.map(
                lambda leaf, step: leaf + sign * _width(leaf, size) * step, adapted.fast, u
            )
        )  # noqa: B023
        for sign in (1, -1)
    ]
    quotient = jax.tree.map(
        lambda a, b, leaf: (a - b) / (2 * _width(leaf, size)), *ends, adapted.fast
    )

    start, end = (optax.tree.norm(gradient(fast)) for fast in (params.fast, adapted.fast))
    return (
        asymmetry,
        _relative(product(u), quotient),
        end / start,
        _relative(product(invert(product, v)), v),
    )


def _usual(slope: Array) -> float:
    """The derivative along a random direction of length 1, root mean square."""
    return float(jnp.linalg.norm(slope.ravel())) / max(slope.size, 1) ** 0.5


def _relative(found: PyTree, expected: PyTree) -> Array:
    """|found - expected| / |expected|."""
    return optax.tree.norm(optax.tree.sub(found, expected)) / optax.tree.norm(expected)


def _direction(leaf: Array, key: Array) -> Array:
    """Random, of length 1."""
    normal = jax.random.normal(key, jnp.shape(leaf), jnp.result_type(leaf))
    return normal / jnp.linalg.norm(normal.ravel())


def _width(leaf: Array, size: float | None) -> float:
    return float(jnp.finfo(jnp.result_type(leaf)).eps) ** (1 / 3) if size is None else size


def _leaves(tree: PyTree) -> list[Any]:
    return jax.tree.leaves(tree, is_leaf=lambda leaf: leaf is None)
