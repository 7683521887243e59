"""Tasks that are divided over the devices of a mesh."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, Sharding
from jax.sharding import PartitionSpec as P

from metajax._tree import count_tasks
from metajax.types import Array, PyTree

AXIS = "tasks"
"""The axis of a mesh that tasks are divided over. Other axes are left to the compiler."""


def task_mesh(mesh: Mesh) -> Mesh:
    """The same mesh, with all axes left to the compiler where `jax.shard_map` does not take them.

    Raises:
        ValueError: a mesh without the axis "tasks".
    """
    if AXIS not in mesh.shape:
        raise ValueError(
            f"The mesh has the axes {mesh.axis_names}, and none of them is {AXIS!r}, over which "
            f"tasks are divided: jax.make_mesh(({mesh.size},), ({AXIS!r},))."
        )
    return Mesh(mesh.devices, mesh.axis_names)


def over_mesh(run: Callable[..., Any], mesh: Mesh, tasks_at_once: int | None) -> Callable[..., Any]:
    """A function of (replicated, tasks, key) that gives each device of a mesh a part of the tasks.

    Where the number of tasks is not divisible by that of the devices, every device is given all
    tasks and takes its own. Copies of the last task fill up what is missing, and do not count.

    Args:
        run: (replicated, tasks of this device, key) -> what is the same on all devices. Its
            keywords are `tasks_at_once`, `axis_name`, and `number` of the tasks that count, or None
            where all do.
        mesh: as `task_mesh` returns it.
        tasks_at_once: as in `outer_loop`; a device that has fewer takes all of its own.
    """
    devices = mesh.shape[AXIS]

    def whole(replicated: PyTree, tasks: PyTree, key: Array) -> Any:
        return run(replicated, tasks, key, tasks_at_once=tasks_at_once, axis_name=None)

    if devices == 1:
        return whole  # XLA cannot sum over one device where other axes are left to it

    def divided(replicated: PyTree, tasks: PyTree, key: Array) -> Any:
        number = count_tasks(tasks)
        each = -(-number // devices)
        at_once = None if tasks_at_once is None else min(tasks_at_once, each)
        each = each if at_once is None else -(-each // at_once) * at_once
        is_even = each * devices == number

        def of_device(replicated: PyTree, tasks: PyTree, key: Array) -> Any:
            if not is_even:
                places, _ = places_on(AXIS, each, number)
                tasks = jax.tree.map(lambda leaf: leaf[places], tasks)
            return run(replicated, tasks, key, tasks_at_once=at_once, axis_name=AXIS, number=number)

        mapped = jax.shard_map(
            of_device,
            mesh=mesh,
            in_specs=(P(), P(AXIS) if is_even else P(), P()),
            out_specs=P(),
            axis_names={AXIS},
        )
        return mapped(replicated, tasks, key)

    return divided


def places_on(axis_name: str | None, here: int, number: int | None) -> tuple[Array, Array | None]:
    """The indices of the tasks of this device among those of all devices, and which of them count.

    Args:
        axis_name: axis of the enclosing `jax.shard_map`; None outside.
        here: number of tasks on this device.
        number: of all tasks that count; None where all do.

    Returns:
        (int32[here], bool[here]), or None for the second where all count. A copy of the last task
        has the index of the last task.
    """
    places = jnp.arange(here, dtype=jnp.int32)
    if axis_name is None:
        return places, None
    places = places + here * jax.lax.axis_index(axis_name)
    if number is None or number == here * jax.lax.axis_size(axis_name):
        return places, None
    return jnp.minimum(places, number - 1), places < number


def on_mesh(tree: PyTree, mesh: Mesh | None, specs: PyTree = None) -> PyTree:
    """The tree on the devices of a mesh: what is sharded over it stays so, all else is copied.

    `specs`, a `PartitionSpec` for each part of the tree, divides what is not sharded.

    Every process of the mesh, which is one of `task_mesh`, calls it with the same values. Without a
    mesh the tree stays as it is.

    Raises:
        ValueError: a leaf that is sharded over another mesh.
    """
    if mesh is None:
        return tree

    def put(spec: P, leaf: Any) -> Any:
        if isinstance(leaf, jax.core.Tracer):
            return leaf
        place = getattr(leaf, "sharding", None)
        if isinstance(place, NamedSharding) and not place.is_fully_replicated:
            if not _has_devices(place.mesh, mesh):
                raise ValueError(
                    f"An array is sharded over a mesh of other devices or axes, {place.mesh}, and "
                    f"not over {mesh}; put it on the same mesh, or on one device."
                )
            return jax.device_put(leaf, NamedSharding(mesh, place.spec))
        return put_as(leaf, NamedSharding(mesh, spec))

    put_part = lambda spec, part: jax.tree.map(functools.partial(put, spec), part)
    is_spec = lambda part: isinstance(part, P)
    return jax.tree.map(put_part, P() if specs is None else specs, tree, is_leaf=is_spec)


def _has_devices(one: Any, other: Mesh) -> bool:
    """Whether two meshes have the same devices under the same names of axes."""
    is_same_shape = isinstance(one, Mesh) and one.shape == other.shape
    return is_same_shape and bool((one.devices == other.devices).all())


def put_as(value: Any, sharding: Sharding) -> Array:
    """The value as an array on the devices of a sharding, also of those of other processes."""
    if sharding.is_fully_addressable:
        return jax.device_put(value, sharding)
    if jnp.issubdtype(jnp.result_type(value), jax.dtypes.prng_key):
        data = put_as(jax.random.key_data(value), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(value))
    host = np.asarray(value, jnp.result_type(value))
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])
