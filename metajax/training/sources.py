"""Where the tasks of an outer step come from: a data set on the devices, or a stream."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from metajax._tree import count_tasks
from metajax.data.read.streams import Stream, tasks_of
from metajax.data.tasks.drawing import at_step
from metajax.outer.meshes import AXIS, on_mesh
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


def sampler_source(
    sample: Sample[PyTree], dataset: PyTree, key: Array, mesh: Mesh | None
) -> Source:
    """Every call gets the data set, and draws from it on the device or on those of a mesh."""
    draw = at_step(sample, jnp.int32(0))
    shapes = jax.eval_shape(draw, dataset, key)
    placed = dataset if mesh is None else on_mesh(dataset, mesh)
    return Source(sample, lambda first: itertools.repeat(placed), count_tasks(shapes))


def stream_source(stream: Stream, key: Array, fuse: int, mesh: Mesh | None) -> Source:
    """Every call gets the tasks of one step, which the stream has read ahead.

    Each process of a mesh reads the tasks of its own devices, if their number divides that of the
    tasks. Otherwise it reads all.

    Raises:
        ValueError: several steps in a call, or a stream that reads only a part of the tasks.
    """
    if fuse > 1:
        raise ValueError(f"{fuse=} must be 1 for a stream, whose tasks come step by step.")
    if stream.shard != (0, 1):
        raise ValueError(
            f"fit trains on all tasks, not on shard={stream.shard}. Leave shard out: with mesh=, "
            "each process reads a part. For a loop of your own there is `data.tasks_of`."
        )
    finish = lambda read, key: stream.finish(read, key)
    if mesh is None:
        return Source(finish, lambda first: tasks_of(stream, key, first=first), stream.tasks)
    spec = P()
    part = stream
    if stream.tasks % mesh.shape[AXIS] == 0:
        spec = P(AXIS)
        part = stream._replace(shard=(jax.process_index(), jax.process_count()))
    put = functools.partial(_put_parts, sharding=NamedSharding(mesh, spec))
    return Source(finish, lambda first: map(put, tasks_of(part, key, first=first)), stream.tasks)


def _put_parts(tasks: PyTree, sharding: NamedSharding) -> PyTree:
    """The tasks that each process has read as arrays on the devices of all."""
    put = lambda leaf: jax.make_array_from_process_local_data(sharding, np.asarray(leaf))
    return jax.tree.map(put, tasks)
