"""Translation tasks: a few pairs of one language, and other sources to translate."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from metajax._checked import checked
from metajax.data.datasets import Dataset
from metajax.types import Array, Batch, Count, Sample, Size, Task


@checked
def translations(shots: int, queries: int, *, pool: int | None = None) -> Sample[Task]:
    """A sampler of tasks of one language and one kind, drawn uniformly from the classes.

    Args:
        shots: support pairs, as in `translation_task`.
        queries: query pairs.
        pool: as in `translation_task`.

    Returns:
        (dataset, key) -> task. It raises the errors of `translation_task`.
    """

    @checked
    def sample(dataset: Dataset, key: Array) -> Task:
        class_key, task_key = jax.random.split(key)
        label = jax.random.randint(class_key, (), 0, dataset.classes)
        return translation_task(dataset, label, task_key, shots=shots, queries=queries, pool=pool)

    return sample


@checked
def translation_task(
    dataset: Dataset,
    label: Array | int,
    key: Array,
    *,
    shots: Count,
    queries: Size,
    pool: int | None = None,
) -> Task:
    """A task of one class: pairs to learn from, drawn uniformly, and other sources to translate.

    The word for a month cannot be learned from pairs that do not name this month. So a query asks
    only for what the support pairs name: a month with another day and year, a unit with another
    number, a number whose tens and whose ones have occurred. Queries are drawn with replacement,
    because there may be few of that kind; where there is none, any other pair is a query.

    Args:
        dataset: of `phrases`.
        label: the class. It becomes the task's `context`.
        key: of the draw.
        shots: support pairs, 0 or more.
        queries: query pairs.
        pool: number of support pairs that are drawn and decide what is asked, `shots` where None.
            The first `shots` of them are the support set. The same pool and key give the same
            queries for any number of shots, also for none.

    Returns:
        A task with x = {"source", "target"}, and y the target too: a net is given the characters
        before the one that it has to predict.

    Raises:
        ValueError: shots below 0, queries below 1, or a pool smaller than `shots`, below 1 or as
            large as a class.
    """
    size = shots if pool is None else pool
    _check_pool(dataset, shots, size)
    row_key, query_key = jax.random.split(key)
    rows = dataset.start[label] + jax.random.permutation(row_key, dataset.smallest)
    asked = _answerable(dataset.x["words"][rows], size)
    logits = jnp.where(asked, 0.0, -jnp.inf)
    query = jax.random.categorical(query_key, logits, shape=(queries,))
    return Task(
        support=phrase_pairs(dataset, rows[:shots]),
        query=phrase_pairs(dataset, rows[query]),
        context=jnp.asarray(label),
    )


@checked
def phrase_pairs(dataset: Dataset, rows: Array) -> Batch:
    """The pairs in these rows, as a net is trained on them.

    Args:
        dataset: of `phrases`.
        rows: int[...].

    Returns:
        x = {"source": int32[..., 10], "target": int32[..., 32]}, and y the target.
    """
    source = dataset.x["source"][rows]
    target = dataset.x["target"][rows]
    return Batch(x={"source": source, "target": target}, y=target)


def _check_pool(dataset: Dataset, shots: int, pool: int) -> None:
    """Checks that a class has enough pairs."""
    if not max(shots, 1) <= pool < dataset.smallest:
        raise ValueError(
            f"The pool must have at least {shots=} pairs and 1, and leave some of the "
            f"{dataset.smallest} pairs of a class as queries, got {pool=}."
        )


def _answerable(words_Px2: Array, size: int) -> Array:
    """Which pairs may be asked, bool[pairs]: those after the first `size` whose words occur there.

    Where there is none, all pairs after the first `size` may be asked.
    """
    shown = words_Px2[None, None, :size]  # [1, 1, size, 2]
    named = (words_Px2[:, :, None, None] == shown).any((2, 3)).all(1)
    rest = jnp.arange(len(words_Px2)) >= size
    return jnp.where((named & rest).any(), named & rest, rest)
