"""Where the tasks of an outer step come from: a data set on the device, or a stream."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metajax._tree import count_tasks
from metajax.data.read.streams import Stream, tasks_of
from metajax.training.steps import Draw, sampler_draw
from metajax.types import Array, PyTree, Sample


class Source(NamedTuple):
    """Tasks for `fit`, in two parts: what is read on the host, and what is computed of it.

    Attributes:
        draw: (what was read, key, number of the outer step) -> tasks, inside compiled code.
        reads: number of the first step -> what each call from there on reads.
        tasks: number of tasks in a step.
    """

    draw: Draw
    reads: Callable[[int], Iterator[Any]]
    tasks: int


def sampler_source(sample: Sample[PyTree], dataset: PyTree, key: Array) -> Source:
    """Every call gets the data set, and draws from it on the device."""
    draw = sampler_draw(sample)
    shapes = jax.eval_shape(draw, dataset, key, jnp.int32(0))
    return Source(draw, lambda first: itertools.repeat(dataset), count_tasks(shapes))


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
    draw = lambda read, key, step: stream.finish(read, key)
    return Source(draw, lambda first: tasks_of(stream, key, first=first), stream.tasks)
