"""Features of an example in the light of the whole support set (matching networks)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from metajax._checked import checked
from metajax._tree import keep_rows
from metajax.types import Array, Count, Size


@checked
class FullContext(nnx.Module):
    """Full-context embeddings: an LSTM in both directions over examples, and one that attends.

    An example becomes g(xᵢ) = x⃗ᵢ + x⃖ᵢ + f(xᵢ), with the states of two LSTMs that read the features
    f in the order of the support set and in the opposite one. So the order matters. A query becomes
    h_K, from h₀ = f(x): rₖ = Σᵢ softmaxᵢ(hₖ·g(xᵢ)) g(xᵢ), and hₖ₊₁ = LSTM([f(x), rₖ], hₖ) + f(x).

    Args:
        width: of the features.
        steps: K.
        rngs: for the weights.

    Source: Vinyals et al. 2016, arXiv 1606.04080, sections 2.1.2 and A.1.
    """

    def __init__(self, width: Size, *, steps: Count = 5, rngs: nnx.Rngs):
        self.forward = nnx.Linear(2 * width, 4 * width, rngs=rngs)
        self.backward = nnx.Linear(2 * width, 4 * width, rngs=rngs)
        self.reader = nnx.Linear(3 * width, 4 * width, rngs=rngs)
        self.steps = steps

    def support(self, features: Array, valid: Array) -> Array:
        """Examples in the light of the others: [n, width], valid bool[n] -> [n, width]."""
        features = keep_rows(valid, features)
        there = _states(self.forward, features, valid)
        back = _states(self.backward, features[::-1], valid[::-1])[::-1]
        return features + there + back

    def query(self, features: Array, support: Array, valid: Array) -> Array:
        """Queries in the light of the support set.

        Args:
            features: f [q, width].
            support: what the method `support` returned, [n, width].
            valid: bool[n].

        Returns:
            [q, width].
        """
        support = keep_rows(valid, support)
        state, cell = features, jnp.zeros_like(features)
        for _ in range(self.steps):
            scores = jnp.where(valid[None], state @ support.T, jnp.finfo(features.dtype).min)
            read = jax.nn.softmax(scores) @ support
            both = jnp.concatenate([features, read], axis=1)
            state, cell = _step(self.reader, both, state, cell)
            state += features
        return state


def _step(gates: nnx.Linear, x: Array, state: Array, cell: Array) -> tuple[Array, Array]:
    """One step of an LSTM over rows: (state, cell) [n, width]."""
    read = gates(jnp.concatenate([x, state], axis=1))
    enter, forget, candidate, leave = jnp.split(read, 4, axis=1)
    cell = jax.nn.sigmoid(forget) * cell + jax.nn.sigmoid(enter) * jnp.tanh(candidate)
    return jax.nn.sigmoid(leave) * jnp.tanh(cell), cell


def _states(gates: nnx.Linear, features: Array, valid: Array) -> Array:
    """The state after each row, [n, width]; a row that is not valid changes nothing."""
    width = features.shape[1]
    state = cell = jnp.zeros((1, width), features.dtype)
    states = []
    for number in range(len(features)):
        after = _step(gates, features[number : number + 1], state, cell)
        state, cell = (
            jnp.where(valid[number], new, old)
            for new, old in zip(after, (state, cell), strict=True)
        )
        states.append(state)
    return jnp.concatenate(states) if states else features
