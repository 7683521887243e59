"""Sequences of tasks, for continual learning."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from metajax._checked import checked
from metajax.data.datasets import Dataset
from metajax.data.tasks.few_shot import episodes
from metajax.types import Array, Batch, PyTree, Sample, Size, Task


@checked
def continual(
    ways: Size, tasks: Size, shots: Size, queries: Size, *, local: bool = False
) -> Sample[Task]:
    """Draws a sequence of tasks of different classes, for continual learning.

    Labels count on over the sequence, from 0 to ways * tasks - 1: class-incremental learning, with
    one head for all classes. Task t is `jax.tree.map(lambda leaf: leaf[t], sequence)`: learn one
    after the other, for example with `lax.scan` over the sequence, and evaluate after task t on the
    queries of all tasks so far, `jax.tree.map(lambda leaf: leaf[: t + 1], sequence.query)`.

    Args:
        ways: classes in each task.
        tasks: tasks in the sequence. No class is in two of them.
        shots: support examples of each class.
        queries: query examples of each class.
        local: whether labels start from 0 in each task: task-incremental learning, in which a
            learner knows the task of a query.

    Returns:
        Sampler (dataset, key) -> Task with x [tasks, ways * shots, ...] in the support set and
        [tasks, ways * queries, ...] in the query set. `support.info` has a row for each label that
        may occur: [tasks, ways * tasks, ...], or [tasks, ways, ...] with local labels.

    Raises:
        ValueError: sizes below 1; when called, more classes than the data set has, or more examples
            than its smallest class has.

    >>> import numpy as np
    >>> from metajax.data.datasets import dataset
    >>> source = dataset(np.arange(20), np.arange(20) // 2)
    >>> sample = continual(ways=2, tasks=3, shots=1, queries=1)
    >>> sample(source, jax.random.key(0)).support.y.tolist()
    [[0, 1], [2, 3], [4, 5]]

    Source: van de Ven and Tolias 2019, arXiv 1904.07734, for the two settings.
    """
    sample_all = episodes(ways * tasks, shots, queries)

    def divide(leaf: Array) -> Array:
        return leaf.reshape(tasks, -1, *leaf.shape[1:])

    def divide_batch(batch: Batch) -> Batch:
        y = divide(batch.y)
        return Batch(x=jax.tree.map(divide, batch.x), y=y % ways if local else y)

    def divide_info(info: PyTree) -> PyTree:
        if local:
            return jax.tree.map(divide, info)
        return jax.tree.map(lambda leaf: jnp.stack([leaf] * tasks), info)

    @checked
    def sample(dataset: Dataset, key: Array) -> Task:
        if ways * tasks > dataset.classes:
            raise ValueError(
                f"{ways=} in each of {tasks=} must not exceed the number of classes, "
                f"{dataset.classes}."
            )
        task = sample_all(dataset, key)
        support = divide_batch(task.support)._replace(info=divide_info(task.support.info))
        return Task(support=support, query=divide_batch(task.query))

    return sample
