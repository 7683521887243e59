"""Outer steps as pure functions: `scan` for jit and vmap, and what `fit` compiles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import jax

from metajax._checked import checked
from metajax._checks import check_metric_names, check_state
from metajax._programs import jit_with
from metajax.data.tasks.drawing import at_step
from metajax.outer.outer_loops import Info, OuterLoop
from metajax.training.processes import Processes
from metajax.training.records import RESERVED
from metajax.types import Array, Count, PyTree, Sample

Step: TypeAlias = Callable[[Any, PyTree, Array], tuple[Any, Info]]
"""The step of an `OuterLoop`."""


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
    return take_steps(outer.step, sample, state, key, dataset, steps)


def take_steps(
    step: Step,
    sample: Sample[PyTree],
    state: Any,
    key: Array,
    read: PyTree,
    number: int,
) -> tuple[Any, Info]:
    """Takes this number of outer steps with `lax.scan`. This is all that fit and scan compute."""

    def one(state: Any, _: None) -> tuple[Any, Info]:
        sample_key, step_key = jax.random.split(jax.random.fold_in(key, state.step))
        tasks = at_step(sample, state.step)(read, sample_key)
        return step(state, tasks, step_key)

    return jax.lax.scan(one, state, length=number)


class Program:
    """`take_steps` for `fit`: compiled apart from running it, and kept for the next `fit`.

    Compiling ahead of time keeps compilation out of the measured time of a run. The program donates
    the state: its buffers are overwritten, and only the new state may be used.
    """

    def __init__(self, step: Step, sample: Sample[PyTree]):
        self.run = jit_with(take_steps, step, sample, donate_argnums=0, static_argnums=3)
        self.ready: set[int] = set()

    def compile(
        self, state: Any, key: Array, read: PyTree, number: int, processes: Processes
    ) -> None:
        """Makes ready for this number of steps. What was compiled before is not compiled again.

        Raises:
            ValueError: a metric with the name of another entry of a record, or processes whose
                programs differ.
        """
        lowered = self.run.lower(state, key, read, number)
        _, info = lowered.out_info
        check_metric_names(info.metrics, RESERVED)
        processes.check_same_program(lowered)
        lowered.compile()
        self.ready.add(number)
