"""Tasks whose classes are of one group."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import jax
import jax.numpy as jnp

from metajax._checked import checked
from metajax.data.datasets import Dataset, check_sizes
from metajax.data.splits import group_of
from metajax.data.tasks.drawing import draw_distinct, draw_task
from metajax.types import Array, Sample, Size, Task


@checked
def grouped_episodes(
    ways: Size, shots: Size, queries: Size, *, group: Callable[[str], Hashable] = group_of
) -> Sample[Task]:
    """Draws tasks within a group of classes, such as an alphabet: similar classes are harder.

    First one of the groups that have enough classes is drawn, each with the same probability, then
    `ways` of its classes. Everything else is as in `episodes`.

    Args:
        ways: classes in a task.
        shots: support examples of each class.
        queries: query examples of each class.
        group: name of a class -> its group, by default what stands before the last "/".

    Returns:
        Sampler (dataset, key) -> Task, as `episodes` returns it.

    Raises:
        ValueError: sizes below 1; when called, no group with so many classes, or more shots and
            queries than the smallest class has examples.

    >>> import numpy as np
    >>> from metajax.data.datasets import dataset
    >>> names = ["Greek/alpha", "Greek/beta", "Latin/a", "Latin/b", "Latin/c"]
    >>> source = dataset(np.arange(10) // 2, np.arange(10) // 2, names=names)
    >>> task = grouped_episodes(ways=3, shots=1, queries=1)(source, jax.random.key(0))
    >>> sorted(names[number] for number in task.support.x)
    ['Latin/a', 'Latin/b', 'Latin/c']
    """

    @checked
    def sample(dataset: Dataset, key: Array) -> Task:
        check_sizes(dataset, shots=shots, queries=queries)
        members, sizes = group_members([group(name) for name in dataset.names], ways)
        group_key, row_key = jax.random.split(key)
        drawn = jax.random.randint(group_key, (), 0, len(sizes), jnp.int32)
        bits = jax.random.bits(row_key, (1 + shots + queries, ways), jnp.uint32)
        classes = members[drawn, draw_distinct(bits[0], sizes[drawn])]
        return draw_task(dataset, classes, bits[1:], shots)

    return sample


def group_members(groups: Sequence[Hashable], ways: int) -> tuple[Array, Array]:
    """The classes of each group that has enough of them.

    Args:
        groups: the group of each class.
        ways: classes that a group must have.

    Returns:
        (classes int32[groups, most], padded with 0; number of classes int32[groups]).

    Raises:
        ValueError: no group has so many classes.
    """
    members: dict[Hashable, list[int]] = {}
    for number, name in enumerate(groups):
        members.setdefault(name, []).append(number)
    kept = [classes for classes in members.values() if len(classes) >= ways]
    if not kept:
        largest = sorted(members, key=lambda name: -len(members[name]))[:5]
        sizes = {name: len(members[name]) for name in largest}
        raise ValueError(
            f"No group has {ways=} classes; the largest have {sizes}. Ask for fewer ways, or group "
            f"in another way."
        )
    numbers = [len(classes) for classes in kept]
    padded = [classes + [0] * (max(numbers) - len(classes)) for classes in kept]
    return jnp.array(padded, jnp.int32), jnp.array(numbers, jnp.int32)
