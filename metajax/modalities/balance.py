"""Modalities that learn at different speeds, kept in balance: optax transformations of their gradients.

A fused model often stops training the weaker encoders once the strongest modality explains the labels.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from metajax.types import Array, PyTree


class Modulation(NamedTuple):
    """State of `ogm_ge`.

    Attributes:
        step: int32, updates made.
        scores: {name: float32}, the last scores that it was told; ones at the start, which change nothing.
    """

    step: Array
    scores: dict[str, Array]


class Losses(NamedTuple):
    """What `gradient_blending` goes by, of each modality's own classifier.

    Attributes:
        train: {name: mean training loss}.
        validation: {name: mean loss on held-out examples}.
    """

    train: Mapping[str, Array]
    validation: Mapping[str, Array]


class Blending(NamedTuple):
    """State of `gradient_blending`.

    Attributes:
        weights: {name: float32}, summing to 1.
        losses: of the last measurement; NaN before the first.
    """

    weights: dict[str, Array]
    losses: Losses


def ogm_ge(
    modality_of: Callable[[str], str | None], key: Array | None = None, *, alpha: float
) -> optax.GradientTransformationExtraArgs:
    """Slows down the modalities that are ahead: OGM-GE, for any number of modalities.

    gₘ ← kₘ gₘ + std(gₘ) ε, with kₘ = 1 - tanh(α ρₘ) if ρₘ > 1, else 1, and ρₘ = sₘ / mean of the others' s, which for
    two modalities is the published ratio. The score sₘ is the summed confidence Σᵢ softmax(logitsₘ)ᵢ[yᵢ] of m alone;
    where examples lack modalities, take the mean over those that have it. The noise ε ~ N(0, 1), for generalisation,
    is on every leaf that belongs to a modality, and scaled by the deviation over that leaf's entries.

    Give the scores to `update(updates, state, params, scores={name: s})`. Without them it uses the last ones, in its
    state, and `outer_loop`, which passes none, can be told between steps from the metrics of the step before:
    `state._replace(optimizer=optax.tree.set(state.optimizer, scores={name: s}))`.

    Put it before a plain or momentum step, as published; Adam, put after it, divides a lasting factor out again.

    Args:
        modality_of: path of a leaf, such as "slow/image/kernel" -> the modality that it belongs to, or None for a leaf
            that is to stay as it is.
        key: of the noise, of which every step has its own; None leaves the noise out, which is OGM.
        alpha: α > 0, how strongly; published with values from 0.1 to 0.8, by data set.

    Raises:
        ValueError: α not positive; from `init`, fewer than two modalities; from `update`, scores of other modalities.

    Source: Peng et al. 2022, arXiv 2203.15332.
    """
    if not alpha > 0:
        raise ValueError(f"{alpha=} must be positive.")

    def init(params: PyTree) -> Modulation:
        names = {name for name in map(modality_of, _paths(params)) if name is not None}
        if len(names) < 2:
            raise ValueError(
                f"There is nothing to balance: modality_of finds {sorted(names)} in {_paths(params)}."
            )
        return Modulation(
            jnp.zeros((), jnp.int32), {name: jnp.ones((), jnp.float32) for name in sorted(names)}
        )

    def update(
        updates: PyTree,
        state: Modulation,
        params: PyTree = None,
        *,
        scores: Mapping[str, Any] | None = None,
        **extra: Any,
    ) -> tuple[PyTree, Modulation]:
        told = state.scores if scores is None else _named(scores, state.scores)
        factors = _modulation(told, alpha)
        leaves, tree = jax.tree_util.tree_flatten_with_path(updates)
        changed = []
        for index, (path, leaf) in enumerate(leaves):
            name = modality_of(_path(path))
            if name is None:
                changed.append(leaf)
                continue
            scaled = factors[name].astype(leaf.dtype) * leaf
            if key is not None:
                leaf_key = jax.random.fold_in(jax.random.fold_in(key, state.step), index)
                scaled += leaf.std() * jax.random.normal(leaf_key, leaf.shape, leaf.dtype)
            changed.append(scaled)
        return jax.tree.unflatten(tree, changed), Modulation(state.step + 1, told)

    return optax.GradientTransformationExtraArgs(init, update)


def gradient_blending(names: Collection[str]) -> optax.GradientTransformationExtraArgs:
    """Weighs the losses of several modalities by how well what each learns generalises: g = Σₘ wₘ gₘ.

    Each modality, and the fused model as one more ("joint"), has a classifier and a loss of its own. The updates are
    {name: gradient of that loss}, each a tree like params; what comes out is one such tree, for the optimizer behind:
    `optax.chain(gradient_blending(names), optax.sgd(0.1))`. Every so many steps, give
    `update(updates, state, params, losses=Losses(train, validation))`: `blending_weights` of that measurement and the
    one before are in force from that step on. Until there are two, the weights are equal.

    `outer_loop` has one gradient, so there the weights belong into the loss: hand the task loss `blending_weights` as
    `Task.context`, and let it be Σₘ wₘ Lₘ.

    Raises:
        ValueError: from `update`, gradients or losses of other modalities than `names`.

    Source: Wang, Tran and Feiszli 2020, arXiv 1905.12681.
    """

    def init(params: PyTree) -> Blending:
        unknown = {name: jnp.full((), jnp.nan, jnp.float32) for name in sorted(names)}
        equal = {name: jnp.full((), 1 / len(names), jnp.float32) for name in sorted(names)}
        return Blending(equal, Losses(unknown, unknown))

    def update(
        updates: PyTree,
        state: Blending,
        params: PyTree = None,
        *,
        losses: Losses | None = None,
        **extra: Any,
    ) -> tuple[PyTree, Blending]:
        if set(updates) != set(state.weights):
            raise ValueError(
                f"Updates must be {{name: gradient}} for {sorted(state.weights)}, got {sorted(updates)}."
            )
        if losses is not None:
            now = Losses(
                _named(losses.train, state.weights), _named(losses.validation, state.weights)
            )
            state = Blending(blending_weights(state.losses, now), now)
        scaled = [
            jax.tree.map(lambda g, w=w: w.astype(g.dtype) * g, updates[m])
            for m, w in state.weights.items()
        ]
        return jax.tree.map(lambda *leaves: sum(leaves), *scaled), state

    return optax.GradientTransformationExtraArgs(init, update)


def blending_weights(before: Losses, after: Losses) -> dict[str, Array]:
    """What each loss deserves, from two measurements: wₘ ∝ Gₘ / Oₘ², summing to 1.

    G = V - V' is by how much the validation loss fell and O = (V' - T') - (V - T) by how much its distance from the
    training loss grew. A modality whose validation loss did not fall, or is not known, gets nothing; if that is so for
    all, the weights are equal.

    >>> before = Losses({"a": 2.0, "b": 2.0}, {"a": 2.0, "b": 2.0})
    >>> after = Losses({"a": 0.5, "b": 0.0}, {"a": 1.0, "b": 1.0})
    >>> {name: round(weight.item(), 2) for name, weight in blending_weights(before, after).items()}
    {'a': 0.8, 'b': 0.2}
    """
    names = sorted(before.train)
    train, validation, new_train, new_validation = (
        jnp.stack([jnp.asarray(losses[name], float) for name in names])
        for losses in (before.train, before.validation, after.train, after.validation)
    )
    gain_M = validation - new_validation
    overfitting_M = (new_validation - new_train) - (validation - train)
    worth_M = jnp.where(gain_M > 0, gain_M / jnp.maximum(overfitting_M**2, 1e-12), 0)
    total = worth_M.sum()
    share_M = jnp.where(total > 0, worth_M / jnp.where(total > 0, total, 1), 1 / len(names))
    return {name: share_M[m].astype(jnp.float32) for m, name in enumerate(names)}


def _modulation(scores: Mapping[str, Array], alpha: float) -> dict[str, Array]:
    """The factor kₘ of each modality; 1 where a score is not a number."""
    total, others = sum(scores.values()), len(scores) - 1
    ratios = {name: s * others / jnp.maximum(total - s, 1e-30) for name, s in scores.items()}
    return {
        name: jnp.where(ratio > 1, 1 - jnp.tanh(alpha * ratio), 1) for name, ratio in ratios.items()
    }


def _named(values: Mapping[str, Any], names: Collection[str]) -> dict[str, Array]:
    """One float32 for each name."""
    if set(values) != set(names):
        raise ValueError(
            f"Need a value for each of the modalities {sorted(names)}, got {sorted(values)}."
        )
    return {name: jnp.asarray(values[name], jnp.float32) for name in sorted(names)}


def _paths(tree: PyTree) -> list[str]:
    return [_path(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def _path(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
