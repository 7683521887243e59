"""The one place that divides tasks into chunks and gives each task its own random key."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from metajax._tree import count_tasks
from metajax.types import Array, Params, PyTree

CACHE_BYTES = 2**17
"""The bytes that a CPU core works on best, as measured.

They count the params and the data of one task, times the tasks at once.
"""


def chunk_tasks(
    params: Params,
    tasks: PyTree,
    key: Array,
    tasks_at_once: int | None,
    places: Array | None = None,
) -> tuple[PyTree, Array]:
    """Divides tasks and their keys into chunks.

    The key of a task is `fold_in(key, its global index)`, so that results depend neither on the
    chunks nor on the devices.

    Args:
        params: what is learned; only its size matters.
        tasks: tasks along the leading axis of every leaf.
        key: one key for all tasks.
        tasks_at_once: tasks in a chunk; None chooses, see `outer_loop`.
        places: int32[tasks], the index of each task among those of all devices; None counts from 0.

    Returns:
        (tasks, keys), with leading axes [chunks, tasks_at_once].

    Raises:
        ValueError: no tasks, leaves that differ in their number of tasks, or `tasks_at_once` that
            does not divide it.
    """
    number = count_tasks(tasks)
    size = _fitting_size(number, params, tasks) if tasks_at_once is None else tasks_at_once
    if number % size:
        raise ValueError(f"{tasks_at_once=} must divide the number of tasks, which is {number}.")
    places = jnp.arange(number) if places is None else places
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, places)
    chunked = lambda leaf: leaf.reshape(number // size, size, *leaf.shape[1:])
    return jax.tree.map(chunked, (tasks, keys))


def _fitting_size(number: int, params: Params, tasks: PyTree) -> int:
    """Tasks at once where nothing is asked for: all, or on a CPU as many as fit into its cache."""
    if jax.default_backend() != "cpu":
        return number
    bytes_of_one = _count_bytes(params) + _count_bytes(tasks) // number
    most = max(2, CACHE_BYTES // bytes_of_one)
    return max(size for size in range(1, min(most, number) + 1) if number % size == 0)


def _count_bytes(tree: PyTree) -> int:
    return sum(getattr(leaf, "nbytes", 8) for leaf in jax.tree.leaves(tree))
