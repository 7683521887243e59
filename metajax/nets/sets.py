"""An encoder of sets."""

from __future__ import annotations

import jax
from flax import nnx

from metajax.nets.attention import TokenEncoder, pool
from metajax.nets.sequence import read
from metajax.types import Array, Series


class DeepSets(TokenEncoder):
    """The same answer in whatever order the items come: f(X) = head(ρ(mean_i φ(x_i))), φ and ρ of two layers with ReLU.

    A mean and not a sum, so that a large set is no larger a vector; sets of different sizes come as a `Series`, whose
    order then says nothing. A token is what the item would be as a set by itself.

    Args:
        inputs: channels of an item.
        outputs: width of the head.
        width: of the layers.
        rngs: for the weights.

    Source: Zaheer et al. 2017, arXiv 1703.06114.
    """

    def __init__(self, inputs: int, outputs: int, *, width: int = 64, rngs: nnx.Rngs):
        self.items = nnx.List([nnx.Linear(a, width, rngs=rngs) for a in (inputs, width)])
        self.sets = nnx.List([nnx.Linear(width, width, rngs=rngs) for _ in range(2)])
        self.head = nnx.Linear(width, outputs, rngs=rngs)
        self.inputs = inputs

    def features(self, x: Array | Series, reference: Array | None = None) -> tuple[Array, Array]:
        """[n, items, inputs] -> (features [n, items, width], bool[n, items]: which of them have a meaning)."""
        items, valid = read(x, self.inputs)
        return _rectify(self.sets, _rectify(self.items, items)), valid

    def embed(self, x: Array | Series, reference: Array | None = None) -> Array:
        """[n, items, inputs] -> [n, width]."""
        items, valid = read(x, self.inputs)
        return _rectify(self.sets, pool(_rectify(self.items, items), valid))


def _rectify(layers: nnx.List, x: Array) -> Array:
    """Linear layers, ReLU after each."""
    for layer in layers:
        x = jax.nn.relu(layer(x))
    return x
