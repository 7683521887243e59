"""Adaptations that write a linear head in closed form from the features of the support set."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from metajax._checked import checked
from metajax._checks import check_row_weights
from metajax._class_means import class_means, weighted_one_hot
from metajax._tree import as_floating, row_weights
from metajax.inner.heads import ABSENT, embed_support, write_head
from metajax.types import Adaptation, Apply, Array, Batch, Params, Size


@checked
def prototypes(embed: Apply, ways: Size, *, entry: str = "head") -> Adaptation:
    """Writes the head of nearest class means (prototypical networks).

    cₖ = Σᵢ wᵢ [yᵢ = k] f(xᵢ) / Σᵢ wᵢ [yᵢ = k], and the logits are 2 f(x)·cₖ - |cₖ|², which equals
    -|f(x) - cₖ|² up to a constant. A distance in the form of a linear head can start an inner loop:
    `chain(prototypes(...), inner_loop(...))` is Proto-MAML.

    A class without support gets the bias -1e9, which leaves it no share as long as the distances of
    the others are far below that: scale features whose squares add up to more. The label -1 marks a
    row without a label.

    Args:
        embed: (params, x, key, reference=...) -> features [examples, d].
        ways: number of classes. It may differ between training and evaluation: train 20-way,
            evaluate 5-way.
        entry: the entry of `params.fast` to write, {"kernel": [d, ways], "bias": [ways]}. The other
            entries stay.

    Raises:
        ValueError: ways below 1; when traced, features that are not [examples, d], labels that are
            not int[examples], or fast weights that are not a dict.

    >>> from metajax.nets import identity_encoder
    >>> x = jnp.array([[0.0, 0.0], [2.0, 0.0], [5.0, 5.0]])
    >>> support = Batch(x, y=jnp.array([0, 0, 1]))
    >>> adaptation = prototypes(identity_encoder, ways=2)
    >>> adapted = adaptation.adapt(Params(fast={}, slow={}), support, jax.random.key(0))
    >>> adapted.fast["head"]["kernel"].T.tolist()
    [[2.0, 0.0], [10.0, 10.0]]

    Source: Snell, Swersky and Zemel 2017, arXiv 1703.05175; as a linear head, Triantafillou et al.
    2020, arXiv 1903.03096, section 3.1.
    """

    @checked
    def adapt(params: Params, support: Batch, key: Array) -> Params:
        features_NxD = embed_support(embed, params, support, key)
        mean_WxD, weight_W = class_means(features_NxD, weighted_one_hot(support, ways))
        kernel_DxW, bias_W = nearest_mean_head(mean_WxD, weight_W)
        return write_head(params, entry, kernel_DxW, bias_W)

    return Adaptation(lambda params, key: params._replace(rule=()), adapt)


@checked
def ridge(embed: Apply, ways: Size | None = None, *, entry: str = "head") -> Adaptation:
    """Writes the head of ridge regression (R2-D2).

    W = (XᵀDX + λI)⁻¹ XᵀDY with the row weights D, and the logits are a X W + b. λ, a and b are
    learned and stored in `params.rule`; b is one number for all classes, which the softmax ignores.
    The system that is solved is the smaller of two equal ones:
    (XᵀDX + λI)⁻¹ XᵀD = Xᵀ(DXXᵀ + λI)⁻¹ D.

    A class without support gets the bias -1e9. With `ways`, the label -1 marks a row without a
    label, which has no influence.

    Args:
        embed: (params, x, key, reference=...) -> features X [examples, d].
        ways: number of classes, whose one-hot vectors are the targets. None regresses `support.y`
            [examples, k] itself.
        entry: the entry of `params.fast` to write, {"kernel": [d, ways], "bias": [ways]}. The other
            entries stay.

    Raises:
        ValueError: ways below 1; on adaptation, a rule that was not initialised; when traced,
            features that are not [examples, d], or labels or targets of another shape.

    Source: Bertinetto et al. 2019, arXiv 1805.08136.
    """

    @checked
    def init(params: Params, key: Array) -> Params:
        rule = {"log_lambda": jnp.zeros(()), "scale": jnp.ones(()), "offset": jnp.zeros(())}
        return params._replace(rule=rule)

    @checked
    def adapt(params: Params, support: Batch, key: Array) -> Params:
        if not isinstance(params.rule, dict) or "log_lambda" not in params.rule:
            raise ValueError(
                f"params.rule is {params.rule!r}; call params = adaptation.init(params, key) first."
            )
        features_NxD = embed_support(embed, params, support, key)
        weight_N, weighted_NxK, absent_K = _weighted_targets(support, ways)
        # Half precision is not enough for a linear system, and LAPACK has no solver for it.
        dtype = jnp.promote_types(features_NxD.dtype, jnp.float32)
        rule = jax.tree.map(lambda leaf: leaf.astype(dtype), params.rule)
        kernel_DxK = _solve_ridge(
            features_NxD.astype(dtype),
            weight_N,
            weighted_NxK.astype(dtype),
            jnp.exp(rule["log_lambda"]),
        )
        bias_K = jnp.where(absent_K, ABSENT, rule["offset"])
        kernel_DxK = (rule["scale"] * kernel_DxK).astype(features_NxD.dtype)
        return write_head(params, entry, kernel_DxK, bias_K.astype(features_NxD.dtype))

    return Adaptation(init, adapt)


@checked
def nearest_mean_head(mean_WxD: Array, weight_W: Array) -> tuple[Array, Array]:
    """The linear head of nearest class means: kernel 2cᵀ and bias -|c|².

    Args:
        mean_WxD: means c [ways, d].
        weight_W: [ways], the weight of each class; where it is 0, the bias is -1e9, and 0 if no
            class has any weight.

    Returns:
        (kernel [d, ways], bias [ways]).
    """
    mean_WxD = as_floating(mean_WxD)
    absent = jnp.where((weight_W > 0).any(), ABSENT, 0)
    bias_W = jnp.where(weight_W > 0, -(mean_WxD**2).sum(axis=1), absent)
    return 2 * mean_WxD.T, bias_W


def _weighted_targets(support: Batch, ways: int | None) -> tuple[Array, Array, Array]:
    """Row weights [examples], targets times these [examples, k], and the absent ones, bool[k]."""
    if ways is not None:
        weighted_NxW = weighted_one_hot(support, ways)
        # Rows without a label have the weight 0: they are no targets of 0 for every class.
        return weighted_NxW.sum(axis=1), weighted_NxW, weighted_NxW.sum(axis=0) == 0
    if jnp.ndim(support.y) != 2:
        raise ValueError(
            f"To regress, support.y must be [examples, k], got shape {jnp.shape(support.y)}."
        )
    check_row_weights(support.weight, len(support.y))
    weight_N = row_weights(support)
    weighted_NxK = weight_N[:, None] * as_floating(support.y)
    return weight_N, weighted_NxK, jnp.zeros(support.y.shape[1], bool)


def _solve_ridge(
    features_NxD: Array, weight_N: Array, weighted_NxK: Array, regulariser: Array
) -> Array:
    """Kernel [d, k] of weighted ridge regression, by the smaller of two equal systems."""
    examples, width = features_NxD.shape
    scaled_NxD = weight_N[:, None].astype(features_NxD.dtype) * features_NxD
    if examples <= width:
        identity_NxN = jnp.eye(examples, dtype=features_NxD.dtype)
        system_NxN = scaled_NxD @ features_NxD.T + regulariser * identity_NxN
        return features_NxD.T @ jax.scipy.linalg.solve(system_NxN, weighted_NxK)
    identity_DxD = jnp.eye(width, dtype=features_NxD.dtype)
    system_DxD = features_NxD.T @ scaled_NxD + regulariser * identity_DxD
    return jax.scipy.linalg.solve(system_DxD, features_NxD.T @ weighted_NxK, assume_a="pos")
