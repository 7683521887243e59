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
from metajax.diagnostics.differences import random_direction, step_widths
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
        plateau: for every leaf, how far the finite differences of three neighbouring steps are
            apart, divided by s. Of six steps, from long to short, those three count that agree
            best, and d is the middle one of them. Far from 0, no difference can be trusted.
        verdict: for every leaf, "right", "wrong" or "unclear". The gradient is right where
            `difference` and `plateau` are at most ε^⅕ of the dtype, 0.0007 in float64 and 0.04 in
            float32. It is wrong where it is not finite, or where `difference` is larger than that
            and than three times `plateau`.
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
    plateau: dict[str, float]
    verdict: dict[str, str]
    zero: list[str]
    not_finite: list[str]
    asymmetry: float
    stopped: float
    inner_gradient: float
    solve_residual: float

    def __str__(self) -> str:
        lines = [
            f"{name}: the gradient differs from finite differences by {difference:.1e} of its "
            f"size, and they from each other by {self.plateau[name]:.1e}."
            for name, difference in self.difference.items()
        ]
        lines += [f"{name}: the gradient is zero." for name in self.zero]
        lines += [f"{name}: the gradient is not finite." for name in self.not_finite]
        return "\n".join([*lines, *self._inner_loop_in_words(), *self._verdict_in_words()])

    def _inner_loop_in_words(self) -> list[str]:
        """The last four findings as sentences."""
        if math.isnan(self.inner_gradient):
            return [
                "The inner loop was not checked: the adaptation is not a single inner_loop, or its "
                "gradient is not finite, or zero from the start."
            ]
        return [
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

    def _verdict_in_words(self) -> list[str]:
        """What to think of the gradient, and what to do where that is not clear."""
        wrong = [name for name, verdict in self.verdict.items() if verdict == "wrong"]
        unclear = [name for name, verdict in self.verdict.items() if verdict == "unclear"]
        lines = []
        if wrong:
            lines.append(
                f"Verdict: WRONG for {', '.join(wrong)}. It is not the derivative of the loss: a "
                "stop_gradient, a derivative of your own, a strategy that is biased by design, an "
                "inner loop that has not converged under implicit, or rounding, of which long "
                "inner loops in float32 have much: check in float64, also for params and task, "
                "before you look for a fault."
            )
        if unclear:
            lines.append(
                f"Verdict: UNCLEAR for {', '.join(unclear)}. Finite differences of several steps "
                "do not agree. Use float64, also for params and task, fewer inner steps or a "
                "smooth activation."
            )
        return lines or ["Verdict: RIGHT. The gradient agrees with finite differences."]


@checked
def check_meta_gradient(
    adaptation: Adaptation,
    loss: Loss,
    params: Params,
    task: Task,
    key: Array,
    *,
    solver: Solver | None = None,
) -> Check:
    """Compares a meta-gradient with finite differences, and looks for what can make it wrong.

    Use it once for every new model, loss or strategy. Finite differences do not depend on the
    strategy, so they show the bias of a biased one, a `stop_gradient` in the inner loss, and an
    inner loop that has not converged under `implicit`. Use float64 where you can: in float32, the
    differences themselves are accurate to a few percent, and after many steps of a net with kinks,
    such as ReLU, not at all; the verdict is "unclear" then. The gradient has rounding errors, too:
    where the true one is almost zero, as that of a start which a long inner loop forgets, they are
    all of it, and the verdict is "wrong" in float32 and "right" in float64.

    Args:
        adaptation: an `inner_loop`, or another adaptation, for which the last four findings are
            NaN.
        loss: the loss of the query set.
        params: meta-parameters, with the rule filled in.
        task: one task, of concrete arrays.
        key: for the task, and for the random directions.
        solver: the linear solver of `implicit`. None is `conjugate_gradient()`.

    Returns:
        The findings. Printed, they end with a verdict in words.

    Raises:
        ValueError: a loss that does not return (scalar, metrics), an adaptation with `path`, or
            params that are not floats.

    >>> from metajax.inner import identity
    >>> from metajax.types import Batch
    >>> loss = lambda params, batch, key: (batch.x @ params.slow, {})
    >>> task = Task(Batch(jnp.ones(2), ()), Batch(jnp.ones(2), ()))
    >>> params = Params({}, jnp.ones(2))
    >>> found = check_meta_gradient(identity(), loss, params, task, jax.random.key(0))
    >>> found.verdict["slow"], found.zero
    ('right', [])
    >>> print(found)  # doctest: +ELLIPSIS
    slow: the gradient differs from finite differences by ...
    The inner loop was not checked: ...
    Verdict: RIGHT. The gradient agrees with finite differences.
    """
    check_weights(params)

    @jax.jit
    def task_loss(params: Params) -> Array:
        return check_loss_value(query_loss(adaptation, loss)(params, task, key))

    slopes = jax.jit(jax.grad(task_loss))(params)
    named_slopes = _by_name(slopes)
    zero = [name for name, slope in named_slopes.items() if not np.any(slope)]
    not_finite = [name for name, slope in named_slopes.items() if not np.isfinite(slope).all()]
    difference, plateau, verdict = {}, {}, {}
    typical = _typical(jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(slopes)]))
    least_scale = 1e-3 * typical if math.isfinite(typical) else 0.0
    for number, (name, slope) in enumerate(named_slopes.items()):
        direction = random_direction(slope, jax.random.fold_in(key, number))
        expected, spread = _finite_difference(task_loss, params, number, direction)
        found = float((slope * direction).sum())
        scale = max(abs(expected), _typical(slope), least_scale) or 1.0
        difference[name] = abs(found - expected) / scale
        plateau[name] = spread / scale
        verdict[name] = _verdict(difference[name], plateau[name], slope)
    outer_findings = (difference, plateau, verdict, zero, not_finite)
    if adaptation.inner is None:
        return Check(*outer_findings, *[math.nan] * 4)

    @jax.jit
    def inner_findings(params: Params) -> tuple[Array, ...]:
        chosen = conjugate_gradient() if solver is None else solver
        return check_inner_loop(adaptation, loss, params, task, key, chosen)

    return Check(*outer_findings, *map(float, inner_findings(params)))


def _verdict(difference: float, plateau: float, slope: Array) -> str:
    """The verdict on the gradient of one leaf; see `Check`."""
    tolerance = float(jnp.finfo(slope.dtype).eps) ** (1 / 5)
    if not np.isfinite(slope).all():
        return "wrong"
    if max(difference, plateau) <= tolerance:
        return "right"
    return "wrong" if difference > max(tolerance, 3 * plateau) else "unclear"


def _finite_difference(
    task_loss: Callable[[Params], Array], params: Params, number: int, direction: Array
) -> tuple[float, float]:
    """The derivative of the loss along a direction of the leaf with this number.

    Returns:
        The middle one of the central differences of three neighbouring steps, those that agree
        best, and how far the three are apart.
    """
    leaves, structure = jax.tree.flatten(params)

    def value(step: float) -> float:
        moved = list(leaves)
        moved[number] = leaves[number] + step * direction
        return float(task_loss(jax.tree.unflatten(structure, moved)))

    widths = [float(width) for width in step_widths(direction.dtype)]
    found = np.array([(value(width) - value(-width)) / (2 * width) for width in widths])
    threes = np.lib.stride_tricks.sliding_window_view(found, 3)
    spreads = np.ptp(threes, axis=1)
    best = int(np.argmin(np.where(np.isfinite(spreads), spreads, np.inf)))
    return float(np.median(threes[best])), float(spreads[best])


def _by_name(tree: PyTree) -> dict[str, Array]:
    """The leaves by the name of their place, such as "slow['layers']"."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path).removeprefix("."): leaf for path, leaf in leaves}


def _typical(slope: Array) -> float:
    """Root mean square of the derivative along a random direction of length 1."""
    return float(jnp.linalg.norm(slope.ravel())) / max(slope.size, 1) ** 0.5
