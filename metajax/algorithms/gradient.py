"""Meta-learners that adapt by gradient descent."""

from __future__ import annotations

import math

import optax

from metajax._checked import checked
from metajax.algorithms.learners import MakeLoss, Net, as_function, check_has_slow, in_part, loss_of
from metajax.differentiate import Strategy, conjugate_gradient, first_order, implicit
from metajax.inner import inner_loop, minibatch
from metajax.losses import cross_entropy
from metajax.outer import query_loss
from metajax.outer import reptile as reptile_loss
from metajax.types import Count, Learner, Size


@checked
def maml(
    net: Net,
    *,
    loss: MakeLoss = cross_entropy,
    inner_rate: float = 2.0,
    inner_steps: Count = 1,
    differentiate: Strategy | None = None,
    inductive: bool = False,
) -> Learner:
    """MAML: learns weights from which a few steps of gradient descent solve a task.

    θ' = θ - α∇L(θ, support), and the outer loss is L(θ', query).

    Args:
        net: a Flax module, whose weights are all fast, or (apply, params).
        loss: what makes the loss of the network, such as `cross_entropy`.
        inner_rate: α. The default is the published one for 5-way Omniglot: 0.4 on a loss that is
            summed over the ways is 2.0 on the mean that `cross_entropy` takes. For sinusoids it is
            0.01.
        inner_steps: number of steps of gradient descent.
        differentiate: how derivatives pass through the steps; None is `unroll()`.
        inductive: whether statistics of norms come from the support set only.

    Source: Finn, Abbeel and Levine 2017, arXiv 1703.03400.

    Checked against: the meta-gradients of PyTorch, and the loss and its derivative written out.
    """
    apply, params = as_function(net)
    of_net = loss_of(loss, apply)
    adaptation = inner_loop(
        of_net, optax.sgd(inner_rate), steps=inner_steps, differentiate=differentiate
    )
    return Learner(apply, params, adaptation, query_loss(adaptation, of_net, inductive=inductive))


@checked
def fomaml(
    net: Net,
    *,
    loss: MakeLoss = cross_entropy,
    inner_rate: float = 2.0,
    inner_steps: Count = 1,
    inductive: bool = False,
) -> Learner:
    """First-order MAML: MAML without second derivatives.

    The inner gradients count as constants, so that dθ'/dθ is the identity. Arguments are those of
    `maml`.

    Source: Finn, Abbeel and Levine 2017, arXiv 1703.03400, section 5.2.

    Checked against: the loss and its derivative written out.
    """
    return maml(
        net,
        loss=loss,
        inner_rate=inner_rate,
        inner_steps=inner_steps,
        differentiate=first_order(),
        inductive=inductive,
    )


@checked
def anil(
    net: Net,
    *,
    loss: MakeLoss = cross_entropy,
    inner_rate: float = 0.1,
    inner_steps: Count = 5,
    head: str = "head",
    inductive: bool = False,
) -> Learner:
    """ANIL ("almost no inner loop"): MAML whose inner loop changes the head only.

    Every inner step runs the whole net. `inner.on_features` makes an inner loop that computes the
    features once, for a net whose output is its head on its features.

    Args:
        net: a Flax module or (apply, params).
        loss: what makes the loss of the network, such as `cross_entropy`.
        inner_rate: step size on the mean loss.
        inner_steps: number of steps of gradient descent.
        head: the part of the net that is fast: a name in the paths of its weights.
        inductive: whether statistics of norms come from the support set only.

    Raises:
        ValueError: no weight belongs to the head.

    Source: Raghu et al. 2020, arXiv 1909.09157.

    Checked against: the loss and its derivative written out.
    """
    return maml(
        as_function(net, fast=in_part(head)),
        loss=loss,
        inner_rate=inner_rate,
        inner_steps=inner_steps,
        inductive=inductive,
    )


@checked
def boil(
    net: Net,
    *,
    loss: MakeLoss = cross_entropy,
    inner_rate: float = 0.5,
    inner_steps: Count = 1,
    head: str = "head",
    inductive: bool = False,
) -> Learner:
    """BOIL ("body only update in inner loop"): MAML whose inner loop changes all but the head.

    Arguments are those of `anil`.

    Raises:
        ValueError: no weight belongs to the head, or all do.

    Source: Oh et al. 2021, arXiv 2008.08882.

    Checked against: the loss and its derivative written out.
    """
    is_head = in_part(head)
    apply, params = as_function(net, fast=lambda path: not is_head(path))
    check_has_slow(params, f"{head=}")
    return maml(
        (apply, params),
        loss=loss,
        inner_rate=inner_rate,
        inner_steps=inner_steps,
        inductive=inductive,
    )


@checked
def reptile(
    net: Net,
    *,
    loss: MakeLoss = cross_entropy,
    inner_rate: float = 1e-3,
    inner_steps: Count = 5,
    batch: int | None = None,
) -> Learner:
    """Reptile: moves the start toward the weights that gradient descent on a task reaches.

    The inner optimizer is Adam without momentum. The outer optimizer is gradient descent: with
    `outer_loop(learner.task_loss, optax.sgd(ε))` the start moves by ε times the mean of θ' - θ. The
    task loss is the distance to the adapted weights; its metrics are those of the query set, which
    is not trained on.

    For 5-way Omniglot the paper's ε falls linearly from 1 to 0, and evaluation takes 50 inner
    steps: make a second learner for it. In the authors' code the inner Adam keeps its second
    moments from task to task; here it starts anew in every task.

    Args:
        net: a Flax module or (apply, params); all weights are fast.
        loss: what makes the loss of the network, such as `cross_entropy`.
        inner_rate: step size of the inner Adam.
        inner_steps: number of inner steps.
        batch: support examples in a step, drawn at random; the paper takes 10 of 50 there. None
            takes all.

    Source: Nichol, Achiam and Schulman 2018, arXiv 1803.02999.

    Checked against: the direction of its step, written out with Adam.
    """
    apply, params = as_function(net)
    of_net = loss_of(loss, apply)
    adaptation = inner_loop(
        of_net,
        optax.adam(inner_rate, b1=0.0),
        steps=inner_steps,
        differentiate=first_order(),
        sample=None if batch is None else minibatch(batch),
    )
    return Learner(apply, params, adaptation, reptile_loss(adaptation, of_net))


@checked
def imaml(
    net: Net,
    *,
    loss: MakeLoss = cross_entropy,
    inner_rate: float = 0.1,
    inner_steps: Count = 16,
    proximity: float = 2.0,
    solver_steps: Size = 5,
    inductive: bool = False,
) -> Learner:
    """iMAML: MAML with implicit derivatives of a regularised minimum, without the path to it.

    The inner loss is L(θ) + ½ λ |θ - θ₀|². The derivative of its minimum θ' with respect to θ₀ is
    (I + H/λ)⁻¹ with the Hessian H of L, and a few steps of conjugate gradient multiply by it.

    Args:
        net: a Flax module or (apply, params).
        loss: what makes the loss of the network, such as `cross_entropy`.
        inner_rate: step size on the mean loss.
        inner_steps: number of steps of gradient descent.
        proximity: λ.
        solver_steps: steps of conjugate gradient. They are too few to reach a strict tolerance, so
            the solution is accepted as it is.
        inductive: whether statistics of norms come from the support set only.

    Raises:
        ValueError: a proximity that is not positive.

    Source: Rajeswaran et al. 2019, arXiv 1909.04630. The released code solves with 2I + H/12, and
    takes its steps on L alone and one step on the distance after them.

    Checked against: the derivative of the minimum by a dense solve.
    """
    if not proximity > 0:
        raise ValueError(f"{proximity=} must be positive: without it the start has no gradient.")
    apply, params = as_function(net)
    of_net = loss_of(loss, apply)
    adaptation = inner_loop(
        of_net,
        optax.sgd(inner_rate),
        steps=inner_steps,
        proximity=proximity,
        differentiate=implicit(conjugate_gradient(steps=solver_steps), tolerance=math.inf),
    )
    return Learner(apply, params, adaptation, query_loss(adaptation, of_net, inductive=inductive))
