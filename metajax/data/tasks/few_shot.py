"""Classification tasks and batches drawn from a data set: pure functions (dataset, key) -> task."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from metajax._checks import check_counts
from metajax._tree import clear_absent
from metajax.data.datasets import Dataset, as_modalities, check_sizes
from metajax.data.tasks.drawing import draw, rows_of, scaled, task_of, turn
from metajax.types import Array, Batch, Drawn, Modalities, Sample, Task


def episodes(
    ways: int, shots: int, queries: int, *, rotations: bool = False, scale: bool = True
) -> Sample[Task]:
    """Classification tasks: `ways` classes, and of each `shots` support and `queries` query examples.

    Classes and examples are drawn without replacement, uniformly; the classes are numbered 0 to ways - 1 in the order
    drawn. After the draw uint8 values (images) become float32 in [0, 1] and int16 ones (waves) in [-1, 1), so that the
    data set stays small: what is no such value, such as the ids of words, must be int32.

    Args:
        ways: classes in a task.
        shots: support examples of each class.
        queries: query examples of each class.
        rotations: whether images [height, width, channels] turned by 90, 180 and 270 degrees count as classes of their
            own, which makes four times as many, as is usual for Omniglot.
        scale: False leaves uint8 and int16 values as they are stored, for a net that scales them itself: tasks of
            images then take a quarter of the memory.

    Returns:
        (dataset, key) -> Task with x [ways * shots, ...] and y int32[ways * shots] in the support set, and the same
        with `queries` in the query set, sorted by class; `support.info` is what the data set knows of these classes.

    Raises:
        ValueError: sizes below 1; when called, more ways than classes, more shots and queries than the smallest class
            has examples, or rotations of what is not a square image.

    >>> from metajax.data.datasets import dataset
    >>> source = dataset(np.arange(12.0)[:, None], np.repeat(np.arange(3), 4))
    >>> task = episodes(ways=2, shots=1, queries=3)(source, jax.random.key(0))
    >>> task.support.x.shape, task.query.y.tolist()
    ((2, 1), [0, 0, 0, 1, 1, 1])
    """
    check_counts(ways=ways, shots=shots, queries=queries)

    def sample(dataset: Dataset, key: Array) -> Task:
        classes = dataset.classes * (4 if rotations else 1)
        if ways > classes:
            raise ValueError(f"{ways=} must not exceed the number of classes, {classes}.")
        check_sizes(dataset, shots=shots, queries=queries)
        bits = jax.random.bits(key, (1 + shots + queries, ways), jnp.uint32)
        drawn = draw(bits[0], classes)
        chosen, turns = drawn % dataset.classes, drawn // dataset.classes
        task = task_of(dataset, chosen, turns if rotations else None, bits[1:], shots)
        return scaled(task) if scale else task

    return sample


def batches(size: int, *, rotations: bool = False) -> Sample[Batch]:
    """Rows drawn from the union of all classes, with their global labels: for `supervised`.

    Args:
        size: rows in a batch, drawn uniformly with replacement.
        rotations: as in `episodes`; an image of class c turned t times has label c + t * classes.

    Raises:
        ValueError: size below 1; rotations of what is not a square image.
    """
    check_counts(size=size)

    def sample(dataset: Dataset, key: Array) -> Batch:
        row_key, turn_key = jax.random.split(key)
        rows = jax.random.randint(row_key, (size,), 0, len(dataset.y), jnp.int32)
        x, y = rows_of(dataset, rows), dataset.y[rows]
        if rotations:
            turns = jax.random.randint(turn_key, (size,), 0, 4, jnp.int32)
            x, y = turn(x, turns), y + turns * dataset.classes
        return Batch(x=x, y=y)

    return sample


def meta_batch(sample: Sample[Drawn], tasks: int) -> Sample[Drawn]:
    """Several independent draws at once, stacked along a new leading axis, as `outer_loop` and `evaluate` take them.

    >>> from metajax.data.tasks.functions import sinusoids
    >>> meta_batch(sinusoids(shots=5, queries=10), tasks=3)((), jax.random.key(0)).support.x.shape
    (3, 5, 1)
    """
    check_counts(tasks=tasks)
    return lambda dataset, key: jax.vmap(sample, (None, 0))(dataset, jax.random.split(key, tasks))


def check_task(task: Task, ways: int) -> None:
    """Checks the values of a concrete classification task of your own making, before it is compiled away.

    Raises:
        ValueError: labels that are not integers from 0 to ways - 1, values that are not finite, or support and query
            examples that differ in shape.
    """
    for name, batch in {"support": task.support, "query": task.query}.items():
        y = np.asarray(batch.y)
        if not np.issubdtype(y.dtype, np.integer) or (
            y.size and not (y.min() >= 0 and y.max() < ways)
        ):
            raise ValueError(
                f"Labels of the {name} set must be integers in 0 to {ways - 1}, got {np.unique(y)[:10]}."
            )
        x = (
            clear_absent(as_modalities(batch.x.value, batch.x.present))
            if isinstance(batch.x, Modalities)
            else batch.x
        )
        for path, leaf in jax.tree_util.tree_leaves_with_path(x):
            leaf = np.asarray(leaf)
            if len(leaf) != len(y):
                raise ValueError(f"The {name} set has {len(leaf)} rows of x and {len(y)} labels.")
            if jnp.issubdtype(leaf.dtype, jnp.inexact) and not np.isfinite(leaf).all():
                raise ValueError(
                    f"x{jax.tree_util.keystr(path)} of the {name} set is not finite; drop those rows."
                )
    shapes = [
        jax.tree.map(lambda leaf: jnp.shape(leaf)[1:], batch.x)
        for batch in (task.support, task.query)
    ]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"Support and query examples must have the same shape, got {shapes[0]} and {shapes[1]}."
        )
