"""The leaves of a pytree by name: what they are, and other values in their place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from metajax.outer.meshes import put_as
from metajax.types import Array, PyTree


def leaf_type(leaf: Any) -> str:
    """An array as "dtype[shape]"."""
    return f"{jnp.result_type(leaf)}{list(jnp.shape(leaf))}"


def leaf_types(tree: PyTree) -> dict[str, str]:
    """{name of each leaf: "dtype[shape]"}, in the order of the leaves."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): leaf_type(leaf) for path, leaf in leaves}


def check_same_leaves(saved: Mapping[str, str], wanted: Mapping[str, str], what: str) -> None:
    """Compares the leaves in a file with those that are wanted, {name: "dtype[shape]"} each.

    Raises:
        ValueError: `what`, and the leaves that are missing, foreign or of another type.
    """
    problems = []
    if missing := [name for name in wanted if name not in saved]:
        problems.append(f"missing in the file are {missing}")
    if foreign := [name for name in saved if name not in wanted]:
        problems.append(f"foreign in the file are {foreign}")
    for name in wanted:
        if name in saved and saved[name] != wanted[name]:
            problems.append(f"{name} is {saved[name]} in the file and not {wanted[name]}")
    if problems:
        raise ValueError(f"{what}: {'; '.join(problems)}.")


def placed_like(tree: PyTree, leaves: Sequence[Any]) -> PyTree:
    """The leaves as a tree like another, each on the devices of the leaf in its place."""

    def put(value: Any, leaf: Array) -> Array:
        is_placed = isinstance(leaf, jax.Array) and leaf.committed
        return put_as(value, leaf.sharding) if is_placed else jnp.asarray(value)

    old, structure = jax.tree.flatten(tree)
    placed = [put(value, leaf) for value, leaf in zip(leaves, old, strict=True)]
    return jax.tree.unflatten(structure, placed)
