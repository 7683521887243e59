"""Augmented images: each constructor makes a function (x, key) -> x of one example.

The functions keep shape and dtype, are deterministic in the key, and compose. `augmented` applies them to what a
sampler draws. For a video, `lambda x, key: jax.vmap(augment, (0, None))(x, key)` changes all frames alike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates

from metajax._checks import check_counts, shapes
from metajax.types import Array, PyTree

Augmentation: TypeAlias = Callable[[PyTree, Array], PyTree]
"""(x, key) -> x: one example, without a leading axis, changed at random."""


def compose(*augmentations: Augmentation) -> Augmentation:
    """One augmentation after the other, the first one first, each with a key of its own.

    >>> compose(crop(2), flip())(jnp.ones((8, 8, 1)), jax.random.key(0)).shape
    (8, 8, 1)
    """

    def augment(x: PyTree, key: Array) -> PyTree:
        for index, augmentation in enumerate(augmentations):
            x = augmentation(x, jax.random.fold_in(key, index))
        return x

    return augment


def sometimes(augmentation: Augmentation, probability: float) -> Augmentation:
    """The augmentation with this probability, otherwise x itself. It runs in both cases, as `vmap` needs it.

    Raises:
        ValueError: what is no probability.

    >>> black = sometimes(lambda x, key: jnp.zeros_like(x), 0.3)
    >>> round(float(jax.vmap(black)(jnp.ones(1000), jax.random.split(jax.random.key(0), 1000)).mean()), 1)
    0.7
    """
    _check_range(probability=(probability, 1.0))

    def augment(x: PyTree, key: Array) -> PyTree:
        chance_key, key = jax.random.split(key)
        chosen = jax.random.uniform(chance_key, (), jnp.float32) < probability
        return jax.tree.map(lambda new, old: jnp.where(chosen, new, old), augmentation(x, key), x)

    return augment


def crop(padding: int, *, fill: float = 0.0) -> Augmentation:
    """A window of the image's own size, at a random place of the image with a border around it.

    Args:
        padding: width of the border in pixels, so how far the image is shifted at most.
        fill: value of the border.

    Returns:
        (x, key) -> x of an image [height, width, channels] of any dtype.

    Raises:
        ValueError: a negative padding; when called, one as large as the image, or what is no image.

    >>> crop(1)(jnp.ones((3, 3, 1), jnp.uint8), jax.random.key(0))[..., 0].tolist()
    [[0, 1, 1], [0, 1, 1], [0, 1, 1]]
    """
    check_counts(0, padding=padding)

    def augment(x: Array, key: Array) -> Array:
        _check_image(x)
        if padding >= min(x.shape[:2]):
            raise ValueError(
                f"{padding=} must be smaller than the image, {x.shape[0]} by {x.shape[1]}."
            )
        down, across = jax.random.randint(key, (2,), 0, 2 * padding + 1, jnp.int32)
        x = jnp.pad(x, ((padding, padding), (padding, padding), (0, 0)), constant_values=fill)
        x = jax.lax.dynamic_slice_in_dim(x, down, x.shape[0] - 2 * padding, axis=0)
        return jax.lax.dynamic_slice_in_dim(x, across, x.shape[1] - 2 * padding, axis=1)

    return augment


def flip() -> Augmentation:
    """The image, or as often its mirror image, left and right exchanged; not for letters.

    Returns:
        (x, key) -> x of an image [height, width, channels] of any dtype.

    Raises:
        ValueError: when called, what is no image.

    >>> flip()(jnp.array([[[1], [2], [3]]]), jax.random.key(3))[..., 0].tolist()
    [[3, 2, 1]]
    """

    def mirror(x: Array, key: Array) -> Array:
        _check_image(x)
        return x[:, ::-1]

    return sometimes(mirror, 0.5)


def affine(
    *,
    degrees: float = 0.0,
    translate: float = 0.0,
    scale: tuple[float, float] = (1.0, 1.0),
    shear: float = 0.0,
    fill: float = 0.0,
) -> Augmentation:
    """Sheared, scaled, rotated about the centre c and shifted by t, all at random, in one bilinear resampling.

    out(p) = in(c + A⁻¹(p - c - t)) with A = s R(θ) [[1, tan φ], [0, 1]] and p = (to the right, downward): a point is
    sheared along the rows by φ, scaled by s, turned by θ and shifted. All are uniform and independent.

    Args:
        degrees: θ is from -degrees to degrees; 180 gives any angle.
        translate: t is at most this part of the width and of the height, either way.
        scale: (smallest, largest) s; above 1 magnifies.
        shear: φ is from -shear to shear, in degrees.
        fill: value of what lies outside of the image.

    Returns:
        (x, key) -> x of an image [height, width, channels] of floats.

    Raises:
        ValueError: a range that is negative or too large; when called, integers, or what is no image.

    >>> letter = jnp.zeros((28, 28, 1), jnp.float32).at[4:24, 13:15].set(1.0)
    >>> float(affine(degrees=30, scale=(0.5, 0.6))(letter, jax.random.key(0)).sum()) < 0.4 * float(letter.sum())
    True
    """
    _check_range(degrees=(degrees, 180.0), translate=(translate, 1.0), shear=(shear, 89.0))
    smallest, largest = scale
    if not 0 < smallest <= largest:
        raise ValueError(f"{scale=} must be (smallest, largest), both above 0.")
    low = (-degrees, -translate, -translate, smallest, -shear)
    high = (degrees, translate, translate, largest, shear)

    def augment(x: Array, key: Array) -> Array:
        _check_image(x, real=True)
        height, width, _ = x.shape
        low_5, high_5 = jnp.array(low, jnp.float32), jnp.array(high, jnp.float32)
        angle, right, down, size, slant = jax.random.uniform(key, (5,), jnp.float32, low_5, high_5)
        cosine, sine = jnp.cos(jnp.deg2rad(angle)), jnp.sin(jnp.deg2rad(angle))
        across = jnp.arange(width, dtype=jnp.float32)[None, :] - (width - 1) / 2 - right * width
        along = jnp.arange(height, dtype=jnp.float32)[:, None] - (height - 1) / 2 - down * height
        rows = (
            cosine * along - sine * across
        )  # turned back; an explicit product, for matmuls round on accelerators
        columns = cosine * across + sine * along - jnp.tan(jnp.deg2rad(slant)) * rows
        places = (rows / size + (height - 1) / 2, columns / size + (width - 1) / 2)
        return jax.vmap(lambda plane: map_coordinates(plane, places, order=1, cval=fill), 2, 2)(x)

    return augment


def colour(
    *, brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0
) -> Augmentation:
    """Brightness, contrast and saturation at random, in this order, then clipped to [0, 1].

    x ← b x;  x ← m + c (x - m) with m the mean of the image;  x ← g + s (x - g) with g the grey of each pixel,
    0.299 red + 0.587 green + 0.114 blue. The factors b, c and s are uniform and independent.

    Args:
        brightness: b is from 1 - brightness to 1 + brightness.
        contrast: the same of c.
        saturation: the same of s.

    Returns:
        (x, key) -> x of an image [height, width, channels] of floats in [0, 1].

    Raises:
        ValueError: what is not from 0 to 1; when called, integers, what is no image, or saturation without the three
            channels of a colour image.

    Source: the weights of grey are those of ITU-R recommendation BT.601.

    >>> red = jnp.array([[[0.9, 0.1, 0.1]]], jnp.float32)
    >>> (100 * colour(saturation=1.0)(red, jax.random.key(1))).round().tolist()
    [[[84.0, 13.0, 13.0]]]
    """
    strengths = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
    _check_range(**{name: (strength, 1.0) for name, strength in strengths.items()})

    def augment(x: Array, key: Array) -> Array:
        _check_image(x, real=True)
        if saturation and x.shape[2] != 3:
            raise ValueError(
                f"{saturation=} needs an image of 3 channels, got {x.shape[2]}; leave it 0."
            )
        part = jax.random.uniform(key, (3,), jnp.float32, -1.0, 1.0)
        b, c, s = (1 + strength * part[index] for index, strength in enumerate(strengths.values()))
        new = b * x
        new = (1 - c) * new.mean() + c * new
        if saturation:
            grey = (new * jnp.array([0.299, 0.587, 0.114], new.dtype)[None, None]).sum(
                axis=2, keepdims=True
            )
            new = (1 - s) * grey + s * new
        return jnp.clip(new, 0, 1).astype(x.dtype)

    return augment


def cutout(size: int, *, fill: float = 0.0) -> Augmentation:
    """A square of this side is blanked out. Its centre is any pixel, so that part of it may lie outside.

    Args:
        size: side of the square in pixels; 0 is none.
        fill: value of the square.

    Returns:
        (x, key) -> x of an image [height, width, channels] of any dtype.

    Raises:
        ValueError: a negative size; when called, one larger than the image, or what is no image.

    Source: DeVries and Taylor 2017, arXiv 1708.04552.

    >>> cutout(2)(jnp.ones((3, 3, 1), jnp.uint8), jax.random.key(0))[..., 0].tolist()
    [[0, 1, 1], [0, 1, 1], [1, 1, 1]]
    """
    check_counts(0, size=size)

    def augment(x: Array, key: Array) -> Array:
        _check_image(x)
        if size > min(x.shape[:2]):
            raise ValueError(f"{size=} must not exceed the image, {x.shape[0]} by {x.shape[1]}.")
        first = jax.random.randint(key, (2,), 0, jnp.array(x.shape[:2]), jnp.int32) - size // 2
        rows, columns = (
            jnp.arange(side, dtype=jnp.int32) - first[axis] for axis, side in enumerate(x.shape[:2])
        )
        hidden = ((rows >= 0) & (rows < size))[:, None, None] & ((columns >= 0) & (columns < size))[
            None, :, None
        ]
        return jnp.where(hidden, jnp.asarray(fill, x.dtype), x)

    return augment


def _check_image(x: Array, *, real: bool = False) -> None:
    if jnp.ndim(x) != 3:
        raise ValueError(
            f"One image [height, width, channels] is augmented, got {shapes(x)}; vmap over other axes."
        )
    if real and not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"Images must be floats in [0, 1], got {x.dtype}; sample with scale=True or divide by 255."
        )


def _check_range(**values: tuple[float, float]) -> None:
    """Each is (value, its largest)."""
    for name, (value, largest) in values.items():
        if not 0 <= value <= largest:
            raise ValueError(f"{name}={value!r} must be from 0 to {largest:g}.")
