"""How much each modality deserves in a task, learned across tasks."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from metajax._tree import row_weights
from metajax.inner.closed_form import ABSENT
from metajax.modalities.heads import Encode, check_names, read_support
from metajax.types import Adaptation, Array, Batch, Loss, Metrics, Params

STATISTICS = (
    "leave-one-out accuracy",
    "leave-one-out margin",
    "separation",
    "closest pair",
    "entropy",
    "known",
)
"""What `support_statistics` tells of a modality, in this order."""


def support_statistics(features_NxD: Array, here_N: Array, classes_NxW: Array) -> Array:
    """What a support set tells of one modality, [6]: see `STATISTICS`.

    Leave-one-out answers come from the class means without the example itself; a class that is left without one gets
    the mean score of the others. Separation is the mean squared distance between class means, the closest pair the
    smallest, both as logarithms; the entropy is that of the leave-one-out answers over log ways. "known" is the share
    of classes that have an example in which the modality is present. Classes without any support are inert.

    Args:
        features_NxD: of the modality, [examples, d].
        here_N: bool[examples], where it is present.
        classes_NxW: [examples, ways], one-hot labels times the weight of the row.
    """
    features_NxD = jnp.where(here_N[:, None], features_NxD, jnp.zeros_like(features_NxD))
    classes_NxW = classes_NxW.astype(features_NxD.dtype)
    asked_W = classes_NxW.sum(axis=0) > 0
    ways = jnp.maximum(asked_W.sum(), 2)
    classes_NxW = classes_NxW * here_N[:, None].astype(features_NxD.dtype)
    answers_NxW = jnp.where(asked_W[None], leave_one_out(features_NxD, classes_NxW), ABSENT)
    weight_N = classes_NxW.sum(axis=1)
    label_N = classes_NxW.argmax(axis=1)
    others_NxW = jnp.where(jax.nn.one_hot(label_N, classes_NxW.shape[1]) > 0, ABSENT, answers_NxW)
    own_N = jnp.take_along_axis(answers_NxW, label_N[:, None], axis=1)[:, 0]
    margin_N = own_N - others_NxW.max(axis=1)
    log_p = jax.nn.log_softmax(answers_NxW)
    entropy_N = -(jnp.exp(log_p) * log_p).sum(axis=1) / jnp.log(ways)

    count_W = classes_NxW.sum(axis=0)
    mean_WxD = classes_NxW.T @ features_NxD / jnp.where(count_W > 0, count_W, 1)[:, None]
    square_WxW = ((mean_WxD[:, None] - mean_WxD[None]) ** 2).sum(axis=2)
    pairs_WxW = jnp.triu((count_W > 0)[:, None] & (count_W > 0)[None], 1)
    separation = jnp.where(pairs_WxW, square_WxW, 0).sum() / jnp.maximum(pairs_WxW.sum(), 1)
    closest = jnp.where(pairs_WxW.any(), jnp.where(pairs_WxW, square_WxW, jnp.inf).min(), 0)
    total = jnp.maximum(weight_N.sum(), 1e-6)
    mean = lambda values_N: (weight_N * values_N).sum() / total
    margin = mean(jnp.tanh(margin_N / 4))
    logs = jnp.log1p(separation), jnp.log1p(closest)
    known = (count_W > 0).sum() / jnp.maximum(asked_W.sum(), 1)
    return jnp.stack([mean(margin_N > 0), margin, *logs, mean(entropy_N), known]).astype(
        features_NxD.dtype
    )


def leave_one_out(features_NxD: Array, classes_NxW: Array) -> Array:
    """Scores [examples, ways] of the nearest class means, each example left out of the mean of its own class."""
    rest_NxW = classes_NxW.sum(axis=0)[None] - classes_NxW
    known_NxW = rest_NxW > 1e-6
    mean_NxWxD = (classes_NxW.T @ features_NxD)[None] - classes_NxW[:, :, None] * features_NxD[
        :, None
    ]
    mean_NxWxD = mean_NxWxD / jnp.where(known_NxW, rest_NxW, 1)[:, :, None]
    score_NxW = 2 * (features_NxD[:, None] * mean_NxWxD).sum(axis=2) - (mean_NxWxD**2).sum(axis=2)
    number_N = jnp.maximum(known_NxW.sum(axis=1), 1)
    neutral_N = jnp.where(known_NxW, score_NxW, 0).sum(axis=1) / number_N
    return jnp.where(known_NxW, score_NxW, neutral_N[:, None])


def support_weights(
    encode: Encode, ways: int, *, hidden: int = 16, logits: str = "weights"
) -> Adaptation:
    """Writes how much each modality counts, computed from the support set by a small network that is learned.

    ℓₘ = bₘ + vᵀ tanh(W [sₘ, s̄] + c): sₘ are the statistics of modality m (`support_statistics`), s̄ their mean over
    modalities; W, c, v are shared by all modalities, bₘ is its own. With v = 0, as it starts, ℓ = b: static weights.

    Args:
        encode: (params, x, key, reference=...) -> {name: [examples, d]}.
        ways: number of classes.
        hidden: width of the network.
        logits: the entry of `params.fast` to write, {name: scalar}; `late_head` reads it.

    `init` makes the rule {"bias": {name: scalar}, "in", "shift", "out"} and takes the names from the entry that stands
    in `params.fast` already: {"weights": {"image": 0.0, "audio": 0.0}}. It is trained through the query loss.

    Raises:
        ValueError: in `init`, fast weights that do not have that entry; on adaptation, a rule that was not initialised
            or lacks a modality, or a support set that is no `Modalities`.
    """
    number = 2 * len(STATISTICS)

    def init(params: Params, key: Array) -> Params:
        if not isinstance(params.fast, dict) or not isinstance(params.fast.get(logits), dict):
            raise ValueError(
                f"params.fast[{logits!r}] must name the modalities, such as {{'image': 0.0, 'audio': 0.0}}."
            )
        bias = {
            name: jnp.asarray(value, jnp.float32) for name, value in params.fast[logits].items()
        }
        inputs = jax.random.normal(key, (number, hidden)) / number**0.5
        return params._replace(
            rule={"bias": bias, "in": inputs, "shift": jnp.zeros(hidden), "out": jnp.zeros(hidden)}
        )

    def adapt(params: Params, support: Batch, key: Array) -> Params:
        rule = params.rule
        if not isinstance(rule, dict) or "bias" not in rule:
            raise ValueError(
                "support_weights has no rule yet; call params = adaptation.init(params, key) first."
            )
        features, classes_NxW = read_support(encode, params, support, ways, key)
        check_names(features, rule["bias"], "The rule of support_weights")
        names = list(features)
        own_MxS = jnp.stack(
            [
                support_statistics(features[name], support.x.present[name], classes_NxW)
                for name in names
            ]
        )
        both = jnp.concatenate(
            [own_MxS, jnp.broadcast_to(own_MxS.mean(axis=0)[None], own_MxS.shape)], axis=1
        )
        moved_M = jnp.tanh(both @ rule["in"] + rule["shift"][None]) @ rule["out"]
        written = {name: rule["bias"][name] + moved_M[m] for m, name in enumerate(names)}
        return params._replace(fast={**params.fast, logits: written})

    return Adaptation(init, adapt)


def leave_one_out_loss(encode: Encode, ways: int, *, logits: str = "weights") -> Loss:
    """Cross-entropy of each support example under the class means of the others: what fast weights can descend on.

    The logits are Σₘ exp(ℓₘ) pₘ sₘ with ℓ from `params.fast[logits]`. `inner_loop` on it moves ℓ alone when nothing
    else is fast, and `chain(inner_loop(leave_one_out_loss(...), ...), modal_prototypes(...))` then writes the heads.
    The class means of a support set answer it without a fault at one shot, so their own loss would teach nothing.
    """

    def loss(params: Params, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        features, classes_NxW = read_support(encode, params, batch, ways, key)
        check_names(features, params.fast.get(logits, {}), f"params.fast[{logits!r}]")
        prior_W = jnp.where(classes_NxW.sum(axis=0) > 0, 0.0, ABSENT)
        total_NxW = prior_W.astype(jnp.result_type(*features.values()))[None]
        for name, features_NxD in features.items():
            here_Nx1 = batch.x.present[name][:, None]
            safe_NxD = jnp.where(here_Nx1, features_NxD, jnp.zeros_like(features_NxD))
            score_NxW = leave_one_out(safe_NxD, classes_NxW.astype(safe_NxD.dtype) * here_Nx1)
            total_NxW = total_NxW + jnp.exp(params.fast[logits][name]) * jnp.where(
                here_Nx1, score_NxW, 0
            )
        log_p_NxW = jax.nn.log_softmax(total_NxW)
        value = -(classes_NxW * log_p_NxW).sum() / jnp.maximum(row_weights(batch).sum(), 1e-6)
        return value, {}

    return loss
