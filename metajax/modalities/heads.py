"""Late fusion that an adaptation can write: a linear head and a weight for each modality."""

from __future__ import annotations

import jax.numpy as jnp

from metajax._checked import checked
from metajax._checks import check_fast_entry, check_no_modality_missing
from metajax._class_means import class_means, weighted_one_hot
from metajax._tree import as_floating, clear_absent, keep_rows
from metajax.inner.closed_form import nearest_mean_head
from metajax.inner.heads import ABSENT
from metajax.modalities.checks import check_modalities
from metajax.modalities.encoding import Encode, encode_batch
from metajax.types import Adaptation, Apply, Array, Batch, Params, PyTree, Size


@checked
def modal_prototypes(encode: Encode, ways: Size, *, entry: str = "head") -> Adaptation:
    """Writes the head of nearest class means of each modality; `late_head` applies the heads.

    The score of class k in modality m is sₘₖ = 2 fₘ·cₘₖ - |cₘₖ|². cₘₖ is the weighted mean of the
    support examples of class k in which modality m is present. A class without such an example gets
    the mean head of the other classes, so that the modality is neither for nor against it. A class
    without any support has the prior -1e9.

    Args:
        encode: (params, x, key, reference=...) -> {name: [examples, d]}.
        ways: number of classes.
        entry: the entry of `params.fast` to write, {"kernel": {name: [d, ways]}, "bias": {name:
            [ways]}, "prior": [ways]}. The other entries stay. Give another name than "head" if the
            net has a head of its own, as `nets.Multimodal` has.

    Raises:
        ValueError: ways below 1; when traced, a support set whose x is not a `Modalities`, labels
            that are not int[examples], or fast weights that are not a dict.

    >>> import jax, metajax as mj
    >>> x = mj.data.as_modalities({"image": jnp.eye(2), "audio": jnp.eye(2)})
    >>> write = modal_prototypes(mj.nets.identity_encoder, ways=2)
    >>> adapted = write.adapt(Params({}, {}), Batch(x, jnp.array([0, 1])), jax.random.key(0))
    >>> late_head(mj.nets.identity_encoder)(adapted, x).tolist()
    [[2.0, -2.0], [-2.0, 2.0]]

    Source: Snell, Swersky and Zemel 2017, arXiv 1703.05175, for one modality.
    """

    @checked
    def adapt(params: Params, support: Batch, key: Array) -> Params:
        check_fast_entry(params, entry)
        features = encode_batch(encode, params, support, key)
        classes_NxW = weighted_one_hot(support, ways)
        kernel, bias = {}, {}
        for name, features_NxD in features.items():
            present_N = support.x.present[name]
            kernel[name], bias[name] = _nearest_mean_head(features_NxD, present_N, classes_NxW)
        prior_W = class_prior(classes_NxW).astype(jnp.result_type(*features.values()))
        heads = {"kernel": kernel, "bias": bias, "prior": prior_W}
        return params._replace(fast={**params.fast, entry: heads})

    return Adaptation(lambda params, key: params._replace(rule=()), adapt)


@checked
def late_head(
    encode: Encode, *, entry: str = "head", weights_entry: str = "modality_weights"
) -> Apply:
    """The network that adds up the scores of the modalities that are present.

    logits = Σₘ exp(ℓₘ) pₘ (fₘ @ kernelₘ + biasₘ) + prior. pₘ is 1 where modality m is present in
    the example, and 0 where it is absent. The log-weights ℓ are optional. Independent modalities
    call for a sum of log-odds, and a weighted sum is log-linear pooling.

    An example without any modality has the prior as its logits: 0 for every class with support.

    Args:
        encode: (params, x, key, reference=...) -> {name: [examples, d]}.
        entry: the entry of `params.fast` with the heads, as `modal_prototypes` writes it.
        weights_entry: the entry of `params.fast` with ℓ, {name: scalar}, as `support_weights`
            writes it. Without this entry, ℓ is 0.

    Returns:
        (params, x, key=None, *, reference=None) -> logits [examples, ways].

    Raises:
        ValueError: when called, x that is not a `Modalities`, fast weights without heads or with
            the head of a net in their place, or heads or log-weights that lack a modality.

    Source: log-linear pooling, Genest and Zidek 1986, doi 10.1214/ss/1177013825.
    """

    @checked
    def apply(
        params: Params, x: PyTree, key: Array | None = None, *, reference: Array | None = None
    ) -> Array:
        check_modalities(x, "x")
        if not isinstance(params.fast, dict) or entry not in params.fast:
            raise ValueError(
                f"params.fast has no entry {entry!r}; adapt the params first, with "
                "modal_prototypes."
            )
        head = params.fast[entry]
        if not isinstance(head, dict) or not isinstance(head.get("kernel"), dict):
            raise ValueError(
                f"params.fast[{entry!r}] is not a head for each modality, but what the net has "
                "under this name; give another entry=, the same to modal_prototypes and late_head."
            )
        features = encode(params, clear_absent(x), key, reference=reference)
        check_no_modality_missing(head["kernel"], features, f"params.fast[{entry!r}]")
        log_weights = params.fast.get(weights_entry)
        if log_weights is not None:
            check_no_modality_missing(log_weights, features, f"params.fast[{weights_entry!r}]")

        logits_NxW = head["prior"][None]
        for name, score_NxW in modal_scores(features, x.present, head).items():
            weight = 1 if log_weights is None else jnp.exp(log_weights[name])
            logits_NxW = logits_NxW + weight * score_NxW
        return logits_NxW

    return apply


@checked
def modal_scores(
    features: dict[str, Array], present: dict[str, Array], head: PyTree
) -> dict[str, Array]:
    """The scores of the classes from each modality alone, zero where it is absent.

    Use it to weigh modalities in another way than `late_head`, or to look at one of them.

    Args:
        features: {name: [examples, d]}.
        present: {name: bool[examples]}.
        head: what `modal_prototypes` wrote.

    Returns:
        {name: [examples, ways]}, without the prior.
    """
    scores = {}
    for name, features_NxD in features.items():
        clear_NxD = keep_rows(present[name], as_floating(features_NxD))
        score_NxW = clear_NxD @ head["kernel"][name] + head["bias"][name][None]
        scores[name] = keep_rows(present[name], score_NxW)
    return scores


def class_prior(classes_NxW: Array) -> Array:
    """The prior of each class [ways]: 0, and -1e9 for a class without support.

    Args:
        classes_NxW: one-hot labels times row weights, [examples, ways].
    """
    return jnp.where(classes_NxW.sum(axis=0) > 0, 0.0, ABSENT)


def _nearest_mean_head(
    features_NxD: Array, present_N: Array, classes_NxW: Array
) -> tuple[Array, Array]:
    """Kernel [d, ways] and bias [ways] of one modality."""
    features_NxD, classes_NxW = keep_rows(present_N, (features_NxD, classes_NxW))
    mean_WxD, weight_W = class_means(features_NxD, classes_NxW)
    kernel_DxW, bias_W = nearest_mean_head(mean_WxD, weight_W)

    # Classes without the modality get the mean head of the classes that have it.
    seen_W = weight_W > 0
    share_W = seen_W.astype(kernel_DxW.dtype) / jnp.maximum(seen_W.sum(), 1)
    mean_kernel_D = kernel_DxW @ share_W
    mean_bias = jnp.where(seen_W, bias_W, 0) @ share_W  # in float16 the others are -∞
    kernel_DxW = jnp.where(seen_W[None], kernel_DxW, mean_kernel_D[:, None])
    return kernel_DxW, jnp.where(seen_W, bias_W, mean_bias)
