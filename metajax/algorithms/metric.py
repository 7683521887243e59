"""Meta-learners that compare a query with the support set in a learned feature space."""

from __future__ import annotations

from metajax._checked import checked
from metajax.algorithms.learners import MakeLoss, Net, as_encoder, loss_of
from metajax.inner import prototypes
from metajax.losses import cross_entropy
from metajax.outer import query_loss
from metajax.types import Learner


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
