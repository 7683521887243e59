"""An encoder of sets."""

from __future__ import annotations

import jax
from flax import nnx

from metajax._checked import checked
from metajax.nets.tokens import TokenEncoder, pool_tokens, read_series
from metajax.types import Array, Series, Size


@checked
class DeepSets(TokenEncoder):
    """An encoder of sets: the order of the items changes nothing.

    f(X) = head(ρ(meanᵢ φ(xᵢ))), φ and ρ of two layers with ReLU. It is a mean and not a sum, so the
    size of the set does not scale the features. Sets of different sizes come as a `Series`. A token
    is the output for a set of that one item.

    Args:
        inputs: channels of an item.
        outputs: width of the head.
        width: width of the layers.
        rngs: for the weights.

    Raises:
        ValueError: when called, items of other channels.

    >>> import jax.numpy as jnp
    >>> DeepSets(2, 5, width=8, rngs=nnx.Rngs(0))(jnp.ones((3, 6, 2))).shape
    (3, 5)

    Source: Zaheer et al. 2017, arXiv 1703.06114.
    """

    def __init__(self, inputs: Size, outputs: Size, *, width: Size = 64, rngs: nnx.Rngs):
        self.items = nnx.List([nnx.Linear(size, width, rngs=rngs) for size in (inputs, width)])
        self.sets = nnx.List([nnx.Linear(width, width, rngs=rngs) for _ in range(2)])
        self.head = nnx.Linear(width, outputs, rngs=rngs)
        self.inputs = inputs

    def features(self, x: Array | Series, reference: Array | None = None) -> tuple[Array, Array]:
        """The features of each item, as a set by itself.

        Args:
            x: [n, items, inputs], or a `Series`.
            reference: not used; there are no statistics.

        Returns:
            (features [n, items, width], valid bool[n, items]).
        """
        items, valid = read_series(x, self.inputs)
        return _relu_layers(self.sets, _relu_layers(self.items, items)), valid

    def embed(self, x: Array | Series, reference: Array | None = None) -> Array:
        """The features of each set: [n, items, inputs] -> [n, width]."""
        items, valid = read_series(x, self.inputs)
        mean = pool_tokens(_relu_layers(self.items, items), valid)
        return _relu_layers(self.sets, mean)


def _relu_layers(layers: nnx.List, x: Array) -> Array:
    """Linear layers with ReLU after each."""
    for layer in layers:
        x = jax.nn.relu(layer(x))
    return x
