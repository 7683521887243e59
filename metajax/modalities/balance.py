"""Gradients of modalities that learn at different speeds, balanced by optax transformations.

A fused model often stops training the weaker encoders once the strongest modality explains the
labels.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from metajax._checked import checked
from metajax.types import Array, PyTree


class Modulation(NamedTuple):
    """State of `ogm_ge`.

    Attributes:
        step: int32, number of updates.
        scores: {name: float32}, the latest scores. They start at 1, with which every kₘ is 1.
    """

    step: Array
    scores: dict[str, Array]


class Losses(NamedTuple):
    """A measurement for `gradient_blending`: the losses of each modality's own classifier.

    Attributes:
        train: {name: mean training loss}.
        validation: {name: mean loss on held-out examples}.
    """

    train: Mapping[str, Array]
    validation: Mapping[str, Array]


class Blending(NamedTuple):
    """State of `gradient_blending`.

    Attributes:
        weights: {name: float32}. They sum to 1.
        losses: the latest measurement, NaN before the first.
    """

    weights: dict[str, Array]
    losses: Losses


@checked
def ogm_ge(
    modality_of: Callable[[str], str | None], key: Array | None = None, *, alpha: float
) -> optax.GradientTransformationExtraArgs:
    """Slows down the modalities that are ahead (OGM-GE), for any number of modalities.

    gₘ ← kₘ gₘ + std(gₘ) ε with kₘ = 1 - tanh(α ρₘ) if ρₘ > 1, else 1. ρₘ is the score sₘ divided by
    the mean score of the other modalities. The score is the summed confidence of modality m alone,
    Σᵢ softmax(logitsₘᵢ)[yᵢ]; where examples lack modalities, take the mean over those that have it.
    The noise ε ~ N(0, 1), for generalisation, is added to every leaf of a modality, scaled by the
    standard deviation of the leaf's entries.

    Give the scores to `update(updates, state, params, scores={name: s})`. Without them, `update`
    uses the latest ones in its state. `outer_loop` passes no scores, so set them between steps,
    from the metrics of the last step: `state._replace(optimizer=optax.tree.set(state.optimizer,
    scores={name: s}))`.

    Chain it before SGD, with or without momentum, as published. Adam would divide a constant factor
    out again.

    Args:
        modality_of: path of a leaf, such as "slow/image/kernel" -> the name of its modality, or
            None for a leaf that does not change.
        key: for the noise, which differs in every step. None adds no noise (OGM).
        alpha: α > 0, the strength. Published values are 0.1 to 0.8, depending on the data set.

    Raises:
        ValueError: α that is not positive; from `init`, fewer than two modalities; from `update`,
            scores of other modalities.

    Source: Peng et al. 2022, arXiv 2203.15332.
    """
    if not alpha > 0:
        raise ValueError(f"{alpha=} must be positive.")

    def init(params: PyTree) -> Modulation:
        paths = [_path(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
        names = {name for name in map(modality_of, paths) if name is not None}
        if len(names) < 2:
            raise ValueError(
                f"There is nothing to balance: modality_of finds {sorted(names)} in {paths}."
            )
        ones = {name: jnp.ones((), jnp.float32) for name in sorted(names)}
        return Modulation(jnp.zeros((), jnp.int32), ones)

    def update(
        updates: PyTree,
        state: Modulation,
        params: PyTree = None,
        *,
        scores: Mapping[str, Any] | None = None,
        **extra: Any,
    ) -> tuple[PyTree, Modulation]:
        latest = state.scores if scores is None else _floats(scores, state.scores)
        factors = _modulation_factors(latest, alpha)
        leaves, structure = jax.tree_util.tree_flatten_with_path(updates)
        changed = []
        for index, (path, leaf) in enumerate(leaves):
            name = modality_of(_path(path))
            if name is not None:
                noise = 0 if key is None else _noise(leaf, key, state.step, index)
                leaf = factors[name].astype(leaf.dtype) * leaf + noise
            changed.append(leaf)
        return jax.tree.unflatten(structure, changed), Modulation(state.step + 1, latest)

    return optax.GradientTransformationExtraArgs(init, update)


@checked
def gradient_blending(names: Collection[str]) -> optax.GradientTransformationExtraArgs:
    """Weighs the losses of several modalities by how well each generalises: g = Σₘ wₘ gₘ.

    Each modality has a classifier and a loss of its own, and so has the fused model, as one more
    ("joint"). The updates are {name: gradient of its loss}, each a tree like params. The result is
    one such tree: `optax.chain(gradient_blending(names), optax.sgd(0.1))`.

    From time to time, measure the losses and give them to `update(updates, state, params,
    losses=Losses(train, validation))`. The weights are `blending_weights` of this measurement and
    the one before. Before the second measurement they are equal.

    In `outer_loop` there is one gradient, so there the weights belong in the loss: give the task
    loss `blending_weights` as `Task.context`, and let it return Σₘ wₘ Lₘ.

    Args:
        names: of the losses.

    Raises:
        ValueError: from `update`, gradients or losses with other names.

    Source: Wang, Tran and Feiszli 2020, arXiv 1905.12681.
    """
    names = sorted(names)

    def init(params: PyTree) -> Blending:
        unknown = {name: jnp.full((), jnp.nan, jnp.float32) for name in names}
        equal = {name: jnp.full((), 1 / len(names), jnp.float32) for name in names}
        return Blending(equal, Losses(unknown, unknown))

    def update(
        updates: PyTree,
        state: Blending,
        params: PyTree = None,
        *,
        losses: Losses | None = None,
        **extra: Any,
    ) -> tuple[PyTree, Blending]:
        if set(updates) != set(names):
            raise ValueError(
                f"Updates must be {{name: gradient}} for {names}, got {sorted(updates)}."
            )
        if losses is not None:
            now = Losses(_floats(losses.train, names), _floats(losses.validation, names))
            state = Blending(blending_weights(state.losses, now), now)

        def blend(*leaves: Array) -> Array:
            pairs = zip(names, leaves, strict=True)
            first, *others = (state.weights[name].astype(leaf.dtype) * leaf for name, leaf in pairs)
            return sum(others, first)

        return jax.tree.map(blend, *[updates[name] for name in names]), state

    return optax.GradientTransformationExtraArgs(init, update)


@checked
def blending_weights(before: Losses, after: Losses) -> dict[str, Array]:
    """The weight of each loss, from two measurements: wₘ ∝ Gₘ / Oₘ², which sum to 1.

    V and T are the validation and the training loss of the first measurement, V' and T' those of
    the second. G = V - V' is how much the validation loss fell. O = (V' - T') - (V - T) is how much
    its distance from the training loss grew: overfitting. A modality whose validation loss did not
    fall, or one of whose losses is unknown (NaN), has the weight 0. If this is true of all, the
    weights are equal.

    >>> before = Losses({"a": 2.0, "b": 2.0}, {"a": 2.0, "b": 2.0})
    >>> after = Losses({"a": 0.5, "b": 0.0}, {"a": 1.0, "b": 1.0})
    >>> weights = blending_weights(before, after)
    >>> round(weights["a"].item(), 2), round(weights["b"].item(), 2)
    (0.8, 0.2)
    """
    names = sorted(before.train)

    def stack(losses: Mapping[str, Array]) -> Array:
        return jnp.stack([jnp.asarray(losses[name], float) for name in names])

    gain_M = stack(before.validation) - stack(after.validation)
    distance_M = stack(before.validation) - stack(before.train)
    new_distance_M = stack(after.validation) - stack(after.train)
    overfitting_M = new_distance_M - distance_M
    is_known = (gain_M > 0) & ~jnp.isnan(overfitting_M)
    value_M = jnp.where(is_known, gain_M / jnp.maximum(overfitting_M**2, 1e-12), 0)
    total = value_M.sum()
    share_M = jnp.where(total > 0, value_M / jnp.where(total > 0, total, 1), 1 / len(names))
    return {name: share_M[m].astype(jnp.float32) for m, name in enumerate(names)}


def _modulation_factors(scores: Mapping[str, Array], alpha: float) -> dict[str, Array]:
    """The factor kₘ of each modality. It is 1 where a score is NaN."""
    total, others = sum(scores.values()), len(scores) - 1
    factors = {}
    for name, score in scores.items():
        ratio = score * others / jnp.maximum(total - score, 1e-30)
        factors[name] = jnp.where(ratio > 1, 1 - jnp.tanh(alpha * ratio), 1)
    return factors


def _noise(leaf: Array, key: Array, step: Array, index: int) -> Array:
    """Gaussian noise with the standard deviation of the leaf, of its own in each step and leaf."""
    leaf_key = jax.random.fold_in(jax.random.fold_in(key, step), index)
    return leaf.std() * jax.random.normal(leaf_key, leaf.shape, leaf.dtype)


def _floats(values: Mapping[str, Any], names: Collection[str]) -> dict[str, Array]:
    """One float32 for each name.

    Raises:
        ValueError: values with other names.
    """
    if set(values) != set(names):
        raise ValueError(
            f"Need a value for each of the modalities {sorted(names)}, got {sorted(values)}."
        )
    return {name: jnp.asarray(values[name], jnp.float32) for name in sorted(names)}


def _path(path: Any) -> str:
    """The path of a leaf as text, such as "slow/image/kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")
