"""Side information about classes in place of examples: descriptions, attributes, a graph."""

from __future__ import annotations

from typing import Protocol

import jax
import jax.numpy as jnp

from metajax._checked import checked
from metajax._class_means import class_means, weighted_one_hot
from metajax.inner.closed_form import nearest_mean_head
from metajax.inner.heads import embed_support, write_head
from metajax.modalities.checks import check_rule
from metajax.types import Adaptation, Apply, Array, Batch, Params, PyTree, Size


class Describe(Protocol):
    """Features of classes from side information: a text encoder, or a net over a graph.

    Its parameters are usually in `params.slow`.
    """

    def __call__(self, params: Params, info: PyTree, key: Array | None = None) -> Array:
        """Class features [ways, d] from `support.info`, leading axis = ways."""


@checked
def adaptive_prototypes(
    embed: Apply, describe: Describe, ways: Size, width: Size, *, entry: str = "head"
) -> Adaptation:
    """Writes the head of class means mixed with side information about the class (AM3).

    cₖ = λₖ pₖ + (1 - λₖ) wₖ with λₖ = σ(h·wₖ + b). pₖ is the mean of the support features of class
    k, and w = describe(info). h and b are learned and stored in `params.rule`.

    A class without support has λ = 0. So without any shots, this is zero-shot classification.

    Args:
        embed: (params, x, key, reference=...) -> features [examples, width].
        describe: (params, support.info, key) -> class features [ways, width].
        ways: number of classes, the same in every task: a class that only pads `info` would get a
            head like any other.
        width: of the features.
        entry: the entry of `params.fast` to write, {"kernel": [width, ways], "bias": [ways]}.

    Raises:
        ValueError: ways or width below 1; on adaptation, a rule that was not initialised; when
            traced, a support set without info, class features of another shape, labels that are not
            int[examples], or fast weights that are not a dict.

    Source: AM3, Xing et al. 2019, arXiv 1902.07104; zero-shot with a graph, Wang et al. 2018,
    arXiv 1803.08035.
    """

    @checked
    def init(params: Params, key: Array) -> Params:
        return params._replace(rule={"kernel": jnp.zeros(width), "bias": jnp.zeros(())})

    @checked
    def adapt(params: Params, support: Batch, key: Array) -> Params:
        check_rule(params, "kernel", "adaptive_prototypes")
        mean_WxD, weight_W = _support_means(embed, params, support, ways, key)
        described_WxD = _class_features(describe, params, support, mean_WxD.shape, key)
        logit_W = described_WxD @ params.rule["kernel"] + params.rule["bias"]
        share_Wx1 = jnp.where(weight_W > 0, jax.nn.sigmoid(logit_W), 0)[:, None]
        mixed_WxD = share_Wx1 * mean_WxD + (1 - share_Wx1) * described_WxD
        return _write_means(params, entry, mixed_WxD)

    return Adaptation(init, adapt)


@checked
def cross_modal_prototypes(
    embed: Apply, describe: Describe, ways: Size, *, entry: str = "head"
) -> Adaptation:
    """Writes the head of class means that count side information as one more shot.

    cₖ = (Σᵢ wᵢ f(xᵢ) + describe(info)ₖ) / (Σᵢ wᵢ + 1), with the sums over class k. It has no rule:
    only `embed` and `describe` are learned.

    Args:
        embed: (params, x, key, reference=...) -> features [examples, d].
        describe: (params, support.info, key) -> class features [ways, d].
        ways: number of classes, the same in every task: a class that only pads `info` would get a
            head like any other.
        entry: the entry of `params.fast` to write, {"kernel": [d, ways], "bias": [ways]}.

    Raises:
        ValueError: ways below 1; when traced, a support set without info, class features of another
            shape, labels that are not int[examples], or fast weights that are not a dict.

    Source: Lin et al. 2023, arXiv 2301.06267.
    """

    @checked
    def adapt(params: Params, support: Batch, key: Array) -> Params:
        mean_WxD, weight_W = _support_means(embed, params, support, ways, key)
        described_WxD = _class_features(describe, params, support, mean_WxD.shape, key)
        weight_Wx1 = weight_W[:, None]
        mixed_WxD = (weight_Wx1 * mean_WxD + described_WxD) / (weight_Wx1 + 1)
        return _write_means(params, entry, mixed_WxD)

    return Adaptation(lambda params, key: params._replace(rule=()), adapt)


@checked
def described_head(
    describe: Describe, ways: Size, width: Size, *, hidden: Size = 64, entry: str = "head"
) -> Adaptation:
    """Writes a head that a hypernetwork computes from side information about the classes.

    (kernelₖ, biasₖ) = B gelu(A wₖ + a) + b with w = describe(info). A, a, B and b are learned and
    stored in `params.rule`. FuMI is `chain(described_head(...), inner_loop(...))`: a few steps of
    descent on the shots start from the written head.

    Args:
        describe: (params, support.info, key) -> class features [ways, width].
        ways: number of classes, the same in every task: a class that only pads `info` would get a
            head like any other.
        width: of the features that the head reads.
        hidden: width of the hypernetwork.
        entry: the entry of `params.fast` to write, {"kernel": [width, ways], "bias": [ways]}.

    Raises:
        ValueError: ways, width or hidden below 1; on adaptation, a rule that was not initialised;
            when traced, a support set without info, class features of another shape, or fast
            weights that are not a dict.

    Source: Jackson et al. 2022, arXiv 2210.04843.
    """

    @checked
    def init(params: Params, key: Array) -> Params:
        in_key, out_key = jax.random.split(key)
        rule = {
            "in": jax.random.normal(in_key, (width, hidden)) / width**0.5,
            "shift": jnp.zeros(hidden),
            "out": jax.random.normal(out_key, (hidden, width + 1)) / hidden**0.5,
            "bias": jnp.zeros(width + 1),
        }
        return params._replace(rule=rule)

    @checked
    def adapt(params: Params, support: Batch, key: Array) -> Params:
        check_rule(params, "in", "described_head")
        rule = params.rule
        described_WxD = _class_features(describe, params, support, (ways, width), key)
        hidden_WxH = jax.nn.gelu(described_WxD @ rule["in"] + rule["shift"][None])
        made_WxE = hidden_WxH @ rule["out"] + rule["bias"][None]
        return write_head(params, entry, made_WxE[:, :-1].T, made_WxE[:, -1])

    return Adaptation(init, adapt)


def _support_means(
    embed: Apply, params: Params, support: Batch, ways: int, key: Array
) -> tuple[Array, Array]:
    """Mean features [ways, d], zero without support, and the weight of each class [ways]."""
    features_NxD = embed_support(embed, params, support, key)
    return class_means(features_NxD, weighted_one_hot(support, ways))


def _class_features(
    describe: Describe, params: Params, support: Batch, shape: tuple[int, ...], key: Array
) -> Array:
    """The features of the classes from side information, [ways, d].

    Raises:
        ValueError: a support set without info, or features of another shape.
    """
    if not jax.tree.leaves(support.info):
        raise ValueError(
            "The support set has no info on its classes; make the data set with "
            "data.dataset(..., info=...)."
        )
    described = describe(params, support.info, key)
    if jnp.shape(described) != shape:
        raise ValueError(
            f"describe must give {list(shape)}, one row for each class, got "
            f"{list(jnp.shape(described))}."
        )
    return described


def _write_means(params: Params, entry: str, mean_WxD: Array) -> Params:
    """The params with the head of nearest means, none of which is without support."""
    kernel_DxW, bias_W = nearest_mean_head(mean_WxD, jnp.ones(len(mean_WxD)))
    return write_head(params, entry, kernel_DxW, bias_W)
