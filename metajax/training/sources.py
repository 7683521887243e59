"""Where the tasks of an outer step come from: a data set on the device, or a stream."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metajax._tree import count_tasks
from metajax.data.read.streams import Stream, tasks_of
from metajax.data.tasks.drawing import at_step
from metajax.types import Array, PyTree, Sample


class Source(NamedTuple):
    """Tasks for `fit`, in two parts: what is read on the host, and what is computed of it.

    Attributes:
        sample: (what was read, key) -> tasks, inside compiled code.
        reads: number of the first step -> what each call from there on reads.
        tasks: number of tasks in a step.
    """

    sample: Sample[PyTree]
    reads: Callable[[int], Iterator[Any]]
    tasks: int


def sampler_source(sample: Sample[PyTree], dataset: PyTree, key: Array) -> Source:
    """Every call gets the data set, and draws from it on the device."""
    draw = at_step(sample, jnp.int32(0))
    shapes = jax.eval_shape(draw, dataset, key)
    return Source(sample, lambda first: itertools.repeat(dataset), count_tasks(shapes))


def stream_source(stream: Stream, key: Array, fuse: int) -> Source:
    """Every call gets the tasks of one step, which the stream has read ahead.

    Raises:
        ValueError: several steps in a call, or a stream that reads only a part of the tasks.
    """
    if fuse > 1:
        raise ValueError(f"{fuse=} must be 1 for a stream, whose tasks come step by step.")
    if stream.shard != (0, 1):
        raise ValueError(
            f"fit trains on all tasks, not on shard={stream.shard}; write the loop yourself, with "
            "`data.tasks_of`."
        )
    finish = lambda read, key: stream.finish(read, key)
    return Source(finish, lambda first: tasks_of(stream, key, first=first), stream.tasks)
