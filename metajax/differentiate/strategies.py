"""What a strategy of `inner_loop(differentiate=...)` is, and the descent that they all run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax

from metajax._checked import checked
from metajax.types import Array, PyTree

InnerLoss: TypeAlias = Callable[[PyTree, PyTree, Array], Array]
"""(fast, inputs, key) -> scalar. `inputs` is everything else that the loss depends on."""

Gradient: TypeAlias = Callable[[PyTree, PyTree, Array], PyTree]
"""(fast, inputs, key) -> gradient of an inner loss with respect to the fast weights."""


class Inner(NamedTuple):
    """The inner problem that a strategy solves.

    Attributes:
        loss: the loss of one step. It draws a minibatch where `inner_loop(sample=...)` says so.
        whole_loss: the loss of the whole support set.
        optimizer: the optax transformation that makes a step of a gradient.
        fast: fast weights where the steps start.
        inputs: everything that the loss depends on besides the fast weights. Integers and keys
            among it have no derivative.
        path: whether the fast weights after every step are wanted, instead of the last ones.
        needs_value: whether the optimizer needs the loss itself, as `optax.polyak_sgd` does.
        steps: number of steps.
        step_keys: (key) -> keys [steps], one for each step.
    """

    loss: InnerLoss
    whole_loss: InnerLoss
    optimizer: optax.GradientTransformation
    fast: PyTree
    inputs: PyTree
    path: bool
    needs_value: bool
    steps: int
    step_keys: Callable[[Array], Array]


class Strategy(NamedTuple):
    """How the inner problem is solved, so that its solution has the derivatives that are wanted.

    A strategy gets the loss and not a finished step, so that it can give the inner gradient a
    derivative of its own. docs/strategies.md writes one.

    Attributes:
        solve: (inner, keys [steps]) -> fast weights, those of every step if `inner.path`.
        through_optimizer: whether derivatives pass through the optimizer's use of the gradient.
        through_steps: whether derivatives depend on the steps at all. A learned rule and `path`
            need that.
    """

    solve: Callable[[Inner, Array], PyTree]
    through_optimizer: bool = True
    through_steps: bool = True


class Descent(NamedTuple):
    """Where a descent ended.

    Attributes:
        fast: fast weights after the last step.
        optimizer: state of the optimizer after the last step.
        path: fast weights after every step, leaves [steps, ...]; None if `inner.path` is False.
    """

    fast: PyTree
    optimizer: PyTree
    path: PyTree


@checked
def descend(
    gradient: Gradient,
    inner: Inner,
    keys: Array,
    *,
    start: tuple[PyTree, PyTree] | None = None,
    remat: int = 0,
    policy: Any = None,
) -> Descent:
    """Takes one step of the inner optimizer for each key.

    θₖ₊₁ = θₖ + optimizer(gradient(θₖ, inputs, keyₖ)).

    Args:
        gradient: gradient of the inner loss, such as `jax.grad(inner.loss)`, or one that has
            derivatives of its own.
        inner: the inner problem.
        keys: [steps].
        start: (fast weights, state of the optimizer); None starts at `inner.fast`.
        remat: how much the backward pass computes again, as in `unroll`.
        policy: what `jax.checkpoint` saves inside a step, where `remat` is 1 or more.
    """
    optimizer = optax.with_extra_args_support(inner.optimizer)

    def step(carry: tuple[PyTree, PyTree], key: Array) -> tuple[tuple[PyTree, PyTree], PyTree]:
        fast, state = carry
        slope = gradient(fast, inner.inputs, key)
        extra = {}
        if inner.needs_value:
            extra = {"value": inner.loss(fast, inner.inputs, key), "grad": slope}
        updates, state = optimizer.update(slope, state, fast, **extra)
        fast = optax.apply_updates(fast, updates)
        return (fast, state), (fast if inner.path else None)

    if start is None:
        start = inner.fast, inner.optimizer.init(inner.fast)
    (fast, state), path = scan_with_remat(step, start, keys, remat, policy)
    return Descent(fast, state, path)


@checked
def result(inner: Inner, descent: Descent) -> PyTree:
    """What `Strategy.solve` returns: the last fast weights, or those of every step."""
    return descent.path if inner.path else descent.fast


@checked
def solve_late(gradient: Gradient, inner: Inner, keys: Array, last: int) -> PyTree:
    """Solves the inner problem with derivatives through the last steps only.

    The derivative of the fast weights before these steps with respect to their start is the
    identity.

    Raises:
        ValueError: more `last` steps than there are keys.
    """
    early = len(keys) - last
    if early < 0:
        raise ValueError(
            f"Cannot differentiate the last {last} of {len(keys)} steps; take fewer, or more steps."
        )
    fast, inputs = jax.lax.stop_gradient((inner.fast, inner.inputs))
    frozen = inner._replace(fast=fast, inputs=inputs)
    first = jax.lax.stop_gradient(descend(jax.grad(inner.loss), frozen, keys[:early]))

    fast = jax.tree.map(_with_derivative_of, first.fast, inner.fast)
    second = descend(gradient, inner, keys[early:], start=(fast, first.optimizer))
    if not inner.path:
        return second.fast
    stacked = jax.vmap(_with_derivative_of, (0, None))
    before = jax.tree.map(stacked, first.path, inner.fast)
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), before, second.path)


def scan_with_remat(
    step: Callable[[PyTree, Array], tuple[PyTree, PyTree]],
    carry: PyTree,
    keys: Array,
    remat: int,
    policy: Any = None,
) -> tuple[PyTree, PyTree]:
    """`jax.lax.scan` over keys with `remat` levels of `jax.checkpoint`; see `unroll`."""
    number = len(keys)
    if remat == 0 or number == 0:
        return jax.lax.scan(step, carry, keys)
    if remat == 1:
        checkpointed = jax.checkpoint(step, policy=policy, prevent_cse=False)
        return jax.lax.scan(checkpointed, carry, keys)
    size = max(1, round(number ** (1 - 1 / remat)))
    whole = number // size * size

    def segment(carry: PyTree, keys: Array) -> tuple[PyTree, PyTree]:
        return scan_with_remat(step, carry, keys, remat - 1, policy)

    # Old-style keys have an axis of their own, which stays last.
    segments = keys[:whole].reshape(-1, size, *keys.shape[1:])
    carry, first = jax.lax.scan(jax.checkpoint(segment, prevent_cse=False), carry, segments)
    first = jax.tree.map(lambda leaf: leaf.reshape(whole, *leaf.shape[2:]), first)
    carry, rest = segment(carry, keys[whole:])
    return carry, jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, rest)


def _with_derivative_of(value: Array, other: Array) -> Array:
    """An array that has the value of the first argument and the derivative of the second."""
    return value + (other - jax.lax.stop_gradient(other))
