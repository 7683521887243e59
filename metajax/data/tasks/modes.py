"""Distributions of tasks with several modes."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from metajax._checked import checked
from metajax._checks import shapes
from metajax.data.tasks.drawing import at_step, with_step_of
from metajax.types import Array, PyTree, Sample, Task


@checked
def task_modes(
    modes: Mapping[str, Sample[Task]], proportions: Mapping[str, float] | None = None
) -> Sample[Task]:
    """Draws each task from one of several samplers, whose index is stored in `Task.context`.

    Indices follow the order of `modes`. Under `vmap`, and so in `meta_batch`, all modes draw and
    one draw is kept, since there is no branching within a batch.

    Args:
        modes: {name: sampler (dataset, key) -> Task}, whose tasks have the same shapes. Each is
            given the whole data set; a mode with data of its own takes it from there, as in
            `{"glyphs": lambda data, key: episodes(5, 1, 5)(data["glyphs"], key), ...}`.
        proportions: {name: how often}, of all modes, in any unit. None draws them equally often.

    Returns:
        Sampler (dataset, key) -> Task with context int32[]. It has a keyword `step` if a mode has.

    Raises:
        ValueError: no mode, or proportions that are not positive numbers for each mode; when
            called, a mode whose tasks differ from those of the first in structure, shape or dtype,
            or that have a context already.

    >>> from metajax.data.tasks.functions import regressions
    >>> families = regressions(shots=5, queries=10)
    >>> chosen = {name: families[name] for name in ("line", "sinusoid")}
    >>> sample = task_modes(chosen, {"line": 1, "sinusoid": 3})
    >>> int(sample((), jax.random.key(0)).context)
    1

    Source: Vuorio et al. 2019, arXiv 1910.13616, where such a distribution is called multimodal.
    """
    threshold = _thresholds(modes, proportions)

    @checked
    def sample(dataset: PyTree, key: Array, *, step: Array | None = None) -> Task:
        branches = {name: at_step(mode, step) for name, mode in modes.items()}
        _check_alike(branches, dataset, key)
        mode_key, task_key = jax.random.split(key)
        chance = jax.random.uniform(mode_key, (), jnp.float32)
        mode = (chance >= jnp.asarray(threshold, jnp.float32)).sum(dtype=jnp.int32)
        task = jax.lax.switch(mode, list(branches.values()), dataset, task_key)
        return task._replace(context=mode)

    return with_step_of(sample, *modes.values())


def _thresholds(
    modes: Mapping[str, Sample[Task]], proportions: Mapping[str, float] | None
) -> np.ndarray:
    """Where a uniform number in [0, 1) passes from one mode to the next, [modes - 1]."""
    share = dict.fromkeys(modes, 1.0) if proportions is None else dict(proportions)
    are_positive = all(0 < value < np.inf for value in share.values())
    if not modes or share.keys() != modes.keys() or not are_positive:
        raise ValueError(
            f"proportions must give each of the modes {list(modes)} a positive number, got {share}."
        )
    frequency = np.array([share[name] for name in modes], np.float64)
    return (np.cumsum(frequency) / frequency.sum())[:-1]


def _check_alike(modes: Mapping[str, Sample[Task]], dataset: PyTree, key: Array) -> None:
    """Checks that the tasks of all modes have the same structure, shapes and dtypes."""
    kinds = {name: jax.eval_shape(sample, dataset, key) for name, sample in modes.items()}
    (first, expected), *others = kinds.items()
    for name, kind in others:
        if shapes(kind) != shapes(expected):
            raise ValueError(
                f"Tasks of all modes must be alike; those of {name!r} are {shapes(kind)}, those of "
                f"{first!r} {shapes(expected)}."
            )
    if jax.tree.leaves(expected.context):
        raise ValueError(
            f"Tasks of {first!r} have a context already, {shapes(expected.context)}, where the "
            f"index of the mode is to be stored."
        )
