"""Tasks whose classes are renumbered at random."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from metajax._checked import checked
from metajax._checks import check_labels, not_classes, shapes
from metajax.data.tasks.drawing import at_step, with_step_of
from metajax.types import Array, Batch, PyTree, Sample, Size, Task


@checked
def permuted_labels(sample: Sample[Task], ways: Size) -> Sample[Task]:
    """Renumbers the classes of a task at random.

    Support set, query set and `support.info` are renumbered alike. `episodes` numbers classes at
    random by itself. This is for samplers that give a class the same number in every task: a model
    could learn these labels by heart and ignore the support set. The label -1, which marks a row
    without a label, stays.

    Args:
        sample: sampler of tasks with labels int[examples] from -1 to ways - 1. A keyword `step` is
            handed on if it takes one.
        ways: classes in a task.

    Returns:
        Sampler (dataset, key) -> what `sample` draws with the first half of the key, renumbered.
        Rows stay in their order.

    Raises:
        ValueError: ways below 1; when called, labels that are not integers, side information of
            another number of classes, or a sampler that draws no `Task`; where they are concrete,
            other labels in rows whose weight is not 0. Compiled code leaves these as they are.

    >>> import jax.numpy as jnp
    >>> x, y = jnp.zeros((3, 1)), jnp.arange(3, dtype=jnp.int32)
    >>> same = lambda dataset, key: Task(support=Batch(x, y), query=Batch(x, y[::-1]))
    >>> task = permuted_labels(same, ways=3)((), jax.random.key(1))
    >>> task.support.y.tolist(), task.query.y.tolist()
    ([2, 0, 1], [1, 0, 2])

    Source: Rajendran, Irpan and Jang 2020, arXiv 2007.05549.
    """

    @checked
    def sample_permuted(dataset: PyTree, key: Array, *, step: Array | None = None) -> Task:
        sample_key, order_key = jax.random.split(key)
        task = at_step(sample, step)(dataset, sample_key)
        _check_task(task, ways)
        new_label = jax.random.permutation(order_key, ways)
        old_label = new_label.argsort()
        info = jax.tree.map(lambda leaf: leaf[old_label], task.support.info)
        support = _renumbered(task.support, new_label)._replace(info=info)
        return task._replace(support=support, query=_renumbered(task.query, new_label))

    return with_step_of(sample_permuted, sample)


def _renumbered(batch: Batch, new_label: Array) -> Batch:
    """The batch with the new label of each old one. What is no class stays as it is."""
    ways = len(new_label)
    not_classes(batch.y, ways, batch.weight, least=-1)
    is_class = (batch.y >= 0) & (batch.y < ways)
    new = new_label.astype(batch.y.dtype)[jnp.where(is_class, batch.y, 0)]
    return batch._replace(y=jnp.where(is_class, new, batch.y))


def _check_task(task: Task, ways: int) -> None:
    """Checks that a task has labels that can be permuted."""
    if not isinstance(task, Task):
        raise ValueError(
            f"Labels are permuted within a Task, got {type(task).__name__}; use a sampler of tasks "
            f"such as data.episodes."
        )
    check_labels(task.support.y)
    check_labels(task.query.y)
    info = task.support.info
    if any(leaf.shape[:1] != (ways,) for leaf in jax.tree.leaves(info)):
        raise ValueError(
            f"support.info must have one row for each of the {ways} ways, got {shapes(info)}."
        )
