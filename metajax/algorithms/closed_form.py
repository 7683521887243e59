"""Meta-learners whose head is the solution of an equation, alone or as the start of descent."""

from __future__ import annotations

import jax
import optax
from flax import nnx

from metajax._checked import checked
from metajax.algorithms.learners import MakeLoss, Net, as_encoder, as_function, embed_of, loss_of
from metajax.differentiate import Strategy
from metajax.inner import chain, inner_loop, prototypes, ridge, support_vectors
from metajax.losses import cross_entropy
from metajax.outer import query_loss
from metajax.types import Count, Learner


@checked
def r2d2(
    net: Net,
    ways: int | None,
    *,
    loss: MakeLoss = cross_entropy,
    entry: str = "head",
    inductive: bool = False,
) -> Learner:
    """R2-D2: ridge regression on learned features; its regulariser and scale are learned, too.

    W = (XᵀX + λI)⁻¹ XᵀY with the features X of the support set and one-hot Y, and the logits are
    a f(x) W + b. λ, a and b are in `params.rule`, and start at 1, 1 and 0. The net is slow.

    Args:
        net: a Flax module with `embed` and `head`, or any net whose outputs are features.
        ways: number of classes of a task; None regresses y [examples, k] itself.
        loss: what makes the loss of the network: `squared_error` for regression.
        entry: the entry of `params.fast` that the head is written into.
        inductive: whether statistics of norms come from the support set only.

    Source: Bertinetto et al. 2019, arXiv 1805.08136.

    Checked against: the minimum of its loss, and finite differences.
    """
    embed, apply, params = as_encoder(net, entry)
    adaptation = ridge(embed, ways, entry=entry)
    params = adaptation.init(params, jax.random.key(0))
    task_loss = query_loss(adaptation, loss_of(loss, apply), inductive=inductive)
    return Learner(apply, params, adaptation, task_loss)


@checked
def metaopt_net(
    net: Net,
    ways: int,
    *,
    penalty: float = 0.1,
    loss: MakeLoss = cross_entropy,
    entry: str = "head",
    inductive: bool = False,
) -> Learner:
    """MetaOptNet: a linear support vector machine on learned features.

    W = argmin ½|W|² + C Σᵢ maxₖ (1 - [k = yᵢ] + f(xᵢ)·Wₖ - f(xᵢ)·W_yᵢ), the machine of Crammer and
    Singer, and the logits are a f(x)·Wₖ with a learned scale a. Derivatives pass through the
    solution of the dual problem, which qpax finds, a solver of quadratic programs. On several
    devices, let the compiler divide the tasks: qpax does not run inside `jax.shard_map`.

    Args:
        net: a Flax module with `embed` and `head`, or any net whose outputs are features.
        ways: number of classes of a task.
        penalty: C, the weight of the hinge losses.
        loss: what makes the loss of the network, such as `cross_entropy`.
        entry: the entry of `params.fast` that the head is written into.
        inductive: whether statistics of norms come from the support set only.

    Raises:
        ImportError: qpax is not installed.
        ValueError: a penalty that is not above 0.

    Source: Lee et al. 2019, arXiv 1904.03758.

    Checked against: scikit-learn's machine of Crammer and Singer; finite differences.
    """
    embed, apply, params = as_encoder(net, entry)
    adaptation = support_vectors(embed, ways, penalty=penalty, entry=entry)
    params = adaptation.init(params, jax.random.key(0))
    task_loss = query_loss(adaptation, loss_of(loss, apply), inductive=inductive)
    return Learner(apply, params, adaptation, task_loss)


@checked
def proto_maml(
    net: nnx.Module,
    ways: int,
    *,
    loss: MakeLoss = cross_entropy,
    inner_rate: float = 0.05,
    inner_steps: Count = 3,
    differentiate: Strategy | None = None,
    inductive: bool = False,
) -> Learner:
    """Proto-MAML: the head of class means is the start of MAML's inner loop.

    The head of class k starts at kernel 2cₖ and bias -|cₖ|² with the class mean cₖ, and derivatives
    pass through cₖ. The paper chooses rate and steps for each data set, so the defaults are our
    own.

    Args:
        net: a Flax module with `embed` and `head`; all weights are fast.
        ways: number of classes of a task.
        loss: what makes the loss of the network, such as `cross_entropy`.
        inner_rate: step size on the mean loss.
        inner_steps: number of steps of gradient descent.
        differentiate: how derivatives pass through the steps; None is `unroll()`.
        inductive: whether statistics of norms come from the support set only.

    Source: Triantafillou et al. 2020, arXiv 1903.03096.

    Checked against: the loss and its derivative written out.
    """
    apply, params = as_function(net)
    of_net = loss_of(loss, apply)
    adaptation = chain(
        head=prototypes(embed_of(apply), ways),
        descent=inner_loop(
            of_net, optax.sgd(inner_rate), steps=inner_steps, differentiate=differentiate
        ),
    )
    params = adaptation.init(params, jax.random.key(0))
    return Learner(apply, params, adaptation, query_loss(adaptation, of_net, inductive=inductive))
