"""The parts of the ruler: features, a grid of weights, and weights that are learned."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metajax._tree import count_tasks, reference_rows, row_weights
from metajax.inner.chains import chain
from metajax.losses import cross_entropy
from metajax.modalities.heads import Encode, late_head, modal_prototypes, scores
from metajax.modalities.weighting import support_weights
from metajax.outer.outer_loops import outer_loop
from metajax.outer.task_losses import query_loss
from metajax.types import Array, Batch, Modalities, Params, Task


def count_shots(tasks: Task, ways: int) -> int:
    """The number of support examples that every class of every task has, those of weight 0 left out."""
    counted = jax.vmap(
        lambda batch: (row_weights(batch) > 0)[:, None] * jax.nn.one_hot(batch.y, ways)
    )(tasks.support)
    return int(counted.sum(axis=1).min())


def first_shots(task: Task, shots: int, ways: int) -> Task:
    """The task with weight 0 for the support examples after the first `shots` of each class."""
    given_N = row_weights(task.support)
    classes_NxW = jax.nn.one_hot(task.support.y, ways, dtype=jnp.int32) * (given_N > 0)[:, None]
    rank_N = (jnp.cumsum(classes_NxW, axis=0) * classes_NxW).sum(axis=1)
    return task._replace(support=task.support._replace(weight=given_N * (rank_N <= shots)))


def encode_tasks(
    encode: Encode, params: Params, tasks: Task, shots: int, ways: int, tasks_at_once: int
) -> Task:
    """The tasks with the first shots only, and features in the place of inputs; what is left out gives no statistic."""

    def features(params: Params, batch: Batch) -> Batch:
        made = encode(params, batch.x, None, reference=reference_rows(batch))
        return batch._replace(x=Modalities(made, batch.x.present), info=(), reference=None)

    def run(params: Params, tasks: Task) -> Task:
        def one(task: Task) -> Task:
            task = first_shots(task, shots, ways)
            return task._replace(
                support=features(params, task.support), query=features(params, task.query)
            )

        return jax.lax.map(one, tasks, batch_size=tasks_at_once)

    return jax.jit(run)(params, tasks)


def known(
    params: Params, x: Modalities, key: Array | None = None, *, reference: Array | None = None
) -> Any:
    """The encoder of what is encoded already."""
    return x.value


def grid_accuracy(names: Sequence[str], ways: int, points_GxM: Array, tasks: Task) -> Array:
    """Accuracy [tasks, points] of every point of the grid in every task."""

    def one(points_GxM: Array, task: Task) -> Array:
        head = (
            modal_prototypes(known, ways)
            .adapt(Params({}, ()), task.support, jax.random.key(0))
            .fast["head"]
        )
        says = scores(task.query.x.value, task.query.x.present, head)
        says_MxQxW = jnp.stack([says[name] for name in names])
        logits_GxQxW = jnp.einsum("gm,mqw->gqw", points_GxM.astype(says_MxQxW.dtype), says_MxQxW)
        right_GxQ = (logits_GxQxW + head["prior"][None, None]).argmax(axis=2) == task.query.y[None]
        count_Q = row_weights(task.query)
        return (right_GxQ * count_Q[None]).sum(axis=1) / jnp.maximum(count_Q.sum(), 1e-6)

    return jax.jit(jax.vmap(one, (None, 0)))(points_GxM, tasks)


def learn_weights(
    names: Sequence[str], ways: int, validation: Task, test: Task, steps: int, key: Array
) -> tuple[Array, Array]:
    """Accuracy [test tasks] of learned weights, and the weights [test tasks, modalities] themselves."""
    adaptation = chain(support_weights(known, ways), modal_prototypes(known, ways))
    task_loss = query_loss(adaptation, cross_entropy(late_head(known)))
    init_key, train_key, test_key = jax.random.split(key, 3)
    params = adaptation.init(Params({"weights": dict.fromkeys(names, 0.0)}, ()), init_key)
    outer = outer_loop(task_loss, optax.adam(optax.cosine_decay_schedule(1e-2, steps)))
    number, size = count_tasks(validation), min(32, count_tasks(validation))

    def run(state: Any, keys: Array, validation: Task) -> Any:
        def step(state: Any, key: Array) -> tuple[Any, None]:
            row_key, step_key = jax.random.split(key)
            rows = jax.random.choice(row_key, number, (size,), replace=False)
            return outer.step(state, jax.tree.map(lambda leaf: leaf[rows], validation), step_key)[
                0
            ], None

        return jax.lax.scan(step, state, keys)[0]

    def judge(params: Params, task: Task) -> tuple[Array, Array]:
        adapted = adaptation.adapt(params, task.support, test_key)
        weights_M = jax.nn.softmax(jnp.stack([adapted.fast["weights"][name] for name in names]))
        return task_loss(params, task, test_key)[1]["accuracy"], weights_M

    state = jax.jit(run)(outer.init(params), jax.random.split(train_key, steps), validation)
    return jax.jit(jax.vmap(judge, (None, 0)))(state.params, test)


def simplex(names: int, grid: int) -> np.ndarray:
    """All weights [points, names] that are multiples of 1/grid and sum to 1, and at the end the equal ones."""
    parts = itertools.product(range(grid + 1), repeat=names - 1)
    inside = np.array([part for part in parts if sum(part) <= grid], int).reshape(-1, names - 1)
    whole = np.concatenate([inside, grid - inside.sum(axis=1, keepdims=True)], axis=1) / grid
    return np.concatenate([whole, np.full((1, names), 1 / names)])
