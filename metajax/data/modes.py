"""Distributions of tasks with several modes, and the families of functions that they are studied on."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from metajax._tree import shapes
from metajax._types import Array, Batch, Task
from metajax.data.arrays import check_whole
from metajax.data.episodes import Sample

# name: (shape, range of |a|, whether a may be negative, range of c, range of b), for y = a shape(x - c) + b
_FAMILIES: dict[str, tuple[Callable[[Array], Array], tuple[float, float], bool, tuple, tuple]] = {
    "sinusoid": (jnp.sin, (0.1, 5.0), False, (0.0, np.pi), (0.0, 0.0)),
    "line": (lambda x: x, (0.0, 3.0), True, (0.0, 0.0), (-3.0, 3.0)),
    "quadratic": (jnp.square, (0.02, 0.15), True, (-3.0, 3.0), (-3.0, 3.0)),
    "tanh": (jnp.tanh, (0.0, 3.0), True, (-3.0, 3.0), (-3.0, 3.0)),
    "absolute": (jnp.abs, (0.0, 3.0), True, (-3.0, 3.0), (-3.0, 3.0)),
}


def task_modes(modes: Mapping[str, Sample[Task]], proportions: Mapping[str, float] | None = None) -> Sample[Task]:
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
    if not modes or share.keys() != modes.keys() or not all(0 < value < np.inf for value in share.values()):
        raise ValueError(f"proportions must give each of the modes {list(modes)} a positive number, got {share}.")
    frequency = np.array([share[name] for name in modes], np.float64)
    threshold = (np.cumsum(frequency) / frequency.sum())[:-1]

    def sample(dataset: object, key: Array) -> Task:
        _check_alike(modes, dataset, key)
        mode_key, task_key = jax.random.split(key)
        mode = (jax.random.uniform(mode_key, (), jnp.float32) >= jnp.asarray(threshold, jnp.float32)).sum(
            dtype=jnp.int32
        )
        return jax.lax.switch(mode, list(modes.values()), dataset, task_key)._replace(context=mode)

    return sample


def regressions(shots: int, queries: int, *, noise: float = 0.0) -> dict[str, Sample[Task]]:
    """Five families of functions of one number, y = a g(x - c) + b + noise ε, with x in [-5, 5] and ε normal.

    "sinusoid" a in [0.1, 5], c in [0, π], b = 0, as in `sinusoids`; "line" a in [-3, 3], c = 0; "quadratic" |a| in
    [0.02, 0.15] of either sign; "tanh" and "absolute" a in [-3, 3]; where not said, b and c are in [-3, 3]. All
    uniform.

    Args:
        shots: support examples of each task.
        queries: query examples of each task.
        noise: standard deviation, in support and query set; 0.3 in the paper. No error is below its square. With the
            same key the functions and x are the same, whatever the noise.

    Returns:
        {family: (dataset, key) -> Task} with x and y float32[shots or queries, 1], for `task_modes`; the dataset is
        ignored, pass ().

    Raises:
        ValueError: sizes below 1, or noise below 0.

    Source: Vuorio et al. 2019, arXiv 1910.13616; ranges as in the authors' code, github.com/vuoristo/MMAML-Regression.
    """
    check_whole(shots=shots, queries=queries)
    if not noise >= 0:
        raise ValueError(f"{noise=} must be a standard deviation, 0 or more.")
    return {name: _family(name, shots, queries, noise) for name in _FAMILIES}


def _family(name: str, shots: int, queries: int, noise: float) -> Sample[Task]:
    shape, (small, large), signed, (first, last), (low, high) = _FAMILIES[name]

    def sample(dataset: object, key: Array) -> Task:
        number_key, x_key, noise_key = jax.random.split(key, 3)  # few draws, which are most of what is to compile
        least, most = jnp.array([-float(signed), first, low], jnp.float32), jnp.array([1.0, last, high], jnp.float32)
        part, centre, offset = jax.random.uniform(number_key, (3,), jnp.float32, least, most)
        slope = jnp.sign(part) * (small + jnp.abs(part) * (large - small))
        x = jax.random.uniform(x_key, (shots + queries, 1), jnp.float32, -5.0, 5.0)
        y = slope * shape(x - centre) + offset + noise * jax.random.normal(noise_key, x.shape, jnp.float32)
        return Task(support=Batch(x=x[:shots], y=y[:shots]), query=Batch(x=x[shots:], y=y[shots:]))

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
