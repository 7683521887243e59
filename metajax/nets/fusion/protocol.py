"""The protocol of a fusion, and the helpers that fusions share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx

from metajax._checked import checked
from metajax._tree import as_floating, keep_rows
from metajax.types import Array

Features: TypeAlias = Mapping[str, Array]


class Fused(NamedTuple):
    """What a fusion returns.

    Attributes:
        features: [n, width].
        weights: {name: [n]}, the weight of each modality: 0 where it is absent, and 1 in sum where
            any modality is present. Empty for a fusion without weights.
    """

    features: Array
    weights: dict[str, Array]


class Fusion(Protocol):
    """A function or module from the features of several modalities to one vector per example.

    Values of an absent modality must reach neither the output nor a gradient. A fusion may set two
    attributes, which are False unless they are there. `reads_tokens = True`: it reads tokens
    [n, t, width] with a mask bool[n, t]. `decides = True`: it has heads of its own, and
    `Multimodal` adds none.
    """

    def __call__(self, features: Features, present: Features) -> Fused:
        """Fuses.

        Args:
            features: {name: [n, width]}.
            present: {name: bool[n]}, whether the example has this modality.
        """


@checked
def stack(
    features: Features, present: Features, names: Iterable[str] | None = None
) -> tuple[list[str], Array, Array]:
    """Checks the features and stacks them along a first axis of modalities.

    Args:
        features: {name: [n, ...]}.
        present: {name: bool[n]}.
        names: the modalities that the fusion was made for, in the order in which to stack them.
            None takes those of the features, in alphabetical order.

    Returns:
        (names, floats [M, n, ...] with zeros where absent, present bool[M, n]).

    Raises:
        ValueError: other modalities than `names`, or features of different shapes.
    """
    names = sorted(features) if names is None else list(names)
    check_same_modalities(features, present, names)
    shapes = {name: jnp.shape(features[name]) for name in names}
    if len(set(shapes.values())) != 1:
        raise ValueError(
            f"Features of all modalities must have one shape, [n, width], got {shapes}."
        )
    present_MxN = jnp.stack([present[name] for name in names])
    features_MxNxD = jnp.stack([as_floating(features[name]) for name in names])
    return names, keep_rows(present_MxN, features_MxNxD), present_MxN


def check_same_modalities(features: Features, present: Features, names: Iterable[str]) -> None:
    """Checks that the modalities are those that the fusion was made for.

    Raises:
        ValueError: the modalities that the fusion was made for, and those that it got.
    """
    known = sorted(names)
    if sorted(features) != known or sorted(present) != known:
        raise ValueError(
            f"This fusion knows the modalities {known}, got {sorted(features)} and "
            f"{sorted(present)}."
        )


def softmax_present(logits: Array, present: Array) -> Array:
    """Softmax over the first axis, over what is present; zeros where nothing is.

    Args:
        logits: [M, n, ...].
        present: bool[M, n, ...], of the same shape or one that broadcasts to it.

    Returns:
        [M, n, ...].
    """
    lowest = jnp.finfo(logits.dtype).min
    weights = jax.nn.softmax(jnp.where(present, logits, lowest), axis=0)
    return jnp.where(present, weights, 0)


def per_name(names: Sequence[str], make: Callable[[], object]) -> nnx.Dict:
    """One module or parameter for each modality, made in alphabetical order.

    Raises:
        ValueError: no names, or equal ones.
    """
    if len(set(names)) != len(names) or not names:
        raise ValueError(f"Modalities need names that differ, got {list(names)}.")
    return nnx.Dict({name: make() for name in sorted(names)})


def random_kernel(rngs: nnx.Rngs, fan: int, *shape: int) -> nnx.Param:
    """A parameter of this shape with normal entries of variance 1 / fan."""
    return nnx.Param(jax.random.normal(rngs.params(), shape) / fan**0.5)
