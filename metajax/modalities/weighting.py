"""How much each modality counts in a task: weights that are learned across tasks."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from metajax._checked import checked
from metajax._checks import check_fast_entry, check_no_modality_missing
from metajax._class_means import weighted_one_hot
from metajax._tree import keep_rows
from metajax.modalities.checks import check_rule
from metajax.modalities.encoding import Encode, encode_batch
from metajax.modalities.heads import class_prior
from metajax.modalities.support_statistics import (
    STATISTICS,
    leave_one_out_scores,
    modality_statistics,
)
from metajax.types import Adaptation, Array, Batch, Loss, Metrics, Params, PyTree, Size


@checked
def support_weights(
    encode: Encode, ways: Size, *, hidden: Size = 16, entry: str = "modality_weights"
) -> Adaptation:
    """Writes the log-weight of each modality, which a small network computes from the support set.

    The network is `params.rule` and is trained through the query loss. `late_head` reads the
    log-weights ℓ. With sₘ the statistics of modality m (`support_statistics.STATISTICS`) and s̄
    their mean over modalities,

        ℓₘ = bₘ + vᵀ tanh(W [sₘ, s̄] + c).

    All modalities share W, c and v; each has its own bₘ. The network starts with v = 0, where ℓ = b
    are static weights.

    `init` makes the rule {"bias": {name: scalar}, "in", "shift", "out"}. It takes the names and b
    from the entry in `params.fast`, such as {"modality_weights": {"image": 0.0, "audio": 0.0}}.

    Args:
        encode: (params, x, key, reference=...) -> {name: [examples, d]}.
        ways: number of classes.
        hidden: width of the network.
        entry: the entry of `params.fast` to write, {name: scalar}. The other entries stay.

    Raises:
        ValueError: ways or hidden below 1; in `init`, fast weights without that entry; on
            adaptation, a rule that was not initialised or lacks a modality, or a support set whose
            x is not a `Modalities`.

    >>> import metajax as mj
    >>> weigh = support_weights(mj.nets.identity_encoder, ways=2)
    >>> start = Params({"modality_weights": {"image": 0.0, "audio": 1.0}}, {})
    >>> params = weigh.init(start, jax.random.key(0))
    >>> x = mj.data.as_modalities({"image": jnp.eye(2), "audio": jnp.eye(2)})
    >>> adapted = weigh.adapt(params, Batch(x, jnp.array([0, 1])), jax.random.key(0))
    >>> adapted.fast["modality_weights"]["audio"].item()  # static weights before training
    1.0
    """
    inputs = 2 * len(STATISTICS)

    @checked
    def init(params: Params, key: Array) -> Params:
        check_fast_entry(params, entry)
        start = params.fast.get(entry)
        if not isinstance(start, dict):
            raise ValueError(
                f"params.fast[{entry!r}] must name the modalities, such as "
                f"{{'image': 0.0, 'audio': 0.0}}, got {start!r}."
            )
        rule = {
            "bias": {name: jnp.asarray(value, jnp.float32) for name, value in start.items()},
            "in": jax.random.normal(key, (inputs, hidden)) / inputs**0.5,
            "shift": jnp.zeros(hidden),
            "out": jnp.zeros(hidden),
        }
        return params._replace(rule=rule)

    @checked
    def adapt(params: Params, support: Batch, key: Array) -> Params:
        check_fast_entry(params, entry)
        check_rule(params, "bias", "support_weights")
        features = encode_batch(encode, params, support, key)
        check_no_modality_missing(params.rule["bias"], features, "The rule of support_weights")
        classes_NxW = weighted_one_hot(support, ways)
        statistics_MxS = jnp.stack(
            [
                modality_statistics(features_NxD, support.x.present[name], classes_NxW)
                for name, features_NxD in features.items()
            ]
        )
        shift_M = _shifts(params.rule, statistics_MxS)
        bias = params.rule["bias"]
        log_weights = {name: bias[name] + shift_M[m] for m, name in enumerate(features)}
        return params._replace(fast={**params.fast, entry: log_weights})

    return Adaptation(init, adapt)


@checked
def leave_one_out_loss(encode: Encode, ways: Size, *, entry: str = "modality_weights") -> Loss:
    """Cross-entropy of each support example under the class means of the other examples.

    It is a loss that log-weights of modalities can descend in an inner loop: if only they are fast,
    `chain(inner_loop(leave_one_out_loss(...), ...), modal_prototypes(...))` moves them and then
    writes the heads. The ordinary loss of class means would not do: with one shot of each class,
    the means classify their own support set without an error.

    The logits are Σₘ exp(ℓₘ) pₘ sₘ plus a prior, with the leave-one-out scores sₘ and the presence
    pₘ. The prior is 0, and -1e9 for a class without support. The label -1 marks a row without a
    label, which the mean leaves out.

    Args:
        encode: (params, x, key, reference=...) -> {name: [examples, d]}.
        ways: number of classes.
        entry: the entry of `params.fast` with ℓ, {name: scalar}.

    Returns:
        A loss without metrics.

    Raises:
        ValueError: ways below 1; when traced, a batch whose x is not a `Modalities`, labels that
            are not int[examples], or log-weights that lack a modality.
    """

    @checked
    def loss(params: Params, batch: Batch, key: Array | None) -> tuple[Array, Metrics]:
        features = encode_batch(encode, params, batch, key)
        log_weights = params.fast.get(entry, {}) if isinstance(params.fast, dict) else {}
        check_no_modality_missing(log_weights, features, f"params.fast[{entry!r}]")
        classes_NxW = weighted_one_hot(batch, ways)
        prior_W = class_prior(classes_NxW).astype(jnp.result_type(*features.values()))
        logits_NxW = prior_W[None]
        for name, features_NxD in features.items():
            present_N = batch.x.present[name]
            clear_NxD, own_NxW = keep_rows(present_N, (features_NxD, classes_NxW))
            clear_NxD = clear_NxD.astype(jnp.promote_types(clear_NxD.dtype, jnp.float32))
            score_NxW = leave_one_out_scores(clear_NxD, own_NxW.astype(clear_NxD.dtype))
            logits_NxW = logits_NxW + jnp.exp(log_weights[name]) * keep_rows(present_N, score_NxW)
        log_p_NxW = jax.nn.log_softmax(logits_NxW)
        # The weight of the rows that have a label: by rows first, as the weights themselves add up.
        total = jnp.maximum(classes_NxW.sum(axis=1).sum(), 1e-6)
        return -(classes_NxW * log_p_NxW).sum() / total, {}

    return loss


def _shifts(rule: PyTree, statistics_MxS: Array) -> Array:
    """What the network adds to the log-weight of each modality, [modalities]."""
    mean_1xS = statistics_MxS.mean(axis=0)[None]
    mean_MxS = jnp.broadcast_to(mean_1xS, statistics_MxS.shape)
    inputs_MxI = jnp.concatenate([statistics_MxS, mean_MxS], axis=1)
    return jnp.tanh(inputs_MxI @ rule["in"] + rule["shift"][None]) @ rule["out"]
