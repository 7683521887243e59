"""A training in segments of some steps, each of which runs and is differentiated by itself."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from metajax.differentiate.strategies import Inner, descend
from metajax.training.leaves import leaf_type
from metajax.training.processes import digest_of
from metajax.types import Adaptation, Array, Batch, Params, PyTree

State: TypeAlias = tuple[PyTree, PyTree]
"""(fast weights, state of the optimizer)."""


class SegmentedTraining:
    """A training in segments of some steps, each compiled once.

    Attributes:
        steps: number of steps.
        fuse: steps of a segment. The last one may have fewer.
        segments: number of segments.
    """

    def __init__(
        self,
        adaptation: Adaptation,
        params: Params,
        support: Batch | Callable[[int], Batch],
        key: Array,
        fuse: int,
    ):
        assert adaptation.inner is not None
        self._inner: Callable[..., Inner] = adaptation.inner
        self._params = params
        self._support = support
        self.fuse = fuse
        problem = self._inner(params, self.batch(0))
        self.steps = problem.steps
        self.segments = math.ceil(self.steps / fuse)
        self._keys = problem.step_keys(key)
        self._run = jax.jit(self._take_steps)
        self._pull = jax.jit(self._differentiate)

    def batch(self, step: int) -> Batch:
        """The support set, or what is streamed for a step."""
        return self._support if isinstance(self._support, Batch) else self._support(step)

    def digest(self) -> str:
        """A digest of the support set, or of the first and the last batch of a stream."""
        return digest_of((self.batch(0), self.batch(max(0, self.steps - 1))))

    def program(self) -> str:
        """A digest of what a segment computes, the optimizer included, and the number of steps."""
        if not self.steps:
            return "0 steps"
        lowered = self._run.lower(self._params, self.start(), *self._data(0))
        return f"{self.steps} steps of {program_digest(lowered)}"

    def start(self) -> State:
        """The state before the first step."""
        return jax.jit(self._start)(self._params)

    def run(self, segment: int, state: State) -> State:
        """The state after a segment."""
        return self._run(self._params, state, *self._data(segment))

    def pull(self, segment: int, state: State, backward: PyTree) -> PyTree:
        """(derivatives by the state before a segment, and by the params) from those after it."""
        return self._pull(self._params, state, backward, *self._data(segment))

    def to_start(self, floats: list[Array], total: Params) -> Params:
        """The derivatives by the params, of which the first state is made."""
        start = lambda params: floats_of(self._start(params))
        (more,) = jax.jit(lambda params: jax.vjp(start, params)[1](floats))(self._params)
        return jax.tree.map(jnp.add, total, more)

    def _data(self, segment: int) -> tuple[Array, Any]:
        """The keys of a segment and its batches, stacked, or the one batch of all steps."""
        steps = range(self.steps)[segment * self.fuse : (segment + 1) * self.fuse]
        keys = self._keys[steps.start : steps.stop]
        if isinstance(self._support, Batch):
            return keys, self._support
        batches = [self._support(step) for step in steps]
        kinds = {str(jax.tree.map(leaf_type, batch)) for batch in batches}
        if len(kinds) > 1:
            raise ValueError(
                f"Batches of steps {steps.start} to {steps.stop - 1} differ: {sorted(kinds)}. Give "
                "all the same shapes and dtypes; rows of weight 0 are padding."
            )
        return keys, jax.tree.map(lambda *leaves: np.stack(leaves), *batches)

    def _start(self, params: Params) -> State:
        inner = self._inner(params, self.batch(0))
        return inner.fast, inner.optimizer.init(inner.fast)

    def _take_steps(self, params: Params, state: State, keys: Array, data: Any) -> State:
        streamed = not isinstance(self._support, Batch)

        def step(state: State, drawn: tuple[Array, Any]) -> tuple[State, None]:
            key, batch = drawn
            inner = self._inner(params, batch if streamed else data)._replace(path=False)
            descent = descend(jax.grad(inner.loss), inner, key[None], start=state)
            return (descent.fast, descent.optimizer), None

        return jax.lax.scan(step, state, (keys, data if streamed else None))[0]

    def _differentiate(
        self, params: Params, state: State, backward: PyTree, keys: Array, data: Any
    ) -> PyTree:
        floats, total = backward

        def forward(params: Params, moved: list[Array]) -> list[Array]:
            return floats_of(self._take_steps(params, with_floats(state, moved), keys, data))

        _, pull = jax.vjp(forward, params, floats_of(state))
        slopes, before = pull(floats)
        return before, jax.tree.map(jnp.add, total, slopes)


def floats_of(tree: PyTree) -> list[Array]:
    """The leaves that have derivatives."""
    return [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]


def with_floats(tree: PyTree, floats: list[Array]) -> PyTree:
    """The tree with other values of the leaves that have derivatives."""
    others = iter(floats)
    is_float = lambda leaf: jnp.issubdtype(leaf.dtype, jnp.inexact)
    return jax.tree.map(lambda leaf: next(others) if is_float(leaf) else leaf, tree)


def program_digest(lowered: Any) -> str:
    """A digest of a program, without the addresses of functions."""
    text = re.sub("0x[0-9a-f]+", "", lowered.as_text())
    return hashlib.sha256(text.encode()).hexdigest()
