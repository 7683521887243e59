"""Meta-learners that learn what the inner loop descends, or how much each example counts."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from metajax._checked import checked
from metajax._checks import shapes
from metajax._tree import row_weights
from metajax.algorithms.learners import MakeLoss, Net, as_function, loss_of, with_part
from metajax.differentiate import Strategy, mixed_mode
from metajax.inner import identity, inner_loop
from metajax.losses import cross_entropy, learned_loss
from metajax.nets import functional, join_params
from metajax.outer import example_weights, query_loss
from metajax.types import (
    Array,
    Batch,
    Count,
    Learner,
    Metrics,
    Params,
    PyTree,
    Sample,
    Task,
)


@checked
def ml3(
    net: Net,
    measure: nnx.Module,
    *,
    loss: MakeLoss = cross_entropy,
    inner_rate: float = 0.1,
    inner_steps: Count = 1,
    differentiate: Strategy | None = None,
    inductive: bool = False,
) -> Learner:
    """ML³: a learned net is the loss of the inner loop; the outer loss is that of the task.

    θ' = θ - α ∇M(θ) with M = mean softplus(m(output, target)). For labels, m is applied to each
    class alone, to (output, log-probability, target). The start θ is learned as in MAML; in the
    paper it is random.

    Args:
        net: a Flax module or (apply, params).
        measure: the net m from [rows, 3] to [rows, 1] for labels, such as
            `MLP(3, (40, 40), 1, rngs=rngs)`, and from [rows, 2] for numbers.
        loss: what makes the loss of the query set, such as `cross_entropy`.
        inner_rate: α.
        inner_steps: number of steps of gradient descent.
        differentiate: how derivatives pass through the steps; None is `unroll()`.
        inductive: whether statistics of norms come from the support set only.

    Source: Bechtle et al. 2021, arXiv 1906.05374.

    Checked against: the formula, written out; it learns where squares fail.
    """
    apply, params = as_function(net)
    apply_measure, measure_params = functional(measure)
    params = with_part(params, "measure", join_params(measure_params))
    adaptation = inner_loop(
        learned_loss(apply, apply_measure, part="measure"),
        optax.sgd(inner_rate),
        steps=inner_steps,
        differentiate=differentiate,
    )
    task_loss = query_loss(adaptation, loss_of(loss, apply), inductive=inductive)
    return Learner(apply, params, adaptation, task_loss)


@checked
def learning_to_reweight(net: Net, *, loss: MakeLoss = cross_entropy) -> Learner:
    """Learning to reweight: noisy examples count as far as they help on a few clean ones.

    A task is one step of ordinary training: `task.support` is a batch of noisy examples, and
    `task.query` are clean ones. wᵢ ∝ max(0, ∇lᵢ·∇L_clean), and the loss is Σᵢ wᵢ lᵢ. Its metrics
    are those of the clean examples. Nothing is adapted.

    Args:
        net: a Flax module or (apply, params).
        loss: what makes the loss of the network, such as `cross_entropy`.

    Source: Ren et al. 2018, arXiv 1803.09050.

    Checked against: the formula in NumPy, and its derivative by the weights.
    """
    apply, params = as_function(net)
    of_net = loss_of(loss, apply)

    @checked
    def task_loss(params: Params, task: Task, key: Array) -> tuple[Array, Metrics]:
        weigh_key, noisy_key, clean_key = jax.random.split(key, 3)
        weights = example_weights(of_net, params, task.support, task.query, weigh_key)
        reference = task.support.reference  # statistics of a norm come from all noisy examples
        if reference is None:
            reference = row_weights(task.support) > 0
        noisy = task.support._replace(weight=jax.lax.stop_gradient(weights), reference=reference)
        value, _ = of_net(params, noisy, noisy_key)
        of_clean, metrics = of_net(params, task.query, clean_key)
        return value, {"query_loss": of_clean, **metrics}

    return Learner(apply, params, identity(), task_loss)


@checked
def data_rater(
    net: Net,
    rater: Net,
    *,
    reads: Callable[[Batch], PyTree] = lambda batch: batch.x,
    loss: MakeLoss = cross_entropy,
    optimizer: optax.GradientTransformation | None = None,
    inner_steps: Count = 2,
    sample: Sample[Batch] | None = None,
    differentiate: Strategy | None = None,
    inductive: bool = False,
) -> Learner:
    """DataRater: a second net weighs the examples of each batch, so that training on them helps.

    The inner loop trains on Σᵢ softmax(s)ᵢ lᵢ with a score sᵢ of each example of the batch, times
    its weight where it has one. The rater is learned through it by the loss of the query set, and
    rates any number of examples. It is among the slow weights, `params.slow["rater"]`. Give the
    adaptation to `bilevel` for one long training as in the paper, but that the state of the inner
    optimizer starts anew in each outer step. The task loss trains from the start for every task.

    Args:
        net: what is trained, a Flax module or (apply, params).
        rater: a Flax module or (apply, params) whose output is [examples, 1].
        reads: batch -> input of the rater. By default it reads x; to find wrong labels, it must
            read y, too.
        loss: what makes the loss of the network, such as `cross_entropy`.
        optimizer: of the inner loop; None is Adam with a step size of 1e-3.
        inner_steps: training steps that the scores are learned through.
        sample: (support, key) -> the batch of an inner step, such as `minibatch(128)`.
        differentiate: how derivatives pass through the inner loop; None is `mixed_mode()`.
        inductive: whether statistics of norms come from the support set only.

    Raises:
        ValueError: when traced, a rater whose output is not [examples, 1].

    Source: Calian et al. 2025, arXiv 2505.17895.

    Checked against: the derivative of one step, in NumPy.
    """
    apply, params = as_function(net)
    rate, rater_params = as_function(rater)
    params = with_part(params, "rater", join_params(rater_params))
    of_net = loss_of(loss, apply)

    @checked
    def rated(params: Params, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        weight = row_weights(batch)
        scores = rate(Params(params.slow["rater"], {}), reads(batch))
        if jnp.shape(scores) != (len(weight), 1):
            raise ValueError(f"The rater must give [examples, 1], got {shapes(scores)}.")
        share = jax.nn.softmax(scores[:, 0], where=weight > 0)  # padding has no share
        reference = weight > 0 if batch.reference is None else batch.reference
        rated = batch._replace(weight=weight * share, reference=reference)
        return of_net(params, rated, key)

    adaptation = inner_loop(
        rated,
        optax.adam(1e-3, eps_root=1e-12) if optimizer is None else optimizer,
        steps=inner_steps,
        sample=sample,
        differentiate=mixed_mode() if differentiate is None else differentiate,
    )
    task_loss = query_loss(adaptation, of_net, inductive=inductive)
    return Learner(apply, params, adaptation, task_loss)
