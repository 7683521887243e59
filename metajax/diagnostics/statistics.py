"""What predictions from statistics of tasks have in common."""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp

from metajax._checks import is_concrete
from metajax.types import Array

SIZES = frozenset({"examples", "ways"})
"""Statistics outside of whose range nothing is predicted."""


def standardized(
    statistics: Mapping[str, Array], dtype: jnp.dtype
) -> tuple[list[str], Array, Array, Array]:
    """(names, means [s], scales [s], [tasks, s]); a statistic that never varies becomes 0."""
    names = sorted(statistics)
    rows = jnp.stack([statistics[name] for name in names], axis=1).astype(dtype)
    centre, spread = rows.mean(axis=0), rows.std(axis=0)
    is_varied = spread > 1e-6 * (1 + jnp.abs(centre))
    scale = jnp.where(is_varied, spread, 1)
    return names, centre, scale, jnp.where(is_varied[None], rows - centre[None], 0) / scale[None]


def sizes_of(statistics: Mapping[str, Array]) -> dict[str, tuple[Array, Array]]:
    """{"examples" and "ways": (fewest, most)} of tasks, where their statistics have them."""
    names = sorted(SIZES & {*statistics})
    return {name: (statistics[name].min(), statistics[name].max()) for name in names}


def moved(
    statistics: Mapping[str, Array],
    centre: Mapping[str, Array],
    weights: Mapping[str, Array],
    sizes: Mapping[str, tuple[Array, Array]],
) -> Array:
    """Σ weight · (statistic - centre); NaN, or an error, for tasks of sizes not seen."""
    if set(statistics) != set(weights):
        raise ValueError(
            f"The predictor takes the statistics {sorted(weights)}, got {sorted(statistics)}."
        )
    statistics = {name: jnp.asarray(values) for name, values in statistics.items()}
    if len({values.shape for values in statistics.values()}) > 1:
        shapes = {name: values.shape for name, values in statistics.items()}
        raise ValueError(f"All statistics must have the same shape, got {shapes}.")
    found = sum(weight * (statistics[name] - centre[name]) for name, weight in weights.items())
    for name, (fewest, most) in sizes.items():
        is_other = (statistics[name] < fewest) | (statistics[name] > most)
        if is_concrete(is_other) and is_other.any():
            raise ValueError(
                f"The predictor was fitted to tasks of {fewest:.0f} … {most:.0f} {name}, got "
                f"{statistics[name].min():.0f} … {statistics[name].max():.0f}; fit one to such "
                "tasks."
            )
        found = jnp.where(is_other, jnp.nan, found)
    return jnp.asarray(found)
