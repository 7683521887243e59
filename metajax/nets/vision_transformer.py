"""A small vision transformer."""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx

from metajax._checked import checked
from metajax.nets.attention import Transformer, positions
from metajax.nets.layers import check_scaled
from metajax.nets.tokens import TokenEncoder
from metajax.types import Array, Count, Size


@checked
class ViT(TokenEncoder):
    """A small vision transformer: patches of the image are tokens that read each other.

    The mean of the tokens is the output of `__call__`. Positions are sines and cosines of the row
    and of the column, so images may have any size that the patch divides.

    Args:
        outputs: width of the head.
        channels: channels of the images.
        patch: height and width of a patch; divides those of the image.
        width: width of the tokens inside, an even number.
        layers: number of blocks.
        heads: number of heads; divides `width`.
        rngs: for the weights.

    Raises:
        ValueError: when called, images of integers, or images that the patch does not divide.

    >>> net = ViT(5, channels=1, patch=14, width=8, layers=1, heads=2, rngs=nnx.Rngs(0))
    >>> net(jnp.ones((2, 28, 28, 1))).shape
    (2, 5)

    Sources: Dosovitskiy et al. 2021, arXiv 2010.11929; the mean and the sines are those of Beyer et
    al. 2022, arXiv 2205.01580.
    """

    def __init__(
        self,
        outputs: Size,
        *,
        channels: Size = 3,
        patch: Size = 7,
        width: Size = 64,
        layers: Count = 4,
        heads: Size = 4,
        rngs: nnx.Rngs,
    ):
        self.input = nnx.Linear(patch * patch * channels, width, rngs=rngs)
        self.transformer = Transformer(width, layers, heads, rngs=rngs)
        self.head = nnx.Linear(width, outputs, rngs=rngs)
        self.patch = patch

    def features(self, x: Array, reference: Array | None = None) -> tuple[Array, Array]:
        """The features of each patch.

        Args:
            x: float[n, height, width, channels].
            reference: not used; there are no statistics over images.

        Returns:
            (features [n, places, width], valid bool[n, places], all True).

        Raises:
            ValueError: images of integers, or images that the patch does not divide.
        """
        check_scaled(x, "Images", 255)
        images, height, width, channels = x.shape
        patch = self.patch
        rows = height // patch
        columns = width // patch
        if (rows * patch, columns * patch) != (height, width):
            raise ValueError(
                f"{patch=} does not divide images of {height} x {width}; pad them, or take "
                "another patch."
            )
        x = x.reshape(images, rows, patch, columns, patch, channels).swapaxes(2, 3)
        tokens = self.input(x.reshape(images, rows * columns, -1))
        tokens += _grid_positions(rows, columns, tokens.shape[-1])[None].astype(tokens.dtype)
        return self.transformer(tokens), jnp.ones(tokens.shape[:2], bool)


def _grid_positions(rows: int, columns: int, width: int) -> Array:
    """Positions of the row beside positions of the column, [rows * columns, width]."""
    down = positions(rows, width // 2)[:, None]
    across = positions(columns, width // 2)[None]
    both = [down.repeat(columns, 1), across.repeat(rows, 0)]
    return jnp.concatenate(both, axis=-1).reshape(rows * columns, -1)
