"""Outer steps as pure functions: `scan` for jit and vmap, and what `fit` compiles."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import jax

from metajax._checked import checked
from metajax._checks import check_metric_names, check_state
from metajax.data.tasks.drawing import at_step
from metajax.outer.outer_loops import Info, OuterLoop
from metajax.training.records import RESERVED
from metajax.types import Array, Count, PyTree, Sample

Draw: TypeAlias = Callable[[PyTree, Array, Array], PyTree]
"""(what a step reads, key, number of the outer step) -> tasks."""


@checked
def scan(
    outer: OuterLoop,
    state: Any,
    sample: Sample[PyTree],
    dataset: PyTree,
    key: Array,
    *,
    steps: Count,
) -> tuple[Any, Info]:
    """Takes outer steps as one pure function, for `jax.jit` and `jax.vmap`.

    Use it to train several seeds or hyperparameters at once, or inside a larger computation.
    `fit` takes the same steps with the same keys, ends with the same weights up to rounding, and
    adds records, checkpoints and a bar.

    Step n, which is `state.step`, uses `sample_key, step_key = split(fold_in(key, n))`.

    Args:
        outer: what is learned, and how: an `outer_loop`, `persistent` or `bilevel`.
        state: `outer.init(...)`, or the state where earlier steps ended.
        sample: (dataset, key) -> tasks, such as `data.meta_batch(data.episodes(...), tasks=32)`.
            A stream is for `fit`. If it takes a keyword `step`, it is given the number of the outer
            step, int32.
        dataset: what `sample` draws from; () if it needs nothing.
        key: key of the whole run.
        steps: number of steps to take from here. `fit` counts from the first step of the run.

    Returns:
        (the last state, the `Info` of every step, leaves [steps, ...]).

    Raises:
        ValueError: steps is not a whole number, 0 or more.

    >>> import jax.numpy as jnp, optax
    >>> from metajax.outer import outer_loop
    >>> from metajax.types import Params
    >>> task_loss = lambda params, target, key: ((params.slow - target) ** 2, {})
    >>> outer = outer_loop(task_loss, optax.sgd(0.25))
    >>> sample = lambda targets, key: targets
    >>> def train(key):
    ...     state = outer.init(Params({}, jax.random.normal(key)))
    ...     state, info = scan(outer, state, sample, jnp.array([1.0, 3.0]), key, steps=30)
    ...     return state.params.slow
    >>> jax.vmap(train)(jax.random.split(jax.random.key(0), 3)).round(3).tolist()
    [2.0, 2.0, 2.0]
    """
    check_state(state)
    return take_steps(outer, sampler_draw(sample), state, key, dataset, steps)


def sampler_draw(sample: Sample[PyTree]) -> Draw:
    """A sampler with the number of the outer step as an argument, which it may ignore."""
    return lambda dataset, key, step: at_step(sample, step)(dataset, key)


def take_steps(
    outer: OuterLoop, draw: Draw, state: Any, key: Array, read: PyTree, number: int
) -> tuple[Any, Info]:
    """Takes this number of outer steps with `lax.scan`. This is all that fit and scan compute."""

    def step(state: Any, _: None) -> tuple[Any, Info]:
        sample_key, step_key = jax.random.split(jax.random.fold_in(key, state.step))
        tasks = draw(read, sample_key, state.step)
        return outer.step(state, tasks, step_key)

    return jax.lax.scan(step, state, length=number)


def compiled_steps(outer: OuterLoop, draw: Draw) -> Callable[..., Any]:
    """Compiles `take_steps` once for each number of steps, apart from running it.

    Compiling ahead of time keeps compilation out of the measured time of a run.

    Returns:
        (number, state, key, read) -> the compiled function (state, key, read) -> (state, info).
        Compilation needs only the shapes of its arguments. A later call with the same number
        returns the same function, so the shapes must not change. The compiled function donates
        the state: its buffers are overwritten, and only the new state may be used.
    """
    programs: dict[int, Any] = {}

    def program(number: int, state: Any, key: Array, read: PyTree) -> Any:
        if number not in programs:
            several = functools.partial(take_steps, outer, draw, number=number)
            run = jax.jit(several, donate_argnums=0)
            lowered = run.lower(state, key, read)
            _, info = lowered.out_info
            check_metric_names(info.metrics, RESERVED)
            programs[number] = lowered.compile()
        return programs[number]

    return program
