"""An encoder of the nodes of a graph."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
from flax import nnx
from jax.typing import ArrayLike

from metajax._checked import checked
from metajax._tree import as_floating
from metajax.types import Array, Size


@checked
class GCN(nnx.Module):
    """A graph convolutional network: features of nodes, such as classes in a knowledge graph.

    H ← relu(Â H W + b), then the head of Â H. Â = D^-½ (A + I) D^-½, where D is the diagonal of the
    row sums of A + I. A pair of a node and itself changes nothing: I has it already.

    Args:
        edges: int[e, 2], pairs of nodes. An edge counts in both directions, and once, however often
            it is listed.
        inputs: number of features of a node.
        hidden: width of each hidden layer.
        outputs: width of the head.
        nodes: number of nodes.
        rngs: for the weights.

    Raises:
        ValueError: edges that are not pairs of nodes; when called, another number of nodes.

    >>> import jax.numpy as jnp
    >>> net = GCN([[0, 1], [1, 2]], 2, (8,), 5, nodes=3, rngs=nnx.Rngs(0))
    >>> net(jnp.ones((3, 2))).shape
    (3, 5)

    Source: Kipf and Welling 2017, arXiv 1609.02907.
    """

    def __init__(
        self,
        edges: ArrayLike,
        inputs: Size,
        hidden: Sequence[Size],
        outputs: Size,
        *,
        nodes: Size,
        rngs: nnx.Rngs,
    ):
        pairs, weight = _normalised_adjacency(np.asarray(edges), nodes)
        # Constants. `functional` never makes a BatchStat fast or slow, whatever the filter.
        self.pairs = nnx.BatchStat(pairs)
        self.weight = nnx.BatchStat(weight)
        layers = []
        width = inputs
        for next_width in hidden:
            layers.append(nnx.Linear(width, next_width, rngs=rngs))
            width = next_width
        self.layers = nnx.List(layers)
        self.head = nnx.Linear(width, outputs, rngs=rngs)
        self.nodes = nodes

    def embed(self, x: Array) -> Array:
        """The features of each node: [nodes, inputs] -> [nodes, hidden[-1]].

        Raises:
            ValueError: another number of rows than nodes.
        """
        if len(x) != self.nodes:
            raise ValueError(
                f"The graph has {self.nodes} nodes, got {len(x)} rows; give one row per node."
            )
        for layer in self.layers:
            x = jax.nn.relu(layer(self._propagate(x)))
        return self._propagate(x)

    def __call__(self, x: Array) -> Array:
        """The head of each node: [nodes, inputs] -> [nodes, outputs]."""
        return self.head(self.embed(x))

    def _propagate(self, x: Array) -> Array:
        """Â x."""
        source, target = self.pairs[...].T
        x = as_floating(x)
        messages = self.weight[...].astype(x.dtype)[:, None] * x[source]
        return jax.ops.segment_sum(messages, target, len(x))


def _normalised_adjacency(edges: np.ndarray, nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """The entries of Â that are not zero: places int[entries, 2] and values [entries]."""
    if edges.ndim != 2 or edges.shape[1] != 2 or not np.issubdtype(edges.dtype, np.integer):
        raise ValueError(f"Edges must be int[e, 2], got {edges.dtype}{list(edges.shape)}.")
    outside = edges[((edges < 0) | (edges >= nodes)).any(axis=1)]
    if len(outside):
        raise ValueError(
            f"Edges {outside[:5].tolist()} lead out of the {nodes=}, 0 to {nodes - 1}; drop them."
        )
    loops = np.arange(nodes)[:, None].repeat(2, axis=1)
    pairs = np.unique(np.concatenate([edges, edges[:, ::-1], loops]), axis=0)
    degree = np.bincount(pairs[:, 1], minlength=nodes)
    return pairs, 1 / np.sqrt(degree[pairs[:, 0]] * degree[pairs[:, 1]])
