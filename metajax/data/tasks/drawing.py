"""How rows are drawn from a data set, on the device."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from metajax._checked import checked
from metajax._checks import takes
from metajax.data.datasets import Dataset
from metajax.data.values import scaled
from metajax.types import Array, Batch, Drawn, PyTree, Sample, Task


@checked
def take_examples(dataset: Dataset, rows: Array) -> PyTree:
    """The examples in these rows of a data set, scaled as it declares.

    This is what every sampler does with the rows that it has drawn; use it for a sampler of your
    own.

    Args:
        dataset: what to take from.
        rows: int[n], row numbers.

    Returns:
        x of these rows, leaves [n, ...].

    >>> from metajax.data.datasets import dataset
    >>> source = dataset(jnp.array([[0], [51], [255]], jnp.uint8), jnp.arange(3), scale=255)
    >>> take_examples(source, jnp.array([2, 0])).tolist()
    [[1.0], [0.0]]
    """
    return scaled(jax.tree.map(lambda leaf: leaf[rows], dataset.x), dataset.scale)


def take_info(dataset: Dataset, classes: Array) -> PyTree:
    """The side information about these classes, int[n], as it is stored: leaves [n, ...]."""
    return jax.tree.map(lambda leaf: leaf[classes], dataset.info)


def map_inputs(change: Callable[[PyTree], PyTree], drawn: PyTree) -> PyTree:
    """The same tasks or batches, with `change` applied to the x of every `Batch`."""

    def change_batch(part: PyTree) -> PyTree:
        return part._replace(x=change(part.x)) if isinstance(part, Batch) else part

    return jax.tree.map(change_batch, drawn, is_leaf=lambda part: isinstance(part, Batch))


def draw_task(dataset: Dataset, classes: Array, bits: Array, shots: int) -> Task:
    """Draws a task of the given classes.

    Args:
        dataset: what to draw from.
        classes: int32[ways]; the first has label 0 in the task.
        bits: random uint32[shots + queries, ways]. Each draws one example.
        shots: support examples of each class.

    Returns:
        The task, sorted by class; its side information is that of the classes.
    """
    within_class = jax.vmap(draw_distinct)(bits.T, dataset.count[classes])
    rows_WxN = dataset.start[classes][:, None] + within_class
    support = _labelled(dataset, rows_WxN[:, :shots])
    query = _labelled(dataset, rows_WxN[:, shots:])
    return Task(support=support._replace(info=take_info(dataset, classes)), query=query)


def draw_distinct(bits: Array, total: int | Array) -> Array:
    """Draws integers from 0 to total - 1 without replacement, in random order.

    These are the first steps of a Fisher-Yates shuffle which never builds the shuffled array, so
    that `total` may be traced and large: n draws cost n steps over n entries. Draws are uniform up
    to a factor of 1 ± total / 2³².

    Args:
        bits: random uint32[n], one for each draw.
        total: how many integers there are. Draws after the first `total` are out of range, and the
            caller must mask them.

    Returns:
        int32[n].
    """
    steps = jnp.arange(len(bits), dtype=jnp.int32)
    left = jnp.maximum(total - steps, 1).astype(jnp.uint32)
    targets = steps + (bits % left).astype(jnp.int32)
    return swap_places(steps, targets)


def swap_places(places: Array, targets: Array) -> Array:
    """The elements that successive swaps of a shuffle take out, without building the array.

    At first each place contains its own number. Step i swaps the contents of `places[i]` and
    `targets[i]`, and takes out what `targets[i]` contained.

    Args:
        places: int32[n]. Those that can be exchanged with each other ascend, such as those of one
            class.
        targets: int32[n], `targets[i]` ≥ `places[i]`. Steps to be ignored have -1 in both.

    Returns:
        int32[n], what each step takes out.
    """
    steps = jnp.arange(len(targets), dtype=jnp.int32)

    def step(moved: Array, now: Array) -> tuple[Array, Array]:
        """Swaps once; `moved[j]` is what step j put into `targets[j]`."""

        def content(place: Array) -> Array:
            last = jnp.max(jnp.where((targets == place) & (steps < now), steps, -1))
            return jnp.where(last >= 0, moved[last], place)

        return moved.at[now].set(content(places[now])), content(targets[now])

    # A step is so small that starting it costs as much as running it: unrolled, it is faster.
    return jax.lax.scan(step, jnp.zeros_like(targets), steps, unroll=4)[1]


def at_step(sample: Sample[Drawn], step: Array | None) -> Sample[Drawn]:
    """The sampler at an outer step. A sampler without the keyword `step` stays as it is.

    Args:
        sample: sampler (source, key) -> what is drawn, or the same with a keyword `step`.
        step: number of the outer step; None in evaluation.
    """
    if not takes(sample, "step"):
        return sample
    sample_at: Callable[..., Drawn] = sample
    return functools.partial(sample_at, step=step)


def with_step_of(wrapper: Callable[..., Drawn], *inner: Sample) -> Sample[Drawn]:
    """The sampler `wrapper`, with its keyword `step` only if one of the inner samplers takes it."""
    if any(takes(sample, "step") for sample in inner):
        return wrapper
    return lambda dataset, key: wrapper(dataset, key)


def _labelled(dataset: Dataset, rows_WxN: Array) -> Batch:
    """The batch of these rows of each class, labelled 0 to ways - 1."""
    ways, each = rows_WxN.shape
    x = take_examples(dataset, rows_WxN.reshape(-1))
    return Batch(x=x, y=jnp.repeat(jnp.arange(ways, dtype=jnp.int32), each))
