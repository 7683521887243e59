"""Which rows of a data set a sampler draws, learned by giving it a data set of pictures of row numbers."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np

from metajax.data.datasets import Dataset

_CORNERS = np.stack([np.rot90(np.arange(4).reshape(2, 2), quarter) for quarter in range(4)])


def numbered(source: Dataset) -> Dataset:
    """The same classes, each example a picture int32[2, 2, 1] of the number of its row, which shows a turn."""
    numbers = 4 * jnp.arange(1, 1 + len(source.y), dtype=jnp.int32)  # from 1, for 0 is padding
    x = numbers[:, None, None, None] + jnp.arange(4, dtype=jnp.int32).reshape(1, 2, 2, 1)
    return dataclasses.replace(source, x=x)


def decode(x: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Row numbers int32[...], -1 for padding, and quarter turns int8[...], of pictures of numbers [..., 2, 2, 1].

    None for what a sampler has made of them otherwise.
    """
    if not isinstance(x, np.ndarray) or x.dtype != np.int32 or x.shape[-3:] != (2, 2, 1):
        return None
    number, corner = x[..., 0] // 4, x[..., 0] % 4
    turned = (corner[..., None, :, :] == _CORNERS).all(axis=(-1, -2))  # [..., 4]
    padding = (x == 0).all(axis=(-1, -2, -3))
    if not ((number == number[..., :1, :1]).all() and (turned.any(axis=-1) | padding).all()):
        return None
    return number[..., 0, 0] - 1, turned.argmax(axis=-1).astype(np.int8)
