"""Modalities that are taken away: by name, or at random.

That params have an entry for every modality is checked by `_checks.check_no_modality_missing`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

import jax
import jax.numpy as jnp

from metajax._checked import checked
from metajax._checks import check_names
from metajax.types import Array, Modalities

Rate: TypeAlias = float | Array | Mapping[str, float | Array]
"""One probability for every modality, or {name: probability}; it is 0 for those not named."""


@checked
def presence(x: Modalities) -> Array:
    """Which modalities each example has, bool[n, M], in the order of the sorted names."""
    return jnp.stack([x.present[name] for name in sorted(x.present)], axis=-1)


def with_presence(x: Modalities, present_NxM: Array) -> Modalities:
    """The same values with another presence, bool[n, M] in the order of the sorted names."""
    columns = {name: present_NxM[..., m] for m, name in enumerate(sorted(x.present))}
    return x._replace(present=columns)


@checked
def restrict(x: Modalities, names: Iterable[str]) -> Modalities:
    """Marks all other modalities as absent, and leaves their values and shapes as they are.

    Raises:
        ValueError: a name that is not a modality of x.

    >>> here = {"image": jnp.ones(1, bool), "audio": jnp.ones(1, bool)}
    >>> x = Modalities({"image": jnp.ones((1, 2)), "audio": jnp.ones((1, 3))}, here)
    >>> presence(restrict(x, ["image"])).tolist()  # audio, image
    [[False, True]]
    """
    kept = set(names)
    check_names(kept, x.present)
    present = {
        name: here if name in kept else jnp.zeros_like(here) for name, here in x.present.items()
    }
    return x._replace(present=present)


@checked
def remove_modalities(x: Modalities, names: Iterable[str]) -> Modalities:
    """Only the other modalities: unlike `restrict`, it removes values and presence.

    Raises:
        ValueError: a name that is not a modality of x.

    >>> here = {"image": jnp.ones(1, bool), "alphabet": jnp.ones(1, bool)}
    >>> x = Modalities({"image": jnp.ones((1, 2)), "alphabet": jnp.ones(1, int)}, here)
    >>> list(remove_modalities(x, ["alphabet"]).value)
    ['image']
    """
    removed = set(names)
    check_names(removed, x.value)
    value = {name: part for name, part in x.value.items() if name not in removed}
    present = {name: here for name, here in x.present.items() if name not in removed}
    return Modalities(value, present)


@checked
def drop_modalities(x: Modalities, rate: Rate, key: Array, *, keep_one: bool = True) -> Modalities:
    """Modality dropout: marks each modality of each example as absent with a probability.

    Use it in training, so that a model can do without any of the modalities.

    Args:
        x: n examples.
        rate: the probability r in [0, 1] of each modality.
        key: for the draws. Those of one example do not depend on which modalities others have.
        keep_one: whether an example that would lose all its modalities keeps one of them, drawn
            uniformly.

    Raises:
        ValueError: a name in `rate` that is not a modality of x, or a rate that is not a
            probability.

    Source: Neverova et al. 2016 (ModDrop), arXiv 1501.00102.
    """
    return with_presence(x, _draw(presence(x), _rates(x, rate), key, keep_one))


@checked
def learned_dropout(
    x: Modalities, rate: Rate, key: Array, *, keep_one: bool = True
) -> tuple[Modalities, Array]:
    """Modality dropout with a rate that can be learned.

    It returns a weight for each example. Multiply the example's loss by it. The weight is
    p(mask; r) / stop_gradient(p(mask; r)): its value is 1, and its derivative makes the gradient
    with respect to the rate r unbiased. For any loss ℓ of one example,

        E[∇ᵣ(weight · ℓ(mask))] = Σ_S ∇ᵣp(S; r) ℓ(S) = ∇ᵣ E[ℓ(mask)].

    To lower the variance, first subtract a baseline from ℓ that does not depend on the example's
    mask. If the weights are the `Batch.weight` of a loss that divides by Σ weight, this happens by
    itself, with the mean loss of the n examples as the baseline; the gradient is then (n - 1)/n of
    the exact one. With few modalities, `all_subsets` gives the exact expectation.

    Learn the rate through a loss on other examples, which dropout can lower. The training loss is
    lowest without dropout.

    Args:
        x: n examples.
        rate: as in `drop_modalities`, which draws the same masks from the same key. It should be
            strictly between 0 and 1, such as a sigmoid: at 0 and 1, masks that are never drawn are
            missing from the derivative.
        key: as in `drop_modalities`.
        keep_one: as in `drop_modalities`.

    Returns:
        (x with fewer modalities present, weight [n]).

    Raises:
        ValueError: a name in `rate` that is not a modality of x, or a rate that is not a
            probability.
    """
    present_NxM, rate_M = presence(x), _rates(x, rate)
    kept_NxM = _draw(present_NxM, rate_M, key, keep_one)
    probability_N = _mask_probabilities(present_NxM, kept_NxM, rate_M, keep_one)
    weight_N = probability_N / jax.lax.stop_gradient(probability_N)
    return with_presence(x, kept_NxM), weight_N


def _mask_probabilities(
    present_NxM: Array, kept_NxM: Array, rate_M: Array, keep_one: bool
) -> Array:
    """The probability of the mask that was drawn for each example, [n]."""
    rate_NxM = jnp.broadcast_to(rate_M[None], present_NxM.shape)
    each_NxM = jnp.where(kept_NxM, 1 - rate_NxM, rate_NxM)
    probability_N = jnp.where(present_NxM, each_NxM, 1).prod(axis=1)
    if not keep_one:
        return probability_N
    # A single modality is left either by its own draw, or because all were dropped and it was kept.
    all_dropped_N = jnp.where(present_NxM, rate_NxM, 1).prod(axis=1)
    rescued_N = all_dropped_N / jnp.maximum(present_NxM.sum(axis=1), 1)
    return probability_N + jnp.where(kept_NxM.sum(axis=1) == 1, rescued_N, 0)


def _draw(present_NxM: Array, rate_M: Array, key: Array, keep_one: bool) -> Array:
    """Which modalities stay present, bool[n, M]."""
    drop_key, keep_key = jax.random.split(key)
    uniform_NxM = jax.random.uniform(drop_key, present_NxM.shape, rate_M.dtype)
    kept_NxM = present_NxM & (uniform_NxM >= rate_M[None])
    if not keep_one:
        return kept_NxM
    lot_NxM = jnp.where(present_NxM, jax.random.uniform(keep_key, present_NxM.shape), -1)
    modality_1xM = jnp.arange(present_NxM.shape[1])[None]
    rescued_NxM = present_NxM & (modality_1xM == lot_NxM.argmax(axis=1)[:, None])
    return jnp.where(kept_NxM.any(axis=1, keepdims=True), kept_NxM, rescued_NxM)


def _rates(x: Modalities, rate: Rate) -> Array:
    """The rate of each modality [M], in the order of the sorted names."""
    if not isinstance(rate, Mapping):
        rate = dict.fromkeys(x.present, rate)
    check_names(rate, x.present)
    for name, value in rate.items():
        is_known = not isinstance(value, jax.core.Tracer)
        if jnp.ndim(value) or (is_known and not 0 <= value <= 1):
            raise ValueError(
                f"The rate of {name!r} must be one probability, from 0 to 1, or {{name: rate}}; "
                f"got {value}."
            )
    return jnp.stack([jnp.asarray(rate.get(name, 0.0), float) for name in sorted(x.present)])
