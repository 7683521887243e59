"""Tasks that vary in the number of classes and of examples."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable

import jax
import jax.numpy as jnp

from metajax._checks import check_counts
from metajax._tree import keep_rows
from metajax.data.datasets import Dataset, check_sizes
from metajax.data.tasks.drawing import draw, info_of, rows_of
from metajax.data.tasks.grouped import _members
from metajax.types import Array, Batch, Sample, Task


def varied_episodes(
    ways: tuple[int, int] = (5, 50),
    support: int = 500,
    queries: int = 10,
    *,
    shots: int = 100,
    imbalance: float = 2.0,
    group: Callable[[str], Hashable] | None = None,
) -> Sample[Task]:
    """Meta-Dataset's tasks: their number of classes varies, and so do the support examples, from class to class.

    With n uniform in `ways`, which end at the number of classes that there are, n classes drawn without replacement,
    |c| the examples of class c, β uniform in (0, 1] and αc uniform in ±log(imbalance), a task has

        q  = min(queries, min over c of ⌊|c| / 2⌋)              query examples of each class,
        s  = min(support, Σc ⌈β min(shots, |c| - q)⌉),
        kc = min(1 + ⌊(s - n) |c| exp αc / Σ |c'| exp αc'⌋, |c| - q)  support examples of class c.

    Shapes are those of the largest task. What is missing in a smaller one are rows of zeros with label 0 and weight 0,
    the last of the support set and the last of each class in the query set; classes from n on have no row. A writer
    leaves such a class out; a head that is learned competes on it, so start an inner loop from `prototypes`.

    Args:
        ways: fewest and most classes; where there are fewer than the latter, all of them are the most.
        support: most support examples of a task, of all classes together; every class has one.
        queries: most query examples of a class.
        shots: most that a class adds to the size of the support set; it may get more than that of it.
        imbalance: how far the frequency of a class in the support set may be from that in the data set, as a factor.
        group: a class's name -> its group, such as `group_of`; then one of the groups that have `ways[0]` classes is
            drawn first, each as likely as the others, and all classes are of it. None draws from all classes.

    Returns:
        (dataset, key) -> Task with x [support, ...] in the support set, [most * queries, ...] in the query set, y int32
        and weight float32; values as in `episodes`. `most` is ways[1], or the classes of the data set or of its largest
        group if these are fewer.

    Raises:
        ValueError: sizes below 1, fewer support examples than ways, imbalance below 1; when called, more ways[0] than
            there are classes, in any group, or a class of one example.

    Source: Triantafillou et al. 2020, arXiv 1903.03096, section 3.2, whose figures are the defaults. Omniglot has
    `group=group_of` there: the characters of an alphabet.

    >>> import numpy as np
    >>> from metajax.data.datasets import dataset
    >>> source = dataset(np.arange(60)[:, None], np.repeat(np.arange(6), 10))
    >>> task = varied_episodes((2, 4), support=12, queries=3)(source, jax.random.key(3))
    >>> task.support.weight.astype(int).tolist(), task.support.y.tolist()
    ([1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 0])
    """
    least = ways[0]
    check_counts(**{"ways[0]": least, "support": support, "queries": queries, "shots": shots})
    check_counts(least, **{"ways[1]": ways[1]})
    if ways[1] > support:
        raise ValueError(
            f"{ways=} must be fewest and most classes, and {support=} one example or more of each."
        )
    if not 1 <= imbalance < math.inf:
        raise ValueError(f"{imbalance=} must be a factor, 1 or more.")

    def sample(dataset: Dataset, key: Array) -> Task:
        check_sizes(dataset, support=1, queries=1)
        group_key, class_key, size_key, row_key = jax.random.split(key, 4)
        members, sizes = _members(
            [group(name) if group else "all" for name in dataset.names], least, 1
        )
        most, which = (
            min(ways[1], members.shape[1]),
            jax.random.randint(group_key, (), 0, len(sizes), jnp.int32),
        )
        chosen = members[which, draw(jax.random.bits(class_key, (most,), jnp.uint32), sizes[which])]
        limits = least, jnp.minimum(most, sizes[which])
        asked, shown = _sizes(
            dataset.count[chosen], size_key, limits, support, queries, shots, math.log(imbalance)
        )
        label, position, used = _slots(asked, shown, queries, support)
        bits = jax.random.bits(row_key, label.shape, jnp.uint32)
        start, count = dataset.start[chosen][label], dataset.count[chosen][label]
        rows = _draw_within(bits, start + position, count - position, used)

        def batch(part: slice) -> Batch:
            x = keep_rows(used[part], rows_of(dataset, rows[part]))
            return Batch(
                x=x, y=jnp.where(used, label, 0)[part], weight=used[part].astype(jnp.float32)
            )

        first, second = slice(most * queries, None), slice(most * queries)
        info = keep_rows(shown > 0, info_of(dataset, chosen))
        return Task(support=batch(first)._replace(info=info), query=batch(second))

    return sample


def _sizes(
    count: Array,
    key: Array,
    limits: tuple[int, Array],
    support: int,
    queries: int,
    shots: int,
    spread: float,
) -> tuple[Array, Array]:
    """Query and support examples of each class, int32[ways] both; none of the classes that are too many."""
    ways_key, share_key, weight_key = jax.random.split(key, 3)
    ways = jax.random.randint(ways_key, (), limits[0], limits[1] + 1, jnp.int32)
    used = jnp.arange(len(count)) < ways
    asked = jnp.minimum(queries, jnp.where(used, count // 2, queries).min())
    left = count - asked
    share = jax.random.uniform(share_key, (), jnp.float32)
    each = jnp.floor(share * jnp.minimum(shots, left)) + 1  # ⌈βm⌉, for β in (0, 1]
    total = jnp.minimum(support, jnp.where(used, each, 0).sum())
    frequency = count * jnp.exp(
        jax.random.uniform(weight_key, count.shape, jnp.float32, -spread, spread)
    )
    frequency = jnp.where(used, frequency, 0)
    more = jnp.floor(frequency / frequency.sum() * (total - ways)).astype(jnp.int32)
    return jnp.where(used, asked, 0), jnp.where(used, jnp.minimum(1 + more, left), 0)


def _slots(asked: Array, shown: Array, queries: int, support: int) -> tuple[Array, Array, Array]:
    """Of each row of the query set, then of the support set: its label, the how manieth of its class, if it is used."""
    row = jnp.arange(len(asked) * queries, dtype=jnp.int32)
    label, position = row // queries, row % queries
    first = label, position, position < asked[label]
    row, last = jnp.arange(support, dtype=jnp.int32), jnp.cumsum(shown, dtype=jnp.int32)
    label = jnp.minimum((row[:, None] >= last[None]).sum(axis=1, dtype=jnp.int32), len(shown) - 1)
    second = label, asked[label] + row - (last - shown)[label], row < last[-1]
    label, position, used = (jnp.concatenate(pair) for pair in zip(first, second, strict=True))
    return label, position, used


def _draw_within(bits: Array, place: Array, left: Array, used: Array) -> Array:
    """Rows drawn without replacement from several classes at once: `draw`, with the shuffles of all in one loop.

    Args:
        bits: uint32[n].
        place: int32[n], the first row of the class plus how many of it were drawn before; ascending in each class.
        left: int32[n], how many of the class are left.
        used: bool[n]; others draw row 0.
    """
    place = jnp.where(used, place, -1)
    targets = jnp.where(
        used, place + (bits % jnp.maximum(left, 1).astype(jnp.uint32)).astype(jnp.int32), -1
    )
    steps = jnp.arange(len(bits), dtype=jnp.int32)

    def step(moved: Array, now: Array) -> tuple[Array, Array]:
        """`moved[j]` is what step j put in the place `targets[j]`; a place untouched holds its own row."""

        def content(place: Array) -> Array:
            last = jnp.max(jnp.where((targets == place) & (steps < now), steps, -1))
            return jnp.where(last >= 0, moved[last], place)

        return moved.at[now].set(content(place[now])), content(targets[now])

    rows = jax.lax.scan(step, jnp.zeros_like(targets), steps, unroll=4)[1]
    return jnp.where(used, rows, 0)
