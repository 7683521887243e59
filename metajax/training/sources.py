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
from metajax.outer.meshes import AXIS, on_mesh, put_as
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
    placed = on_mesh(dataset, mesh)
    return Source(sample, lambda first: itertools.repeat(placed), count_tasks(shapes))


def stream_source(stream: Stream, key: Array, fuse: int, mesh: Mesh | None) -> Source:
    """Every call gets the tasks of one step, which the stream has read ahead.

    Each process of a mesh reads the tasks of its own devices, if these are an equal part of the
    axis and the tasks divide evenly. Otherwise it reads all.

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
    is_even = stream.tasks % mesh.shape[AXIS] == 0
    sharding = NamedSharding(mesh, P(AXIS) if is_even else P())
    put: Callable[[Any], Array] = functools.partial(put_as, sharding=sharding)
    part = stream
    if is_even and _has_parts_in_order(mesh):
        part = stream._replace(shard=(jax.process_index(), jax.process_count()))
        put = lambda leaf: jax.make_array_from_process_local_data(sharding, np.asarray(leaf))
    place = functools.partial(jax.tree.map, put)
    return Source(finish, lambda first: map(place, tasks_of(part, key, first=first)), stream.tasks)


def _has_parts_in_order(mesh: Mesh) -> bool:
    """Whether the devices of process p are the p-th of equal parts of the axis of the tasks."""
    along_tasks = np.moveaxis(mesh.devices, mesh.axis_names.index(AXIS), 0)
    processes, places = jax.process_count(), len(along_tasks)
    wanted = np.arange(places) * processes // places
    found = [{device.process_index for device in np.ravel(row)} for row in along_tasks]
    return places % processes == 0 and found == [{number} for number in wanted]
