"""What a meta-gradient costs under each strategy, known before memory runs out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from metajax._checked import checked
from metajax._learnable import check_weights
from metajax._tree import count_tasks
from metajax.types import Array, Count, PyTree, TaskLoss


class Cost(NamedTuple):
    """The cost of one meta-gradient.

    Attributes:
        temporary_bytes: memory that the compiled program needs besides its inputs and outputs.
        flops: floating-point operations of matrix products and convolutions. Those in a loop are
            counted as often as it runs. A `while` loop counts as one round, so this is a lower
            bound for conjugate gradient.
        compile_seconds: time to trace and compile.
        run_seconds: median time of one run, or None if nothing was run.
        bias: |g - g₀| / |g₀|, where g₀ is the gradient under the first strategy, or None if
            nothing was run.
    """

    temporary_bytes: int
    flops: int
    compile_seconds: float
    run_seconds: float | None = None
    bias: float | None = None


@checked
def estimate_cost(
    make: Callable[[Any], TaskLoss],
    strategies: Mapping[str, Any],
    params: PyTree,
    tasks: PyTree,
    *,
    repeats: Count = 0,
) -> dict[str, Cost]:
    """Memory, work, time and bias of the meta-gradient under each strategy.

    The gradient is that of the mean loss of all tasks, computed at once. Every program is
    compiled, and none is run unless you ask for it. So you can ask what a gradient needs even where
    it does not fit into memory.

    Args:
        make: strategy -> task loss, such as
            `lambda s: query_loss(inner_loop(..., differentiate=s), loss)`.
        strategies: {name: strategy, or anything else that `make` takes}, the exact one first.
        params: what the gradient is taken of, with the rule filled in.
        tasks: tasks along the leading axis of every leaf.
        repeats: how often each program is timed, in turns, after one run to warm up. 0 runs
            nothing.

    Returns:
        {name: Cost}. `cost_table` writes it as a table.

    Raises:
        ValueError: repeats is not a whole number, 0 or more; no tasks, or leaves that differ in
            their number; or params that are not floats.

    >>> import jax.numpy as jnp
    >>> weights = jnp.ones((3, 3))
    >>> make = lambda power: lambda params, task, key: ((task @ params).sum() ** power, {})
    >>> costs = estimate_cost(make, {"once": 1, "squared": 2}, weights, jnp.ones((2, 4, 3)))
    >>> costs["squared"].flops, costs["squared"].run_seconds
    (288, None)
    """
    check_weights(params)
    programs: dict[str, Any] = {}
    costs: dict[str, Cost] = {}
    for name, strategy in strategies.items():
        programs[name], costs[name] = _compile(make(strategy), params, tasks)
    if repeats == 0:
        return costs
    biases = _biases(programs, params, tasks)
    seconds = _median_seconds(programs, params, tasks, repeats)
    return {
        name: cost._replace(run_seconds=seconds[name], bias=biases[name])
        for name, cost in costs.items()
    }


@checked
def cost_table(costs: Mapping[str, Cost]) -> str:
    """The costs as a Markdown table, one row for each strategy.

    What was measured under no strategy, such as the run time without `repeats`, has no column.

    >>> cost = Cost(temporary_bytes=2_000_000, flops=3_000_000_000, compile_seconds=0.5)
    >>> print(cost_table({"unroll()": cost}))
    | strategy | temporaries, MB | GFLOP | compile, s |
    | --- | --- | --- | --- |
    | unroll() | 2 | 3 | 0.5 |
    """
    columns = {
        "strategy": list(costs),
        "temporaries, MB": [f"{cost.temporary_bytes / 1e6:.3g}" for cost in costs.values()],
        "GFLOP": [f"{cost.flops / 1e9:.3g}" for cost in costs.values()],
        "compile, s": [f"{cost.compile_seconds:.1f}" for cost in costs.values()],
        "run, s": [_two_digits(cost.run_seconds) for cost in costs.values()],
        "bias": [_two_digits(cost.bias) for cost in costs.values()],
    }
    measured = {title: cells for title, cells in columns.items() if any(cells)}
    rows = [list(measured), ["---"] * len(measured), *zip(*measured.values(), strict=True)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def _two_digits(value: float | None) -> str:
    return "" if value is None else f"{value:.2g}"


def _compile(task_loss: TaskLoss, params: PyTree, tasks: PyTree) -> tuple[Any, Cost]:
    """The compiled gradient (params, tasks) -> slopes, and what is known without running it."""
    keys = jax.random.split(jax.random.key(0), count_tasks(tasks))

    def mean_loss(params: PyTree, tasks: PyTree) -> Array:
        losses, _ = jax.vmap(task_loss, (None, 0, 0))(params, tasks, keys)
        return losses.mean()

    start = time.perf_counter()
    traced = jax.jit(jax.grad(mean_loss)).trace(params, tasks)
    program = traced.lower().compile()
    seconds = time.perf_counter() - start
    temporary_bytes = program.memory_analysis().temp_size_in_bytes
    return program, Cost(temporary_bytes, _flops(traced.jaxpr.jaxpr), seconds)


def _biases(programs: Mapping[str, Any], params: PyTree, tasks: PyTree) -> dict[str, float]:
    """|g - g₀| / |g₀| for the gradient g of each program, with g₀ that of the first."""
    slopes = {name: program(params, tasks) for name, program in programs.items()}
    exact = next(iter(slopes.values()))
    size = optax.tree.norm(exact)
    return {
        name: float(optax.tree.norm(optax.tree.sub(slope, exact)) / size)
        for name, slope in slopes.items()
    }


def _median_seconds(
    programs: Mapping[str, Any], params: PyTree, tasks: PyTree, repeats: int
) -> dict[str, float]:
    """Median time of each program. They run in turns, so that a slow moment hits all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(repeats):
        for name, program in programs.items():
            start = time.perf_counter()
            jax.block_until_ready(program(params, tasks))
            seconds[name].append(time.perf_counter() - start)
    return {name: float(np.median(times)) for name, times in seconds.items()}


def _flops(jaxpr: Any) -> int:
    """Floating-point operations of all products and convolutions in a jaxpr."""
    return sum(_equation_flops(equation) for equation in jaxpr.eqns)


def _equation_flops(equation: Any) -> int:
    primitive = equation.primitive.name
    if primitive == "dot_general":
        return _product_flops(equation)
    if primitive == "conv_general_dilated":
        return _convolution_flops(equation)
    inside = sum(_flops(jaxpr) for jaxpr in _jaxprs_inside(equation))
    return inside * equation.params["length"] if primitive == "scan" else inside


def _product_flops(equation: Any) -> int:
    """2 m n k for the product of [m, k] and [k, n]."""
    (contracted_axes, _), _ = equation.params["dimension_numbers"]
    left_shape = equation.invars[0].aval.shape
    contracted = math.prod(left_shape[axis] for axis in contracted_axes)
    return 2 * equation.outvars[0].aval.size * contracted


def _convolution_flops(equation: Any) -> int:
    """Twice the outputs times the weights that each of them is a sum over."""
    kernel = equation.invars[1].aval
    output_axis = equation.params["dimension_numbers"].rhs_spec[0]
    return 2 * equation.outvars[0].aval.size * kernel.size // kernel.shape[output_axis]


def _jaxprs_inside(equation: Any) -> list[Any]:
    """The jaxprs of a loop, a call or a branch. Of the branches of a `cond`, the last counts."""
    values = [value[-1] if name == "branches" else value for name, value in equation.params.items()]
    jaxprs = [getattr(value, "jaxpr", value) for value in jax.tree.leaves(values)]
    return [jaxpr for jaxpr in jaxprs if hasattr(jaxpr, "eqns")]
