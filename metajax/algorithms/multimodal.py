"""Meta-learners of several modalities, any of which may be missing in any example."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from metajax._checked import checked
from metajax._tree import keep_rows, row_weights
from metajax.algorithms.learners import MakeLoss, as_function, loss_of, method_of, with_part
from metajax.inner import chain, inner_loop, learned_rates, linear_head, prototypes
from metajax.losses import cross_entropy
from metajax.modalities import (
    Encode,
    completed,
    init_completion,
    late_head,
    leave_one_out_loss,
    meta_distillation,
    modal_prototypes,
    pair_loss,
    support_weights,
)
from metajax.nets import Multimodal, functional, join_params
from metajax.nets.fusion import mean
from metajax.outer import query_loss
from metajax.types import (
    Adaptation,
    Apply,
    Array,
    Batch,
    Count,
    Learner,
    Metrics,
    Modalities,
    Params,
    PyTree,
)


@checked
def computed_modality_weights(
    encoders: Mapping[str, nnx.Module],
    ways: int,
    *,
    loss: MakeLoss = cross_entropy,
    inductive: bool = False,
) -> Learner:
    """Prototypes of each modality, whose weights a network computes from the support set.

    logits = Σₘ exp(ℓₘ) pₘ sₘ with the scores sₘ of nearest class means in modality m, its presence
    pₘ and log-weight ℓₘ. The network reads statistics of the support set, such as how well each
    modality classifies it when one example is left out.

    Args:
        encoders: {name of the modality: Flax module from it to features [n, d]}.
        ways: number of classes of a task.
        loss: what makes the loss of the network, such as `cross_entropy`.
        inductive: whether statistics of norms come from the support set only.

    Source: this project; the combination, Genest and Zidek 1986, doi 10.1214/ss/1177013825.

    Checked against: each modality alone is prototypes; the weighted scores in NumPy.
    """
    encode, slow = _as_encode(encoders)
    adaptation = chain(weights=support_weights(encode, ways), heads=modal_prototypes(encode, ways))
    params = adaptation.init(Params(_equal_weights(encoders), slow), jax.random.key(0))
    apply = late_head(encode)
    task_loss = query_loss(adaptation, loss_of(loss, apply), inductive=inductive)
    return Learner(apply, params, adaptation, task_loss)


@checked
def descended_modality_weights(
    encoders: Mapping[str, nnx.Module],
    ways: int,
    *,
    loss: MakeLoss = cross_entropy,
    initial_rate: float = 0.5,
    inner_steps: Count = 5,
    inductive: bool = False,
) -> Learner:
    """Prototypes of each modality, whose weights descend in the inner loop.

    The log-weights ℓ of `computed_modality_weights` are the fast weights. They descend the loss of
    each support example under the class means of the others, by learned step sizes.

    Args:
        encoders: {name of the modality: Flax module from it to features [n, d]}.
        ways: number of classes of a task, each with two shots or more: a class of one shot has no
            mean without it.
        loss: what makes the loss of the network, such as `cross_entropy`.
        initial_rate: initial value of every step size.
        inner_steps: number of steps of gradient descent.
        inductive: whether statistics of norms come from the support set only.

    Source: this project.

    Checked against: each modality alone is prototypes; the weighted scores in NumPy.
    """
    encode, slow = _as_encode(encoders)
    descent = inner_loop(
        leave_one_out_loss(encode, ways), learned_rates(initial_rate), steps=inner_steps
    )
    adaptation = chain(weights=descent, heads=modal_prototypes(encode, ways))
    params = adaptation.init(Params(_equal_weights(encoders), slow), jax.random.key(0))
    apply = late_head(encode)
    task_loss = query_loss(adaptation, loss_of(loss, apply), inductive=inductive)
    return Learner(apply, params, adaptation, task_loss)


@checked
def smil(
    net: Multimodal,
    priors: Mapping[str, Array],
    *,
    loss: MakeLoss = cross_entropy,
    inner_rate: float = 0.1,
    inner_steps: Count = 1,
    inductive: bool = False,
) -> Learner:
    """SMIL: MAML whose net reconstructs the features of a missing modality from those present.

    A missing modality m has the features f̂ₘ = Σₖ ωₘₖ cₘₖ, a mean of its priors c by weights that a
    net reads from the modalities that are present. In training, features are multiplied by noise.
    The net is fast; the reconstruction and its noise are slow, so that they are learned through the
    second derivative. The priors are among them, `params.slow["completion"]["priors"]`; the paper's
    stay fixed. Give tasks whose support set lacks modalities and whose query set has all.

    Args:
        net: encoders, a fusion that reads vectors, and a head.
        priors: {name: [K, d]}, typical features of each modality, as `modality_priors` finds them.
        loss: what makes the loss of the network, such as `cross_entropy`.
        inner_rate: step size on the mean loss.
        inner_steps: number of steps of gradient descent.
        inductive: whether statistics of norms come from the support set only.

    Source: Ma et al. 2021, arXiv 2103.05677.

    Checked against: its descent on completed features, written out; finite differences.
    """
    apply, params = as_function(net)
    whole = completed(method_of(apply, "encode"), method_of(apply, "decide"))
    completion = init_completion(priors, jax.random.key(0))
    params = with_part(params, "completion", completion)
    of_net = loss_of(loss, whole)
    adaptation = inner_loop(of_net, optax.sgd(inner_rate), steps=inner_steps)
    return Learner(whole, params, adaptation, query_loss(adaptation, of_net, inductive=inductive))


@checked
def meta_kd(
    net: Multimodal,
    *,
    loss: MakeLoss = cross_entropy,
    strength: float = 0.1,
    inner_rate: float = 0.1,
    inner_steps: Count = 1,
    inductive: bool = False,
) -> Learner:
    """MetaKD: modalities teach each other in the inner loop, and the important ones teach more.

    θ' = θ - α ∇(L + s Σᵢ≠ⱼ (ωᵢ/ωⱼ) |fⱼ - fᵢ|²/d) with teacher i, which is held constant in the
    gradient, and student j. The outer loop learns the importance ω = softmax ℓ through the query
    loss. The authors' code takes absolute differences.

    Args:
        net: encoders to features of one width, a fusion and a head.
        loss: what makes the loss of the network, such as `cross_entropy`.
        strength: s.
        inner_rate: α.
        inner_steps: number of steps of gradient descent.
        inductive: whether statistics of norms come from the support set only.

    Source: Wang et al. 2024, arXiv 2405.07155.

    Checked against: its descent, written out; finite differences.
    """
    apply, params = as_function(net)
    of_net = loss_of(loss, apply)
    teach = meta_distillation(method_of(apply, "encode"))
    importance = {name: jnp.zeros(()) for name in net.encoders}
    params = with_part(params, "importance", importance)

    def taught(params: Params, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        value, metrics = of_net(params, batch, key)
        return value + strength * teach(params, batch, key)[0], metrics

    adaptation = inner_loop(taught, optax.sgd(inner_rate), steps=inner_steps)
    return Learner(apply, params, adaptation, query_loss(adaptation, of_net, inductive=inductive))


@checked
def croma(
    encoders: Mapping[str, nnx.Module],
    first: str,
    second: str,
    ways: int,
    *,
    loss: MakeLoss = cross_entropy,
    inner_rate: float = 0.1,
    inner_steps: Count = 5,
    inductive: bool = False,
) -> Learner:
    """CroMA: align two modalities on the pairs of a task, and classify across them.

    The inner loop descends the contrastive loss of all pairs of the support set, that of CLIP in
    both directions, and does not read their labels. Then the class means are those of the first
    modality, of the rows that have it, and queries are of the second: one without it has the same
    logit for every class. The paper meta-learns a classifier of the first modality, and its outer
    step is that of Reptile.

    Args:
        encoders: {name of the modality: Flax module from it to features [n, d]}, all of one width.
        first: the modality whose examples have labels.
        second: the modality of the queries.
        ways: number of classes of a task.
        loss: what makes the loss of the network, such as `cross_entropy`.
        inner_rate: step size on the contrastive loss.
        inner_steps: number of steps of gradient descent.
        inductive: whether statistics of norms come from the support set only.

    Raises:
        ValueError: the same modality twice, or one without an encoder.

    Source: Liang et al. 2020, arXiv 2012.02813.

    Checked against: its alignment and its class means, written out.
    """
    if unknown := {first, second} - set(encoders):
        raise ValueError(f"There is no encoder for {sorted(unknown)}, but for {sorted(encoders)}.")
    encode, weights = _as_encode(encoders)
    align = inner_loop(pair_loss(encode, first, second), optax.sgd(inner_rate), steps=inner_steps)
    means = prototypes(_only(encode, first), ways)
    adaptation = chain(alignment=align, head=_with_rows_of(means, first))
    apply = _equal_without(second, linear_head(_only(encode, second)))
    params = adaptation.init(Params(weights, {}), jax.random.key(0))
    task_loss = query_loss(adaptation, loss_of(loss, apply), inductive=inductive)
    return Learner(apply, params, adaptation, task_loss)


def _as_encode(encoders: Mapping[str, nnx.Module]) -> tuple[Encode, PyTree]:
    """Encoders as one function of params and x, and their weights."""
    net = Multimodal(encoders, mean, 1, 1, rngs=nnx.Rngs(0))
    del net.head
    apply, params = functional(net)
    return method_of(apply, "encode"), join_params(params)


def _equal_weights(encoders: Mapping[str, nnx.Module]) -> PyTree:
    """Log-weights of 0 for each modality."""
    return {"modality_weights": {name: jnp.zeros(()) for name in encoders}}


def _with_rows_of(adaptation: Adaptation, name: str) -> Adaptation:
    """The adaptation to the rows that have a modality."""

    def adapt(params: Params, support: Batch, key: Array) -> Params:
        if isinstance(support.x, Modalities):
            weight = row_weights(support) * support.x.present[name]
            support = support._replace(weight=weight)
        return adaptation.adapt(params, support, key)

    return adaptation._replace(adapt=adapt)


def _equal_without(name: str, apply: Apply) -> Apply:
    """The net whose logits are 0 for rows without a modality."""

    def answer(
        params: Params, x: PyTree, key: Array | None = None, *, reference: Array | None = None
    ) -> Array:
        logits: Array = apply(params, x, key, reference=reference)
        return keep_rows(x.present[name], logits) if isinstance(x, Modalities) else logits

    return answer


def _only(encode: Encode, name: str) -> Apply:
    """The features of one modality."""

    def apply(
        params: Params, x: PyTree, key: Array | None = None, *, reference: Array | None = None
    ) -> Array:
        return encode(params, x, key, reference=reference)[name]

    return apply
