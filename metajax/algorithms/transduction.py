"""Meta-learners that also learn from the queries of a task, without their labels."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from metajax._checked import checked
from metajax.algorithms.learners import (
    MakeLoss,
    Net,
    as_features,
    as_function,
    embed_of,
    loss_of,
    with_part,
)
from metajax.differentiate import first_order
from metajax.inner import chain, inner_loop, learned, prototypes, spread_labels, support_set
from metajax.losses import cross_entropy, semi_supervised_cross_entropy
from metajax.outer import query_loss, with_queries
from metajax.types import Array, Count, Learner, Metrics, Params, Task


@checked
def transductive(learner: Learner) -> Learner:
    """The learner whose task loss also adapts to the queries, as rows without a label.

    It is for adaptations that read unlabelled rows, whose label is -1: with
    `soft_kmeans_protonets` it is soft k-means on the queries. To predict, put the queries into the
    support set yourself (`with_queries`).

    Args:
        learner: a learner of `metajax.algorithms`, or one of your own.

    Checked against: the learner, given the queries as rows without a label.
    """

    @checked
    def task_loss(params: Params, task: Task, key: Array) -> tuple[Array, Metrics]:
        return learner.task_loss(params, with_queries(task), key)

    return learner._replace(task_loss=task_loss)


@checked
def label_propagation(
    net: Net,
    ways: int,
    *,
    loss: MakeLoss = cross_entropy,
    spread: float = 0.99,
    entry: str = "head",
) -> Learner:
    """Label propagation on learned features, in the graph of support set and queries.

    F = (I - α S)⁻¹ Y with the normalised affinities S of all rows, and the logits are log F. The
    queries are neighbours of each other, so `predict` needs all of them at once. The paper has the
    logits F, computes a length scale for each row, and links each row to its nearest 20 only. Here
    one length scale is learned for all rows, and all are linked.

    Args:
        net: a Flax module with `embed` and `head`, or any net whose outputs are features.
        ways: number of classes of a task.
        loss: what makes the loss of the network, such as `cross_entropy`.
        spread: α, the paper's 0.99.
        entry: the entry of `params.fast` that the support set is written into.

    Raises:
        ValueError: a spread outside 0 … 1.

    Source: Liu et al. 2019, arXiv 1805.10002.

    Checked against: scikit-learn's label spreading.
    """
    embed, params = as_features(net, entry)
    params = with_part(params, "log_length", jnp.zeros(()))
    adaptation = support_set(embed, ways, entry=entry)
    apply = spread_labels(embed, spread=spread, entry=entry)
    return Learner(apply, params, adaptation, query_loss(adaptation, loss_of(loss, apply)))


@checked
def transductive_fine_tuning(
    net: nnx.Module, ways: int, *, rate: float = 5e-5, steps: Count = 25
) -> Learner:
    """Fine-tuning by the cross-entropy of the support set and the entropy of the queries.

    From the head of class means, a few steps of Adam on all weights. As in `fine_tuning`, set its
    params by `with_pretrained_body`; the rate is stored in `params.rule["descent"]`. The paper
    starts from the class means of unit features, and steps on the two losses in turn.

    The task loss puts the queries into the support set. To predict, do so yourself
    (`with_queries`): without them it is plain fine-tuning.

    Args:
        net: a Flax module with `embed` and `head`.
        ways: number of classes of a task.
        rate: step size of Adam, which has `eps_root=1e-8`.
        steps: number of steps.

    Source: Dhillon et al. 2020, arXiv 1909.02729, whose rate and steps are the defaults.

    Checked against: the loss in NumPy.
    """
    apply, params = as_function(net)
    adam = learned(functools.partial(optax.adam, eps_root=1e-8), rate)
    adaptation = chain(
        head=prototypes(embed_of(apply), ways),
        descent=inner_loop(
            semi_supervised_cross_entropy(apply), adam, steps=steps, differentiate=first_order()
        ),
    )
    params = adaptation.init(params, jax.random.key(0))
    task_loss = query_loss(adaptation, cross_entropy(apply))
    return transductive(Learner(apply, params, adaptation, task_loss))
