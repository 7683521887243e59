"""Tasks whose classes belong together."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import jax
import jax.numpy as jnp

from metajax._checks import check_counts
from metajax.data.datasets import Dataset, check_sizes
from metajax.data.splits import group_of
from metajax.data.tasks.drawing import draw, scaled, task_of
from metajax.types import Array, Sample, Task


def grouped_episodes(
    ways: int,
    shots: int,
    queries: int,
    *,
    group: Callable[[str], Hashable] = group_of,
    rotations: bool = False,
) -> Sample[Task]:
    """Tasks within a group of classes, such as an alphabet or a kind of animal: what is alike is harder to tell apart.

    First one of the groups that have enough classes is drawn, each as likely as the others, then `ways` of its classes.
    All else is as in `episodes`.

    Args:
        ways: classes in a task.
        shots: support examples of each class.
        queries: query examples of each class.
        group: a class's name -> its group, by default what stands before the last "/".
        rotations: whether turned images count as classes of their own, of the same group, as in `episodes`.

    Returns:
        (dataset, key) -> Task, as of `episodes`.

    Raises:
        ValueError: sizes below 1; when called, no group with so many classes, more shots and queries than the smallest
            class has examples, or rotations of what is not a square image.

    >>> import numpy as np
    >>> from metajax.data.datasets import dataset
    >>> names = ["Greek/alpha", "Greek/beta", "Latin/a", "Latin/b", "Latin/c"]
    >>> source = dataset(np.arange(10) // 2, np.arange(10) // 2, names=names)
    >>> task = grouped_episodes(ways=3, shots=1, queries=1)(source, jax.random.key(0))
    >>> sorted(names[number] for number in task.support.x)
    ['Latin/a', 'Latin/b', 'Latin/c']
    """
    check_counts(ways=ways, shots=shots, queries=queries)
    angles = 4 if rotations else 1

    def sample(dataset: Dataset, key: Array) -> Task:
        check_sizes(dataset, shots=shots, queries=queries)
        members, sizes = _members([group(name) for name in dataset.names], ways, angles)
        group_key, row_key = jax.random.split(key)
        which = jax.random.randint(group_key, (), 0, len(sizes), jnp.int32)
        bits = jax.random.bits(row_key, (1 + shots + queries, ways), jnp.uint32)
        drawn = draw(bits[0], sizes[which] * angles)
        chosen, turns = members[which, drawn % sizes[which]], drawn // sizes[which]
        return scaled(task_of(dataset, chosen, turns if rotations else None, bits[1:], shots))

    return sample


def _members(groups: Sequence[Hashable], ways: int, angles: int) -> tuple[Array, Array]:
    """Of each group that is large enough, its classes, int32[groups, most], and how many there are, int32[groups]."""
    classes: dict[Hashable, list[int]] = {}
    for number, name in enumerate(groups):
        classes.setdefault(name, []).append(number)
    kept = [members for members in classes.values() if len(members) * angles >= ways]
    if not kept:
        largest = sorted(classes, key=lambda name: -len(classes[name]))[:5]
        sizes = {name: len(classes[name]) * angles for name in largest}
        raise ValueError(
            f"No group has {ways=} classes; the largest have {sizes}. Ask for fewer ways, or group in another way."
        )
    most = max(map(len, kept))
    table = [members + [0] * (most - len(members)) for members in kept]
    return jnp.array(table, jnp.int32), jnp.array([len(members) for members in kept], jnp.int32)
