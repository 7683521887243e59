"""Meta-learners that adapt by gradient descent with learned step sizes."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from metajax._checked import checked
from metajax.algorithms.learners import MakeLoss, Net, as_function, loss_of
from metajax.differentiate import Strategy, first_order, mixed_mode
from metajax.inner import inner_loop, leaf_rates, learned_rates
from metajax.losses import cross_entropy
from metajax.outer import query_loss, switch_at
from metajax.outer.task_losses import StepWeights
from metajax.types import Array, Count, Learner, Size

KEY_OF_RULES = 0
"""Seed of rules whose initial value is not random."""


@checked
def meta_sgd(
    net: Net,
    *,
    loss: MakeLoss = cross_entropy,
    initial_rate: float = 0.1,
    inner_steps: Count = 1,
    differentiate: Strategy | None = None,
    inductive: bool = False,
) -> Learner:
    """Meta-SGD: MAML with a learned step size for every weight, θ' = θ - α ⊙ ∇L(θ).

    A learned step size may become negative. The paper draws the initial step sizes at random from
    0.005 to 0.1; here all start at one value.

    Args:
        net: a Flax module or (apply, params).
        loss: what makes the loss of the network, such as `cross_entropy`.
        initial_rate: initial value of every step size.
        inner_steps: number of steps of gradient descent.
        differentiate: how derivatives pass through the steps; None is `unroll()`.
        inductive: whether statistics of norms come from the support set only.

    Source: Li et al. 2017, arXiv 1707.09835.

    Checked against: finite differences of its step sizes; equal ones are MAML.
    """
    apply, params = as_function(net)
    of_net = loss_of(loss, apply)
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
    inner_steps: Size = 5,
    multi_step_until: int = 5_000,
    first_order_until: int = 25_000,
    inductive: bool = False,
) -> Learner:
    """MAML++: MAML with a multi-step loss, learned step sizes and annealed derivatives.

    It has a learned step size for each array of weights and step; the query loss after every inner
    step, with weights that move to the last step (`multi_step_weights`); and first-order
    derivatives in the early outer steps. The outer step comes from `outer_loop`, so all of it
    anneals inside `training.fit`.

    Three parts of the paper are not here. The outer optimizer is yours: the paper's is
    `optax.adam(optax.cosine_decay_schedule(1e-3, 50_000, alpha=0.01))`. Running statistics of batch
    normalisation for each step are left out, because statistics of a task are never stored here:
    they would let what one task computed change the result of another. Norms have the same scale
    and shift in every step, and these are fast. The authors' code ends the multi-step loss after
    `multi_step_until`; here the early steps keep 3 % of it, as its formula says.

    Args:
        net: a Flax module or (apply, params).
        loss: what makes the loss of the network, such as `cross_entropy`.
        initial_rate: initial value of every step size.
        inner_steps: number of steps of gradient descent.
        multi_step_until: outer step at which the weights of the multi-step loss are final. The
            authors' settings for Omniglot take 10 epochs of 500 steps.
        first_order_until: first outer step with second derivatives. The paper takes 50 epochs.
        inductive: whether statistics of norms come from the support set only.

    Source: Antoniou, Edwards and Storkey 2019, arXiv 1810.09502.

    Checked against: an outer step with the losses of all inner steps, written out.
    """
    apply, params = as_function(net)
    of_net = loss_of(loss, apply)
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
