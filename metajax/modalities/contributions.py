"""What each modality contributes: all subsets of modalities, and their Shapley values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np

from metajax._checked import checked
from metajax.modalities.missing import presence, with_presence
from metajax.types import Array, Modalities, PyTree


@checked
def subsets(names: Iterable[str]) -> Array:
    """All subsets of M names, bool[2^M, M], with a column for each name.

    Row i holds the binary digits of i, lowest first.

    >>> subsets(["audio", "image"]).tolist()
    [[False, False], [True, False], [False, True], [True, True]]
    """
    return jnp.asarray(_subset_masks(len(list(names))))


@checked
def all_subsets(score: Callable[[Modalities], PyTree], x: Modalities) -> PyTree:
    """Scores x with each of the 2^M subsets of its modalities, in one `vmap` over masks.

    Masks are data, so nothing is compiled twice. To run encoders once and not 2^M times, encode
    first and score from features: the method "encode" of `nets.Multimodal`, then its method
    "decide". `score` also gets examples without any modality.

    Args:
        score: Modalities -> pytree of arrays, such as the accuracy or the loss of each example.
        x: examples of M modalities. In a subset, a modality is present where both the subset and
            `x.present` have it.

    Returns:
        The pytree of `score` with a leading axis [2^M], in the order of
        `subsets(sorted(x.present))`.
    """
    present_NxM = presence(x)

    def score_subset(mask_M: Array) -> PyTree:
        mask_NxM = jnp.broadcast_to(mask_M, present_NxM.shape)
        return score(with_presence(x, present_NxM & mask_NxM))

    return jax.vmap(score_subset)(subsets(x.present))


@checked
def shapley(values: Array) -> Array:
    """The Shapley value of each modality, exactly, from the values of all subsets.

    φₘ = Σ_{S ∌ m} |S|! (M - |S| - 1)! / M! · (v(S ∪ m) - v(S)). They sum to v(all) - v(none). No
    other division of this sum is linear in v, gives equal modalities the same, and gives nothing to
    a modality that never changes the value.

    Args:
        values: [2^M, ...] in the order of `subsets`, such as accuracies from `all_subsets`.

    Returns:
        [M, ...] in the order of the names.

    Raises:
        ValueError: a number of values that is not a power of two, 2 or more.

    >>> shapley(jnp.array([0.0, 1.0, 2.0, 5.0])).tolist()  # together they gain 2 more than apart
    [2.0, 3.0]

    Source: Shapley 1953, "A value for n-person games".
    """
    number = len(values).bit_length() - 1
    if number < 1 or len(values) != 2**number:
        raise ValueError(
            "Need a value for each of the 2^M subsets of M modalities, M ≥ 1; got "
            f"{len(values)} values."
        )
    has_SxM = _subset_masks(number)
    # |S| for the S that a subset extends by m, or that it is.
    size_SxM = has_SxM.sum(axis=1, keepdims=True) - has_SxM
    factorial = np.array([math.factorial(size) for size in range(number + 1)], float)
    rest_SxM = np.maximum(number - 1 - size_SxM, 0)
    share_SxM = factorial[size_SxM] * factorial[rest_SxM] / factorial[number]
    dtype = jnp.result_type(values, float)
    signed_MxS = jnp.asarray(np.where(has_SxM, share_SxM, -share_SxM).T, dtype)
    return jnp.tensordot(signed_MxS, values.astype(dtype), axes=1, precision="highest")


@checked
def acquisition_gains(values: Array, present: Array) -> Array:
    """What each absent modality of an example would add, from the values of all subsets.

    gₘ = v(S ∪ m) - v(S), where S are the modalities that the example has; 0 where it has m.

    Args:
        values: [2^M] in the order of `subsets`, such as accuracies on validation tasks from
            `all_subsets`.
        present: bool[..., M], the modalities that each example has, in the order of their
            sorted names.

    Returns:
        [..., M]. The modality to acquire next is that with the greatest gain; if no gain is above
        0, nothing is to be acquired.

    Raises:
        ValueError: a number of values other than 2^M.

    >>> values = jnp.array([0.25, 0.5, 0.75, 1.0])  # of none, of audio, of image, of both
    >>> acquisition_gains(values, jnp.array([[False, False], [True, False]])).tolist()
    [[0.25, 0.5], [0.0, 0.5]]
    """
    number = jnp.shape(present)[-1]
    if jnp.shape(values) != (2**number,):
        raise ValueError(
            f"Need a value for each of the 2^{number} subsets of {number} modalities, got "
            f"{jnp.shape(values)}."
        )
    digits = jnp.broadcast_to(2 ** jnp.arange(number), jnp.shape(present))
    has = jnp.where(present, digits, 0)
    place = has.sum(axis=-1, keepdims=True)
    return values[place + digits - has] - values[place]


def _subset_masks(number: int) -> np.ndarray:
    """All subsets of a number of names, bool[2^number, number]."""
    return (np.arange(2**number)[:, None] >> np.arange(number)[None]) % 2 == 1
