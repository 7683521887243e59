"""Tasks of which some labels are missing or wrong."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from metajax._checks import check_counts
from metajax._tree import row_weights
from metajax.data.datasets import Dataset, check_sizes
from metajax.data.tasks.few_shot import episodes
from metajax.types import Array, Batch, Sample, Task


def semi_supervised(
    ways: int,
    shots: int,
    queries: int,
    *,
    unlabelled: int,
    distractors: int = 0,
    rotations: bool = False,
) -> Sample[Task]:
    """Tasks whose support set has examples without a label, too, some of them of classes that are not in the task.

    They come after the labelled ones, in random order, with label 0, weight 0 and reference True: no loss counts them
    and no label is given away, but they are there to be read, and normalisation statistics include them. Padding, which
    nothing may read, has reference False. So a learner that knows nothing of it is the supervised baseline, and one
    that does finds them in the batch that it adapts on:

        hidden = support.reference & (support.weight == 0)

    Args:
        ways: classes in a task.
        shots: labelled support examples of each class.
        queries: query examples of each class.
        unlabelled: support examples without a label of each class and of each distractor.
        distractors: classes of which there are unlabelled examples only.
        rotations: as in `episodes`.

    Returns:
        (dataset, key) -> Task with ways * shots + (ways + distractors) * unlabelled rows in the support set.

    Raises:
        ValueError: sizes below 1, distractors below 0; when called, more ways and distractors than classes, or more
            examples of a class than the smallest one has.

    Source: Ren et al. 2018, arXiv 1803.00676. There the examples that may have a label are chosen once for the whole
    data set; here for each task.

    >>> import numpy as np
    >>> from metajax.data.datasets import dataset
    >>> x = np.random.default_rng(0).normal(size=(30, 2)) + np.repeat(np.arange(0, 27, 9), 10)[:, None]
    >>> source = dataset(x, np.repeat(np.arange(3), 10))
    >>> support = semi_supervised(2, shots=1, queries=1, unlabelled=3)(source, jax.random.key(0)).support
    >>> known = support.weight[:, None] * jax.nn.one_hot(support.y, 2)
    >>> hidden = support.reference & (support.weight == 0)
    >>> def means(share):  # of the two classes, each example counting by its share
    ...     return share.T @ support.x / share.sum(axis=0)[:, None]
    >>> distance = ((support.x[:, None] - means(known)[None]) ** 2).sum(axis=-1)
    >>> refined = means(known + hidden[:, None] * jax.nn.softmax(-distance))  # a step of soft k-means
    >>> int(hidden.sum()), refined.shape
    (6, (2, 2))
    """
    check_counts(ways=ways, shots=shots, queries=queries, unlabelled=unlabelled)
    check_counts(0, distractors=distractors)
    whole = episodes(ways + distractors, shots + unlabelled, queries, rotations=rotations)

    def sample(dataset: Dataset, key: Array) -> Task:
        classes = dataset.classes * (4 if rotations else 1)
        if ways + distractors > classes:
            raise ValueError(
                f"{ways=} and {distractors=} must not exceed the number of classes, {classes}."
            )
        check_sizes(dataset, shots=shots, unlabelled=unlabelled, queries=queries)
        task_key, order_key = jax.random.split(key)
        task = whole(dataset, task_key)
        number = jnp.arange((ways + distractors) * (shots + unlabelled)).reshape(
            ways + distractors, -1
        )
        known, hidden = number[:ways, :shots].reshape(-1), number[:, shots:].reshape(-1)
        rows = jnp.concatenate([known, jax.random.permutation(order_key, hidden)])
        seen = jnp.arange(len(rows)) < len(known)
        support = Batch(
            x=jax.tree.map(lambda leaf: leaf[rows], task.support.x),
            y=jnp.where(seen, task.support.y[rows], 0),
            weight=seen.astype(jnp.float32),
            reference=jnp.ones(len(rows), bool),
            info=jax.tree.map(lambda leaf: leaf[:ways], task.support.info),
        )
        return Task(support, jax.tree.map(lambda leaf: leaf[: ways * queries], task.query))

    return sample


def noisy_labels(sample: Sample[Task], rate: float) -> Sample[Task]:
    """The same tasks, but each support label is, with probability `rate`, another one of the task, all alike likely.

    Query labels stay right, and so do rows of weight 0. The labels of a task are those up to the largest in its support
    set, so no number of ways is asked for. To draw a label anew from all, the right one included, with probability p,
    take rate = p (ways - 1) / ways.

    Args:
        sample: (dataset, key) -> Task with integer labels. It gets the first of three parts of the key: for the right
            labels, `sample(dataset, jax.random.split(key, 3)[0])`.
        rate: from 0 to 1.

    Raises:
        ValueError: a rate that is no probability; when called, labels that are not int[examples].

    >>> import numpy as np
    >>> from metajax.data.datasets import dataset
    >>> source = dataset(np.arange(12.0)[:, None], np.repeat(np.arange(3), 4))
    >>> noisy_labels(episodes(3, 2, 2), rate=0.5)(source, jax.random.key(0)).support.y.tolist()
    [2, 1, 1, 0, 0, 0]
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"{rate=} must be a probability, from 0 to 1.")

    def noisy(dataset: Dataset, key: Array) -> Task:
        task_key, which_key, other_key = jax.random.split(key, 3)
        task = sample(dataset, task_key)
        y = task.support.y
        if not jnp.issubdtype(jnp.result_type(y), jnp.integer) or jnp.ndim(y) != 1:
            raise ValueError(
                f"Support labels must be int[examples], got {jnp.result_type(y)}{list(jnp.shape(y))}."
            )
        counted = row_weights(task.support) > 0
        ways = jnp.where(counted, y, 0).max() + 1
        wrong = (
            y + jax.random.randint(other_key, y.shape, 1, jnp.maximum(ways, 2), y.dtype)
        ) % ways
        replaced = counted & (jax.random.uniform(which_key, y.shape, jnp.float32) < rate)
        return task._replace(support=task.support._replace(y=jnp.where(replaced, wrong, y)))

    return noisy
