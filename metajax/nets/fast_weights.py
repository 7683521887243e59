"""A layer whose weights learn from the sequence that it reads."""

from __future__ import annotations

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from metajax._checked import checked
from metajax._checks import shapes
from metajax._tree import keep_rows
from metajax.nets.fast_weight_rules import FastRule, Tokens, descent
from metajax.types import Array, PyTree, Size


class FastState(NamedTuple):
    """What a layer of fast weights carries from one part of a sequence to the next.

    Attributes:
        memory: state of the rule, leaves [n, heads, ...].
        place: how many tokens of the current chunk were read.
        skipped: int32[n, heads], chunks whose update was not finite and was left out.
    """

    memory: PyTree
    place: Array
    skipped: Array


@checked
class FastWeights(nnx.Module):
    """A causal layer for sequences: a small memory learns keys and values, and queries read it.

    Each head has a memory f, which starts from learned weights and learns f(k) ≈ v from the tokens
    by the rule; the output is f(q) after the token. Keys, values and queries are linear in the
    tokens, keys and queries of length 1. The start, the projections and the step sizes are ordinary
    weights: training the net trains how the layer learns.

    Step sizes, decay and momentum are numbers, or learned: sigmoid(a·x + b) of each token x.

    A chunk whose update is not finite is left out: its outputs are 0, and `FastState.skipped`
    counts it. Its derivatives are not finite, so that an outer loop leaves the task out.

    Args:
        width: width of the tokens.
        heads: number of memories; divides `width`.
        rule: how a memory learns: `descent`, `orthogonal_descent`, `delta_rule` or `ridge_rule`.
        chunk: tokens between two states of the rule, which are computed side by side.
        hidden: width of the hidden layer of a memory; None is a linear memory.
        rate: step size, 0 or more; None learns it, from the rule's `first_rate` on.
        decay: share of the weights that each token forgets, from 0 to 1; None learns it, from 0.02
            on.
        momentum: share of the momentum that each token keeps, from 0 to 1, of a rule that has it;
            None learns it, from 0.5 on.
        dual: whether a chunk is computed at once, by the dual form, or token by token.
        remat: whether the backward pass computes each chunk again, so that memory grows by one
            state for each chunk.
        rngs: for the weights.

    Raises:
        ValueError: heads that do not divide the width, a hidden layer for a rule of linear
            memories, momentum for a rule without, numbers out of their range; when called, a state
            of another layer.

    Source: Sun et al. 2024, arXiv 2407.04620, and those of the rules.
    """

    def __init__(
        self,
        width: Size,
        heads: Size,
        rule: FastRule | None = None,
        *,
        chunk: Size = 16,
        hidden: Size | None = None,
        rate: float | None = None,
        decay: float | None = 0.0,
        momentum: float | None = None,
        dual: bool = True,
        remat: bool = False,
        rngs: nnx.Rngs,
    ):
        rule = descent() if rule is None else rule
        if width % heads:
            raise ValueError(f"{heads=} must divide {width=}.")
        if hidden is not None and rule.linear:
            raise ValueError(f"This rule takes a linear memory only; leave out {hidden=}.")
        if momentum is not None and not rule.momentum:
            raise ValueError(
                f"{momentum=} needs a rule with momentum, such as descent(momentum=True)."
            )
        if rate is not None and not rate >= 0:
            raise ValueError(f"{rate=} must be 0 or more.")
        for name, share in (("decay", decay), ("momentum", momentum)):
            if share is not None and not 0 <= share <= 1:
                raise ValueError(f"{name}={share} must be from 0 to 1.")
        size = width // heads
        sizes = (size, size) if hidden is None else (size, hidden, size)
        matrices = []
        for inputs, outputs in itertools.pairwise(sizes):
            draw = jax.random.normal(rngs.params(), (heads, outputs, inputs))
            matrices.append(draw / np.sqrt(inputs))
        matrices[-1] = jnp.zeros_like(matrices[-1])  # nothing is stored before the first token
        self.start = nnx.List([nnx.Param(matrix) for matrix in matrices])
        linear = lambda: nnx.Linear(width, width, use_bias=False, rngs=rngs)
        self.query, self.key, self.value, self.output = linear(), linear(), linear(), linear()
        gate = lambda start: Gate(width, heads, start, rngs=rngs)
        self.rate = gate(rule.first_rate) if rate is None else rate
        self.decay = gate(0.02) if decay is None else decay
        self.momentum = gate(0.5) if rule.momentum and momentum is None else momentum
        self.rule, self.heads, self.chunk = rule, heads, chunk
        self.dual, self.remat = dual, remat

    def __call__(self, x: Array, valid: Array | None = None) -> Array:
        """The output at every token.

        Args:
            x: [n, t, width].
            valid: bool[n, t], which tokens are learned from; None means all. The others give zero.

        Returns:
            [n, t, width].
        """
        return self.read_on(x, self.initial_state(len(x)), valid)[0]

    def initial_state(self, n: Size) -> FastState:
        """The state before the first token, of n sequences."""
        memory = jax.vmap(self.rule.start)(tuple(matrix[...] for matrix in self.start))
        stacked = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (n, *leaf.shape)), memory)
        return FastState(stacked, jnp.zeros((), jnp.int32), jnp.zeros((n, self.heads), jnp.int32))

    def read_on(
        self, x: Array, state: FastState, valid: Array | None = None
    ) -> tuple[Array, FastState]:
        """The output at every token of the next part of sequences, and the state after it.

        Parts of any length one after the other give what the whole sequence gives at once.

        Args:
            x: [n, t, width].
            state: `initial_state(n)`, or what the call for the part before returned.
            valid: bool[n, t]; None means all.

        Returns:
            ([n, t, width], state).
        """
        n, length, width = x.shape
        expected = jax.eval_shape(lambda: self.initial_state(n))
        if shapes(state) != shapes(expected):
            raise ValueError(
                f"The state is of another layer or of another number of sequences: {shapes(state)} "
                f"instead of {shapes(expected)}."
            )
        valid = jnp.ones((n, length), bool) if valid is None else valid
        tokens = self._tokens(keep_rows(valid, x), valid)
        # Tokens stand in chunks at their place, behind those of the current chunk that were read.
        chunks = -(-(length + self.chunk - 1) // self.chunk)
        divide = functools.partial(_divide, place=state.place, chunks=chunks, chunk=self.chunk)
        divided = jax.tree.map(divide, tokens)
        is_read = divided.valid
        stays = lambda share: None if share is None else jnp.where(is_read, share, 1)
        divided = divided._replace(keep=stays(divided.keep), momentum=stays(divided.momentum))
        is_whole = (jnp.arange(chunks) + 1) * self.chunk <= state.place + length
        step = self._read_chunk
        if self.remat:
            step = jax.checkpoint(step, prevent_cse=False)
        carry = state.memory, state.skipped
        (memory, skipped), outputs = jax.lax.scan(step, carry, (divided, is_whole))
        # [chunks, n, heads, chunk, d] -> [n, chunks * chunk, width]
        outputs = outputs.transpose(1, 0, 3, 2, 4).reshape(n, chunks * self.chunk, width)
        outputs = jax.lax.dynamic_slice_in_dim(outputs, state.place, length, axis=1)
        after = FastState(memory, (state.place + length) % self.chunk, skipped)
        return keep_rows(valid, self.output(outputs)), after

    def _tokens(self, x: Array, valid: Array) -> Tokens:
        """What the heads read of every token, leaves [n, t, heads, ...]."""
        of_heads = (*x.shape[:2], self.heads)
        split = lambda part: part.reshape(*of_heads, -1)
        gate = lambda one: one(x) if isinstance(one, Gate) else jnp.full(of_heads, one, x.dtype)
        is_read = jnp.broadcast_to(valid[..., None], of_heads)
        never_forgets = not isinstance(self.decay, Gate) and self.decay == 0
        return Tokens(
            query=_unit(split(self.query(x))),
            key=_unit(split(self.key(x))),
            value=split(self.value(x)),
            rate=jnp.where(is_read, gate(self.rate), 0),
            valid=is_read,
            keep=None if never_forgets else 1 - gate(self.decay),
            momentum=gate(self.momentum) if self.rule.momentum else None,
        )

    def _read_chunk(
        self, carry: tuple[PyTree, Array], part: tuple[Tokens, Array]
    ) -> tuple[tuple[PyTree, Array], Array]:
        """One chunk of all sequences and heads."""
        tokens, is_whole = part
        learn = self.rule.at_once if self.dual else self.rule.by_token

        def of_head(memory: PyTree, tokens: Tokens) -> tuple[PyTree, Array, Array]:
            outputs, learned = learn(memory, tokens)
            finished = self.rule.finish(learned)
            choose = functools.partial(jax.tree.map, jnp.where)
            after = choose(jax.tree.map(lambda _: is_whole, learned), finished, learned)
            leaves = (outputs, after)
            finite = jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(leaves)]).all()
            after = jax.tree.map(lambda new, old: jnp.where(finite, new, old), after, memory)
            return after, jnp.where(finite, outputs, 0), ~finite

        memory, skipped = carry
        memory, outputs, failed = jax.vmap(jax.vmap(of_head))(memory, tokens)
        return (memory, skipped + failed), outputs


class Gate(nnx.Module):
    """A number from 0 to 1 for each token and head: sigmoid(a·x + b), where a starts at 0."""

    def __init__(self, width: int, heads: int, start: float, *, rngs: nnx.Rngs):
        self.linear = nnx.Linear(
            width,
            heads,
            kernel_init=nnx.initializers.zeros,
            bias_init=nnx.initializers.constant(np.log(start / (1 - start))),
            rngs=rngs,
        )

    def __call__(self, x: Array) -> Array:
        """[n, t, width] -> [n, t, heads]."""
        return jax.nn.sigmoid(self.linear(x))


def _unit(x: Array) -> Array:
    """Vectors of length 1, or 0 where they are 0."""
    return x / jnp.sqrt((x**2).sum(axis=-1, keepdims=True) + 1e-6)


def _divide(part: Array, *, place: Array, chunks: int, chunk: int) -> Array:
    """[n, t, heads, ...] -> [chunks, n, heads, chunk, ...], from a place in the first chunk on."""
    n, _, heads, *rest = part.shape
    empty = jnp.zeros((n, chunks * chunk, heads, *rest), part.dtype)
    whole = jax.lax.dynamic_update_slice_in_dim(empty, part, place, axis=1)
    divided = whole.reshape(n, chunks, chunk, heads, *rest)
    return jnp.moveaxis(jnp.moveaxis(divided, 3, 2), 1, 0)
