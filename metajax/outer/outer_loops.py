"""The outer loop: one step of learning across a batch of tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from metajax._tree import count_tasks
from metajax.outer.mapping import split_tasks
from metajax.types import Array, Metrics, Params, PyTree, TaskLoss


class State(NamedTuple):
    """What the outer loop carries from step to step.

    Attributes:
        params: what is learned.
        optimizer: the outer optimizer's state.
        step: int32, steps taken.
    """

    params: Params
    optimizer: PyTree
    step: Array


class Info(NamedTuple):
    """What one outer step has to say; means are over the tasks that were kept, and NaN if none was.

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


class OuterLoop(NamedTuple):
    """Learning across tasks as a pair of pure functions.

    Attributes:
        init: params -> state; that of `persistent` takes (params, tasks, key). For a learned rule, give it
            `adaptation.init(params, key)`.
        step: (state, tasks, key) -> (state, info), with tasks along the leading axis of every leaf.
    """

    init: Callable[..., Any]
    step: Callable[[Any, PyTree, Array], tuple[Any, Info]]


def outer_loop(
    task_loss: TaskLoss,
    optimizer: optax.GradientTransformation,
    *,
    value_and_grad: Callable[..., Any] = jax.value_and_grad,
    tasks_at_once: int | None = None,
    axis_name: str | None = None,
) -> OuterLoop:
    """Descends the mean task loss: φ ← φ + optimizer(∇φ mean_τ L(φ, τ)).

    A chunk of tasks whose loss or gradient is not finite is left out, and the mean is over those kept; if none is,
    params and optimizer stay as they were. Where all are finite, results depend neither on `tasks_at_once` nor on the
    number of devices, for a task's key is `fold_in(key, index)` and sums over chunks are in float32 or wider.

    Args:
        task_loss: (params, task, key) -> (scalar, metrics); `query_loss(...)`, `reptile(...)` or `supervised(...)`.
        optimizer: an optax transformation that needs gradients and params only.
        value_and_grad: how the outer gradient is estimated, with the signature of `jax.value_and_grad`; `forward`,
            `evolution(...)`. It gets a function of (params, tasks, keys) with aux.
        tasks_at_once: tasks in one vmap; the chunks run one after the other, which bounds memory. It must divide the
            number of tasks (of one device). None takes all; on a CPU, where more than fit into its cache are slower, as
            many as have their weights and data in 128 kB together, and 2 at the least if they divide the number.
        axis_name: axis of the enclosing `jax.shard_map` to average over; every device holds its own tasks.

    Raises:
        ValueError: an optimizer that is not an optax transformation; when traced, no tasks, tasks whose leaves differ
            in number, or `tasks_at_once` that does not divide it.
    """
    if not isinstance(optimizer, optax.GradientTransformation):
        raise ValueError(f"optimizer must be an optax.GradientTransformation, got {optimizer!r}.")

    def init(params: Params) -> State:
        return State(params, optimizer.init(params), jnp.zeros((), jnp.int32))

    def chunk(params: Params, tasks: PyTree, keys: Array) -> tuple[PyTree, PyTree, Array]:
        """Gradient, loss and metrics summed over a chunk, zero if it is not kept, and how many tasks were kept."""

        def total(params: Params, tasks: PyTree, keys: Array) -> tuple[Array, Metrics]:
            losses, metrics = jax.vmap(task_loss, (None, 0, 0))(params, tasks, keys)
            return losses.sum(), jax.tree.map(lambda leaf: leaf.sum(axis=0), metrics)

        values, gradient = value_and_grad(total, has_aux=True)(params, tasks, keys)
        finite = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves((values[0], gradient))]
        kept = jnp.stack(finite).all()
        gradient, values = jax.tree.map(lambda leaf: jnp.where(kept, leaf, 0), (gradient, values))
        return gradient, values, jnp.where(kept, len(keys), 0)

    def step(state: State, tasks: PyTree, key: Array) -> tuple[State, Info]:
        number: Any = count_tasks(tasks)
        first, params = 0, state.params
        if axis_name is not None:
            # Params are the same on every device; as varying ones, their gradient is of this device's tasks only.
            first = number * jax.lax.axis_index(axis_name)
            params = jax.lax.pcast(params, axis_name, to="varying")

        def accumulate(
            gradient: Params, tasks_and_keys: tuple[PyTree, Array]
        ) -> tuple[Params, PyTree]:
            new, values, kept = chunk(params, *tasks_and_keys)
            return jax.tree.map(
                lambda total, leaf: total + leaf.astype(total.dtype), gradient, new
            ), (values, kept)

        chunks = split_tasks(params, tasks, key, tasks_at_once, first)
        zeros = jax.tree.map(
            lambda leaf: jnp.zeros_like(leaf, jnp.promote_types(leaf.dtype, jnp.float32)), params
        )
        gradient, per_chunk = jax.lax.scan(accumulate, zeros, chunks)
        values, kept = jax.tree.map(lambda leaf: leaf.sum(axis=0), per_chunk)
        if axis_name is not None:
            gradient, values, kept, number = jax.lax.psum(
                (gradient, values, kept, number), axis_name
            )
        gradient, (loss, metrics) = jax.tree.map(
            lambda leaf: leaf / jnp.maximum(kept, 1).astype(leaf.dtype), (gradient, values)
        )
        norm = optax.tree.norm(gradient)
        gradient = jax.tree.map(
            lambda leaf, param: leaf.astype(param.dtype), gradient, state.params
        )
        updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.params)
        moved = State(optax.apply_updates(state.params, updates), optimizer_state, state.step)
        state = jax.tree.map(lambda new, old: jnp.where(kept > 0, new, old), moved, state)
        loss, metrics, norm = jax.tree.map(
            lambda leaf: jnp.where(kept > 0, leaf, jnp.nan), (loss, metrics, norm)
        )
        return state._replace(step=state.step + 1), Info(loss, metrics, norm, number - kept)

    return OuterLoop(init, step)
