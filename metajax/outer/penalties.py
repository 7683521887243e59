"""Bilevel problems by a penalty: first derivatives only, and none through the inner loop."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from metajax._checked import checked
from metajax._checks import check_loss_value, check_positive
from metajax._learnable import check_params, needs_value
from metajax.outer.outer_loops import Info, OuterLoop, checked_optimizer
from metajax.outer.warm_start import moved_if, only_task
from metajax.types import Array, Batch, Loss, Metrics, Params, PyTree, Sample, Size, Task


class PenaltyState(NamedTuple):
    """What `penalized` carries from step to step.

    Attributes:
        params: what is learned, with the fast weights y.
        lower: fast weights z that fit the inner loss alone.
        descents: states of the inner optimizer for y and for z.
        optimizer: state of the outer optimizer.
        step: int32, number of steps taken.
    """

    params: Params
    lower: PyTree
    descents: tuple[PyTree, PyTree]
    optimizer: PyTree
    step: Array


@checked
def penalized(
    inner_loss: Loss,
    loss: Loss,
    inner_optimizer: optax.GradientTransformation,
    optimizer: optax.GradientTransformation,
    *,
    inner_steps: Size,
    strength: float = 100.0,
    sample: Sample[Batch] | None = None,
) -> OuterLoop[PenaltyState]:
    """Solves the problem of `bilevel` with first derivatives only.

    The inner loss g(φ, θ) is not solved but penalised: what it is above its minimum is added to the
    loss f of the query set. With z that minimises g(φ, z), and y that minimises
    g(φ, y) + f(φ, y) / λ, the gradient is

        ∂f(φ, y)/∂φ + λ (∂g(φ, y)/∂φ - ∂g(φ, z)/∂φ),

    whose distance from that of the bilevel problem is of the order of 1/λ where g is strongly
    convex. Each outer step takes some inner steps for both, from where the last ones ended, on the
    same draws. In float32 a very large λ multiplies the rounding error of a small difference.

    Args:
        inner_loss: g, (params, batch, key) -> (scalar, metrics), of the support set.
        loss: f, of the query set.
        inner_optimizer: optax transformation of the fast weights that needs nothing but gradients
            and params. It needs no derivative.
        optimizer: optax transformation of the slow weights.
        inner_steps: inner steps in each outer step.
        strength: λ.
        sample: (support, key) -> the batch of an inner step, and of the gradient; None uses the
            whole support set.

    Raises:
        ValueError: a strength that is not above 0, an optimizer that is not optax's, an inner
            optimizer that needs the loss; in `init`, no fast or slow weights, or a learned rule;
            when traced, more than one task, or a loss that does not return (scalar, metrics).

    Source: Kwon et al. 2023, arXiv 2301.10945 (F2SA); Chen et al. 2023, arXiv 2306.14853, whose
    λ is fixed, as here; Pan et al. 2024, arXiv 2406.19976 (ScaleBiO).
    """
    check_positive("strength", strength)
    optimizer, wants_value = checked_optimizer(optimizer)
    if needs_value(inner_optimizer):
        raise ValueError("The inner optimizer must need nothing but gradients and params.")

    def init(params: Params, tasks: PyTree = None, key: Array | None = None) -> PenaltyState:
        check_params(params)
        if not jax.tree.leaves(params.fast) or not jax.tree.leaves(params.slow):
            raise ValueError("penalized() needs fast weights to fit and slow weights to learn.")
        if jax.tree.leaves(params.rule):
            raise ValueError("penalized() has no use for params.rule; learn slow weights.")
        descent = inner_optimizer.init(params.fast)
        zero = jnp.zeros((), jnp.int32)
        return PenaltyState(
            params, params.fast, (descent, descent), optimizer.init(params.slow), zero
        )

    def of_support(params: Params, support: Batch, key: Array) -> Array:
        return check_loss_value(inner_loss(params, support, key))

    def fit(state: PenaltyState, task: Task, key: Array) -> tuple[PyTree, PyTree, PyTree]:
        """(y, z, states of the inner optimizer) after the inner steps."""

        def step(carry: PyTree, key: Array) -> tuple[PyTree, None]:
            sample_key, support_key, query_key = jax.random.split(key, 3)
            support = task.support if sample is None else sample(task.support, sample_key)

            def of_lower(fast: PyTree) -> Array:
                return of_support(state.params._replace(fast=fast), support, support_key)

            def of_both(fast: PyTree) -> Array:
                params = state.params._replace(fast=fast)
                value = check_loss_value(loss(params, task.query, query_key))
                return of_lower(fast) + value / strength

            moved = []
            for value, fast, descent in zip((of_both, of_lower), *carry, strict=True):
                updates, descent = inner_optimizer.update(jax.grad(value)(fast), descent, fast)
                moved.append((optax.apply_updates(fast, updates), descent))
            return tuple(zip(*moved, strict=True)), None

        carry = ((state.params.fast, state.lower), state.descents)
        keys = jax.random.split(key, inner_steps)
        ((upper, lower), descents), _ = jax.lax.scan(step, carry, keys)
        return upper, lower, descents

    @checked
    def step(state: PenaltyState, tasks: Task, key: Array) -> tuple[PenaltyState, Info]:
        task = only_task(tasks)
        fit_key, sample_key, support_key, query_key = jax.random.split(key, 4)
        upper, lower, descents = fit(state, task, fit_key)
        support = task.support if sample is None else sample(task.support, sample_key)
        slow = state.params.slow

        def value(slow: PyTree) -> tuple[Array, tuple[Array, Metrics]]:
            params = state.params._replace(fast=upper, slow=slow)
            returned = loss(params, task.query, query_key)
            result = check_loss_value(returned)
            least = of_support(params._replace(fast=lower), support, support_key)
            gap = of_support(params, support, support_key) - least
            return result + strength * gap, (result, returned[1])

        (total, (result, metrics)), gradient = jax.value_and_grad(value, has_aux=True)(slow)
        norm = optax.tree.norm(gradient)
        keep = jnp.isfinite(total) & jnp.isfinite(norm)
        extra = {"value": result, "grad": gradient} if wants_value else {}
        updates, optimizer_state = optimizer.update(gradient, state.optimizer, slow, **extra)
        params = state.params._replace(fast=upper, slow=optax.apply_updates(slow, updates))
        moved = PenaltyState(params, lower, descents, optimizer_state, state.step)
        return moved_if(keep, moved, state, Info(result, metrics, norm, jnp.int32(0)))

    return OuterLoop(init, step)
