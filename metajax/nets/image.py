"""Convolutional encoders of images: Conv4 and ResNet-12."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from metajax._checked import checked
from metajax.nets.layers import Conv, max_pool
from metajax.nets.norms import Norm, TaskNorm
from metajax.nets.tokens import TokenEncoder
from metajax.types import Array, Size


@checked
class Conv4(nnx.Module):
    """Four blocks of 3x3 convolution, normalisation and ReLU, then a linear head.

    The standard net of few-shot learning, in its two published forms: stride 2 and the spatial mean
    at the end (MAML on Omniglot), or stride 1, 2x2 max-pool and flattening (prototypical networks,
    MAML on mini-ImageNet).

    Args:
        outputs: width of the head, the number of ways. Where an adaptation writes the head, as in
            prototypical networks, it has no effect.
        channels: channels of the images.
        width: channels of every block. The features are `width` wide; in the flattened form, times
            the number of places that are left.
        pool: False for stride 2 and the spatial mean, True for max-pool and flattening.
        size: height and width of the images; only the flattened form needs it.
        norm: policy of normalisation: `TaskNorm`, `GroupNorm`, `FrozenNorm` or `NoNorm`.
        rngs: for the weights.

    Raises:
        ValueError: images too small for four poolings; when called, images of integers.

    >>> Conv4(5, width=8, rngs=nnx.Rngs(0))(jnp.ones((2, 28, 28, 1))).shape
    (2, 5)

    Sources: Vinyals et al. 2016, arXiv 1606.04080; Finn et al. 2017, arXiv 1703.03400.
    """

    def __init__(
        self,
        outputs: Size,
        *,
        channels: Size = 1,
        width: Size = 64,
        pool: bool = False,
        size: Size = 28,
        norm: Norm = TaskNorm,
        rngs: nnx.Rngs,
    ):
        places = (size // 16) ** 2 if pool else 1
        if places < 1:
            raise ValueError(
                f"{size=} is too small for four 2x2 poolings; take 16 or more, or pool=False."
            )
        stride = 1 if pool else 2
        inputs = [channels, width, width, width]
        self.convolutions = nnx.List([Conv(c, width, stride=stride, rngs=rngs) for c in inputs])
        self.norms = nnx.List([norm(width, rngs=rngs) for _ in inputs])
        self.head = nnx.Linear(width * places, outputs, rngs=rngs)
        self.pool = pool

    def embed(self, x: Array, reference: Array | None = None) -> Array:
        """The features of each image.

        Args:
            x: float[n, size, size, channels].
            reference: bool[n], the images that normalisation statistics are computed from. None
                means all images.

        Returns:
            [n, width], or [n, width * places] in the flattened form.
        """
        x = self._blocks(x, reference)
        return x.reshape(len(x), -1) if self.pool else x.mean((1, 2))

    def tokens(self, x: Array, reference: Array | None = None) -> tuple[Array, Array]:
        """The head of each place. The mean of the tokens is the output of `__call__`.

        Returns:
            (tokens [n, places, outputs], valid bool[n, places], all True).

        Raises:
            ValueError: in the flattened form, whose head does not apply to a single place.
        """
        if self.pool:
            raise ValueError(
                "pool=True flattens the places, so there are no tokens; take pool=False."
            )
        places = self._blocks(x, reference)
        tokens = self.head(places.reshape(len(x), -1, places.shape[-1]))
        return tokens, jnp.ones(tokens.shape[:2], bool)

    def __call__(self, x: Array, reference: Array | None = None) -> Array:
        """The head of the features: [n, size, size, channels] -> [n, outputs]."""
        return self.head(self.embed(x, reference))

    def _blocks(self, x: Array, reference: Array | None) -> Array:
        """[n, size, size, channels] -> [n, rows, columns, width]."""
        pool = max_pool if self.pool else None
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = jax.nn.relu(norm(convolution(x), reference, pool=pool))
        return x


@checked
class ResNet12(TokenEncoder):
    """Residual blocks of three 3x3 convolutions, each followed by 2x2 max-pool; the spatial mean.

    The larger standard net of few-shot learning. The mean of the tokens is the output of
    `__call__`.

    Args:
        outputs: width of the head.
        channels: channels of the images.
        widths: channels of each block.
        norm: policy of normalisation: `TaskNorm`, `GroupNorm`, `FrozenNorm` or `NoNorm`.
        rngs: for the weights.

    Raises:
        ValueError: when called, images of integers, or images too small for the poolings.

    Sources: Oreshkin et al. 2018, arXiv 1805.10123; the widths are those of Lee et al. 2019,
    arXiv 1904.03758, without their DropBlock.
    """

    def __init__(
        self,
        outputs: Size,
        *,
        channels: Size = 3,
        widths: Sequence[int] = (64, 160, 320, 640),
        norm: Norm = TaskNorm,
        rngs: nnx.Rngs,
    ):
        blocks = []
        inputs = channels
        for width in widths:
            blocks.append(ResidualBlock(inputs, width, norm, rngs=rngs))
            inputs = width
        self.blocks = nnx.List(blocks)
        self.head = nnx.Linear(inputs, outputs, rngs=rngs)

    def features(self, x: Array, reference: Array | None = None) -> tuple[Array, Array]:
        """The features of each place.

        Args:
            x: float[n, height, width, channels].
            reference: bool[n], the images that normalisation statistics are computed from. None
                means all images.

        Returns:
            (features [n, places, widths[-1]], valid bool[n, places], all True).

        Raises:
            ValueError: images too small for the poolings.
        """
        smallest = 2 ** len(self.blocks)
        if min(x.shape[1:3]) < smallest:
            raise ValueError(
                f"Images of {x.shape[1:3]} are too small for {len(self.blocks)} poolings; height "
                f"and width must be {smallest} or more."
            )
        for block in self.blocks:
            x = block(x, reference)
        features = x.reshape(len(x), -1, x.shape[-1])
        return features, jnp.ones(features.shape[:2], bool)


class ResidualBlock(nnx.Module):
    """y = max_pool(φ(convolutions(x) + shortcut(x))) with φ the leaky ReLU of slope 0.1.

    Args:
        inputs: channels of the input.
        outputs: channels of the output.
        norm: policy of normalisation.
        rngs: for the weights.
    """

    def __init__(self, inputs: Size, outputs: Size, norm: Norm, *, rngs: nnx.Rngs):
        channels = [inputs, outputs, outputs]
        self.convolutions = nnx.List([Conv(c, outputs, rngs=rngs) for c in channels])
        self.norms = nnx.List([norm(outputs, rngs=rngs) for _ in channels])
        # A linear layer over channels is a 1x1 convolution.
        self.shortcut = nnx.Linear(inputs, outputs, use_bias=False, rngs=rngs)
        self.shortcut_norm = norm(outputs, rngs=rngs)

    def __call__(self, x: Array, reference: Array | None = None) -> Array:
        """[n, height, width, inputs] -> [n, ⌊height / 2⌋, ⌊width / 2⌋, outputs]."""
        shortcut = self.shortcut_norm(self.shortcut(x), reference)
        last = len(self.convolutions) - 1
        for depth, convolution in enumerate(self.convolutions):
            x = self.norms[depth](convolution(x), reference)
            if depth == last:
                x = x + shortcut
            x = jax.nn.leaky_relu(x, 0.1)
        return max_pool(x)
