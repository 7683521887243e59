"""An encoder of the nodes of a graph."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
from flax import nnx
from jax.typing import ArrayLike

from metajax.types import Array


class GCN(nnx.Module):
    """Nodes of a graph, such as classes in a knowledge graph, by what they and their neighbours are.

    H ← relu(Â H W + b) and the head on Â H, with Â = D^-½ (A + I) D^-½ and D the diagonal of the row sums of A + I.

    Args:
        edges: int[e, 2], pairs of nodes; for both directions, counted once however often they are named.
        inputs: features of a node.
        hidden: width of each hidden layer.
        outputs: width of the head.
        nodes: number of nodes.
        rngs: for the weights.

    Raises:
        ValueError: edges that are no pairs of nodes.

    Source: Kipf and Welling 2017, arXiv 1609.02907.
    """

    def __init__(
        self,
        edges: ArrayLike,
        inputs: int,
        hidden: Sequence[int],
        outputs: int,
        *,
        nodes: int,
        rngs: nnx.Rngs,
    ):
        pairs, weight = _normalise(np.asarray(edges), nodes)
        # Constants; of all that is no parameter, statistics are what `functional` never takes for fast.
        self.pairs, self.weight = nnx.BatchStat(pairs), nnx.BatchStat(weight)
        widths = [inputs, *hidden]
        self.layers = nnx.List(
            [nnx.Linear(a, b, rngs=rngs) for a, b in zip(widths, hidden, strict=False)]
        )
        self.head = nnx.Linear(widths[-1], outputs, rngs=rngs)
        self.nodes = nodes

    def embed(self, x: Array) -> Array:
        """[nodes, inputs] -> [nodes, hidden[-1]].

        Raises:
            ValueError: not as many rows as nodes.
        """
        if len(x) != self.nodes:
            raise ValueError(
                f"The graph has {self.nodes} nodes, got features of {len(x)}; give one row a node."
            )
        for layer in self.layers:
            x = jax.nn.relu(layer(self._propagate(x)))
        return self._propagate(x)

    def __call__(self, x: Array) -> Array:
        """[nodes, inputs] -> [nodes, outputs]."""
        return self.head(self.embed(x))

    def _propagate(self, x: Array) -> Array:
        """Â x."""
        source, target = self.pairs[...].T
        return jax.ops.segment_sum(
            self.weight[...].astype(x.dtype)[:, None] * x[source], target, len(x)
        )


def _normalise(edges: np.ndarray, nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """The entries of Â that are not zero: their places int[entries, 2] and their values [entries]."""
    if edges.ndim != 2 or edges.shape[1] != 2 or not np.issubdtype(edges.dtype, np.integer):
        raise ValueError(f"Edges must be int[e, 2], got {edges.dtype}{list(edges.shape)}.")
    dangling = edges[((edges < 0) | (edges >= nodes)).any(axis=1)]
    if len(dangling):
        raise ValueError(
            f"Edges {dangling[:5].tolist()} lead out of the {nodes=}, 0 to {nodes - 1}; drop them."
        )
    loops = np.arange(nodes)[:, None].repeat(2, axis=1)
    pairs = np.unique(np.concatenate([edges, edges[:, ::-1], loops]), axis=0)
    degree = np.bincount(pairs[:, 1], minlength=nodes)
    return pairs, 1 / np.sqrt(degree[pairs[:, 0]] * degree[pairs[:, 1]])
