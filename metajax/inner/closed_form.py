"""Adaptations that write a linear head in closed form from the features of the support set."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from metajax._tree import reference_rows, row_weights
from metajax.types import Adaptation, Apply, Array, Batch, Params, PyTree

ABSENT = -1e9
"""Head bias of a class without support: finite, and no softmax gives it any weight."""


def prototypes(embed: Apply, ways: int, *, head: str = "head") -> Adaptation:
    """Writes the head of nearest class means: logits = 2 f(x)·c - |c|², which is -|f(x) - c|² up to a constant.

    cₖ = Σᵢ wᵢ [yᵢ = k] f(xᵢ) / Σᵢ wᵢ [yᵢ = k]. That the distance is a linear head is what lets it start an inner loop:
    `chain(prototypes(...), inner_loop(...))` is Proto-MAML.

    Args:
        embed: (params, x, key, reference=...) -> features [examples, d].
        ways: number of classes. It may differ from one call to the next: train 20-way, evaluate 5-way.
        head: the entry of `params.fast` to write, {"kernel": [d, ways], "bias": [ways]}. The other entries stay.

    A class without support gets bias -1e9. Sources: Snell, Swersky and Zemel 2017, arXiv 1703.05175; Triantafillou et
    al. 2020, arXiv 1903.03096, section 3.1.

    >>> support = Batch(x=jnp.array([[0.0, 0.0], [2.0, 0.0], [5.0, 5.0]]), y=jnp.array([0, 0, 1]))
    >>> adaptation = prototypes(lambda params, x, key, reference: x, ways=2)
    >>> adaptation.adapt(Params(fast={}, slow={}), support, jax.random.key(0)).fast["head"]["kernel"].T.tolist()
    [[2.0, 0.0], [10.0, 10.0]]
    """
    _check_ways(ways)

    def adapt(params: Params, support: Batch, key: Array) -> Params:
        features_NxD = _features(embed, params, support, key)
        classes_NxW = _weighted_classes(support, ways).astype(features_NxD.dtype)
        count_W = classes_NxW.sum(axis=0)
        mean_WxD = classes_NxW.T @ features_NxD / jnp.where(count_W > 0, count_W, 1)[:, None]
        bias_W = jnp.where(count_W > 0, -(mean_WxD**2).sum(axis=1), ABSENT)
        return _write(params, head, 2 * mean_WxD.T, bias_W)

    return Adaptation(lambda params, key: params._replace(rule=()), adapt)


def linear_head(embed: Apply, *, head: str = "head") -> Apply:
    """The network that puts a written head on features: (params, x) -> f(x) @ kernel + bias, [examples, ways].

    For features without a head of their own: raw pixels, or a net of another library. A module of `metajax.nets` has
    one already.
    """

    def apply(
        params: Params, x: PyTree, key: Array | None = None, *, reference: Array | None = None
    ) -> Array:
        written = params.fast[head]
        return (
            embed(params, x, key, reference=reference) @ written["kernel"] + written["bias"][None]
        )

    return apply


def ridge(embed: Apply, ways: int | None = None, *, head: str = "head") -> Adaptation:
    """Writes the head of ridge regression, W = (XᵀDX + λI)⁻¹ XᵀDY with D the weights, and logits = a X W + b.

    λ, a and b are learned and stand in `params.rule`. The system is solved in whichever of the number of examples and
    of features is smaller: (XᵀDX + λI)⁻¹ XᵀD = Xᵀ(DXXᵀ + λI)⁻¹ D.

    Args:
        embed: (params, x, key, reference=...) -> features X [examples, d].
        ways: number of classes, whose one-hot vectors are the targets; None regresses `support.y` [examples, k] itself.
        head: the entry of `params.fast` to write, {"kernel": [d, ways], "bias": [ways]}. The other entries stay.

    A class without support gets bias -1e9. Source: R2-D2, Bertinetto et al. 2019, arXiv 1805.08136.
    """
    if ways is not None:
        _check_ways(ways)

    def init(params: Params, key: Array) -> Params:
        return params._replace(
            rule={"log_lambda": jnp.zeros(()), "scale": jnp.ones(()), "offset": jnp.zeros(())}
        )

    def adapt(params: Params, support: Batch, key: Array) -> Params:
        if not isinstance(params.rule, dict) or "log_lambda" not in params.rule:
            raise ValueError(
                f"params.rule is {params.rule!r}; call params = adaptation.init(params, key) first."
            )
        features_NxD = _features(embed, params, support, key)
        if ways is not None:
            weighted_NxK = _weighted_classes(support, ways)
            absent_K = weighted_NxK.sum(axis=0) == 0
        elif jnp.ndim(support.y) == 2:
            weighted_NxK = row_weights(support)[:, None] * support.y
            absent_K = jnp.zeros(support.y.shape[1], bool)
        else:
            raise ValueError(
                f"To regress, support.y must be [examples, k], got shape {jnp.shape(support.y)}."
            )
        # Half precision is not enough for a linear system, and LAPACK has no such solver.
        dtype = jnp.promote_types(features_NxD.dtype, jnp.float32)
        rule, wide_NxD = jax.tree.map(lambda leaf: leaf.astype(dtype), (params.rule, features_NxD))
        kernel_DxK = _ridge(
            wide_NxD, row_weights(support), weighted_NxK.astype(dtype), jnp.exp(rule["log_lambda"])
        )
        bias_K = jnp.where(absent_K, ABSENT, rule["offset"])
        kernel_DxK, bias_K = jax.tree.map(
            lambda leaf: leaf.astype(features_NxD.dtype), (rule["scale"] * kernel_DxK, bias_K)
        )
        return _write(params, head, kernel_DxK, bias_K)

    return Adaptation(init, adapt)


def _ridge(features_NxD: Array, weight_N: Array, weighted_NxK: Array, regulariser: Array) -> Array:
    """Kernel [d, k] of weighted ridge regression, by the smaller of two equal systems."""
    examples, width = features_NxD.shape
    scaled_NxD = weight_N[:, None].astype(features_NxD.dtype) * features_NxD
    if examples <= width:
        system_NxN = scaled_NxD @ features_NxD.T + regulariser * jnp.eye(
            examples, dtype=features_NxD.dtype
        )
        return features_NxD.T @ jax.scipy.linalg.solve(system_NxN, weighted_NxK)
    system_DxD = features_NxD.T @ scaled_NxD + regulariser * jnp.eye(
        width, dtype=features_NxD.dtype
    )
    return jax.scipy.linalg.solve(system_DxD, features_NxD.T @ weighted_NxK, assume_a="pos")


def _features(embed: Apply, params: Params, support: Batch, key: Array) -> Array:
    """Features of the support set, [examples, d]."""
    features = embed(params, support.x, key, reference=reference_rows(support))
    if jnp.ndim(features) != 2:
        raise ValueError(
            f"embed must return [examples, d], got shape {jnp.shape(features)}; flatten the rest."
        )
    return features


def _weighted_classes(support: Batch, ways: int) -> Array:
    """One-hot labels times the weight of their row, [examples, ways]."""
    if not jnp.issubdtype(jnp.result_type(support.y), jnp.integer) or jnp.ndim(support.y) != 1:
        raise ValueError(
            f"Labels must be int[examples], got {jnp.result_type(support.y)}{list(jnp.shape(support.y))}."
        )
    return row_weights(support)[:, None] * jax.nn.one_hot(support.y, ways, dtype=jnp.float32)


def _write(params: Params, head: str, kernel: Array, bias: Array) -> Params:
    """Params with the head replaced."""
    if not isinstance(params.fast, dict):
        raise ValueError(
            f"params.fast must be a dict to write {head!r} into, got {type(params.fast).__name__}."
        )
    return params._replace(fast={**params.fast, head: {"kernel": kernel, "bias": bias}})


def _check_ways(ways: int) -> None:
    if not isinstance(ways, int) or ways < 1:
        raise ValueError(f"ways must be a whole number, 1 or more, got {ways!r}.")
