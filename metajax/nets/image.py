"""Encoders of images: Conv4, a residual net and a small vision transformer."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from metajax.nets.attention import TokenEncoder, Transformer, positions
from metajax.nets.layers import Conv, max_pool
from metajax.nets.norms import Norm, TaskNorm
from metajax.types import Array


class Conv4(nnx.Module):
    """Four blocks of 3x3 convolution, normalisation and ReLU, then a linear head: the few-shot field's standard net.

    In its two published forms: stride 2 and the spatial mean at the end (MAML on Omniglot), or stride 1, 2x2 max-pool
    and flattening (ProtoNets, MAML on mini-ImageNet).

    Args:
        outputs: width of the head, the number of ways.
        channels: of the input.
        width: channels of every block; the features are `width` wide, times the places left when flattened.
        pool: False for stride 2 and spatial mean, True for max-pool and flattening.
        size: height and width of the images; only the flattened form needs it.
        norm: policy of normalisation: `TaskNorm`, `GroupNorm`, `FrozenNorm` or `NoNorm`.
        rngs: for the weights.

    Raises:
        ValueError: an image too small for four poolings.
    """

    def __init__(
        self,
        outputs: int,
        *,
        channels: int = 1,
        width: int = 64,
        pool: bool = False,
        size: int = 28,
        norm: Norm = TaskNorm,
        rngs: nnx.Rngs,
    ):
        places = (size // 16) ** 2 if pool else 1
        if places < 1:
            raise ValueError(
                f"{size=} is too small for four 2x2 poolings; take 16 or more, or pool=False."
            )
        inputs = [channels, width, width, width]
        self.convolutions = nnx.List(
            [Conv(c, width, stride=1 if pool else 2, rngs=rngs) for c in inputs]
        )
        self.norms = nnx.List([norm(width, rngs=rngs) for _ in inputs])
        self.head = nnx.Linear(width * places, outputs, rngs=rngs)
        self.pool = pool

    def embed(self, x: Array, reference: Array | None = None) -> Array:
        """[n, size, size, channels] -> features [n, width * places]."""
        x = self._blocks(x, reference)
        return x.reshape(len(x), -1) if self.pool else x.mean((1, 2))

    def tokens(self, x: Array, reference: Array | None = None) -> tuple[Array, Array]:
        """[n, size, size, channels] -> (tokens [n, places, outputs], bool[n, places], all true).

        Their mean is the answer of `__call__`.

        Raises:
            ValueError: of the flattened form, whose head has no answer for a single place.
        """
        if self.pool:
            raise ValueError(
                f"pool={self.pool} flattens places, so that there are no tokens; take pool=False."
            )
        places = self._blocks(x, reference)
        tokens = self.head(places.reshape(len(x), -1, places.shape[-1]))
        return tokens, jnp.ones(tokens.shape[:2], bool)

    def __call__(self, x: Array, reference: Array | None = None) -> Array:
        """[n, size, size, channels] -> [n, outputs]."""
        return self.head(self.embed(x, reference))

    def _blocks(self, x: Array, reference: Array | None) -> Array:
        """[n, size, size, channels] -> [n, rows, columns, width]."""
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = jax.nn.relu(norm(convolution(x), reference, pool=max_pool if self.pool else None))
        return x


class ResNet12(TokenEncoder):
    """Residual blocks of three 3x3 convolutions, each followed by 2x2 max-pool; the spatial mean at the end.

    The field's second net, four blocks deep. The mean of the tokens is the answer of `__call__`.

    Args:
        outputs: width of the head.
        channels: of the input.
        widths: channels of each block.
        norm: policy of normalisation: `TaskNorm`, `GroupNorm`, `FrozenNorm` or `NoNorm`.
        rngs: for the weights.

    Sources: Oreshkin et al. 2018, arXiv 1805.10123; in the widths of Lee et al. 2019, arXiv 1904.03758, without their
    DropBlock.
    """

    def __init__(
        self,
        outputs: int,
        *,
        channels: int = 3,
        widths: Sequence[int] = (64, 160, 320, 640),
        norm: Norm = TaskNorm,
        rngs: nnx.Rngs,
    ):
        inputs = [channels, *widths]
        self.blocks = nnx.List(
            [_Residual(a, b, norm, rngs) for a, b in zip(inputs, widths, strict=False)]
        )
        self.head = nnx.Linear(inputs[-1], outputs, rngs=rngs)

    def features(self, x: Array, reference: Array | None = None) -> tuple[Array, Array]:
        """[n, h, w, channels] -> (features [n, places, widths[-1]], bool[n, places], all true).

        Raises:
            ValueError: an image too small for its poolings.
        """
        smallest = 2 ** len(self.blocks)
        if min(x.shape[1:3]) < smallest:
            raise ValueError(
                f"Images of {x.shape[1:3]} are too small for {len(self.blocks)} poolings: {smallest=}."
            )
        for block in self.blocks:
            x = block(x, reference)
        features = x.reshape(len(x), -1, x.shape[-1])
        return features, jnp.ones(features.shape[:2], bool)


class _Residual(nnx.Module):
    """y = pool(φ(convolutions(x) + shortcut(x))) with φ the leaky ReLU of slope 0.1."""

    def __init__(self, inputs: int, outputs: int, norm: Norm, rngs: nnx.Rngs):
        self.convolutions = nnx.List(
            [Conv(c, outputs, rngs=rngs) for c in (inputs, outputs, outputs)]
        )
        self.norms = nnx.List([norm(outputs, rngs=rngs) for _ in range(3)])
        self.shortcut = nnx.Linear(inputs, outputs, use_bias=False, rngs=rngs)  # a 1x1 convolution
        self.shortcut_norm = norm(outputs, rngs=rngs)

    def __call__(self, x: Array, reference: Array | None = None) -> Array:
        """[n, h, w, inputs] -> [n, ⌊h/2⌋, ⌊w/2⌋, outputs]."""
        shortcut = self.shortcut_norm(self.shortcut(x), reference)
        for depth, (convolution, norm) in enumerate(
            zip(self.convolutions, self.norms, strict=True)
        ):
            x = norm(convolution(x), reference)
            x = jax.nn.leaky_relu(x + shortcut if depth == 2 else x, 0.1)
        return max_pool(x)


class ViT(TokenEncoder):
    """A small vision transformer: patches of the image are tokens that attend to each other; their mean at the end.

    Places are told apart by sines and cosines of their row and of their column, so that any size will do that the patch
    divides. The mean of the tokens is the answer of `__call__`.

    Args:
        outputs: width of the head.
        channels: of the input.
        patch: height and width of a patch; divides the image.
        width: of the tokens inside, an even number.
        layers: number of blocks.
        heads: divides `width`.
        rngs: for the weights.

    Source: Dosovitskiy et al. 2021, arXiv 2010.11929; mean and sines as Beyer et al. 2022, arXiv 2205.01580.
    """

    def __init__(
        self,
        outputs: int,
        *,
        channels: int = 3,
        patch: int = 7,
        width: int = 64,
        layers: int = 4,
        heads: int = 4,
        rngs: nnx.Rngs,
    ):
        self.input = nnx.Linear(patch * patch * channels, width, rngs=rngs)
        self.transformer = Transformer(width, layers, heads, rngs=rngs)
        self.head = nnx.Linear(width, outputs, rngs=rngs)
        self.patch = patch

    def features(self, x: Array, reference: Array | None = None) -> tuple[Array, Array]:
        """[n, h, w, channels] -> (features [n, places, width], bool[n, places], all true).

        Raises:
            ValueError: an image that the patch does not divide.
        """
        images, height, width, channels = x.shape
        rows, columns = height // self.patch, width // self.patch
        if (rows * self.patch, columns * self.patch) != (height, width):
            raise ValueError(
                f"patch={self.patch} does not divide images of {height} x {width}; pad or choose another."
            )
        x = x.reshape(images, rows, self.patch, columns, self.patch, channels).swapaxes(2, 3)
        tokens = self.input(x.reshape(images, rows * columns, -1))
        half = tokens.shape[-1] // 2
        down, across = positions(rows, half)[:, None], positions(columns, half)[None]
        places = jnp.concatenate([down.repeat(columns, 1), across.repeat(rows, 0)], axis=-1)
        tokens += places.reshape(1, rows * columns, -1).astype(tokens.dtype)
        return self.transformer(tokens), jnp.ones(tokens.shape[:2], bool)
