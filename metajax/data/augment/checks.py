"""Checks that the augmentations share."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from metajax._checks import is_concrete, shapes
from metajax.types import Array, PyTree


def check_image(x: Array, *, floats: bool = False) -> None:
    """Checks that x is one image [height, width, channels].

    Args:
        x: the example.
        floats: whether it must be of floats.

    Raises:
        ValueError: another rank, or integers where floats are needed.
    """
    if jnp.ndim(x) != 3:
        raise ValueError(
            f"One image [height, width, channels] is augmented, got {shapes(x)}; vmap over other "
            f"axes."
        )
    if floats and not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"Images must be floats in [0, 1], got {x.dtype}; declare scale=255 in dataset or "
            f"divide by 255."
        )


def check_fill(fill: Any, x: Array) -> None:
    """Checks that an image of integers can hold the value of its new pixels.

    Raises:
        ValueError: a fraction, or a number outside of the dtype's range, where it is concrete.
    """
    if jnp.issubdtype(x.dtype, jnp.inexact) or not is_concrete(fill):
        return
    is_bool = x.dtype == bool
    least = 0 if is_bool else jnp.iinfo(x.dtype).min
    greatest = 1 if is_bool else jnp.iinfo(x.dtype).max
    if fill % 1 or not least <= fill <= greatest:
        raise ValueError(
            f"{fill=} is no value of images of {x.dtype}, which are whole numbers from {least} to "
            f"{greatest}; a fill in [0, 1] is for images of floats."
        )


def check_sequence(x: PyTree, ranks: tuple[int, ...], what: str) -> None:
    """Checks that x is one sequence of floats.

    Args:
        x: the example.
        ranks: the ranks that it may have.
        what: what it is called in the error.

    Raises:
        ValueError: another rank, or integers.
    """
    is_array = hasattr(x, "dtype")
    if not is_array or x.ndim not in ranks or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"One {what} of floats is augmented, got {shapes(x)}; vmap over other axes."
        )


def check_range(name: str, value: float, largest: float) -> None:
    """Checks that a number is from 0 to `largest`.

    Raises:
        ValueError: the number, and the largest that it may be.
    """
    if not 0 <= value <= largest:
        raise ValueError(f"{name}={value!r} must be from 0 to {largest:g}.")
