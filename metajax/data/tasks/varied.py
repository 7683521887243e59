"""Tasks that vary in the number of classes and of examples."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax._checked import checked
from metajax._checks import check_count
from metajax._tree import keep_rows
from metajax.data.datasets import Dataset, check_sizes
from metajax.data.tasks.drawing import draw_distinct, swap_places, take_examples, take_info
from metajax.data.tasks.grouped import group_members
from metajax.types import Array, Batch, Sample, Size, Task


@checked
def varied_episodes(
    ways: tuple[int, int] = (5, 50),
    support: Size = 500,
    queries: Size = 10,
    *,
    shots: Size = 100,
    imbalance: float = 2.0,
    group: Callable[[str], Hashable] | None = None,
) -> Sample[Task]:
    """Draws the tasks of Meta-Dataset, which vary in their ways and in the shots of each class.

    The number of classes n is uniform in `ways`, up to the number of classes that there are, and
    the n classes are drawn without replacement. With |c| the examples of class c, β uniform in
    (0, 1] and αc uniform in ±log(imbalance), a task has

        q  = min(queries, min over c of ⌊|c| / 2⌋)                    query examples of each class
        s  = min(support, Σc ⌈β min(shots, |c| - q)⌉)
        kc = min(1 + ⌊(s - n) |c| exp αc / Σ |c'| exp αc'⌋, |c| - q)  support examples of class c

    All tasks have the shapes of the largest one. A smaller task is padded with rows of zeros that
    have label 0 and weight 0: the last rows of the support set, and the last rows of each class in
    the query set. Labels from n on have no rows. `prototypes` and `ridge` leave such classes
    out; a learned head, and a head written from `info`, still gives them a logit. So start an inner
    loop from `prototypes`.

    Args:
        ways: fewest and most classes. A data set with fewer classes than the most gives at most
            all of them.
        support: most support examples of a task, all classes together. Every class has one.
        queries: most query examples of a class.
        shots: most examples that a class adds to the size of the support set; it may still get
            more of them.
        imbalance: by which factor the frequency of a class in the support set may differ from its
            frequency in the data set.
        group: name of a class -> its group, such as `group_of`. Then one of the groups that have
            `ways[0]` classes is drawn first, each with the same probability, and all classes are
            of that group. None draws from all classes.

    Returns:
        Sampler (dataset, key) -> Task with x [support, ...] in the support set and
        [most * queries, ...] in the query set, y int32 and weight float32. `most` is ways[1], or
        the number of classes of the data set or of its largest group if that is smaller.

    Raises:
        ValueError: sizes below 1, fewer support examples than ways, imbalance below 1; when called,
            no `ways[0]` classes (in any group), or a class of one example.

    >>> import numpy as np
    >>> from metajax.data.datasets import dataset
    >>> source = dataset(np.arange(60)[:, None], np.repeat(np.arange(6), 10))
    >>> task = varied_episodes((2, 4), support=12, queries=3)(source, jax.random.key(3))
    >>> task.support.weight.astype(int).tolist(), task.support.y.tolist()
    ([1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 0])

    Source: Triantafillou et al. 2020, arXiv 1903.03096, section 3.2, whose numbers are the
    defaults. Omniglot has `group=group_of` there: the characters of an alphabet.
    """
    _check_options(ways, support, imbalance)
    limits = _Limits(support, queries, shots, math.log(imbalance))

    @checked
    def sample(dataset: Dataset, key: Array) -> Task:
        check_sizes(dataset, support=1, queries=1)
        group_key, class_key, size_key, row_key = jax.random.split(key, 4)
        groups = ["all" if group is None else group(name) for name in dataset.names]
        members, group_sizes = group_members(groups, ways[0])
        most = min(ways[1], members.shape[1])
        drawn = jax.random.randint(group_key, (), 0, len(group_sizes), jnp.int32)
        class_bits = jax.random.bits(class_key, (most,), jnp.uint32)
        classes = members[drawn, draw_distinct(class_bits, group_sizes[drawn])]
        ways_range = (ways[0], jnp.minimum(most, group_sizes[drawn]))
        sizes = _draw_sizes(dataset.count[classes], size_key, ways_range, limits)
        slots = _slots(sizes, queries, support)
        rows = _draw_rows(dataset, classes, slots, row_key)

        def batch(part: slice) -> Batch:
            used = slots.used[part]
            x = keep_rows(used, take_examples(dataset, rows[part]))
            y = jnp.where(used, slots.label[part], 0)
            return Batch(x=x, y=y, weight=used.astype(jnp.float32))

        info = keep_rows(sizes.support > 0, take_info(dataset, classes))
        support_set = batch(slice(most * queries, None))._replace(info=info)
        return Task(support=support_set, query=batch(slice(most * queries)))

    return sample


class _Limits(NamedTuple):
    """The options that limit the size of a task; `spread` is log(imbalance)."""

    support: int
    queries: int
    shots: int
    spread: float


class _Sizes(NamedTuple):
    """Query and support examples of each class, int32[ways] both; 0 for classes not in the task."""

    queries: Array
    support: Array


class _Slots(NamedTuple):
    """For each row of a task, query rows first: its class, its place in the class, if it is used.

    Places count the query examples of a class first, then its support examples.
    """

    label: Array
    place: Array
    used: Array


def _check_options(ways: tuple[int, int], support: int, imbalance: float) -> None:
    """Checks the options of `varied_episodes` as far as their annotations do not."""
    check_count("ways[0]", ways[0])
    check_count("ways[1]", ways[1], least=ways[0])
    if ways[1] > support:
        raise ValueError(
            f"{ways=} must be the fewest and most classes, and {support=} one example or more of "
            f"each."
        )
    if not 1 <= imbalance < math.inf:
        raise ValueError(f"{imbalance=} must be a factor, 1 or more.")


def _draw_sizes(count: Array, key: Array, ways_range: tuple[int, Array], limits: _Limits) -> _Sizes:
    """Draws the number of classes of a task, and of examples of each.

    Args:
        count: int32[ways], examples of each class in the data set.
        key: key of the draw.
        ways_range: fewest and most classes.
        limits: the options.
    """
    ways_key, share_key, weight_key = jax.random.split(key, 3)
    ways = jax.random.randint(ways_key, (), ways_range[0], ways_range[1] + 1, jnp.int32)
    used = jnp.arange(len(count)) < ways
    queries = jnp.minimum(limits.queries, jnp.where(used, count // 2, limits.queries).min())
    left = count - queries
    share = jax.random.uniform(share_key, (), jnp.float32)
    # The share is in [0, 1), so this is ⌈βm⌉ with β in (0, 1].
    added = jnp.floor(share * jnp.minimum(limits.shots, left)) + 1
    total = jnp.minimum(limits.support, jnp.where(used, added, 0).sum())
    spread = limits.spread
    change = jnp.exp(jax.random.uniform(weight_key, count.shape, jnp.float32, -spread, spread))
    frequency = jnp.where(used, count * change, 0)
    more = jnp.floor(frequency / frequency.sum() * (total - ways)).astype(jnp.int32)
    support = jnp.minimum(1 + more, left)
    return _Sizes(jnp.where(used, queries, 0), jnp.where(used, support, 0))


def _slots(sizes: _Sizes, queries: int, support: int) -> _Slots:
    """The slots of the query set, then those of the support set."""
    query_slots = _query_slots(sizes, queries)
    support_slots = _support_slots(sizes, support)
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), query_slots, support_slots)


def _query_slots(sizes: _Sizes, queries: int) -> _Slots:
    """The same number of slots for each class, [ways * queries]."""
    row = jnp.arange(len(sizes.queries) * queries, dtype=jnp.int32)
    label = row // queries
    place = row % queries
    return _Slots(label, place, place < sizes.queries[label])


def _support_slots(sizes: _Sizes, support: int) -> _Slots:
    """The slots of the first class, then those of the second, and so on, [support]."""
    row = jnp.arange(support, dtype=jnp.int32)
    end = jnp.cumsum(sizes.support, dtype=jnp.int32)
    start = end - sizes.support
    ended_classes = (row[:, None] >= end[None]).sum(axis=1, dtype=jnp.int32)
    label = jnp.minimum(ended_classes, len(end) - 1)
    place = sizes.queries[label] + row - start[label]
    return _Slots(label, place, row < end[-1])


def _draw_rows(dataset: Dataset, classes: Array, slots: _Slots, key: Array) -> Array:
    """Draws a row for each used slot, without replacement, int32[slots]; row 0 for the others.

    The shuffles of all classes run in one loop: as `draw_distinct`, with places counted over the
    whole data set.
    """
    bits = jax.random.bits(key, slots.label.shape, jnp.uint32)
    place = dataset.start[classes][slots.label] + slots.place
    left = dataset.count[classes][slots.label] - slots.place
    jump = (bits % jnp.maximum(left, 1).astype(jnp.uint32)).astype(jnp.int32)
    place = jnp.where(slots.used, place, -1)
    target = jnp.where(slots.used, place + jump, -1)
    return jnp.where(slots.used, swap_places(place, target), 0)
