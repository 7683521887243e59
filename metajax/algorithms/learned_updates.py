"""Meta-learners that descend in a learned geometry, or in a small part of the weights."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from metajax._checked import checked
from metajax.algorithms.learners import (
    MakeLoss,
    Net,
    as_function,
    check_has_slow,
    loss_of,
    with_part,
)
from metajax.differentiate import Strategy, first_order
from metajax.inner import (
    chain,
    generated_rates,
    inner_loop,
    learned_curvature,
    low_rank,
    masked_descent,
    transformations,
    transformed,
    unit_masks,
    with_low_rank,
)
from metajax.losses import cross_entropy
from metajax.nets import join_params
from metajax.outer import query_loss
from metajax.types import Apply, Array, Count, Learner, Metrics, Params, Size, Task


@checked
def meta_curvature(
    net: Net,
    *,
    loss: MakeLoss = cross_entropy,
    inner_rate: float = 0.1,
    inner_steps: Count = 1,
    differentiate: Strategy | None = None,
    inductive: bool = False,
) -> Learner:
    """Meta-Curvature: MAML whose gradients are multiplied by learned matrices.

    θ' = θ - α MC(∇L(θ)), with a matrix for the input channels, one for the output channels and one
    for the places of a kernel. They start at the identity, which is MAML.

    Args:
        net: a Flax module or (apply, params).
        loss: what makes the loss of the network, such as `cross_entropy`.
        inner_rate: α.
        inner_steps: number of steps of gradient descent.
        differentiate: how derivatives pass through the steps; None is `unroll()`.
        inductive: whether statistics of norms come from the support set only.

    Source: Park and Oliva 2019, arXiv 1902.03356.

    Checked against: the formula in NumPy; MAML at the start.
    """
    apply, params = as_function(net)
    of_net = loss_of(loss, apply)
    rule = learned_curvature(inner_rate)
    adaptation = inner_loop(of_net, rule, steps=inner_steps, differentiate=differentiate)
    params = adaptation.init(params, jax.random.key(0))
    return Learner(apply, params, adaptation, query_loss(adaptation, of_net, inductive=inductive))


@checked
def alfa(
    net: Net,
    *,
    loss: MakeLoss = cross_entropy,
    initial_rate: float = 0.01,
    inner_steps: Size = 5,
    differentiate: Strategy | None = None,
    inductive: bool = False,
) -> Learner:
    """ALFA: MAML whose step sizes and weight decays a network computes at every inner step.

    θₗ' = (1 - βₗ) θₗ - αₗ ∇ₗL for each array of weights l. The network reads the means of weights
    and gradients, and scales learned step sizes and decays, of which each step has its own. The
    decays start at 5e-4 of the step size.

    Args:
        net: a Flax module or (apply, params).
        loss: what makes the loss of the network, such as `cross_entropy`.
        initial_rate: initial value of every step size.
        inner_steps: number of steps of gradient descent.
        differentiate: how derivatives pass through the steps; None is `unroll()`.
        inductive: whether statistics of norms come from the support set only.

    Source: Baik et al. 2020, arXiv 2011.00209.

    Checked against: the formula in NumPy.
    """
    apply, params = as_function(net)
    of_net = loss_of(loss, apply)
    rule = generated_rates(initial_rate, steps=inner_steps)
    adaptation = inner_loop(of_net, rule, steps=inner_steps, differentiate=differentiate)
    params = adaptation.init(params, jax.random.key(0))
    return Learner(apply, params, adaptation, query_loss(adaptation, of_net, inductive=inductive))


@checked
def t_net(
    net: Net,
    *,
    loss: MakeLoss = cross_entropy,
    inner_rate: float = 0.1,
    inner_steps: Count = 1,
    differentiate: Strategy | None = None,
    inductive: bool = False,
) -> Learner:
    """T-net: MAML with a learned linear map after each layer, which the inner loop leaves fixed.

    y = (x W + b) T. The inner loop changes W and b. The outer loop also learns T, which decides in
    which directions a step goes. `mt_net` also learns which units may change.

    Args:
        net: a Flax module, whose weights are all fast, or (apply, params). Layers that are slow
            get no map.
        loss: what makes the loss of the network, such as `cross_entropy`.
        inner_rate: step size on the mean loss.
        inner_steps: number of steps of gradient descent.
        differentiate: how derivatives pass through the steps; None is `unroll()`.
        inductive: whether statistics of norms come from the support set only.

    Raises:
        ValueError: a net without layers.

    Source: Lee and Choi 2018, arXiv 1801.05558.

    Checked against: the formula in NumPy; MAML at the start.
    """
    apply, params = as_function(net)
    params = with_part(params, "transformation", transformations(params.fast))
    transformed_apply: Apply = transformed(apply)  # type: ignore[assignment]
    of_net = loss_of(loss, transformed_apply)
    adaptation = inner_loop(
        of_net, optax.sgd(inner_rate), steps=inner_steps, differentiate=differentiate
    )
    task_loss = query_loss(adaptation, of_net, inductive=inductive)
    return Learner(transformed_apply, params, adaptation, task_loss)


@checked
def mt_net(
    net: Net,
    *,
    loss: MakeLoss = cross_entropy,
    inner_rate: float = 0.1,
    inner_steps: Count = 1,
    temperature: float = 1.0,
    differentiate: Strategy | None = None,
    inductive: bool = False,
) -> Learner:
    """MT-net: a T-net in which a random mask decides which units of a task may change.

    W' = W - α ∇L(W) diag(m): the mask m of a layer's units is drawn for each task, and the
    probabilities are learned, in `params.rule["mask"]` as logits. A prediction depends on its key.
    The mask is between 0 and 1, in evaluation too; the authors' code rounds it and passes the
    derivative through. Weights that are not those of a layer, such as of a norm, do not change.

    Args:
        net: as for `t_net`.
        loss: what makes the loss of the network, such as `cross_entropy`.
        inner_rate: α, on the mean loss.
        inner_steps: number of steps of gradient descent.
        temperature: of the relaxed draw of a mask.
        differentiate: how derivatives pass through the steps; None is `unroll()`.
        inductive: whether statistics of norms come from the support set only.

    Raises:
        ValueError: a net without layers, or a temperature that is not positive.

    Source: Lee and Choi 2018, arXiv 1801.05558.

    Checked against: the formula; a T-net and no change at the ends of its masks, for linear layers.
    """
    apply, params = as_function(net)
    masks = unit_masks(params.fast, temperature=temperature)
    params = with_part(params, "transformation", transformations(params.fast))
    transformed_apply: Apply = transformed(apply)  # type: ignore[assignment]
    of_net = loss_of(loss, transformed_apply)
    descent = inner_loop(
        of_net, masked_descent(inner_rate), steps=inner_steps, differentiate=differentiate
    )
    adaptation = chain(mask=masks, descent=descent)
    params = adaptation.init(params, jax.random.key(0))
    task_loss = query_loss(adaptation, of_net, inductive=inductive)
    return Learner(transformed_apply, params, adaptation, task_loss)


@checked
def warp_grad(
    net: Net,
    warp: Callable[[str], bool],
    *,
    loss: MakeLoss = cross_entropy,
    inner_rate: float = 0.1,
    inner_steps: Size = 5,
    inductive: bool = False,
) -> Learner:
    """WarpGrad: fixed warp layers reshape the gradients of the other layers.

    The warp layers φ are learned from every point θₖ of the trajectory of the inner loop, without a
    derivative through the trajectory: Σₖ L_query(θₖ - α ∇L_support(θₖ; φ); φ) with θₖ held
    constant. The start θ₀ is learned by MAML, with φ held constant.

    Args:
        net: a Flax module or (apply, params).
        warp: path of a weight, such as "layers/1/kernel" -> whether it belongs to a warp layer, as
            `in_part` makes it.
        loss: what makes the loss of the network, such as `cross_entropy`.
        inner_rate: α.
        inner_steps: number of steps of gradient descent.
        inductive: whether statistics of norms come from the support set only.

    Raises:
        ValueError: no weight or every weight belongs to a warp layer.

    Source: Flennerhag et al. 2020, arXiv 1909.00025, equation 8 with the query loss as the
    objective of every point.

    Checked against: the formula, written out.
    """
    apply, params = as_function(net, fast=lambda path: not warp(path))
    check_has_slow(params, "warp")
    of_net = loss_of(loss, apply)
    optimizer = optax.sgd(inner_rate)
    adaptation = inner_loop(of_net, optimizer, steps=inner_steps)
    # It gives the weights after every step, leaves [inner_steps, ...], without their derivatives.
    trajectory = inner_loop(
        of_net, optimizer, steps=inner_steps, path=True, differentiate=first_order()
    )
    one_step = inner_loop(of_net, optimizer, steps=1)
    after_all_steps = query_loss(adaptation, of_net, inductive=inductive)
    after_one_step = query_loss(one_step, of_net, inductive=inductive)

    @checked
    def task_loss(params: Params, task: Task, key: Array) -> tuple[Array, Metrics]:
        constant_warp = params._replace(slow=jax.lax.stop_gradient(params.slow))
        value, metrics = after_all_steps(constant_warp, task, key)
        ends = trajectory.adapt(params, task.support, key).fast
        starts = jax.tree.map(
            lambda start, end: jnp.concatenate([start[None], end[:-1]]), params.fast, ends
        )
        from_point = lambda fast: after_one_step(params._replace(fast=fast), task, key)[0]
        of_points = jax.vmap(from_point)(jax.lax.stop_gradient(starts)).sum()
        # The points teach the warp layers, and have no part in the value.
        return value + (of_points - jax.lax.stop_gradient(of_points)), metrics

    return Learner(apply, params, adaptation, task_loss)


@checked
def low_rank_maml(
    net: Net,
    *,
    loss: MakeLoss = cross_entropy,
    rank: Size = 4,
    inner_rate: float = 0.1,
    inner_steps: Count = 5,
    differentiate: Strategy | None = None,
    inductive: bool = False,
    seed: int = 0,
) -> Learner:
    """MAML on low-rank factors (LoRA): W + down · up, of which the inner loop changes both factors.

    The net's own weights are slow. To keep those of a pretrained net frozen, give the outer
    optimizer `optax.multi_transform` with `optax.set_to_zero()` for them.

    Args:
        net: a Flax module or (apply, params).
        loss: what makes the loss of the network, such as `cross_entropy`.
        rank: columns of "down".
        inner_rate: step size on the mean loss.
        inner_steps: number of steps of gradient descent.
        differentiate: how derivatives pass through the steps; None is `unroll()`.
        inductive: whether statistics of norms come from the support set only.
        seed: of "down", which is random; "up" starts at 0.

    Raises:
        ValueError: a net without layers.

    Source: the factors, Hu et al. 2021, arXiv 2106.09685; the inner loop, Finn et al. 2017,
    arXiv 1703.03400.

    Checked against: the formula in NumPy.
    """
    apply, params = as_function(net)
    weights = join_params(params)
    params = Params({"low_rank": low_rank(weights, rank, jax.random.key(seed))}, weights)
    changed_apply: Apply = with_low_rank(apply)  # type: ignore[assignment]
    of_net = loss_of(loss, changed_apply)
    adaptation = inner_loop(
        of_net, optax.sgd(inner_rate), steps=inner_steps, differentiate=differentiate
    )
    task_loss = query_loss(adaptation, of_net, inductive=inductive)
    return Learner(changed_apply, params, adaptation, task_loss)
