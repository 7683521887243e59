"""Tasks with missing or wrong labels."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from metajax._checked import checked
from metajax._checks import check_labels
from metajax._tree import row_weights
from metajax.data.datasets import Dataset, check_sizes
from metajax.data.tasks.drawing import at_step, with_step_of
from metajax.data.tasks.few_shot import episodes
from metajax.types import Array, Batch, Count, PyTree, Sample, Size, Task


@checked
def semi_supervised(
    ways: Size, shots: Size, queries: Size, *, unlabelled: Size, distractors: Count = 0
) -> Sample[Task]:
    """Draws tasks whose support set also has examples without a label.

    Some of these may be of classes that are not in the task, the distractors. Examples without a
    label follow the labelled ones, in random order, with label 0, weight 0 and reference True: no
    loss counts them and their label is not given away, but normalisation statistics include them.
    Padding, which nothing may read, has reference False. A learner that does not look for examples
    without a label is therefore the supervised baseline, and one that does finds them in the
    support set:

        hidden = support.reference & (support.weight == 0)

    Args:
        ways: classes in a task.
        shots: labelled support examples of each class.
        queries: query examples of each class.
        unlabelled: support examples without a label of each class and of each distractor.
        distractors: classes that have only examples without a label.

    Returns:
        Sampler (dataset, key) -> Task with ways * shots + (ways + distractors) * unlabelled rows in
        the support set.

    Raises:
        ValueError: sizes below 1, distractors below 0; when called, more ways and distractors than
            classes, or more examples of a class than the smallest one has.

    >>> import numpy as np
    >>> from metajax.data.datasets import dataset
    >>> source = dataset(np.arange(30.0)[:, None], np.repeat(np.arange(3), 10))
    >>> sample = semi_supervised(2, shots=1, queries=1, unlabelled=3)
    >>> support = sample(source, jax.random.key(0)).support
    >>> support.weight.tolist()
    [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]

    Source: Ren et al. 2018, arXiv 1803.00676. There the examples that may have a label are chosen
    once for the whole data set; here they are chosen for each task.
    """
    classes = ways + distractors
    sample_all = episodes(classes, shots + unlabelled, queries)

    @checked
    def sample(dataset: Dataset, key: Array) -> Task:
        if classes > dataset.classes:
            raise ValueError(
                f"{ways=} and {distractors=} must not exceed the number of classes, "
                f"{dataset.classes}."
            )
        check_sizes(dataset, shots=shots, unlabelled=unlabelled, queries=queries)
        task_key, order_key = jax.random.split(key)
        task = sample_all(dataset, task_key)
        row = jnp.arange(classes * (shots + unlabelled)).reshape(classes, -1)
        labelled = row[:ways, :shots].reshape(-1)
        hidden = jax.random.permutation(order_key, row[:, shots:].reshape(-1))
        rows = jnp.concatenate([labelled, hidden])
        is_labelled = jnp.arange(len(rows)) < len(labelled)
        support = Batch(
            x=jax.tree.map(lambda leaf: leaf[rows], task.support.x),
            y=jnp.where(is_labelled, task.support.y[rows], 0),
            weight=is_labelled.astype(jnp.float32),
            reference=jnp.ones(len(rows), bool),
            info=jax.tree.map(lambda leaf: leaf[:ways], task.support.info),
        )
        query = jax.tree.map(lambda leaf: leaf[: ways * queries], task.query)
        return Task(support, query)

    return sample


@checked
def noisy_labels(sample: Sample[Task], rate: float) -> Sample[Task]:
    """Replaces each support label, with probability `rate`, by another label of the task.

    All other labels are equally likely. Query labels, rows of weight 0 and the label -1, which
    marks a row without a label, stay as they are. The labels of a task are those up to the largest
    one in its support set, rows of weight 0 aside, so that the number of ways is not an argument.
    To draw a label from all of them, the right one included, with probability p, use
    rate = p (ways - 1) / ways.

    Args:
        sample: sampler of tasks with integer labels. It is given the first of three parts of the
            key: the right labels are those of `sample(dataset, jax.random.split(key, 3)[0])`.
        rate: probability, from 0 to 1.

    Returns:
        Sampler (dataset, key) -> Task. It has a keyword `step` if `sample` has.

    Raises:
        ValueError: a rate that is not a probability; when called, labels that are not
            int[examples].

    >>> import numpy as np
    >>> from metajax.data.datasets import dataset
    >>> source = dataset(np.arange(12.0)[:, None], np.repeat(np.arange(3), 4))
    >>> noisy_labels(episodes(3, 2, 2), rate=0.5)(source, jax.random.key(0)).support.y.tolist()
    [2, 1, 1, 0, 0, 0]
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"{rate=} must be a probability, from 0 to 1.")

    @checked
    def sample_noisy(dataset: PyTree, key: Array, *, step: Array | None = None) -> Task:
        task_key, which_key, other_key = jax.random.split(key, 3)
        task = at_step(sample, step)(dataset, task_key)
        y = task.support.y
        check_labels(y, "Support labels")
        is_labelled = (row_weights(task.support) > 0) & (y >= 0)
        ways = jnp.where(is_labelled, y, 0).max() + 1
        shift = jax.random.randint(other_key, y.shape, 1, jnp.maximum(ways, 2), y.dtype)
        wrong = (y + shift) % ways
        is_wrong = is_labelled & (jax.random.uniform(which_key, y.shape, jnp.float32) < rate)
        noisy = jnp.where(is_wrong, wrong, y)
        return task._replace(support=task.support._replace(y=noisy))

    return with_step_of(sample_noisy, sample)
