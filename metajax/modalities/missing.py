"""Modalities that are not there: left out on purpose, at random, and in every combination."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from metajax.types import Array, Modalities, PyTree

Rate: TypeAlias = float | Array | Mapping[str, float | Array]
"""A probability for every modality, or {name: probability}, 0 for those not named."""


def presence(x: Modalities) -> Array:
    """Which modalities each example has: bool[n, M], in the order of the sorted names."""
    return jnp.stack([x.present[name] for name in sorted(x.present)], axis=-1)


def restrict(x: Modalities, names: Iterable[str]) -> Modalities:
    """Only these modalities are left present, where they were; the values stay as they are.

    Raises:
        ValueError: a name that is not a modality of x.

    >>> here = jnp.ones(1, bool)
    >>> x = Modalities({"image": jnp.ones((1, 2)), "audio": jnp.ones((1, 3))}, {"image": here, "audio": here})
    >>> presence(restrict(x, ["image"])).tolist()  # audio, image
    [[False, True]]
    """
    kept = set(names)
    _check_names(kept, x)
    return x._replace(
        present={
            name: here if name in kept else jnp.zeros_like(here) for name, here in x.present.items()
        }
    )


def drop_modalities(x: Modalities, rate: Rate, key: Array, *, keep_one: bool = True) -> Modalities:
    """Modality dropout: takes each modality of each example away with a probability, so that a model can do without.

    It only ever takes away.

    Args:
        x: n examples.
        rate: probability r in [0, 1] of each modality.
        key: an example's draws do not depend on what the others have.
        keep_one: where all of an example's modalities would go, one of them stays, each as likely as the other.

    Raises:
        ValueError: a name in `rate` that is not a modality of x, or a rate that is no probability.

    Source: Neverova et al. 2016 (ModDrop), arXiv 1501.00102.
    """
    return _with_presence(x, _draw(presence(x), _rates(x, rate), key, keep_one))


def learned_dropout(
    x: Modalities, rate: Rate, key: Array, *, keep_one: bool = True
) -> tuple[Modalities, Array]:
    """Modality dropout whose rate can be learned: examples, and a weight [n] that carries the derivative by the rate.

    The weight is p(mask; r) / stop_gradient(p(mask; r)): its value is 1, and for any loss ℓ of one example,
    E[∇ᵣ(weight · ℓ(mask))] = Σ_S ∇ᵣp(S; r) ℓ(S) = ∇ᵣ E[ℓ(mask)]. So multiply the loss of each example by it; what does
    not depend on the example's mask may be subtracted first, which lessens the variance and leaves the mean alone. As
    `Batch.weight` of a loss that divides by Σ weight, it does so by itself with the mean loss of the n examples, and
    the derivative is (n - 1)/n of the exact one. With few modalities, `all_subsets` gives the expectation itself.

    Learn the rate through a loss that dropout can lower, one on other examples: the training loss is lowest without.

    Args:
        x: n examples.
        rate: as in `drop_modalities`, which draws the same mask with the same key; strictly between 0 and 1 (the
            derivative at the ends lacks the masks that are never drawn), such as a sigmoid.
        key: as in `drop_modalities`.
        keep_one: as in `drop_modalities`.

    Raises:
        ValueError: a name in `rate` that is not a modality of x, or a rate that is no probability.
    """
    present_NxM, rate_M = presence(x), _rates(x, rate)
    kept_NxM = _draw(present_NxM, rate_M, key, keep_one)
    drop_NxM = jnp.broadcast_to(rate_M[None], present_NxM.shape)
    probability_N = jnp.where(present_NxM, jnp.where(kept_NxM, 1 - drop_NxM, drop_NxM), 1).prod(
        axis=1
    )
    if keep_one:  # The one that is left was drawn, or all were dropped and it was picked.
        rescued_N = jnp.where(present_NxM, drop_NxM, 1).prod(axis=1) / jnp.maximum(
            present_NxM.sum(axis=1), 1
        )
        probability_N += jnp.where(kept_NxM.sum(axis=1) == 1, rescued_N, 0)
    return _with_presence(x, kept_NxM), probability_N / jax.lax.stop_gradient(probability_N)


def subsets(names: Iterable[str]) -> Array:
    """All subsets of M names: bool[2^M, M], a column for each name; row i holds the binary digits of i, lowest first.

    >>> subsets(["audio", "image"]).tolist()
    [[False, False], [True, False], [False, True], [True, True]]
    """
    return jnp.asarray(_subsets(len(list(names))))


def all_subsets(judge: Callable[[Modalities], PyTree], x: Modalities) -> PyTree:
    """Judges what is left of x with each of the 2^M subsets of its modalities, in one `vmap` over masks.

    Masks are data, so that nothing is compiled twice. `nets.Multimodal` reads presence before it encodes: encode first
    and judge from features (its method "decide"), so that encoders run once and not 2^M times. The judge sees examples
    without any modality, too.

    Args:
        judge: Modalities -> pytree of arrays, such as the accuracy or the loss of each example.
        x: M modalities, each present where both the subset and `x.present` say so.

    Returns:
        The judge's pytree with a leading axis [2^M], in the order of `subsets(sorted(x.present))`.
    """

    def masked(mask_M: Array) -> PyTree:
        return judge(
            x._replace(
                present={
                    name: x.present[name] & mask_M[m] for m, name in enumerate(sorted(x.present))
                }
            )
        )

    return jax.vmap(masked)(subsets(x.present))


def shapley(values: Array) -> Array:
    """What each modality contributes: its exact Shapley value, from the values of all subsets.

    φₘ = Σ_{S ∌ m} |S|! (M - |S| - 1)! / M! · (v(S ∪ m) - v(S)). The only division with Σₘ φₘ = v(all) - v(none) that is
    linear in v, gives equals the same and gives nothing to what changes nothing.

    Args:
        values: [2^M, ...] in the order of `subsets`, such as an `all_subsets` of accuracies.

    Returns:
        [M, ...] in the order of the names.

    Raises:
        ValueError: when the number of values is not a power of two, 2 or more.

    Source: Shapley 1953, "A value for n-person games".

    >>> shapley(jnp.array([0.0, 1.0, 2.0, 5.0])).tolist()  # both together are worth 2 more than apart
    [2.0, 3.0]
    """
    number = len(values).bit_length() - 1
    if number < 1 or len(values) != 2**number:
        raise ValueError(
            f"Need a value for each of the 2^M subsets of M modalities, M ≥ 1; got {len(values)} values."
        )
    masks = _subsets(number)
    others = (
        masks.sum(axis=1, keepdims=True) - masks
    )  # |S| for each m, of the S that the subset is, or adds m to
    factorial = np.array([math.factorial(size) for size in range(number + 1)], float)
    share = factorial[others] * factorial[np.maximum(number - 1 - others, 0)] / factorial[number]
    signed_MxS = jnp.asarray(np.where(masks, share, -share).T, jnp.result_type(values, float))
    return jnp.tensordot(signed_MxS, values.astype(signed_MxS.dtype), axes=1, precision="highest")


def _subsets(number: int) -> np.ndarray:
    return (np.arange(2**number)[:, None] >> np.arange(number)[None]) % 2 == 1


def _with_presence(x: Modalities, present_NxM: Array) -> Modalities:
    """x, present where the columns say so, which are in the order of the sorted names."""
    return x._replace(
        present={name: present_NxM[..., m] for m, name in enumerate(sorted(x.present))}
    )


def _draw(present_NxM: Array, rate_M: Array, key: Array, keep_one: bool) -> Array:
    """Which modalities stay, bool[n, M]."""
    drop_key, keep_key = jax.random.split(key)
    kept_NxM = present_NxM & (
        jax.random.uniform(drop_key, present_NxM.shape, rate_M.dtype) >= rate_M[None]
    )
    if not keep_one:
        return kept_NxM
    lot_NxM = jnp.where(present_NxM, jax.random.uniform(keep_key, present_NxM.shape), -1)
    picked_NxM = jnp.arange(present_NxM.shape[1])[None] == lot_NxM.argmax(axis=1)[:, None]
    return jnp.where(kept_NxM.any(axis=1, keepdims=True), kept_NxM, present_NxM & picked_NxM)


def _rates(x: Modalities, rate: Rate) -> Array:
    """The rate of each modality [M], in the order of the sorted names."""
    if not isinstance(rate, Mapping):
        rate = dict.fromkeys(x.present, rate)
    _check_names(rate, x)
    for name, value in rate.items():
        if jnp.ndim(value) or (not isinstance(value, jax.core.Tracer) and not 0 <= value <= 1):
            raise ValueError(
                f"The rate of {name!r} must be one probability, 0 to 1, got {value}; or {{name: rate}}."
            )
    return jnp.stack([jnp.asarray(rate.get(name, 0.0), float) for name in sorted(x.present)])


def _check_names(names: Iterable[str], x: Modalities) -> None:
    unknown = sorted(set(names) - set(x.present))
    if unknown:
        raise ValueError(f"{unknown} are not among the modalities, which are {sorted(x.present)}.")
