"""The outer loop: one step of learning across a batch of tasks."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from metajax._checked import checked
from metajax._learnable import check_params, needs_value
from metajax._tree import count_tasks, keep_rows, widened
from metajax.outer.mapping import chunk_tasks
from metajax.outer.meshes import over_mesh, places_on, task_mesh
from metajax.outer.task_losses import with_step
from metajax.types import Array, Metrics, Params, PyTree, Size, TaskLoss


class State(NamedTuple):
    """What the outer loop carries from step to step.

    Attributes:
        params: what is learned.
        optimizer: state of the outer optimizer.
        step: int32, number of steps taken.
    """

    params: Params
    optimizer: PyTree
    step: Array


class Info(NamedTuple):
    """What one outer step reports. Means are over the tasks that were kept, NaN if none was.

    Attributes:
        loss: mean loss.
        metrics: mean of every metric of the task loss.
        grad_norm: global norm of the meta-gradient.
        skipped: int32, tasks left out because the loss or gradient of their chunk was not finite.
    """

    loss: Array
    metrics: Metrics
    grad_norm: Array
    skipped: Array


AnyState = TypeVar("AnyState")


class OuterLoop(NamedTuple, Generic[AnyState]):
    """Learning across tasks as a pair of pure functions.

    Attributes:
        init: (params, tasks, key) -> state. Only `persistent` needs the first tasks and a key. Fill
            in a learned rule first: `adaptation.init(params, key)`.
        step: (state, tasks, key) -> (state, info), with tasks along the leading axis of every leaf.
        task_loss: what a step descends, where it is the mean of a task loss. `fit` runs it without
            compilation, to say why tasks were skipped.
        optimizer: what a step updates all params with, where it is one optax transformation. A
            checkpoint remembers what it computes.
        step_over: mesh -> a step whose tasks are divided over it; None where they cannot be.
        specs: the `PartitionSpec` of each part of the state on a mesh; None copies all of it.
    """

    init: Callable[..., AnyState]
    step: Callable[[AnyState, PyTree, Array], tuple[AnyState, Info]]
    task_loss: TaskLoss | None = None
    optimizer: optax.GradientTransformation | None = None
    step_over: Callable[[Mesh], Callable[..., tuple[AnyState, Info]]] | None = None
    specs: PyTree = None

    def sharded(self, mesh: Mesh) -> OuterLoop[AnyState]:
        """The same, with the tasks of each step divided over the axis "tasks" of a mesh.

        The result is that of one device, up to rounding, for any number of tasks: where it is not
        divisible by the number of devices, the last task is repeated and counts once, also where
        `tasks_at_once` does not divide the tasks of a device. Call `step` in `jax.jit`.
        `training.fit(..., mesh=mesh)` does this, and keeps params where they were put that are
        sharded over another axis of the mesh.

        Args:
            mesh: `jax.make_mesh((jax.device_count(),), ("tasks",))`, or one with more axes.

        Raises:
            ValueError: a mesh without the axis "tasks", an outer loop that is not divided, which is
                one of `bilevel` or with an `axis_name` of its own, or one of `persistent` whose
                pairs the devices do not divide.
        """
        if self.step_over is None:
            raise ValueError(
                "These outer steps cannot be divided over a mesh: only those of persistent(), and "
                "of outer_loop() without axis_name=, can."
            )
        return self._replace(step=self.step_over(task_mesh(mesh)))


@checked
def outer_loop(
    task_loss: TaskLoss,
    optimizer: optax.GradientTransformation,
    *,
    value_and_grad: Callable[..., Any] = jax.value_and_grad,
    tasks_at_once: Size | None = None,
    axis_name: str | None = None,
) -> OuterLoop[State]:
    """Descends the mean task loss: φ ← φ + optimizer(∇φ mean_τ L(φ, τ)).

    A chunk of tasks whose loss or gradient is not finite is left out, and the mean is over those
    that are kept. If none is kept, params and optimizer stay as they were. If all are finite, the
    result depends, up to rounding, neither on `tasks_at_once` nor on the number of devices, because
    the key of a task is `fold_in(key, its index)` and sums over chunks are in float32 or wider.
    `evolution` is the exception: it draws its noise for each chunk.

    Args:
        task_loss: (params, task, key) -> (scalar, metrics), such as `query_loss(...)`,
            `reptile(...)` or `supervised(...)`. If it has a parameter `step`, it gets the number of
            the outer step.
        optimizer: an optax transformation that needs nothing but gradients, params and perhaps the
            loss (`value=`): `optax.adam`, `optax.contrib.reduce_on_plateau`.
        value_and_grad: how the outer gradient is estimated, with the signature of
            `jax.value_and_grad`: `forward`, `evolution(...)`. It gets a function of
            (params, tasks, keys) with aux.
        tasks_at_once: tasks in one vmap. Chunks run one after the other, which bounds memory. It
            must divide the number of tasks (of one device). None takes all. On a CPU, None takes as
            many as have their weights and data in 128 kB together, but at least 2 if that divides
            the number, because more than fit into the cache are slower.
        axis_name: axis of an enclosing `jax.shard_map` of your own to average over, where every
            device has its own tasks. `outer.sharded(mesh)` needs none.

    Raises:
        ValueError: an optimizer that is not an optax transformation, or that evaluates the loss at
            other weights; in `init`, params that are not `Params` of floats; when traced, no tasks,
            leaves that differ in their number of tasks, `tasks_at_once` that does not divide it, or
            a state whose params have other names than those that its optimizer was initialised
            with.
    """
    optimizer, wants_value = checked_optimizer(optimizer)

    def init(params: Params, tasks: PyTree = None, key: Array | None = None) -> State:
        check_params(params)
        params = jax.tree.map(jnp.asarray, params)
        return State(params, optimizer.init(params), jnp.zeros((), jnp.int32))

    def step_on(
        state: State,
        tasks: PyTree,
        key: Array,
        *,
        tasks_at_once: int | None,
        axis_name: str | None,
        number: int | None = None,
    ) -> tuple[State, Info]:
        """An outer step on the tasks of this device, of which there are `number` on all devices."""
        here = count_tasks(tasks)
        places, counted = places_on(axis_name, here, number)
        params = state.params
        if axis_name is not None:
            # Params are equal on every device. As varying ones, their gradient is that of this
            # device's tasks only.
            params = jax.lax.pcast(params, axis_name, to="varying")

        chunks = chunk_tasks(params, (tasks, counted), key, tasks_at_once, places)
        gradient, values, kept = _sum_over_chunks(
            with_step(task_loss, state.step), value_and_grad, params, chunks
        )
        total: Any = here if number is None else number
        if axis_name is not None:
            # All in one floating-point type, so that it is one message.
            kept = kept.astype(values[0].dtype)
            gradient, values, kept = jax.lax.psum((gradient, values, kept), axis_name)
            kept = kept.astype(jnp.int32)
            total = here * jax.lax.axis_size(axis_name) if number is None else number
        mean = lambda leaf: leaf / jnp.maximum(kept, 1).astype(leaf.dtype)
        gradient, (loss, metrics) = jax.tree.map(mean, (gradient, values))
        norm = optax.tree.norm(gradient)

        gradient = jax.tree.map(lambda leaf, p: leaf.astype(p.dtype), gradient, state.params)
        extra = {"value": loss, "grad": gradient} if wants_value else {}
        try:
            updates, optimizer_state = optimizer.update(
                gradient, state.optimizer, state.params, **extra
            )
        except (TypeError, ValueError):
            _check_made_for(optimizer, state)
            raise
        moved = State(optax.apply_updates(state.params, updates), optimizer_state, state.step)
        state = jax.tree.map(lambda new, old: jnp.where(kept > 0, new, old), moved, state)
        or_nan = lambda leaf: jnp.where(kept > 0, leaf, jnp.nan)
        loss, metrics, norm = jax.tree.map(or_nan, (loss, metrics, norm))
        return state._replace(step=state.step + 1), Info(loss, metrics, norm, total - kept)

    @checked
    def step(state: State, tasks: PyTree, key: Array) -> tuple[State, Info]:
        return step_on(state, tasks, key, tasks_at_once=tasks_at_once, axis_name=axis_name)

    @functools.cache
    def step_over(mesh: Mesh) -> Callable[..., tuple[State, Info]]:
        return checked(over_mesh(step_on, mesh, tasks_at_once))

    can_be_divided = axis_name is None
    return OuterLoop(init, step, task_loss, optimizer, step_over if can_be_divided else None)


def checked_optimizer(optimizer: Any) -> tuple[optax.GradientTransformationExtraArgs, bool]:
    """An outer optimizer that takes extra arguments, and whether it needs the loss, `value=`.

    Raises:
        ValueError: not an optax transformation, or one that needs something else.
    """
    if isinstance(optimizer, optax.MultiSteps):
        optimizer = optimizer.gradient_transformation()
    if not isinstance(optimizer, optax.GradientTransformation):
        raise ValueError(f"optimizer must be an optax.GradientTransformation, got {optimizer!r}.")
    return optax.with_extra_args_support(optimizer), needs_value(optimizer)


def _check_made_for(optimizer: optax.GradientTransformation, state: State) -> None:
    """Checks that the state of an optimizer is one of these params, where an update has failed.

    Raises:
        ValueError: what is missing in it, and what is foreign.
    """
    needed = _leaf_names(jax.eval_shape(optimizer.init, state.params))
    found = _leaf_names(state.optimizer)
    if needed != found:
        raise ValueError(
            "state.optimizer was made for other params than state.params: missing are "
            f"{sorted(needed - found)}, foreign are {sorted(found - needed)}. If fast and slow "
            "weights changed places, change them back; to train other params, make a new state "
            "with outer.init(params)."
        )


def _leaf_names(tree: PyTree) -> set[str]:
    return {jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)}


def _sum_over_chunks(
    task_loss: TaskLoss,
    value_and_grad: Callable[..., Any],
    params: Params,
    chunks: tuple[tuple[PyTree, Array | None], Array],
) -> tuple[PyTree, PyTree, Array]:
    """Gradient, (loss, metrics) and number of kept tasks, added up over chunks in one scan."""

    def accumulate(gradient: Params, chunk: tuple[Any, Array]) -> tuple[Params, PyTree]:
        (tasks, counted), keys = chunk
        new, values, kept = _sum_over_tasks(task_loss, value_and_grad, params, tasks, keys, counted)
        add = lambda total, leaf: total + leaf.astype(total.dtype)
        return jax.tree.map(add, gradient, new), (values, kept)

    wide = lambda leaf: jnp.zeros_like(leaf, jnp.promote_types(leaf.dtype, jnp.float32))
    gradient, per_chunk = jax.lax.scan(accumulate, jax.tree.map(wide, params), chunks)
    values, kept = jax.tree.map(lambda leaf: leaf.sum(axis=0), per_chunk)
    return gradient, values, kept


def _sum_over_tasks(
    task_loss: TaskLoss,
    value_and_grad: Callable[..., Any],
    params: Params,
    tasks: PyTree,
    keys: Array,
    counted: Array | None,
) -> tuple[PyTree, PyTree, Array]:
    """The same over the tasks of one chunk. All is zero if anything in it is not finite.

    `counted`, bool[tasks], are the tasks that count; None where all do.
    """

    def add(leaf: Array) -> Array:
        wide = widened(leaf)
        return (wide if counted is None else keep_rows(counted, wide)).sum(axis=0)

    def total(params: Params, tasks: PyTree, keys: Array) -> tuple[Array, Metrics]:
        losses, metrics = jax.vmap(task_loss, (None, 0, 0))(params, tasks, keys)
        return add(losses), jax.tree.map(add, metrics)

    values, gradient = value_and_grad(total, has_aux=True)(params, tasks, keys)
    loss, _ = values
    finite = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves((loss, gradient))]
    # XLA would turn `all` into an `and` of all leaves, and repeat it in the update of every leaf.
    keep = jnp.stack(finite).sum() == len(finite)
    gradient, values = jax.tree.map(lambda leaf: jnp.where(keep, leaf, 0), (gradient, values))
    number = len(keys) if counted is None else counted.sum()
    return gradient, values, jnp.where(keep, number, 0)
