"""Tools that say whether a meta-gradient can be trusted, and what it costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metajax._adaptation import Adaptation
from metajax._implicit import Solver, conjugate_gradient
from metajax._mixed_mode import mixed_products
from metajax._outer_loop import count_tasks
from metajax._task_losses import episode
from metajax._types import Array, Loss, Params, PyTree, Task, TaskLoss


class Check(NamedTuple):
    """What `check_meta_gradient` found; `print` it.

    Attributes:
        difference: for every leaf of Params, |slope - finite difference| / |finite difference| along one direction.
        zero: leaves whose gradient is zero throughout.
        not_finite: leaves whose gradient has a NaN or an infinity.
        asymmetry: relative difference between what reverse over reverse and forward over reverse make of the inner
            loss; far from 0, `mixed_mode`, `one_step` and `implicit` are wrong. NaN without an inner loop.
        inner_gradient: norm of the inner gradient where the steps ended, over its norm where they started; far from 0,
            `implicit` is wrong.
        solve_residual: |Hw - v| / |v| of the linear solve that `implicit` would do; far from 0, it is wrong.
    """

    difference: dict[str, float]
    zero: list[str]
    not_finite: list[str]
    asymmetry: float
    inner_gradient: float
    solve_residual: float

    def __str__(self) -> str:
        lines = [f"{name}: relative difference from finite differences {d:.1e}" for name, d in self.difference.items()]
        lines += [f"{name}: the gradient is zero" for name in self.zero]
        lines += [f"{name}: the gradient is not finite" for name in self.not_finite]
        lines.append(f"asymmetry of the inner Hessian {self.asymmetry:.1e}: mixed_mode, one_step and implicit need 0")
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
        adaptation: an `inner_loop`, or anything else: then the last three findings are NaN.
        loss: of the query set.
        params: with the rule filled in.
        task: one task, of concrete arrays.
        key: for the task, and for the directions.
        solver: that of `implicit`; `conjugate_gradient()` where None.
        size: step of the finite differences over the norm of a leaf's direction, ∛ε where None.
    """
    task_loss = jax.jit(lambda params: episode(adaptation, loss)(params, task, key)[0])
    slopes = jax.grad(task_loss)(params)
    difference, zero, not_finite = {}, [], []
    leaves, structure = jax.tree.flatten(params)
    for number, (path, slope) in enumerate(jax.tree_util.tree_leaves_with_path(slopes)):
        name, leaf = jax.tree_util.keystr(path).removeprefix("."), leaves[number]
        if not np.isfinite(slope).all():
            not_finite.append(name)
        elif not np.any(slope):
            zero.append(name)
        direction = jax.random.normal(jax.random.fold_in(key, number), jnp.shape(leaf), leaf.dtype)
        width = float(jnp.finfo(leaf.dtype).eps) ** (1 / 3) if size is None else size
        ends = []
        for sign in (1, -1):
            moved = [*leaves[:number], leaf + sign * width * direction, *leaves[number + 1 :]]
            ends.append(float(task_loss(jax.tree.unflatten(structure, moved))))
        expected = (ends[0] - ends[1]) / (2 * width)
        found = float((slope * direction).sum())
        difference[name] = abs(found - expected) / abs(expected) if expected else abs(found)
    findings = _check_inner(adaptation, loss, params, task, key, solver)
    return Check(difference, zero, not_finite, *findings)


def _check_inner(
    adaptation: Adaptation, loss: Loss, params: Params, task: Task, key: Array, solver: Solver | None
) -> tuple[float, float, float]:
    """(asymmetry, inner gradient, residual of the solve) at the adapted weights."""
    if adaptation.inner is None:
        return float("nan"), float("nan"), float("nan")
    adapt_key, query_key = jax.random.split(key)
    inner = adaptation.inner(params, task.support)
    adapted = adaptation.adapt(params, task.support, adapt_key)
    gradient = lambda fast, inputs: jax.grad(inner.whole)(fast, inputs, adapt_key)
    v = jax.grad(lambda fast: loss(adapted._replace(fast=fast), task.query, query_key)[0])(adapted.fast)
    pull = jax.vjp(gradient, adapted.fast, inner.inputs)[1](v)
    push = mixed_products(inner.whole, adapted.fast, inner.inputs, adapt_key, v)
    pairs = [(a, b) for a, b in zip(*map(_leaves, (pull, push)), strict=True) if b is not None]
    asymmetry = optax.tree.norm([a - b for a, b in pairs]) / optax.tree.norm([a for a, _ in pairs])
    start, end = (optax.tree.norm(gradient(fast, inner.inputs)) for fast in (params.fast, adapted.fast))
    product = lambda u: jax.jvp(lambda fast: gradient(fast, inner.inputs), (adapted.fast,), (u,))[1]
    solution = (conjugate_gradient() if solver is None else solver)(product, v)
    residual = optax.tree.norm(optax.tree.sub(product(solution), v)) / optax.tree.norm(v)
    return float(asymmetry), float(end / start), float(residual)


def _leaves(tree: PyTree) -> list[Any]:
    return jax.tree.leaves(tree, is_leaf=lambda leaf: leaf is None)


class Cost(NamedTuple):
    """What one meta-gradient takes.

    Attributes:
        temporary_bytes: that the compiled program needs besides its inputs and outputs.
        flops: of matrix products and convolutions, loops counted by their length (a `while` as one round).
        compile_seconds: tracing included.
        run_seconds: median, None where not asked for.
        bias: |g - g₀| / |g₀|, with g₀ the gradient under the first strategy; None where nothing was run.
    """

    temporary_bytes: int
    flops: int
    compile_seconds: float
    run_seconds: float | None = None
    bias: float | None = None


def estimate_cost(
    make: Callable[[Any], TaskLoss],
    strategies: Mapping[str, Any],
    params: PyTree,
    tasks: PyTree,
    *,
    repeats: int = 0,
) -> dict[str, Cost]:
    """Memory, work, time and bias of the meta-gradient under each strategy, for the mean loss of some tasks at once.

    It compiles every one of them, and runs them only where asked: so `temporary_bytes` is known before memory runs out.

    Args:
        make: strategy -> task loss, such as `lambda s: episode(inner_loop(..., differentiate=s), loss)`.
        strategies: {name: strategy, or whatever `make` takes}, the exact one first.
        params: what the gradient is of, with the rule filled in.
        tasks: tasks along the leading axis of every leaf.
        repeats: how often to run each, in turns, after one run that warms up; 0 runs nothing.

    Returns:
        {name: Cost}; `cost_table` writes it out.
    """
    keys = jax.random.split(jax.random.key(0), count_tasks(tasks))
    costs, programs = {}, {}
    for name, strategy in strategies.items():
        task_loss = make(strategy)

        def mean(params: PyTree, task_loss: TaskLoss = task_loss) -> Array:
            return jax.vmap(task_loss, (None, 0, 0))(params, tasks, keys)[0].mean()

        start = time.perf_counter()
        traced = jax.jit(jax.grad(mean)).trace(params)
        programs[name] = traced.lower().compile()
        seconds = time.perf_counter() - start
        memory = programs[name].memory_analysis().temp_size_in_bytes
        costs[name] = Cost(memory, _flops(traced.jaxpr.jaxpr), seconds)
    if not repeats:
        return costs
    slopes = {name: program(params) for name, program in programs.items()}
    exact = next(iter(slopes.values()))
    times: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(repeats):
        for name, program in programs.items():
            start = time.perf_counter()
            jax.block_until_ready(program(params))
            times[name].append(time.perf_counter() - start)
    biases = {n: optax.tree.norm(optax.tree.sub(s, exact)) / optax.tree.norm(exact) for n, s in slopes.items()}
    return {n: c._replace(run_seconds=float(np.median(times[n])), bias=float(biases[n])) for n, c in costs.items()}


def cost_table(costs: Mapping[str, Cost]) -> str:
    """The costs as a Markdown table."""
    lines = ["| strategy | temporaries, MB | GFLOP | compile, s | run, s | bias |", "| --- " * 6 + "|"]
    for name, cost in costs.items():
        run, bias = ("" if value is None else f"{value:.2g}" for value in (cost.run_seconds, cost.bias))
        numbers = f"{cost.temporary_bytes / 1e6:.3g} | {cost.flops / 1e9:.3g} | {cost.compile_seconds:.1f}"
        lines.append(f"| {name} | {numbers} | {run} | {bias} |")
    return "\n".join(lines)


def _flops(jaxpr: Any) -> int:
    """2 m n k for every product in a jaxpr, times the length of the scans around it."""
    total = 0
    for equation in jaxpr.eqns:
        inside = sum(_flops(inner) for inner in _jaxprs(equation.params))
        if equation.primitive.name == "scan":
            inside *= equation.params["length"]
        elif equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            inside = 2 * equation.outvars[0].aval.size * int(np.prod([left[axis] for axis in contracted]))
        elif equation.primitive.name == "conv_general_dilated":
            kernel, numbers = equation.invars[1].aval, equation.params["dimension_numbers"]
            inside = 2 * equation.outvars[0].aval.size * kernel.size // kernel.shape[numbers.rhs_spec[0]]
        total += inside
    return total


def _jaxprs(params: Mapping[str, Any]) -> list[Any]:
    """The jaxprs among an equation's parameters; of the branches of a cond, the last."""
    values = [value[-1] if name == "branches" else value for name, value in params.items()]
    closed = [getattr(value, "jaxpr", value) for value in values]
    return [value for value in closed if hasattr(value, "eqns")]
