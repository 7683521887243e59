"""Which rows of a data set a sampler draws."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metajax.data.datasets import Dataset
from metajax.types import Array, Drawn, Sample


def draw_numbers(sample: Sample[Drawn], source: Dataset, key: Array) -> tuple[Drawn, Drawn]:
    """Draws row numbers in place of examples.

    The sampler is given the same classes with x = int32[examples], the numbers of the rows from 1,
    so that 0 is padding. It draws twice with the same key, from rows that are numbered forwards and
    from rows that are numbered backwards: a sampler that changes x, such as x + 1, does not change
    both alike, and `picked_rows` notices it.

    Args:
        sample: sampler of tasks or batches.
        source: the data set whose rows are drawn.
        key: key of the draw.

    Returns:
        (what is drawn from rows numbered forwards, the same from rows numbered backwards).
    """

    def draw(numbers: Array) -> Drawn:
        return sample(dataclasses.replace(source, x=numbers, scale=None), key)

    forwards = jnp.arange(1, 1 + len(source.y), dtype=jnp.int32)
    both = jax.vmap(draw)(jnp.stack([forwards, forwards[::-1]]))
    return jax.tree.map(lambda leaf: leaf[0], both), jax.tree.map(lambda leaf: leaf[1], both)


def picked_rows(forwards: Any, backwards: Any, total: int) -> np.ndarray | None:
    """The rows that a sampler has picked, int32[...], -1 for padding.

    Args:
        forwards: x of a batch of the first draw of `draw_numbers`.
        backwards: x of the same batch of the second draw.
        total: rows of the data set.

    Returns:
        The rows; None if the sampler has done something else with x than to pick rows and to pad.
    """
    for x in (forwards, backwards):
        if not isinstance(x, jax.Array | np.ndarray) or x.dtype != np.int32:
            return None
    forwards = np.asarray(forwards)
    backwards = np.asarray(backwards)
    is_padding = (forwards == 0) & (backwards == 0)
    is_row = (forwards >= 1) & (forwards <= total) & (forwards + backwards == total + 1)
    if not (is_padding | is_row).all():
        return None
    return forwards - 1
