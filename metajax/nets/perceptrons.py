"""Linear layers with ReLU between them."""

from __future__ import annotations

from collections.abc import Sequence

import jax
from flax import nnx

from metajax.types import Array


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
        self.layers = nnx.List(
            [nnx.Linear(a, b, rngs=rngs) for a, b in zip(widths, hidden, strict=False)]
        )
        self.head = nnx.Linear(widths[-1], outputs, rngs=rngs)

    def embed(self, x: Array) -> Array:
        """[n, inputs] -> [n, hidden[-1]]."""
        for layer in self.layers:
            x = jax.nn.relu(layer(x))
        return x

    def __call__(self, x: Array) -> Array:
        """[n, inputs] -> [n, outputs]."""
        return self.head(self.embed(x))
