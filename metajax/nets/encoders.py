"""Networks from one modality to a vector, each with a linear head that an adaptation may write."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from metajax._types import Array
from metajax.nets.layers import Conv, Norm, TaskNorm, max_pool


class MLP(nnx.Module):
    """Linear layers with ReLU between them; the last one is `head`.

    Args:
        inputs: features of the input.
        hidden: width of each hidden layer, such as (40, 40) for the sinusoids of MAML.
        outputs: width of the output.
        rngs: for the weights.
    """

    def __init__(self, inputs: int, hidden: Sequence[int], outputs: int, *, rngs: nnx.Rngs):
        widths = [inputs, *hidden]
        self.layers = nnx.List([nnx.Linear(a, b, rngs=rngs) for a, b in zip(widths, hidden, strict=False)])
        self.head = nnx.Linear(widths[-1], outputs, rngs=rngs)

    def embed(self, x: Array) -> Array:
        """[n, inputs] -> [n, hidden[-1]]."""
        for layer in self.layers:
            x = jax.nn.relu(layer(x))
        return x

    def __call__(self, x: Array) -> Array:
        """[n, inputs] -> [n, outputs]."""
        return self.head(self.embed(x))


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
            raise ValueError(f"{size=} is too small for four 2x2 poolings; take 16 or more, or pool=False.")
        inputs = [channels, width, width, width]
        self.convolutions = nnx.List([Conv(c, width, stride=1 if pool else 2, rngs=rngs) for c in inputs])
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
            raise ValueError(f"pool={self.pool} flattens places, so that there are no tokens; take pool=False.")
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
