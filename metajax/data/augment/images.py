"""Augmented images: each constructor makes a function (x, key) -> x of one example.

The functions keep shape and dtype and are deterministic in the key. `augmented` applies them to
what a sampler draws. `lambda x, key: jax.vmap(augment, (0, None))(x, key)` changes all frames of a
video alike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp

from metajax._checked import checked
from metajax.data.augment.checks import check_fill, check_image, check_range
from metajax.types import Array, Count, PyTree

Augmentation: TypeAlias = Callable[[PyTree, Array], PyTree]
"""(x, key) -> x: one example, without a leading axis, changed at random."""


@checked
def compose(*augmentations: Augmentation) -> Augmentation:
    """Applies several augmentations, the first one first, each with a key of its own.

    Args:
        *augmentations: (x, key) -> x of one example.

    Returns:
        (x, key) -> x of one example.

    >>> compose(crop(2), flip())(jnp.ones((8, 8, 1)), jax.random.key(0)).shape
    (8, 8, 1)
    """

    @checked
    def augment(x: PyTree, key: Array) -> PyTree:
        for index, augmentation in enumerate(augmentations):
            x = augmentation(x, jax.random.fold_in(key, index))
        return x

    return augment


@checked
def sometimes(augmentation: Augmentation, probability: float) -> Augmentation:
    """Applies an augmentation with this probability, and otherwise returns x as it is.

    The augmentation is computed in both cases, because `vmap` does not branch.

    Args:
        augmentation: (x, key) -> x of one example.
        probability: from 0 to 1.

    Returns:
        (x, key) -> x of one example.

    Raises:
        ValueError: a number that is not a probability.

    >>> black = sometimes(lambda x, key: jnp.zeros_like(x), 0.3)
    >>> keys = jax.random.split(jax.random.key(0), 1000)
    >>> round(float(jax.vmap(black)(jnp.ones(1000), keys).mean()), 1)
    0.7
    """
    check_range("probability", probability, 1.0)

    @checked
    def augment(x: PyTree, key: Array) -> PyTree:
        chance_key, key = jax.random.split(key)
        chosen = jax.random.uniform(chance_key, (), jnp.float32) < probability
        new = augmentation(x, key)
        return jax.tree.map(lambda new, old: jnp.where(chosen, new, old), new, x)

    return augment


@checked
def crop(padding: Count, *, fill: float = 0.0) -> Augmentation:
    """Takes a window of the image's own size at a random place of the image with a border.

    Args:
        padding: width of the border in pixels: the image is shifted by at most as much.
        fill: value of the border.

    Returns:
        (x, key) -> x of an image [height, width, channels] of any dtype.

    Raises:
        ValueError: a negative padding; when called, a padding as large as the image, x that is not
            an image, or a fill that its dtype cannot hold.

    >>> crop(1)(jnp.ones((3, 3, 1), jnp.uint8), jax.random.key(0))[..., 0].tolist()
    [[0, 1, 1], [0, 1, 1], [0, 1, 1]]
    """

    @checked
    def augment(x: Array, key: Array) -> Array:
        check_image(x)
        check_fill(fill, x)
        height, width, _ = x.shape
        if padding >= min(height, width):
            raise ValueError(f"{padding=} must be smaller than the image, {height} by {width}.")
        down, right = jax.random.randint(key, (2,), 0, 2 * padding + 1, jnp.int32)
        border = ((padding, padding), (padding, padding), (0, 0))
        x = jnp.pad(x, border, constant_values=fill)
        x = jax.lax.dynamic_slice_in_dim(x, down, height, axis=0)
        return jax.lax.dynamic_slice_in_dim(x, right, width, axis=1)

    return augment


@checked
def flip() -> Augmentation:
    """Exchanges left and right in half of the images. Not for letters.

    Returns:
        (x, key) -> x of an image [height, width, channels] of any dtype.

    Raises:
        ValueError: when called, x that is not an image.

    >>> flip()(jnp.array([[[1], [2], [3]]]), jax.random.key(3))[..., 0].tolist()
    [[3, 2, 1]]
    """

    @checked
    def mirror(x: Array, key: Array) -> Array:
        check_image(x)
        return x[:, ::-1]

    return sometimes(mirror, 0.5)


@checked
def colour(
    *, brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0
) -> Augmentation:
    """Changes brightness, contrast and saturation at random, in this order, and clips to [0, 1].

        x ← b x
        x ← m + c (x - m), with m the mean of the image
        x ← g + s (x - g), with g the grey of each pixel, 0.299 red + 0.587 green + 0.114 blue

    The factors b, c and s are uniform and independent.

    Args:
        brightness: b is from 1 - brightness to 1 + brightness.
        contrast: c is from 1 - contrast to 1 + contrast.
        saturation: s is from 1 - saturation to 1 + saturation.

    Returns:
        (x, key) -> x of an image [height, width, channels] of floats in [0, 1].

    Raises:
        ValueError: strengths that are not from 0 to 1; when called, integers, x that is not an
            image, or saturation of an image without three channels.

    >>> red = jnp.array([[[0.9, 0.1, 0.1]]], jnp.float32)
    >>> (100 * colour(saturation=1.0)(red, jax.random.key(1))).round().tolist()
    [[[84.0, 13.0, 13.0]]]

    Source: ITU-R recommendation BT.601, for the weights of grey.
    """
    strengths = (brightness, contrast, saturation)
    for name, strength in zip(("brightness", "contrast", "saturation"), strengths, strict=True):
        check_range(name, strength, 1.0)

    @checked
    def augment(x: Array, key: Array) -> Array:
        check_image(x, floats=True)
        if saturation and x.shape[2] != 3:
            raise ValueError(
                f"{saturation=} needs an image of 3 channels, got {x.shape[2]}; leave it 0."
            )
        part = jax.random.uniform(key, (3,), jnp.float32, -1.0, 1.0)
        b, c, s = (1 + strength * part[index] for index, strength in enumerate(strengths))
        new = b * x
        new = (1 - c) * new.mean() + c * new
        if saturation:
            grey = _grey(new)
            new = (1 - s) * grey + s * new
        return jnp.clip(new, 0, 1).astype(x.dtype)

    return augment


@checked
def cutout(size: Count, *, fill: float = 0.0) -> Augmentation:
    """Blanks out a square. Its centre is any pixel, so that part of it may lie outside.

    Args:
        size: side of the square in pixels; 0 is none.
        fill: value of the square.

    Returns:
        (x, key) -> x of an image [height, width, channels] of any dtype.

    Raises:
        ValueError: a negative size; when called, a size larger than the image, x that is not an
            image, or a fill that its dtype cannot hold.

    >>> cutout(2)(jnp.ones((3, 3, 1), jnp.uint8), jax.random.key(0))[..., 0].tolist()
    [[0, 1, 1], [0, 1, 1], [1, 1, 1]]

    Source: DeVries and Taylor 2017, arXiv 1708.04552.
    """

    @checked
    def augment(x: Array, key: Array) -> Array:
        check_image(x)
        check_fill(fill, x)
        height, width, _ = x.shape
        if size > min(height, width):
            raise ValueError(f"{size=} must not exceed the image, {height} by {width}.")
        centre = jax.random.randint(key, (2,), 0, jnp.array([height, width]), jnp.int32)
        top, left = centre - size // 2
        row = jnp.arange(height, dtype=jnp.int32) - top
        column = jnp.arange(width, dtype=jnp.int32) - left
        in_rows = (row >= 0) & (row < size)
        in_columns = (column >= 0) & (column < size)
        hidden = in_rows[:, None, None] & in_columns[None, :, None]
        return jnp.where(hidden, jnp.asarray(fill, x.dtype), x)

    return augment


def _grey(x: Array) -> Array:
    """The grey of each pixel of a colour image, [height, width, 1]."""
    weights = jnp.array([0.299, 0.587, 0.114], x.dtype)
    return (x * weights[None, None]).sum(axis=2, keepdims=True)
