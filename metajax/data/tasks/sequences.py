"""Sequences of tasks, for continual learning."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from metajax._checks import check_counts
from metajax.data.datasets import Dataset
from metajax.data.tasks.few_shot import episodes
from metajax.types import Array, Batch, Sample, Task


def continual(
    ways: int, tasks: int, shots: int, queries: int, *, local: bool = False, rotations: bool = False
) -> Sample[Task]:
    """Continual learning: one draw is a sequence of tasks of different classes, along a leading axis of time.

    The labels go on counting, from 0 to ways * tasks - 1, which is class-incremental learning with one head for all.
    Learn `jax.tree.map(lambda leaf: leaf[t], stream)` for t = 0, 1, ..., with `lax.scan` over the stream; after it,
    judge on the queries of all tasks until then, `jax.tree.map(lambda leaf: leaf[: t + 1], stream.query)`.

    Args:
        ways: classes in each task.
        tasks: in the sequence; no class comes twice in it.
        shots: support examples of each class.
        queries: query examples of each class.
        local: whether labels start from 0 in each task: task-incremental learning, in which it is known which task a
            query is of.
        rotations: as in `episodes`.

    Returns:
        (dataset, key) -> Task with x [tasks, ways * shots, ...] in the support set and [tasks, ways * queries, ...] in
        the query set; `support.info` has a row for each label that may occur, [tasks, ways * tasks or ways, ...].

    Raises:
        ValueError: sizes below 1; when called, more classes than there are, or more examples than the smallest has.

    Source: the two settings, van de Ven and Tolias 2019, arXiv 1904.07734.

    >>> import numpy as np
    >>> from metajax.data.datasets import dataset
    >>> source = dataset(np.arange(20), np.arange(20) // 2)
    >>> continual(ways=2, tasks=3, shots=1, queries=1)(source, jax.random.key(0)).support.y.tolist()
    [[0, 1], [2, 3], [4, 5]]
    """
    check_counts(ways=ways, tasks=tasks)
    whole = episodes(ways * tasks, shots, queries, rotations=rotations)

    def sample(dataset: Dataset, key: Array) -> Task:
        classes = dataset.classes * (4 if rotations else 1)
        if ways * tasks > classes:
            raise ValueError(
                f"{ways=} in each of {tasks=} must not exceed the number of classes, {classes}."
            )
        task = whole(dataset, key)

        def part(leaf: Array) -> Array:
            return leaf.reshape(tasks, -1, *leaf.shape[1:])

        def sequence(batch: Batch) -> Batch:
            labels = part(batch.y)
            return Batch(x=jax.tree.map(part, batch.x), y=labels % ways if local else labels)

        info = jax.tree.map(
            part if local else lambda leaf: jnp.stack([leaf] * tasks), task.support.info
        )
        return Task(support=sequence(task.support)._replace(info=info), query=sequence(task.query))

    return sample
