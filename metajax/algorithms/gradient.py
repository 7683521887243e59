"""Meta-learners that adapt by gradient descent."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import optax

from metajax._checked import checked
from metajax.algorithms.learners import MakeLoss, Net, as_function, in_part
from metajax.differentiate import (
    Strategy,
    conjugate_gradient,
    first_order,
    implicit,
    mixed_mode,
)
from metajax.inner import inner_loop, leaf_rates, learned_rates, minibatch
from metajax.losses import cross_entropy
from metajax.outer import query_loss, switch_at
from metajax.outer import reptile as reptile_loss
from metajax.outer.task_losses import StepWeights
from metajax.types import Array, Learner, Size

KEY_OF_RULES = 0
"""Seed of rules whose initial value is not random."""


@checked
def maml(
    net: Net,
    *,
    loss: MakeLoss = cross_entropy,
    inner_rate: float = 2.0,
    inner_steps: int = 1,
    differentiate: Strategy | None = None,
    inductive: bool = False,
) -> Learner:
    """MAML: learns weights from which a few steps of gradient descent solve a task.

    θ' = θ - α∇L(θ, support), and the outer loss is L(θ', query).

    Args:
        net: a Flax module, whose weights are all fast, or (apply, params).
        loss: from apply to the loss of the network.
        inner_rate: α. The default is the published one for 5-way Omniglot: 0.4 on a loss that is
            summed over the ways is 2.0 on the mean that `cross_entropy` takes. For sinusoids it is
            0.01.
        inner_steps: number of steps of gradient descent.
        differentiate: how derivatives pass through the steps; None is `unroll()`.
        inductive: as in `query_loss`.

    Source: Finn, Abbeel and Levine 2017, arXiv 1703.03400.
    """
    apply, params = as_function(net)
    of_net = loss(apply)
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
    inner_steps: int = 1,
    inductive: bool = False,
) -> Learner:
    """First-order MAML: MAML without second derivatives.

    The inner gradients count as constants, so that dθ'/dθ is the identity. Arguments are those of
    `maml`.

    Source: Finn, Abbeel and Levine 2017, arXiv 1703.03400, section 5.2.
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
    inner_steps: int = 5,
    head: str = "head",
    inductive: bool = False,
) -> Learner:
    """ANIL ("almost no inner loop"): MAML whose inner loop changes the head only.

    Args:
        net: a Flax module or (apply, params).
        loss: from apply to the loss of the network.
        inner_rate: step size on the mean loss.
        inner_steps: number of steps of gradient descent.
        head: the part of the net that is fast: a name in the paths of its weights.
        inductive: as in `query_loss`.

    Raises:
        ValueError: no weight belongs to the head.

    Source: Raghu et al. 2020, arXiv 1909.09157.
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
    inner_steps: int = 1,
    head: str = "head",
    inductive: bool = False,
) -> Learner:
    """BOIL ("body only update in inner loop"): MAML whose inner loop changes all but the head.

    Arguments and errors are those of `anil`.

    Source: Oh et al. 2021, arXiv 2008.08882.
    """
    is_head = in_part(head)
    return maml(
        as_function(net, fast=lambda path: not is_head(path)),
        loss=loss,
        inner_rate=inner_rate,
        inner_steps=inner_steps,
        inductive=inductive,
    )


@checked
def meta_sgd(
    net: Net,
    *,
    loss: MakeLoss = cross_entropy,
    initial_rate: float = 0.1,
    inner_steps: int = 1,
    differentiate: Strategy | None = None,
    inductive: bool = False,
) -> Learner:
    """Meta-SGD: MAML with a learned step size for every weight, θ' = θ - α ⊙ ∇L(θ).

    A learned step size may become negative. The paper draws the initial step sizes at random from
    0.005 to 0.1; here all start at one value.

    Args:
        net: a Flax module or (apply, params).
        loss: from apply to the loss of the network.
        initial_rate: initial value of every step size.
        inner_steps: number of steps of gradient descent.
        differentiate: how derivatives pass through the steps; None is `unroll()`.
        inductive: as in `query_loss`.

    Source: Li et al. 2017, arXiv 1707.09835.
    """
    apply, params = as_function(net)
    of_net = loss(apply)
    adaptation = inner_loop(
        of_net, learned_rates(initial_rate), steps=inner_steps, differentiate=differentiate
    )
    params = adaptation.init(params, jax.random.key(KEY_OF_RULES))
    return Learner(apply, params, adaptation, query_loss(adaptation, of_net, inductive=inductive))


@checked
def maml_plus_plus(
    net: Net,
    *,
    loss: MakeLoss = cross_entropy,
    initial_rate: float = 0.1,
    inner_steps: int = 5,
    multi_step_until: int = 5_000,
    first_order_until: int = 25_000,
    inductive: bool = False,
) -> Learner:
    """MAML++: MAML with a multi-step loss, learned step sizes and annealed derivatives.

    It has a learned step size for each layer and step; the query loss after every inner step, with
    weights that move to the last step (`multi_step_weights`); and first-order derivatives in the
    early outer steps. The outer step comes from `outer_loop`, so all of it anneals inside
    `training.fit`.

    Two parts of the paper are not here. The outer optimizer is yours: the paper's is
    `optax.adam(optax.cosine_decay_schedule(1e-3, 50_000, alpha=0.01))`. Running statistics of batch
    normalisation for each step are left out, because statistics of a task are never stored here:
    they would let what one task computed change the result of another.

    Args:
        net: a Flax module or (apply, params).
        loss: from apply to the loss of the network.
        initial_rate: initial value of every step size.
        inner_steps: number of steps of gradient descent.
        multi_step_until: outer step at which the weights of the multi-step loss are final. The
            paper takes 10 epochs of 500 steps.
        first_order_until: first outer step with second derivatives. The paper takes 50 epochs.
        inductive: as in `query_loss`.

    Source: Antoniou, Edwards and Storkey 2019, arXiv 1810.09502.
    """
    apply, params = as_function(net)
    of_net = loss(apply)
    rule = leaf_rates(initial_rate, steps=inner_steps)
    weights = multi_step_weights(inner_steps, multi_step_until)

    early = inner_loop(of_net, rule, steps=inner_steps, differentiate=first_order(), path=True)
    late = inner_loop(of_net, rule, steps=inner_steps, differentiate=mixed_mode(), path=True)
    task_loss = switch_at(
        first_order_until,
        query_loss(early, of_net, inductive=inductive, step_weights=weights),
        query_loss(late, of_net, inductive=inductive, step_weights=weights),
    )
    adaptation = inner_loop(of_net, rule, steps=inner_steps, differentiate=mixed_mode())
    params = adaptation.init(params, jax.random.key(KEY_OF_RULES))
    return Learner(apply, params, adaptation, task_loss)


@checked
def multi_step_weights(inner_steps: Size, until: Size) -> StepWeights:
    """The annealed weights of MAML++'s multi-step loss.

    All K weights start at 1/K. Those before the last are max(1 - step/until, 0.03)/K, and the last
    one is 1 minus their sum.

    Args:
        inner_steps: K.
        until: outer step from which the weights stay.

    Returns:
        outer step -> weights [K]. None, as in evaluation, gives weight 1 to the last step.

    >>> weights = multi_step_weights(inner_steps=2, until=100)
    >>> weights(jnp.int32(0)).tolist(), weights(None).tolist()
    ([0.5, 0.5], [0.0, 1.0])

    Source: Antoniou, Edwards and Storkey 2019, arXiv 1810.09502; the constant 0.03 as in the
    authors' code, github.com/AntreasAntoniou/HowToTrainYourMAMLPytorch.
    """
    is_last = jnp.arange(inner_steps) == inner_steps - 1

    def weights(step: Array | None) -> Array:
        if step is None:
            return is_last.astype(float)
        early = jnp.maximum((1 - step / until) / inner_steps, 0.03 / inner_steps)
        return jnp.where(is_last, 1 - (inner_steps - 1) * early, early)

    return weights


@checked
def reptile(
    net: Net,
    *,
    loss: MakeLoss = cross_entropy,
    inner_rate: float = 1e-3,
    inner_steps: int = 5,
    batch: int | None = None,
) -> Learner:
    """Reptile: moves the start toward the weights that gradient descent on a task reaches.

    The inner optimizer is Adam without momentum. The outer optimizer is plain: with
    `outer_loop(learner.task_loss, optax.sgd(ε))` the start moves by ε times the mean of θ' - θ. The
    paper's ε falls linearly from 1 to 0, and evaluation takes 50 inner steps. The task loss is the
    distance to the adapted weights; its metrics are those of the query set, which is not trained
    on.

    Args:
        net: a Flax module or (apply, params); all weights are fast.
        loss: from apply to the loss of the network.
        inner_rate: step size of the inner Adam.
        inner_steps: number of inner steps.
        batch: support examples in a step, drawn at random; the paper takes 10 of 50. None takes
            all.

    Source: Nichol, Achiam and Schulman 2018, arXiv 1803.02999.
    """
    apply, params = as_function(net)
    of_net = loss(apply)
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
    inner_steps: int = 16,
    proximity: float = 2.0,
    solver_steps: int = 5,
    inductive: bool = False,
) -> Learner:
    """iMAML: MAML with implicit derivatives of a regularised minimum, without the path to it.

    The inner loss is L(θ) + ½ λ |θ - θ₀|². The derivative of its minimum θ' with respect to θ₀ is
    (I + H/λ)⁻¹ with the Hessian H of L, and a few steps of conjugate gradient multiply by it.

    Args:
        net: a Flax module or (apply, params).
        loss: from apply to the loss of the network.
        inner_rate: step size on the mean loss.
        inner_steps: number of steps of gradient descent.
        proximity: λ.
        solver_steps: steps of conjugate gradient. They are too few to reach a strict tolerance, so
            the solution is accepted as it is.
        inductive: as in `query_loss`.

    Source: Rajeswaran et al. 2019, arXiv 1909.04630. The released code solves with 2I + H/12
    instead.
    """
    apply, params = as_function(net)
    of_net = loss(apply)
    adaptation = inner_loop(
        of_net,
        optax.sgd(inner_rate),
        steps=inner_steps,
        proximity=proximity,
        differentiate=implicit(conjugate_gradient(steps=solver_steps), tolerance=math.inf),
    )
    return Learner(apply, params, adaptation, query_loss(adaptation, of_net, inductive=inductive))
