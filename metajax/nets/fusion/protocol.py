"""What a fusion takes and answers, and the pieces that fusions share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx

from metajax.types import Array

Features: TypeAlias = Mapping[str, Array]


class Fused(NamedTuple):
    """What a fusion answers.

    Attributes:
        features: [n, width].
        weights: {name: [n]}, how much each modality counted, 0 where it is absent and 1 in sum where any is there;
            empty for a fusion that computes none.
    """

    features: Array
    weights: dict[str, Array]


def stack(
    features: Features, present: Features, names: Sequence[str] | Mapping | None = None
) -> tuple:
    """Checked and in alphabetical order: (names, features [M, n, ...] that are zero where absent, bool[M, n, ...])."""
    known = sorted(features if names is None else names)
    if sorted(features) != known or sorted(present) != known:
        raise ValueError(
            f"This fusion knows the modalities {known}, got {sorted(features)} and {sorted(present)}."
        )
    shapes = {name: jnp.shape(features[name]) for name in known}
    if len(set(shapes.values())) != 1:
        raise ValueError(
            f"Features of all modalities must have one shape, [n, width], got {shapes}."
        )
    here = jnp.stack([present[name] for name in known])
    f = jnp.stack([features[name] for name in known])
    return known, jnp.where(here[..., None], f, 0), here


def _softmax(logits: Array, here: Array) -> Array:
    """Softmax over the first axis, of what is present; zeros where nothing is."""
    low = jnp.finfo(logits.dtype).min
    return jnp.where(here, jax.nn.softmax(jnp.where(here, logits, low), axis=0), 0)


def _per_name(names: Sequence[str], make: Callable[[], object]) -> nnx.Dict:
    if len(set(names)) != len(names) or not names:
        raise ValueError(f"Modalities need names that differ, got {list(names)}.")
    return nnx.Dict({name: make() for name in sorted(names)})


def _kernel(rngs: nnx.Rngs, fan: int, *shape: int) -> nnx.Param:
    """Weights of variance 1 / fan."""
    return nnx.Param(jax.random.normal(rngs.params(), shape) / fan**0.5)
