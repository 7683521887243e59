"""Classification tasks and batches drawn from a data set."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metajax._checked import checked
from metajax._checks import check_labels, check_no_list
from metajax._tree import clear_absent
from metajax.data.datasets import Dataset, check_sizes
from metajax.data.tasks.drawing import (
    at_step,
    draw_distinct,
    draw_task,
    take_examples,
    with_step_of,
)
from metajax.data.values import IF_MISSING, as_modalities
from metajax.types import Array, Batch, Drawn, Modalities, PyTree, Sample, Size, Task


@checked
def episodes(ways: Size, shots: Size, queries: Size) -> Sample[Task]:
    """Draws classification tasks of N ways and K shots.

    Classes and examples are drawn without replacement, uniformly. Classes are numbered 0 to
    ways - 1 in the order in which they are drawn. Values are scaled as the data set declares. For
    turned images as classes of their own, draw from `rotated(dataset)`.

    Args:
        ways: classes in a task.
        shots: support examples of each class.
        queries: query examples of each class.

    Returns:
        Sampler (dataset, key) -> Task with x [ways * shots, ...] and y int32[ways * shots] in the
        support set, the same with `queries` in the query set, both sorted by class. `support.info`
        is the data set's side information about these classes.

    Raises:
        ValueError: sizes below 1; when called, more ways than classes, or more shots and queries
            than the smallest class has examples.

    >>> from metajax.data.datasets import dataset
    >>> source = dataset(np.arange(12.0)[:, None], np.repeat(np.arange(3), 4))
    >>> task = episodes(ways=2, shots=1, queries=3)(source, jax.random.key(0))
    >>> task.support.x.shape, task.query.y.tolist()
    ((2, 1), [0, 0, 0, 1, 1, 1])
    """

    @checked
    def sample(dataset: Dataset, key: Array) -> Task:
        if ways > dataset.classes:
            raise ValueError(f"{ways=} must not exceed the number of classes, {dataset.classes}.")
        check_sizes(dataset, shots=shots, queries=queries)
        bits = jax.random.bits(key, (1 + shots + queries, ways), jnp.uint32)
        classes = draw_distinct(bits[0], dataset.classes)
        return draw_task(dataset, classes, bits[1:], shots)

    return sample


@checked
def batches(size: Size) -> Sample[Batch]:
    """Draws rows of all classes with their global labels, for `supervised`.

    Args:
        size: rows in a batch, drawn uniformly with replacement.

    Returns:
        Sampler (dataset, key) -> Batch with x [size, ...] and y int32[size].

    Raises:
        ValueError: size below 1.

    >>> from metajax.data.datasets import dataset
    >>> source = dataset(np.arange(12.0)[:, None], np.repeat(np.arange(3), 4))
    >>> batches(size=5)(source, jax.random.key(0)).x.shape
    (5, 1)
    """

    @checked
    def sample(dataset: Dataset, key: Array) -> Batch:
        row_key = jax.random.split(key)[0]
        rows = jax.random.randint(row_key, (size,), 0, len(dataset.y), jnp.int32)
        return Batch(x=take_examples(dataset, rows), y=dataset.y[rows])

    return sample


@checked
def meta_batch(sample: Sample[Drawn], tasks: Size) -> Sample[Drawn]:
    """Draws several independent tasks at once, as `outer_loop` and `evaluate` take them.

    A keyword `step` is handed on if the sampler takes one.

    Args:
        sample: sampler of one task or batch.
        tasks: how many to draw.

    Returns:
        Sampler (dataset, key) -> what `sample` draws, stacked along a new leading axis.

    Raises:
        ValueError: tasks below 1.

    >>> from metajax.data.tasks.functions import sinusoids
    >>> meta_batch(sinusoids(shots=5, queries=10), tasks=3)((), jax.random.key(0)).support.x.shape
    (3, 5, 1)
    """

    @checked
    def sample_many(dataset: PyTree, key: Array, *, step: Array | None = None) -> Drawn:
        keys = jax.random.split(key, tasks)
        return jax.vmap(at_step(sample, step), (None, 0))(dataset, keys)

    return with_step_of(sample_many, sample)


@checked
def check_task(task: Any, ways: Size) -> None:
    """Checks the values of a classification task that you made, before it is compiled away.

    Args:
        task: one task, of concrete arrays.
        ways: its number of classes.

    Raises:
        ValueError: labels that are not integers from 0 to ways - 1, values that are not finite, x
            and labels of different numbers of rows, or support and query examples that differ in
            shape.

    >>> query = Batch(x=jnp.ones((2, 3)), y=jnp.array([0, 2]))
    >>> check_task(Task(support=Batch(x=jnp.ones((2, 3)), y=jnp.arange(2)), query=query), ways=2)
    Traceback (most recent call last):
    ValueError: Labels of the query set must be integers in 0 to 1, got [0 2].
    """
    for name, batch in {"support": task.support, "query": task.query}.items():
        _check_label_range(name, batch.y, ways)
        _check_inputs(name, batch)
    support, query = (_example_shapes(batch) for batch in (task.support, task.query))
    if support != query:
        raise ValueError(
            f"Support and query examples must have the same shape, got {support} and {query}."
        )


def _check_label_range(name: str, y: Array, ways: int) -> None:
    """Checks the labels of a set."""
    check_labels(y, f"Labels of the {name} set")
    labels = np.asarray(y)
    if ((labels < 0) | (labels >= ways)).any():
        raise ValueError(
            f"Labels of the {name} set must be integers in 0 to {ways - 1}, got "
            f"{np.unique(labels)[:10]}."
        )


def _check_inputs(name: str, batch: Batch) -> None:
    """Checks the values of x of a set, where they are present."""
    x = batch.x
    check_no_list(x, f"x of the {name} set")
    if isinstance(x, Modalities):
        x = clear_absent(as_modalities(x.value, x.present))
    for path, leaf in jax.tree_util.tree_leaves_with_path(x):
        if len(leaf) != len(batch.y):
            raise ValueError(f"The {name} set has {len(leaf)} rows of x and {len(batch.y)} labels.")
        is_real = jnp.issubdtype(leaf.dtype, jnp.inexact)
        bad = ~np.isfinite(np.asarray(leaf)).reshape(len(leaf), -1).all(axis=1) if is_real else ()
        if np.any(bad):
            where = jax.tree_util.keystr(path)
            rows = np.flatnonzero(bad)[:10].tolist()
            raise ValueError(
                f"x{where} of the {name} set is not finite in rows {rows}; {IF_MISSING}."
            )


def _example_shapes(batch: Batch) -> PyTree:
    """The shape of one example of x."""
    return jax.tree.map(lambda leaf: jnp.shape(leaf)[1:], batch.x)
