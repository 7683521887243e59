"""Images that are rotated, scaled, sheared and shifted at random."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates

from metajax._checked import checked
from metajax.data.augment.checks import check_image, check_range
from metajax.data.augment.images import Augmentation
from metajax.types import Array


@checked
def affine(
    *,
    degrees: float = 0.0,
    translate: float = 0.0,
    scale: tuple[float, float] = (1.0, 1.0),
    shear: float = 0.0,
    fill: float = 0.0,
) -> Augmentation:
    """Shears, scales, rotates and shifts at random, in one bilinear resampling.

    out(p) = in(c + A⁻¹(p - c - t)) with A = s R(θ) [[1, tan φ], [0, 1]], c the centre, and
    p = (to the right, downward): a point is sheared along the rows by φ, scaled by s, turned by θ
    and shifted by t. All are uniform and independent.

    Args:
        degrees: θ is from -degrees to degrees; 180 gives any angle.
        translate: t is at most this share of the width and of the height, in both directions.
        scale: least and greatest s; above 1 magnifies.
        shear: φ is from -shear to shear, in degrees.
        fill: value outside of the image.

    Returns:
        (x, key) -> x of an image [height, width, channels] of floats.

    Raises:
        ValueError: a range that is negative or too large; when called, integers, or x that is not
            an image.

    >>> letter = jnp.zeros((28, 28, 1), jnp.float32).at[4:24, 13:15].set(1.0)
    >>> small = affine(degrees=30, scale=(0.5, 0.6))(letter, jax.random.key(0))
    >>> float(small.sum()) < 0.4 * float(letter.sum())
    True
    """
    check_range("degrees", degrees, 180.0)
    check_range("translate", translate, 1.0)
    check_range("shear", shear, 89.0)
    smallest, largest = scale
    if not 0 < smallest <= largest:
        raise ValueError(f"{scale=} must be (smallest, largest), both above 0.")
    least = (-degrees, -translate, -translate, smallest, -shear)
    greatest = (degrees, translate, translate, largest, shear)

    @checked
    def augment(x: Array, key: Array) -> Array:
        check_image(x, floats=True)
        least_5 = jnp.array(least, jnp.float32)
        greatest_5 = jnp.array(greatest, jnp.float32)
        drawn = jax.random.uniform(key, (5,), jnp.float32, least_5, greatest_5)
        places = _places(x.shape[0], x.shape[1], drawn)

        def resample(plane: Array) -> Array:
            return map_coordinates(plane, places, order=1, cval=fill)

        return jax.vmap(resample, in_axes=2, out_axes=2)(x)

    return augment


def _places(height: int, width: int, drawn: Array) -> tuple[Array, Array]:
    """The row and column that each pixel of the new image comes from, [height, width] both."""
    angle, right, down, size, slant = drawn
    cosine = jnp.cos(jnp.deg2rad(angle))
    sine = jnp.sin(jnp.deg2rad(angle))
    across = jnp.arange(width, dtype=jnp.float32)[None, :] - (width - 1) / 2 - right * width
    along = jnp.arange(height, dtype=jnp.float32)[:, None] - (height - 1) / 2 - down * height
    # Turned back by an explicit product, because accelerators round those of matmul.
    rows = cosine * along - sine * across
    columns = cosine * across + sine * along - jnp.tan(jnp.deg2rad(slant)) * rows
    return rows / size + (height - 1) / 2, columns / size + (width - 1) / 2
