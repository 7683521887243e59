"""What a meta-gradient costs under each strategy, before memory runs out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from metajax._tree import count_tasks
from metajax.types import Array, PyTree, TaskLoss


class Cost(NamedTuple):
    """What one meta-gradient takes.

    Attributes:
        temporary_bytes: that the compiled program needs besides its inputs and outputs.
        flops: of matrix products and convolutions, loops counted by their length; a lower bound where there is a
            `while`, which counts as one round, as conjugate gradient does.
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
        make: strategy -> task loss, such as `lambda s: query_loss(inner_loop(..., differentiate=s), loss)`.
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

        def mean(params: PyTree, tasks: PyTree, task_loss: TaskLoss = task_loss) -> Array:
            return jax.vmap(task_loss, (None, 0, 0))(params, tasks, keys)[0].mean()

        start = time.perf_counter()
        traced = jax.jit(jax.grad(mean)).trace(params, tasks)
        programs[name] = traced.lower().compile()
        seconds = time.perf_counter() - start
        memory = programs[name].memory_analysis().temp_size_in_bytes
        costs[name] = Cost(memory, _flops(traced.jaxpr.jaxpr), seconds)
    if not repeats:
        return costs
    slopes = {name: program(params, tasks) for name, program in programs.items()}
    exact = next(iter(slopes.values()))
    times: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(repeats):
        for name, program in programs.items():
            start = time.perf_counter()
            jax.block_until_ready(program(params, tasks))
            times[name].append(time.perf_counter() - start)
    biases = {
        n: optax.tree.norm(optax.tree.sub(s, exact)) / optax.tree.norm(exact)
        for n, s in slopes.items()
    }
    return {
        n: c._replace(run_seconds=float(np.median(times[n])), bias=float(biases[n]))
        for n, c in costs.items()
    }


def cost_table(costs: Mapping[str, Cost]) -> str:
    """The costs as a Markdown table."""
    lines = [
        "| strategy | temporaries, MB | GFLOP | compile, s | run, s | bias |",
        "| --- " * 6 + "|",
    ]
    for name, cost in costs.items():
        run, bias = (
            "" if value is None else f"{value:.2g}" for value in (cost.run_seconds, cost.bias)
        )
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
            inside = (
                2
                * equation.outvars[0].aval.size
                * int(np.prod([left[axis] for axis in contracted]))
            )
        elif equation.primitive.name == "conv_general_dilated":
            kernel, numbers = equation.invars[1].aval, equation.params["dimension_numbers"]
            inside = (
                2 * equation.outvars[0].aval.size * kernel.size // kernel.shape[numbers.rhs_spec[0]]
            )
        total += inside
    return total


def _jaxprs(params: Mapping[str, Any]) -> list[Any]:
    """The jaxprs among an equation's parameters; of the branches of a cond, the last."""
    values = jax.tree.leaves(
        [value[-1] if name == "branches" else value for name, value in params.items()]
    )
    closed = [getattr(value, "jaxpr", value) for value in values]
    return [value for value in closed if hasattr(value, "eqns")]
