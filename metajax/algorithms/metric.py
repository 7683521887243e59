"""Meta-learners that compare a query with the support set in a learned feature space."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from metajax._checked import checked
from metajax.algorithms.learners import MakeLoss, Net, as_encoder, as_features, loss_of, with_part
from metajax.inner import (
    class_covariances,
    cosine_attention,
    mahalanobis_head,
    prototypes,
    soft_kmeans,
    support_set,
    written_head,
)
from metajax.inner.support_sets import log_attention
from metajax.losses import cross_entropy
from metajax.nets import functional, join_params
from metajax.outer import query_loss
from metajax.types import Adaptation, Apply, Array, Batch, Count, Learner, Params, PyTree


@checked
def protonets(
    net: Net,
    ways: int,
    *,
    loss: MakeLoss = cross_entropy,
    entry: str = "head",
    inductive: bool = False,
) -> Learner:
    """Prototypical networks: the nearest class mean in the feature space of the net.

    logits_k = 2 f(x)·c_k - |c_k|², which is -|f(x) - c_k|² up to a constant of each query, with c_k
    the mean feature of class k in the support set. The features are learned, the head is written.

    The paper trains with more ways than it tests with: make two learners of one net,
    `protonets(net, 60)` to train and `protonets(net, 5)` to evaluate the same params.

    Args:
        net: a Flax module with `embed` and `head`, or any net whose outputs are features.
        ways: number of classes of a task.
        loss: what makes the loss of the network, such as `cross_entropy`.
        entry: the entry of `params.fast` that the head is written into.
        inductive: whether statistics of norms come from the support set only.

    Source: Snell, Swersky and Zemel 2017, arXiv 1703.05175.

    Checked against: the nearest class mean, and finite differences.
    """
    embed, apply, params = as_encoder(net, entry)
    adaptation = prototypes(embed, ways, entry=entry)
    task_loss = query_loss(adaptation, loss_of(loss, apply), inductive=inductive)
    return Learner(apply, params, adaptation, task_loss)


@checked
def matching_nets(
    net: Net,
    ways: int,
    context: nnx.Module | None = None,
    *,
    loss: MakeLoss = cross_entropy,
    entry: str = "head",
    inductive: bool = False,
) -> Learner:
    """Matching networks: attention over the support set by the cosine of learned features.

    p(k | x) = Σᵢ aᵢ [yᵢ = k], a = softmaxᵢ cos(f(x), f(xᵢ)). A cosine is between -1 and 1, so
    that p stays well below 1. Features of the query and of the support set come from one net.

    Args:
        net: a Flax module with `embed` and `head`, or any net whose outputs are features [n, d].
        ways: number of classes of a task.
        context: full-context embeddings, `nets.FullContext(d, rngs=rngs)`: the features of every
            example in the light of all, which then depend on the order of the support set. None
            compares the features themselves.
        loss: what makes the loss of the network, whose logits are log p.
        entry: the entry of `params.fast` that the support set is written into.
        inductive: whether statistics of norms come from the support set only.

    Source: Vinyals et al. 2016, arXiv 1606.04080, equation 1.

    Checked against: the formula in NumPy, full-context embeddings too.
    """
    embed, params = as_features(net, entry)
    adaptation = support_set(embed, ways, entry=entry)
    apply = cosine_attention(embed, entry=entry)
    if context is not None:
        of_context, weights = functional(context)
        params = with_part(params, "context", join_params(weights))
        adaptation, apply = _in_full_context(embed, of_context, adaptation, entry)
    task_loss = query_loss(adaptation, loss_of(loss, apply), inductive=inductive)
    return Learner(apply, params, adaptation, task_loss)


@checked
def soft_kmeans_protonets(
    net: Net,
    ways: int,
    *,
    loss: MakeLoss = cross_entropy,
    refinements: Count = 1,
    distractors: bool = False,
    entry: str = "head",
    inductive: bool = False,
) -> Learner:
    """Semi-supervised prototypical networks: unlabelled rows of the support set refine the means.

    cₖ starts as the mean of the labelled rows of class k. Each refinement shares every unlabelled
    row, whose label is -1, among the classes, zⱼₖ ∝ exp(-|f(xⱼ) - cₖ|²), and takes the means anew
    with these shares. The masked variant of the paper is not here.

    Args:
        net: a Flax module with `embed` and `head`, or any net whose outputs are features.
        ways: number of classes of a task.
        loss: what makes the loss of the network, such as `cross_entropy`.
        refinements: steps of soft k-means.
        distractors: whether unlabelled rows may belong to none of the classes: a further cluster at
            0 with a learned radius takes its share.
        entry: the entry of `params.fast` that the head is written into.
        inductive: whether statistics of norms come from the support set only.

    Source: Ren et al. 2018, arXiv 1803.00676.

    Checked against: the formula in NumPy.
    """
    embed, apply, params = as_encoder(net, entry)
    adaptation = soft_kmeans(embed, ways, steps=refinements, distractors=distractors, entry=entry)
    params = adaptation.init(params, jax.random.key(0))
    task_loss = query_loss(adaptation, loss_of(loss, apply), inductive=inductive)
    return Learner(apply, params, adaptation, task_loss)


@checked
def simple_cnaps(
    net: Net,
    ways: int,
    *,
    loss: MakeLoss = cross_entropy,
    entry: str = "head",
    inductive: bool = False,
) -> Learner:
    """The classifier of Simple CNAPs: Mahalanobis distances by the covariance of each class.

    logitsₖ = -½ (f(x) - μₖ)ᵀ Qₖ⁻¹ (f(x) - μₖ) with Qₖ = λₖ Σₖ + (1 - λₖ) Σ + I and
    λₖ = nₖ / (nₖ + 1), from the nₖ examples of class k, their mean μₖ and covariance Σₖ, and the
    covariance Σ of the task. The paper has a pretrained net that a second one modulates for each
    task; here the features are learned through the query loss.

    Args:
        net: a Flax module with `embed` and `head`, or any net whose outputs are features. A
            task takes memory of ways x d² and time of ways x d³ for d features.
        ways: number of classes of a task.
        loss: what makes the loss of the network, such as `cross_entropy`.
        entry: the entry of `params.fast` that means and covariances are written into.
        inductive: whether statistics of norms come from the support set only.

    Source: Bateni et al. 2020, arXiv 1912.03432.

    Checked against: the formula in NumPy.
    """
    embed, params = as_features(net, entry)
    adaptation = class_covariances(embed, ways, entry=entry)
    apply = mahalanobis_head(embed, entry=entry)
    task_loss = query_loss(adaptation, loss_of(loss, apply), inductive=inductive)
    return Learner(apply, params, adaptation, task_loss)


def _in_full_context(
    embed: Apply, of_context: Callable[..., Any], written: Adaptation, entry: str
) -> tuple[Adaptation, Apply]:
    """The adaptation and the network of a support set whose features read each other."""
    own = lambda params: Params({}, params.slow["context"])
    valid_of = lambda head: (head["classes"] != 0).any(axis=1)

    def adapt(params: Params, support: Batch, key: Array) -> Params:
        adapted = written.adapt(params, support, key)
        head = adapted.fast[entry]
        read = of_context(own(params), head["features"], method="support", valid=valid_of(head))
        return adapted._replace(fast={**adapted.fast, entry: {**head, "features": read}})

    def read(params: Params, head: PyTree, features: Array) -> Array:
        queries = of_context(
            own(params), features, method="query", support=head["features"], valid=valid_of(head)
        )
        return log_attention(head, queries)

    return Adaptation(written.init, adapt), written_head(embed, read, entry=entry)
