"""How derivatives pass through an inner solve: the values of `inner_loop(differentiate=...)` that follow its steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from metajax._types import Array, PyTree

InnerLoss = Callable[[PyTree, PyTree, Array], Array]
"""(fast, inputs, key) -> scalar; `inputs` is all else that it depends on."""


class Inner(NamedTuple):
    """An inner problem, as a strategy gets it.

    Attributes:
        loss: (fast, inputs, key) -> scalar, what one step sees: a minibatch where `inner_loop(sample=...)` draws one.
        whole: the same on the whole support set.
        optimizer: the optax transformation.
        fast: where the steps start.
        inputs: all that the loss depends on besides the fast weights; integers and keys among it have no derivative.
        path: whether the fast weights after every step are wanted, stacked, in the place of the last.
    """

    loss: InnerLoss
    whole: InnerLoss
    optimizer: optax.GradientTransformation
    fast: PyTree
    inputs: PyTree
    path: bool


class Strategy(NamedTuple):
    """How to run the inner solve so that it has the derivatives that are wanted.

    Attributes:
        solve: (inner, keys[steps]) -> fast. It gets the loss and not a finished step, so that a strategy may give the
            gradient derivatives of its own.
        through_optimizer: whether derivatives pass through the optimizer's use of the gradient.
        through_steps: whether derivatives know of the steps at all, which a learned optimizer and `path` need.
    """

    solve: Callable[[Inner, Array], PyTree]
    through_optimizer: bool = True
    through_steps: bool = True


def unroll(*, remat: int = 0) -> Strategy:
    """Exact reverse or forward mode through every step. Memory grows with the number of steps.

    Args:
        remat: how much to compute again in the backward pass. 0 stores everything; 1 stores the fast weights and the
            optimizer's state of every step; r > 1 stores about r K^(1/r) of them for K steps, and runs each step about
            r times more (recursive checkpointing, Chen et al. 2016, arXiv 1604.06174).

    Raises:
        ValueError: remat below 0.

    Source: Finn, Abbeel and Levine 2017, arXiv 1703.03400.
    """
    check_count("remat", remat, 0)
    return Strategy(lambda inner, keys: end(inner, descend(jax.grad(inner.loss), inner, keys, remat=remat)))


def first_order() -> Strategy:
    """Takes the inner gradients for constants: no second derivatives, little memory, biased.

    With plain descent the derivative of the adapted weights with respect to their start is the identity (FOMAML, Finn
    et al. 2017, section 5.2). What the optimizer itself does, such as learned step sizes, is still differentiated.
    """

    def solve(inner: Inner, keys: Array) -> PyTree:
        return end(inner, descend(lambda *inputs: jax.lax.stop_gradient(jax.grad(inner.loss)(*inputs)), inner, keys))

    return Strategy(solve, through_optimizer=False)


def truncated(last: int) -> Strategy:
    """Differentiates the last steps only: memory of `last` steps, biased.

    Before the cut the start passes as the identity, so that it keeps a gradient; the other meta-parameters get the part
    that the last steps contribute. With `last` equal to the number of steps it is `unroll()`.

    Args:
        last: number of steps to differentiate.

    Raises:
        ValueError: last below 1; on adaptation, more than there are steps.

    Source: Shaban et al. 2019, arXiv 1810.10667.
    """
    check_count("last", last, 1)
    return Strategy(lambda inner, keys: descend_late(jax.grad(inner.loss), inner, keys, last))


def descend(
    gradient: Callable[[PyTree, PyTree, Array], PyTree],
    inner: Inner,
    keys: Array,
    *,
    carry: Any = None,
    remat: int = 0,
    policy: Any = None,
) -> tuple[Any, PyTree]:
    """((fast, optimizer state) after all steps, fast after each of them or None), from the start or from `carry`."""

    def step(carry: tuple[PyTree, PyTree], key: Array) -> tuple[tuple[PyTree, PyTree], PyTree]:
        fast, state = carry
        updates, state = inner.optimizer.update(gradient(fast, inner.inputs, key), state, fast)
        fast = optax.apply_updates(fast, updates)
        return (fast, state), (fast if inner.path else None)

    carry = (inner.fast, inner.optimizer.init(inner.fast)) if carry is None else carry
    return _scan(step, carry, keys, remat, policy)


def end(inner: Inner, descended: tuple[Any, PyTree]) -> PyTree:
    """The last fast weights, or all of them where the path is wanted."""
    (fast, _), path = descended
    return path if inner.path else fast


def descend_late(gradient: Callable[[PyTree, PyTree, Array], PyTree], inner: Inner, keys: Array, last: int) -> PyTree:
    """Descends with derivatives through the last steps only; before them the start passes as the identity."""
    early = len(keys) - last
    if early < 0:
        raise ValueError(f"Cannot differentiate the last {last} of {len(keys)} steps; take fewer, or more steps.")
    fast, inputs = jax.lax.stop_gradient((inner.fast, inner.inputs))
    held = inner._replace(fast=fast, inputs=inputs)
    (fast, state), first = jax.lax.stop_gradient(descend(jax.grad(inner.loss), held, keys[:early]))

    def follow_start(leaf: Array, start: Array) -> Array:
        return leaf + (start - jax.lax.stop_gradient(start))  # in value `leaf`, in derivative `start`

    carry = (jax.tree.map(follow_start, fast, inner.fast), state)
    descended, second = descend(gradient, inner, keys[early:], carry=carry)
    if inner.path:
        first = jax.tree.map(lambda leaf, start: jax.vmap(follow_start, (0, None))(leaf, start), first, inner.fast)
    return end(inner, (descended, jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, second)))


def check_count(name: str, value: object, least: int) -> None:
    """Fails unless the value is a whole number of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be a whole number, {least} or more, got {value!r}.")


def _scan(step: Any, carry: PyTree, keys: Array, remat: int, policy: Any) -> tuple[PyTree, PyTree]:
    """`lax.scan` over the keys with `remat` levels of checkpointing."""
    number = len(keys)
    if remat == 0 or number == 0:
        return jax.lax.scan(step, carry, keys)
    if remat == 1:
        return jax.lax.scan(jax.checkpoint(step, policy=policy, prevent_cse=False), carry, keys)
    size = max(1, round(number ** (1 - 1 / remat)))
    whole = number // size * size
    segment = jax.checkpoint(lambda carry, keys: _scan(step, carry, keys, remat - 1, policy), prevent_cse=False)
    carry, first = jax.lax.scan(segment, carry, keys[:whole].reshape(-1, size))
    first = jax.tree.map(lambda leaf: leaf.reshape(whole, *leaf.shape[2:]), first)
    carry, rest = _scan(step, carry, keys[whole:], remat - 1, policy)
    return carry, jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, rest)
