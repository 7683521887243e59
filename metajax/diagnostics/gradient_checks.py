"""Whether a meta-gradient is right: finite differences, and tests for common causes of error."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax._checked import checked
from metajax._checks import check_loss_value
from metajax._learnable import check_weights
from metajax.diagnostics.differences import random_direction, step_width
from metajax.diagnostics.inner_loop_checks import check_inner_loop
from metajax.differentiate.solvers import Solver, conjugate_gradient
from metajax.outer.task_losses import query_loss
from metajax.types import Adaptation, Array, Loss, Params, PyTree, Task


class Check(NamedTuple):
    """The findings of `check_meta_gradient`. Print it to read them as sentences.

    Attributes:
        difference: for every leaf of Params, |g - d| / s along one random direction of length 1,
            where g is the derivative from the gradient and d from finite differences. The scale s
            is the largest of |d|, |gradient| / √n for the n numbers of the leaf (the size of a
            typical g), and 1/1000 of the same for all leaves together.
        zero: leaves whose gradient is zero everywhere.
        not_finite: leaves whose gradient has a NaN or an infinity.
        asymmetry: relative difference between the derivatives of the inner gradient by reverse
            over reverse and by forward over reverse. If it is far from 0, `mixed_mode`,
            `one_step` and `implicit` are wrong. NaN without an inner loop, like the rest.
        stopped: relative difference between the derivative of the inner gradient and its finite
            difference. If it is far from 0, something in the inner loss stops gradients, and no
            strategy gives the derivative of what the loop does.
        inner_gradient: norm of the inner gradient after the last step, divided by its norm before
            the first. If it is far from 0, `implicit` is wrong.
        solve_residual: |Hw - v| / |v| of the linear solve that `implicit` would do. If it is far
            from 0, `implicit` is wrong.
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
            f"{name}: the gradient differs from finite differences by {difference:.1e} of its size."
            for name, difference in self.difference.items()
        ]
        lines += [f"{name}: the gradient is zero." for name in self.zero]
        lines += [f"{name}: the gradient is not finite." for name in self.not_finite]
        if math.isnan(self.inner_gradient):
            return "\n".join([*lines, "The adaptation has no inner loop to check."])
        lines += [
            f"The inner Hessian differs from its transpose by {self.asymmetry:.1e}; mixed_mode, "
            "one_step and implicit need 0.",
            f"The inner Hessian differs from finite differences by {self.stopped:.1e}; far from "
            "0, the inner loss has a stop_gradient or a straight-through estimator, and every "
            "strategy treats what is stopped as a constant.",
            "The norm of the inner gradient after the last step is "
            f"{self.inner_gradient:.1e} times that before the first; implicit needs 0.",
            f"The linear solve of implicit has a residual of {self.solve_residual:.1e}; implicit "
            "needs 0.",
        ]
        return "\n".join(lines)


@checked
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
    """Compares a meta-gradient with finite differences, and looks for what can make it wrong.

    Use it once for every new model, loss or strategy. Finite differences do not depend on the
    strategy, so they show the bias of a biased one, a `stop_gradient` in the inner loss, and an
    inner loop that has not converged under `implicit`. Use float64 where you can: in float32, the
    differences themselves are accurate to a few percent.

    Args:
        adaptation: an `inner_loop`, or another adaptation, for which the last four findings are
            NaN.
        loss: the loss of the query set.
        params: meta-parameters, with the rule filled in.
        task: one task, of concrete arrays.
        key: for the task, and for the random directions.
        solver: the linear solver of `implicit`. None is `conjugate_gradient()`.
        size: length of the steps of the finite differences. None is ∛ε of the dtype.

    Returns:
        The findings.

    Raises:
        ValueError: a loss that does not return (scalar, metrics).

    >>> from metajax.inner import identity
    >>> from metajax.types import Batch
    >>> loss = lambda params, batch, key: (batch.x @ params.slow, {})
    >>> task = Task(Batch(jnp.ones(2), ()), Batch(jnp.ones(2), ()))
    >>> params = Params({}, jnp.ones(2))
    >>> found = check_meta_gradient(identity(), loss, params, task, jax.random.key(0))
    >>> found.difference["slow"] < 0.01, found.zero
    (True, [])
    """
    check_weights(params)

    @jax.jit
    def task_loss(params: Params) -> Array:
        return check_loss_value(query_loss(adaptation, loss)(params, task, key))

    slopes = jax.jit(jax.grad(task_loss))(params)
    named_slopes = _by_name(slopes)
    difference = _differences(task_loss, params, slopes, key, size)
    zero = [name for name, slope in named_slopes.items() if not np.any(slope)]
    not_finite = [name for name, slope in named_slopes.items() if not np.isfinite(slope).all()]
    if adaptation.inner is None:
        return Check(difference, zero, not_finite, *[math.nan] * 4)

    @jax.jit
    def inner_findings(params: Params) -> tuple[Array, ...]:
        chosen = conjugate_gradient() if solver is None else solver
        return check_inner_loop(adaptation, loss, params, task, key, chosen, size)

    return Check(difference, zero, not_finite, *map(float, inner_findings(params)))


def _differences(
    task_loss: Callable[[Params], Array],
    params: Params,
    slopes: Params,
    key: Array,
    size: float | None,
) -> dict[str, float]:
    """How far the gradient is from finite differences, for each leaf; see `Check.difference`."""
    typical = _typical(jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(slopes)]))
    least_scale = 1e-3 * typical if math.isfinite(typical) else 0.0
    leaves = jax.tree.leaves(params)
    difference = {}
    for number, (name, slope) in enumerate(_by_name(slopes).items()):
        direction = random_direction(leaves[number], jax.random.fold_in(key, number))
        expected = _finite_difference(task_loss, params, number, direction, size)
        found = float((slope * direction).sum())
        scale = max(abs(expected), _typical(slope), least_scale)
        difference[name] = abs(found - expected) / (scale or 1.0)
    return difference


def _finite_difference(
    task_loss: Callable[[Params], Array],
    params: Params,
    number: int,
    direction: Array,
    size: float | None,
) -> float:
    """The central difference of the loss along a direction of the leaf with this number."""
    leaves, structure = jax.tree.flatten(params)
    width = step_width(leaves[number], size)

    def value(sign: int) -> float:
        moved = list(leaves)
        moved[number] = leaves[number] + sign * width * direction
        return float(task_loss(jax.tree.unflatten(structure, moved)))

    return (value(1) - value(-1)) / (2 * width)


def _by_name(tree: PyTree) -> dict[str, Array]:
    """The leaves by the name of their place, such as "slow['layers']"."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path).removeprefix("."): leaf for path, leaf in leaves}


def _typical(slope: Array) -> float:
    """Root mean square of the derivative along a random direction of length 1."""
    return float(jnp.linalg.norm(slope.ravel())) / max(slope.size, 1) ** 0.5
