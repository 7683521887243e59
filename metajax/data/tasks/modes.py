"""Distributions of tasks with several modes."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from metajax._checks import shapes
from metajax.types import Array, Sample, Task


def task_modes(
    modes: Mapping[str, Sample[Task]], proportions: Mapping[str, float] | None = None
) -> Sample[Task]:
    """Tasks of several kinds: each is drawn from one of the modes, whose number comes to stand in `Task.context`.

    Numbers are those of the order of `modes`. Under `vmap`, and so in `meta_batch`, the draws of all modes are made and
    one is kept, for there is no branching within a batch.

    Args:
        modes: {name: (dataset, key) -> Task}, all of the same shapes. Each gets the whole dataset; where they have data
            of their own, `{"glyphs": lambda data, key: episodes(5, 1, 5)(data["glyphs"], key), ...}`.
        proportions: {name: how often}, of all modes, in any unit; None draws them equally often.

    Returns:
        (dataset, key) -> Task with context int32[].

    Raises:
        ValueError: no mode, or proportions that are not positive numbers for each of them; when called, a mode whose
            tasks differ from those of the first in structure, shape or dtype, or have a context already.

    >>> families = regressions(shots=5, queries=10)
    >>> sample = task_modes({name: families[name] for name in ("line", "sinusoid")}, {"line": 1, "sinusoid": 3})
    >>> int(sample((), jax.random.key(0)).context)
    1

    Source: Vuorio et al. 2019, arXiv 1910.13616, where such a distribution is called multimodal.
    """
    share = dict.fromkeys(modes, 1.0) if proportions is None else dict(proportions)
    if (
        not modes
        or share.keys() != modes.keys()
        or not all(0 < value < np.inf for value in share.values())
    ):
        raise ValueError(
            f"proportions must give each of the modes {list(modes)} a positive number, got {share}."
        )
    frequency = np.array([share[name] for name in modes], np.float64)
    threshold = (np.cumsum(frequency) / frequency.sum())[:-1]

    def sample(dataset: object, key: Array) -> Task:
        _check_alike(modes, dataset, key)
        mode_key, task_key = jax.random.split(key)
        mode = (
            jax.random.uniform(mode_key, (), jnp.float32) >= jnp.asarray(threshold, jnp.float32)
        ).sum(dtype=jnp.int32)
        return jax.lax.switch(mode, list(modes.values()), dataset, task_key)._replace(context=mode)

    return sample


def _check_alike(modes: Mapping[str, Sample[Task]], dataset: object, key: Array) -> None:
    """Fails where a mode's tasks cannot stand in one array with those of the first."""
    kinds = {name: jax.eval_shape(sample, dataset, key) for name, sample in modes.items()}
    (first, expected), *others = kinds.items()
    for name, kind in others:
        if shapes(kind) != shapes(expected):
            raise ValueError(
                f"Tasks of all modes must be alike; those of {name!r} are {shapes(kind)}, those of {first!r} "
                f"{shapes(expected)}."
            )
    if jax.tree.leaves(expected.context):
        raise ValueError(
            f"Tasks of {first!r} have a context already, {shapes(expected.context)}, where the mode's number is to be."
        )
