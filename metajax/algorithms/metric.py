"""Meta-learners that compare a query with the support set in a learned feature space."""

from __future__ import annotations

import jax

from metajax._checked import checked
from metajax.algorithms.learners import MakeLoss, Net, as_encoder, as_features, loss_of
from metajax.inner import (
    class_covariances,
    cosine_attention,
    mahalanobis_head,
    prototypes,
    soft_kmeans,
    support_set,
)
from metajax.losses import cross_entropy
from metajax.outer import query_loss
from metajax.types import Count, Learner


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
        loss: from apply to the loss of the network.
        entry: the entry of `params.fast` that the head is written into.
        inductive: as in `query_loss`.

    Source: Snell, Swersky and Zemel 2017, arXiv 1703.05175.
    """
    embed, apply, params = as_encoder(net, entry)
    adaptation = prototypes(embed, ways, entry=entry)
    task_loss = query_loss(adaptation, loss_of(loss, apply), inductive=inductive)
    return Learner(apply, params, adaptation, task_loss)


@checked
def matching_nets(
    net: Net,
    ways: int,
    *,
    loss: MakeLoss = cross_entropy,
    entry: str = "head",
    inductive: bool = False,
) -> Learner:
    """Matching networks: attention over the support set by the cosine of learned features.

    p(k | x) = Σᵢ aᵢ [yᵢ = k], a = softmaxᵢ cos(f(x), f(xᵢ)). A cosine is between -1 and 1, so that
    no p is near 1. Features of the query and of the support set come from one net; full-context
    embeddings are not here.

    Args:
        net: a Flax module with `embed` and `head`, or any net whose outputs are features.
        ways: number of classes of a task.
        loss: from apply to the loss of the network, whose logits are log p.
        entry: the entry of `params.fast` that the support set is written into.
        inductive: as in `query_loss`.

    Source: Vinyals et al. 2016, arXiv 1606.04080, equation 1.
    """
    embed, params = as_features(net, entry)
    adaptation = support_set(embed, ways, entry=entry)
    apply = cosine_attention(embed, entry=entry)
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
        loss: from apply to the loss of the network.
        refinements: steps of soft k-means.
        distractors: whether unlabelled rows may belong to none of the classes: a further cluster at
            0 with a learned radius takes its share.
        entry: the entry of `params.fast` that the head is written into.
        inductive: as in `query_loss`.

    Source: Ren et al. 2018, arXiv 1803.00676.
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
        loss: from apply to the loss of the network.
        entry: the entry of `params.fast` that means and covariances are written into.
        inductive: as in `query_loss`.

    Source: Bateni et al. 2020, arXiv 1912.03432.
    """
    embed, params = as_features(net, entry)
    adaptation = class_covariances(embed, ways, entry=entry)
    apply = mahalanobis_head(embed, entry=entry)
    task_loss = query_loss(adaptation, loss_of(loss, apply), inductive=inductive)
    return Learner(apply, params, adaptation, task_loss)
