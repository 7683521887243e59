"""Extracts the values that a loss closes over, and its floats, for a `custom_vjp`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from metajax.differentiate.strategies import Inner, InnerLoss
from metajax.types import Array, PyTree


def hoist_constants(inner: Inner, keys: Array) -> Inner:
    """The same inner problem, with the arrays that its losses close over moved to the inputs.

    A `custom_vjp` gives a derivative to its arguments only, and fails on tracers that it closes
    over. `inputs` becomes (inputs, constants of the two losses).
    """
    key = jax.ShapeDtypeStruct(keys.shape[1:], keys.dtype)
    constants: list[list[Any]] = []

    def convert(loss: InnerLoss) -> InnerLoss:
        closed = jax.make_jaxpr(loss)(inner.fast, inner.inputs, key)
        place = len(constants)
        constants.append(closed.consts)

        def converted(fast: PyTree, inputs: tuple[PyTree, list[list[Any]]], key: Array) -> Array:
            own_inputs, constants = inputs
            arguments = jax.tree.leaves((fast, own_inputs, key))
            return jax.core.eval_jaxpr(closed.jaxpr, constants[place], *arguments)[0]

        return converted

    loss = convert(inner.loss)
    whole_loss = loss if inner.whole_loss is inner.loss else convert(inner.whole_loss)
    inputs = (inner.inputs, constants)
    return inner._replace(loss=loss, whole_loss=whole_loss, inputs=inputs)


def split_floats(tree: PyTree) -> tuple[list[Array], Callable[[list[Array]], PyTree]]:
    """The leaves that have a derivative, and a function that puts others in their place."""
    leaves, structure = jax.tree.flatten(tree)
    is_float = [_is_float(leaf) for leaf in leaves]

    def rebuild(floats: list[Array]) -> PyTree:
        new = iter(floats)
        merged = [
            next(new) if moves else leaf for moves, leaf in zip(is_float, leaves, strict=True)
        ]
        return jax.tree.unflatten(structure, merged)

    floats = [leaf for moves, leaf in zip(is_float, leaves, strict=True) if moves]
    return floats, rebuild


def cotangents_of(tree: PyTree, of_floats: list[Array]) -> PyTree:
    """The tree with these cotangents for its floats, and None for everything else."""
    new = iter(of_floats)
    return jax.tree.map(lambda leaf: next(new) if _is_float(leaf) else None, tree)


def _is_float(leaf: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
