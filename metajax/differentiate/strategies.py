"""What a strategy of `inner_loop(differentiate=...)` is, and the descent that all of them run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from metajax.types import Array, PyTree

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


def descend_late(
    gradient: Callable[[PyTree, PyTree, Array], PyTree], inner: Inner, keys: Array, last: int
) -> PyTree:
    """Descends with derivatives through the last steps only; before them the start passes as the identity."""
    early = len(keys) - last
    if early < 0:
        raise ValueError(
            f"Cannot differentiate the last {last} of {len(keys)} steps; take fewer, or more steps."
        )
    fast, inputs = jax.lax.stop_gradient((inner.fast, inner.inputs))
    held = inner._replace(fast=fast, inputs=inputs)
    (fast, state), first = jax.lax.stop_gradient(descend(jax.grad(inner.loss), held, keys[:early]))

    def follow_start(leaf: Array, start: Array) -> Array:
        return leaf + (
            start - jax.lax.stop_gradient(start)
        )  # in value `leaf`, in derivative `start`

    carry = (jax.tree.map(follow_start, fast, inner.fast), state)
    descended, second = descend(gradient, inner, keys[early:], carry=carry)
    if inner.path:
        first = jax.tree.map(
            lambda leaf, start: jax.vmap(follow_start, (0, None))(leaf, start), first, inner.fast
        )
    return end(
        inner, (descended, jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, second))
    )


def _scan(step: Any, carry: PyTree, keys: Array, remat: int, policy: Any) -> tuple[PyTree, PyTree]:
    """`lax.scan` over the keys with `remat` levels of checkpointing."""
    number = len(keys)
    if remat == 0 or number == 0:
        return jax.lax.scan(step, carry, keys)
    if remat == 1:
        return jax.lax.scan(jax.checkpoint(step, policy=policy, prevent_cse=False), carry, keys)
    size = max(1, round(number ** (1 - 1 / remat)))
    whole = number // size * size
    segment = jax.checkpoint(
        lambda carry, keys: _scan(step, carry, keys, remat - 1, policy), prevent_cse=False
    )
    carry, first = jax.lax.scan(segment, carry, keys[:whole].reshape(-1, size))
    first = jax.tree.map(lambda leaf: leaf.reshape(whole, *leaf.shape[2:]), first)
    carry, rest = _scan(step, carry, keys[whole:], remat - 1, policy)
    return carry, jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, rest)


def close(inner: Inner, keys: Array, *, whole: bool = False) -> Inner:
    """The same problem with all that `loss` (and `whole`) closes over among the inputs, for a `custom_vjp` to see."""
    key = jax.ShapeDtypeStruct(keys.shape[1:], keys.dtype)
    hoisted = []

    def convert(loss: InnerLoss, number: int) -> InnerLoss:
        closed = jax.make_jaxpr(loss)(inner.fast, inner.inputs, key)
        hoisted.append(closed.consts)

        def converted(fast: PyTree, inputs: tuple[PyTree, list[list[Any]]], key: Array) -> Array:
            own, hoisted = inputs
            return jax.core.eval_jaxpr(
                closed.jaxpr, hoisted[number], *jax.tree.leaves((fast, own, key))
            )[0]

        return converted

    loss = convert(inner.loss, 0)
    of_all = convert(inner.whole, 1) if whole and inner.whole is not inner.loss else loss
    return inner._replace(loss=loss, whole=of_all, inputs=(inner.inputs, hoisted))


def _floats(tree: PyTree) -> tuple[list[Array], Callable[[list[Array]], PyTree]]:
    """The leaves that have a derivative, and how to put others in their place."""
    leaves, structure = jax.tree.flatten(tree)
    moves = [_is_float(leaf) for leaf in leaves]

    def rebuild(moving: list[Array]) -> PyTree:
        new = iter(moving)
        return jax.tree.unflatten(
            structure, [next(new) if m else leaf for m, leaf in zip(moves, leaves, strict=True)]
        )

    return [leaf for m, leaf in zip(moves, leaves, strict=True) if m], rebuild


def _floats_back(tree: PyTree, slopes: list[Array]) -> PyTree:
    """The tree with slopes for its floats and None for all else."""
    new = iter(slopes)
    return jax.tree.map(lambda leaf: next(new) if _is_float(leaf) else None, tree)


def _is_float(leaf: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
