"""Linear layers with ReLU between them."""

from __future__ import annotations

from collections.abc import Sequence

import jax
from flax import nnx

from metajax._checked import checked
from metajax.nets.layers import check_channels
from metajax.types import Array, Size


@checked
class MLP(nnx.Module):
    """Linear layers with ReLU between them; the last layer is `head`.

    Args:
        inputs: number of input features.
        hidden: width of each hidden layer, such as (40, 40) for the sinusoids of MAML.
        outputs: width of the head.
        rngs: for the weights.

    >>> import jax.numpy as jnp
    >>> MLP(1, (40, 40), 2, rngs=nnx.Rngs(0))(jnp.ones((7, 1))).shape
    (7, 2)
    """

    def __init__(self, inputs: Size, hidden: Sequence[Size], outputs: Size, *, rngs: nnx.Rngs):
        self.inputs = inputs
        layers = []
        width = inputs
        for next_width in hidden:
            layers.append(nnx.Linear(width, next_width, rngs=rngs))
            width = next_width
        self.layers = nnx.List(layers)
        self.head = nnx.Linear(width, outputs, rngs=rngs)

    def embed(self, x: Array) -> Array:
        """The last hidden layer: [n, inputs] -> [n, hidden[-1]]."""
        check_channels("MLP", x, self.inputs)
        for layer in self.layers:
            x = jax.nn.relu(layer(x))
        return x

    def __call__(self, x: Array) -> Array:
        """The head of the last hidden layer: [n, inputs] -> [n, outputs]."""
        return self.head(self.embed(x))
