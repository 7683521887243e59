"""How good a meta-learner is on tasks that it has not seen."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from jax.sharding import Mesh

from metajax._checked import checked
from metajax._checks import check_metric_names, is_concrete
from metajax._programs import jit_with
from metajax._tree import as_floating, count_tasks, widened
from metajax.outer.mapping import chunk_tasks
from metajax.outer.meshes import on_mesh, over_mesh, places_on, task_mesh
from metajax.types import Array, Metrics, Params, PyTree, Size, TaskLoss

FEWEST_OF_A_TENTH = 5
"""Of fewer tasks, the deviation says nothing of the interval."""


class Summary(NamedTuple):
    """A metric over tasks.

    Attributes:
        mean: mean over tasks.
        interval: half the width of its 95 % confidence interval, t s / √tasks. t is Student's
            quantile for tasks - 1 degrees of freedom, 1.96 for many tasks.
        per_task: [tasks, ...], for paired comparisons.

    `lowest` and `highest` are the same of the lowest and the highest tenth of the tasks: the worst
    decile is `lowest` of an accuracy, and `highest` of a loss.
    """

    mean: Array
    interval: Array
    per_task: Array

    @property
    def lowest(self) -> Summary:
        """Mean and interval of the lowest tenth of the tasks, which are its `per_task`.

        Its interval is that of the mean of q + min(x - q, 0) / 0.1 over all tasks, with q the
        highest of the tenth. The interval of a tenth of fewer than five tasks is NaN, and so is the
        mean if a task is.
        """
        return _lowest_tenth(self.per_task)

    @property
    def highest(self) -> Summary:
        """Mean and interval of the highest tenth of the tasks, as for `lowest`."""
        found = _lowest_tenth(-as_floating(self.per_task))
        return Summary(-found.mean, found.interval, -found.per_task)

    def __repr__(self) -> str:
        """One line, such as "0.823 ± 0.0061 (n = 600)" of 600 tasks."""
        try:
            number = np.size(self.per_task) // np.size(self.mean)
            shown = f"{_in_digits(self.mean, 4)} ± {_in_digits(self.interval, 2)}"
        except (ArithmeticError, RuntimeError, TypeError, ValueError):
            return f"Summary{tuple.__repr__(self)}"  # traced, donated, or a tree of something else
        return f"{shown} (n = {number})"


def _in_digits(numbers: Array, digits: int) -> str:
    """A number, or numbers in brackets, in so many digits and in one line."""
    write = lambda number: f"{number:.{digits}g}"
    shown = np.array2string(np.asarray(numbers), formatter={"float_kind": write}, threshold=10)
    return " ".join(shown.split())


@checked
def evaluate(
    task_loss: TaskLoss,
    params: Params,
    tasks: PyTree,
    key: Array,
    *,
    tasks_at_once: Size | None = None,
    mesh: Mesh | None = None,
    axis_name: str | None = None,
) -> dict[str, Summary]:
    """Runs every task and summarizes its loss and metrics. Nothing is learned or left out.

    It is compiled at the first call, and a later call with the same function and the same shapes
    runs what was compiled. So define the task loss once, not anew for each call. It is compiled
    again when a value that it reads has changed, and at every call if it reads something that can
    change unnoticed, such as a NumPy array. `jax.jit(task_loss)` promises that it will not.

    Args:
        task_loss: (params, task, key) -> (scalar, metrics).
        params: what the outer loop learned.
        tasks: tasks along the leading axis of every leaf.
        key: the key of a task is `fold_in(key, its index)`.
        tasks_at_once: tasks in one vmap; it must divide their number. None is as in `outer_loop`.
        mesh: its axis "tasks" divides any number of tasks over its devices. Where several processes
            have the mesh, each gives all tasks and gets the summary of all.
        axis_name: axis of an enclosing `jax.shard_map` of your own, where every device has its own
            tasks. The index of a task is counted over all devices, and summaries are of the tasks
            of all. None treats the tasks of each device as all there are.

    Returns:
        {"loss": Summary, and one for each metric}. A task that is not finite makes the mean
        not finite. A task whose queries all have weight 0 counts as any other: the losses of
        metajax give it the loss 0 and the accuracy 0.

    Raises:
        ValueError: no tasks, leaves that differ in their number of tasks, `tasks_at_once` that
            does not divide it, a metric that is named "loss", a mesh without the axis "tasks", or
            both a mesh and an axis_name; outside of compiled code, a task whose loss is not finite
            because of its labels or weights.
    """
    if mesh is not None:
        if axis_name is not None:
            raise ValueError(f"Give a mesh or {axis_name=}, which is for a shard_map of your own.")
        mesh = task_mesh(mesh)
        params, tasks, key = on_mesh((params, tasks, key), mesh)
    if axis_name is None and is_concrete(params, tasks, key):
        run = jit_with(_per_task, task_loss, static_argnums=(3, 4))
        flat = run(params, tasks, key, tasks_at_once, mesh)
    else:
        flat = _per_task(task_loss, params, tasks, key, tasks_at_once, mesh, axis_name)
    if is_concrete(flat):
        explain_not_finite(task_loss, params, tasks, key, ~jnp.isfinite(flat["loss"]))
    return jax.tree.map(summarize, flat)


def _per_task(
    task_loss: TaskLoss,
    params: Params,
    tasks: PyTree,
    key: Array,
    tasks_at_once: int | None,
    mesh: Mesh | None,
    axis_name: str | None = None,
) -> Metrics:
    """The loss and metrics of every task of all devices, leaves [tasks, ...]."""
    run = functools.partial(_of_device, task_loss)
    if mesh is None:
        flat: Metrics = run(params, tasks, key, tasks_at_once=tasks_at_once, axis_name=axis_name)
        return flat
    flat = over_mesh(run, mesh, tasks_at_once)(params, tasks, key)
    return jax.tree.map(lambda leaf: leaf[: count_tasks(tasks)], flat)


def _of_device(
    task_loss: TaskLoss,
    params: Params,
    tasks: PyTree,
    key: Array,
    *,
    tasks_at_once: int | None,
    axis_name: str | None,
    number: int | None = None,
) -> Metrics:
    """Runs the tasks of this device. The loss and metrics are of every task of all devices."""

    def run(chunk: tuple[PyTree, Array]) -> Metrics:
        losses, metrics = jax.vmap(task_loss, (None, 0, 0))(params, *chunk)
        check_metric_names(metrics, ["loss"])
        return {"loss": losses, **metrics}

    here = count_tasks(tasks)
    places, _ = places_on(axis_name, here, number)
    per_chunk = jax.lax.map(run, chunk_tasks(params, tasks, key, tasks_at_once, places))
    flat: Metrics = jax.tree.map(lambda leaf: leaf.reshape(here, *leaf.shape[2:]), per_chunk)
    if axis_name is None:
        return flat
    return jax.tree.map(lambda leaf: _of_all_devices(leaf, axis_name), flat)


def _of_all_devices(leaf: Array, axis_name: str) -> Array:
    """Rows [tasks, ...] of each device as the rows of all devices, on every device."""
    # Unlike `all_gather`, a sum tells JAX that the result is the same on all devices.
    devices = jax.lax.axis_size(axis_name)
    place = jax.lax.axis_index(axis_name)
    whole = jnp.zeros((devices, *leaf.shape), leaf.dtype).at[place].set(leaf)
    return jax.lax.psum(whole, axis_name).reshape(-1, *leaf.shape[1:])


def explain_not_finite(
    task_loss: TaskLoss, params: Params, tasks: PyTree, key: Array, is_bad: Array
) -> None:
    """Runs the first task whose loss is not finite again, without compilation.

    Compiled code cannot raise an error about values, such as labels that are not classes, and
    makes them NaN instead. Here the values are concrete, so that the check of the loss raises.

    Args:
        task_loss: (params, task, key) -> (scalar, metrics).
        params: what the outer loop learned.
        tasks: tasks along the leading axis of every leaf.
        key: the key of all tasks, as for `evaluate`.
        is_bad: bool[tasks]. Where all are False, nothing is run.

    Raises:
        ValueError: values that the task loss refuses.
    """
    if not is_bad.any():
        return
    number = int(jnp.argmax(is_bad))
    task = jax.tree.map(lambda leaf: leaf[number], tasks)
    task_loss(params, task, jax.random.fold_in(key, number))


def _lowest_tenth(per_task: Array) -> Summary:
    """The mean of the lowest tenth of the tasks, rounded up to a whole number, and its interval."""
    number = len(per_task)
    some = math.ceil(number / 10)
    wide_Tx = widened(as_floating(per_task))
    lowest_Sx = jnp.sort(wide_Tx, axis=0)[:some]
    edge_x = lowest_Sx[-1:]
    below_Tx = edge_x + jnp.minimum(wide_Tx - edge_x, 0) * number / some
    interval_x = summarize(below_Tx).interval
    if some < FEWEST_OF_A_TENTH:
        interval_x = jnp.full_like(interval_x, jnp.nan)
    mean_x = jnp.where(jnp.isnan(wide_Tx).any(axis=0), jnp.nan, lowest_Sx.mean(axis=0))
    return Summary(mean_x, interval_x, lowest_Sx)


@checked
def summarize(per_task: Array) -> Summary:
    """Mean and 95 % interval over the leading axis, by Student's t. One task has no interval: NaN.

    The difference of two `per_task` gives a paired comparison. Where test classes are few, give it
    one mean for each split of the classes, instead of tasks. Mean and interval are in float32 or
    wider.

    Args:
        per_task: [tasks, ...], or numbers of something else, such as images.

    >>> summarize(jnp.array([0.0, 1.0, 1.0, 0.0]))
    0.5 ± 0.92 (n = 4)
    """
    number = len(per_task)
    wide_Tx = widened(per_task)
    deviation = jnp.full(per_task.shape[1:], jnp.nan)
    if number > 1:
        deviation = wide_Tx.std(axis=0, ddof=1)
    quantile = float(scipy.special.stdtrit(number - 1, 0.975))
    return Summary(wide_Tx.mean(axis=0), quantile * deviation / number**0.5, per_task)
