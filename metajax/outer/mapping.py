"""The one place that maps a task loss over tasks in chunks, each task with its own key."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from metajax._tree import count_tasks
from metajax.types import Array, Params, PyTree

CACHE_BYTES = 2**17
"""Of params and one task's data together, times the tasks at once: what a core of a CPU works on best, as measured."""


def split_tasks(
    params: Params, tasks: PyTree, key: Array, tasks_at_once: int | None, first: int | Array = 0
) -> tuple[PyTree, Array]:
    """Tasks and their keys as [chunks, tasks_at_once, ...]; the first task has the global index `first`."""
    number = count_tasks(tasks)
    size = _fitting(number, params, tasks) if tasks_at_once is None else tasks_at_once
    if size < 1 or number % size:
        raise ValueError(f"{tasks_at_once=} must divide the number of tasks, which is {number}.")
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, first + jnp.arange(number))
    return jax.tree.map(
        lambda leaf: leaf.reshape(number // size, size, *leaf.shape[1:]), (tasks, keys)
    )


def _fitting(number: int, params: Params, tasks: PyTree) -> int:
    """Tasks at once where nobody says: all, but on a CPU only as many as its cache has room for."""
    if jax.default_backend() != "cpu":
        return number
    of_params, of_tasks = (
        sum(getattr(leaf, "nbytes", 8) for leaf in jax.tree.leaves(tree))
        for tree in (params, tasks)
    )
    most = max(2, CACHE_BYTES // (of_params + of_tasks // number))
    return max(size for size in range(1, min(most, number) + 1) if number % size == 0)
