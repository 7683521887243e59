"""Late fusion that an adaptation can write: a linear head for each modality, and how much each of them counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from metajax._tree import reference_rows, row_weights
from metajax.inner.closed_form import ABSENT
from metajax.types import Adaptation, Apply, Array, Batch, Modalities, Params, PyTree


class Encode(Protocol):
    """The features of every modality; `nets.Multimodal` has it as its method "encode"."""

    def __call__(
        self,
        params: Params,
        x: Modalities,
        key: Array | None = None,
        *,
        reference: Array | None = None,
    ) -> dict[str, Array]:
        """{name: [examples, features]}; what is given for an absent modality has no meaning."""


def modal_prototypes(encode: Encode, ways: int, *, head: str = "head") -> Adaptation:
    """Writes the head of nearest class means, one for each modality: sₘₖ = 2 fₘ·cₘₖ - |cₘₖ|².

    cₘₖ is the mean over those examples of class k in which modality m is present. Where there is none, the class gets
    the mean head of the other classes, which speaks neither for nor against it; where a class has no support at all,
    its prior is -1e9.

    Args:
        encode: (params, x, key, reference=...) -> {name: [examples, d]}.
        ways: number of classes.
        head: the entry of `params.fast` to write, {"kernel": {name: [d, ways]}, "bias": {name: [ways]}, "prior":
            [ways]}; `late_head` reads it. The other entries stay.

    Raises:
        ValueError: ways below 1; when traced, a support set that is no `Modalities`, or fast weights that are no dict.

    Prototypes of several modalities as one more way to write a head: Snell et al. 2017, arXiv 1703.05175.
    """
    if not isinstance(ways, int) or ways < 1:
        raise ValueError(f"ways must be a whole number, 1 or more, got {ways!r}.")

    def adapt(params: Params, support: Batch, key: Array) -> Params:
        features, classes_NxW = read_support(encode, params, support, ways, key)
        kernel, bias = {}, {}
        for name, features_NxD in features.items():
            here_N = support.x.present[name]
            kernel[name], bias[name] = _nearest_mean(
                features_NxD, here_N, classes_NxW.astype(features_NxD.dtype)
            )
        dtype = jnp.result_type(*features.values())
        prior_W = jnp.where(classes_NxW.sum(axis=0) > 0, 0.0, ABSENT).astype(dtype)
        return params._replace(
            fast={**params.fast, head: {"kernel": kernel, "bias": bias, "prior": prior_W}}
        )

    return Adaptation(lambda params, key: params._replace(rule=()), adapt)


def late_head(encode: Encode, *, head: str = "head", logits: str = "weights") -> Apply:
    """The network that adds up the evidence of every modality: logits = Σₘ wₘ pₘ (fₘ @ kernelₘ + biasₘ) + prior.

    pₘ is 1 where modality m is present in the example and 0 where not: what is missing says nothing. wₘ = exp ℓₘ, with
    ℓ from `params.fast[logits]`, {name: scalar}; where that entry is missing, every weight is 1. A sum of log-odds is
    what independent modalities ask for, and a weighted one is log-linear pooling (Genest and Zidek 1986, doi
    10.1214/ss/1177013825).

    Args:
        encode: (params, x, key, reference=...) -> {name: [examples, d]}.
        head: the entry of `params.fast` with the heads, as `modal_prototypes` writes it.
        logits: the entry of `params.fast` with ℓ, as `support_weights` writes it.

    Where nothing is present in an example, its logits are the prior: the same for every class.
    """

    def apply(
        params: Params, x: PyTree, key: Array | None = None, *, reference: Array | None = None
    ) -> Array:
        written = params.fast[head]
        features = encode(params, x, key, reference=reference)
        check_names(features, written["kernel"], f"params.fast[{head!r}]")
        check_names(features, params.fast.get(logits, features), f"params.fast[{logits!r}]")
        total = written["prior"][None]
        for name, score in scores(features, x.present, written).items():
            weight = jnp.exp(params.fast[logits][name]) if logits in params.fast else 1
            total = total + weight * score
        return total

    return apply


def read_support(
    encode: Encode, params: Params, support: Batch, ways: int, key: Array
) -> tuple[dict, Array]:
    """The features of a support set, and its one-hot labels times the weight of the row, [examples, ways]."""
    if not isinstance(support.x, Modalities) or not isinstance(params.fast, dict):
        got = f"{type(support.x).__name__} and {type(params.fast).__name__}"
        raise ValueError(
            f"Need a support set whose x is a Modalities, and fast weights in a dict, got {got}."
        )
    features = encode(params, support.x, key, reference=reference_rows(support))
    return features, row_weights(support)[:, None] * jax.nn.one_hot(
        support.y, ways, dtype=jnp.float32
    )


def check_names(features: Mapping[str, Array], named: Mapping[str, Any], what: str) -> None:
    """Fails where something that is to have an entry for each modality lacks one."""
    if missing := sorted(features.keys() - named.keys()):
        raise ValueError(
            f"{what} has entries for {sorted(named)}, which lack the modalities {missing}."
        )


def scores(features: dict[str, Array], present: dict[str, Array], head: PyTree) -> dict[str, Array]:
    """{name: [examples, ways]}: what each modality says of each class, zero where it is absent."""
    says = {}
    for name, features_NxD in features.items():
        here = present[name][:, None]
        safe_NxD = jnp.where(here, features_NxD, jnp.zeros_like(features_NxD))
        says[name] = jnp.where(here, safe_NxD @ head["kernel"][name] + head["bias"][name][None], 0)
    return says


def _nearest_mean(features_NxD: Array, here_N: Array, classes_NxW: Array) -> tuple[Array, Array]:
    """Kernel [d, ways] and bias [ways] of one modality."""
    classes_NxW = classes_NxW * here_N[:, None].astype(classes_NxW.dtype)
    features_NxD = jnp.where(here_N[:, None], features_NxD, jnp.zeros_like(features_NxD))
    count_W = classes_NxW.sum(axis=0)
    known_W = (count_W > 0).astype(features_NxD.dtype)
    mean_DxW = features_NxD.T @ classes_NxW / jnp.where(count_W > 0, count_W, 1)[None]
    kernel_DxW, bias_W = 2 * mean_DxW, -(mean_DxW**2).sum(axis=0)
    share_W = known_W / jnp.maximum(known_W.sum(), 1)
    return (
        jnp.where(known_W[None] > 0, kernel_DxW, (kernel_DxW @ share_W)[:, None]),
        jnp.where(known_W > 0, bias_W, bias_W @ share_W),
    )
