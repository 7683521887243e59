"""A layer whose weights learn from the sequence that it reads."""

from __future__ import annotations

import functools
import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from metajax._checked import checked
from metajax._checks import shapes
from metajax._tree import keep_rows, widened
from metajax.nets.fast_weight_descents import descent
from metajax.nets.fast_weight_rules import FastRule, Tokens
from metajax.types import Array, Count, PyTree, Size


class FastState(NamedTuple):
    """What a layer of fast weights carries from one part of a sequence to the next.

    Attributes:
        memory: state of the rule, leaves [n, heads, ...], in float32 or wider.
        was_read: bool[chunk], which positions of the current chunk were read.
        skipped: int32[n, heads], chunks whose update was not finite and was left out.
    """

    memory: PyTree
    was_read: Array
    skipped: Array


@checked
class FastWeights(nnx.Module):
    """A causal layer for sequences: a small memory learns keys and values, and queries read it.

    Each head has a memory f, which starts from learned weights and learns f(k) ≈ v from the tokens
    by the rule; the output is f(q) after the token. Keys, values and queries are linear in the
    tokens; keys and queries are divided by their length. The start, the projections and the step
    sizes are ordinary weights: training the net trains how the layer learns.

    Step sizes, decay and momentum are numbers, or learned: sigmoid(a·x + b) of each token x.

    A chunk whose update is not finite is left out. Its outputs are 0, and the state that `read_on`
    returns counts it; its derivative is not finite, so that an outer loop leaves the task out.

    Args:
        width: width of the tokens.
        heads: number of memories; divides `width`.
        rule: how a memory learns: `descent`, `orthogonal_descent`, `delta_rule` or `ridge_rule`.
        chunk: tokens between two states of the rule, which are computed side by side.
        hidden: width of the hidden layer of a memory; None is a linear memory.
        rate: step size, 0 or more; None learns it, from the rule's `first_rate` on.
        decay: share of the weights that each token forgets, 0 or more and below 1; None learns it,
            from 0.02 on.
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
        if decay is not None and not 0 <= decay < 1:
            raise ValueError(f"{decay=} must be 0 or more and below 1.")
        if momentum is not None and not 0 <= momentum <= 1:
            raise ValueError(f"{momentum=} must be from 0 to 1.")
        if not 0 < rule.first_rate < 1:
            raise ValueError(f"{rule.first_rate=} must be above 0 and below 1.")
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
                They keep their position in the chunks, so pad sequences on the right.

        Returns:
            [n, t, width], in the dtype of the projections.
        """
        chunks = math.ceil(x.shape[1] / self.chunk)
        return self._read(x, self.initial_state(len(x)), valid, chunks)[0]

    def initial_state(self, n: Count) -> FastState:
        """The state before the first token, of n sequences."""
        matrices = tuple(widened(matrix[...]) for matrix in self.start)
        memory = jax.vmap(self.rule.start)(matrices)
        stacked = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (n, *leaf.shape)), memory)
        skipped = jnp.zeros((n, self.heads), jnp.int32)
        return FastState(stacked, jnp.zeros(self.chunk, bool), skipped)

    def read_on(
        self, x: Array, state: FastState, valid: Array | None = None
    ) -> tuple[Array, FastState]:
        """The output at every token of the next part of sequences, and the state after it.

        Parts of any length one after the other give what the whole sequence gives at once, but for
        chunks that are left out.

        Args:
            x: [n, t, width].
            state: `initial_state(n)`, or what the call for the part before returned.
            valid: bool[n, t]; None means all.

        Returns:
            ([n, t, width], state).
        """
        expected = jax.eval_shape(lambda: self.initial_state(len(x)))
        if shapes(state) != shapes(expected):
            raise ValueError(
                f"The state is of another layer or of another number of sequences: {shapes(state)} "
                f"instead of {shapes(expected)}."
            )
        # The first token may be the last of a chunk.
        return self._read(x, state, valid, math.ceil((x.shape[1] + self.chunk - 1) / self.chunk))

    def _read(
        self, x: Array, state: FastState, valid: Array | None, chunks: int
    ) -> tuple[Array, FastState]:
        """`read_on`, where the tokens reach into so many chunks at most."""
        n, length, width = x.shape
        valid = jnp.ones((n, length), bool) if valid is None else valid
        tokens = self._tokens(keep_rows(valid, x), valid)
        # Tokens stand in chunks at their place, behind those of the current chunk that were read.
        place = state.was_read.sum()
        divide = functools.partial(_divide, place=place, chunks=chunks, chunk=self.chunk)
        divided = jax.tree.map(divide, tokens)
        stays = lambda share: None if share is None else jnp.where(divided.valid, share, 1)
        divided = divided._replace(keep=stays(divided.keep), momentum=stays(divided.momentum))
        is_whole = (jnp.arange(chunks) + 1) * self.chunk <= place + length
        step = self._read_chunk
        if self.remat:
            step = jax.checkpoint(step, prevent_cse=False)
        carry = state.memory, state.skipped
        (memory, skipped), outputs = jax.lax.scan(step, carry, (divided, is_whole))
        # [chunks, n, heads, chunk, d] -> [n, chunks * chunk, width]
        outputs = outputs.transpose(1, 0, 3, 2, 4).reshape(n, chunks * self.chunk, width)
        outputs = jax.lax.dynamic_slice_in_dim(outputs, place, length, axis=1)
        was_read = jnp.arange(self.chunk) < (place + length) % self.chunk
        read = self.output(outputs.astype(jnp.result_type(self.output.kernel[...])))
        return keep_rows(valid, read), FastState(memory, was_read, skipped)

    def _tokens(self, x: Array, valid: Array) -> Tokens:
        """What the heads read of every token, leaves [n, t, heads, ...], in float32 or wider."""
        of_heads = (*x.shape[:2], self.heads)
        size = x.shape[2] // self.heads
        split = lambda part: widened(part).reshape(*of_heads, size)
        query, key, value = (split(one(x)) for one in (self.query, self.key, self.value))
        is_read = jnp.broadcast_to(valid[..., None], of_heads)

        def gate(one: Gate | float) -> Array:
            return (
                widened(one(x)) if isinstance(one, Gate) else jnp.full(of_heads, one, value.dtype)
            )

        never_forgets = not isinstance(self.decay, Gate) and self.decay == 0
        return Tokens(
            query=_unit(query),
            key=_unit(key),
            value=value,
            rate=jnp.where(is_read, gate(self.rate), 0),
            valid=is_read,
            keep=None if never_forgets else 1 - gate(self.decay),
            momentum=None if self.momentum is None else gate(self.momentum),
        )

    def _read_chunk(
        self, carry: tuple[PyTree, Array], part: tuple[Tokens, Array]
    ) -> tuple[tuple[PyTree, Array], Array]:
        """One chunk of all sequences and heads."""
        tokens, is_whole = part
        learn = self.rule.at_once if self.dual else self.rule.by_token

        def of_head(memory: PyTree, tokens: Tokens) -> tuple[PyTree, Array, Array]:
            outputs, learned = learn(memory, tokens)
            leaves = jax.tree.leaves((outputs, learned, self.rule.finish(learned)))
            finite = jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all()
            choose = lambda condition, one, other: jax.tree.map(
                functools.partial(jnp.where, condition), one, other
            )
            kept = choose(finite, learned, memory)
            after = choose(is_whole, self.rule.finish(kept), kept)
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
