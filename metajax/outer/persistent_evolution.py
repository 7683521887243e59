"""Persistent evolution strategies: a rule is trained while the inner problems it works on go on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from metajax._checks import check_count, check_loss_value
from metajax._tree import count_tasks
from metajax.inner.rules import Rule
from metajax.outer.outer_loops import Info, OuterLoop
from metajax.types import Array, Batch, Loss, Params, PyTree, Task


class PersistentState(NamedTuple):
    """What `persistent` carries from step to step; inner problems come in antithetic pairs [2, pairs, ...].

    Attributes:
        params: what is learned; only `rule` is.
        optimizer: the outer optimizer's state.
        step: int32, outer steps taken.
        tasks: the task of each pair, leaves [pairs, ...].
        fast: fast weights, leaves [2, pairs, ...].
        inner: states of the inner optimizers, leaves [2, pairs, ...].
        drift: sum of the perturbations since a pair began, [pairs, n] for n parameters of the rule.
        age: int32[pairs], inner steps since a pair began.
    """

    params: Params
    optimizer: PyTree
    step: Array
    tasks: Task
    fast: PyTree
    inner: PyTree
    drift: Array
    age: Array


def persistent(
    rule: Rule,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    horizon: int,
    truncation: int,
    pairs: int,
    std: float,
    start: Callable[[Params, Array], PyTree] | None = None,
    sample: Callable[[Batch, Array], Batch] | None = None,
) -> OuterLoop:
    """Trains `params.rule`, such as a learned optimizer, by PES: an outer step after every few inner steps, unbiased.

    Each pair of inner problems runs under φ + εᵢ and φ - εᵢ, goes on from outer step to outer step, and starts anew on
    the task given then once it has taken `horizon` steps. With ξᵢ the sum of its perturbations so far,
    g = 1/(2nσ²) Σᵢ ξᵢ (L⁺ᵢ - L⁻ᵢ), where L is the mean query loss after each inner step of this truncation. Truncated
    backpropagation and truncated evolution strategies use εᵢ for ξᵢ and are biased toward what helps at once.

    `init` is (params, tasks, key) -> `PersistentState`, with one task for each pair; pairs start at different ages, so
    that their problems are at different stages. `step` is (state, tasks, key) -> (state, info), as `training.fit` wants
    it; it reads the tasks of pairs that start anew. A pair whose loss is not finite is left out, counted in
    `info.skipped` and starts anew. One that diverges and stays finite makes a huge estimate: clip it in `optimizer`,
    with `optax.chain(optax.clip_by_global_norm(1.0), ...)`.

    Args:
        rule: what is learned, with `params.rule` filled in by `rule.init(params, key)`. Its optimizer's state must not
            depend on `params.rule` when it begins, as that of `optax.inject_hyperparams` does.
        loss: (params, batch, key) -> (scalar, metrics), of the support set for the inner steps, of the query set for
            the outer one.
        optimizer: outer optax transformation, on `params.rule`.
        horizon: inner steps of a whole problem, a multiple of `truncation`.
        truncation: inner steps between two outer steps.
        pairs: n.
        std: σ of the perturbations.
        start: (params, key) -> the fast weights that a problem starts from; `params.fast` where None.
        sample: the minibatch of an inner step, as in `inner_loop`.

    Raises:
        ValueError: not a `Rule`, counts below 1, a horizon that truncation does not divide, a std that is not positive;
            when traced, another number of tasks than pairs, a rule that was never initialised, no fast weights, or a
            loss that is not scalar.

    Source: Vicol, Metz and Sohl-Dickstein 2021, arXiv 2112.13835.
    """
    if not isinstance(rule, Rule):
        raise ValueError(
            f"persistent() trains a metajax.Rule, such as learned_optimizer(1e-3), got {rule!r}."
        )
    for name, value in (("horizon", horizon), ("truncation", truncation), ("pairs", pairs)):
        check_count(name, value, 1)
    if horizon % truncation or not std > 0:
        raise ValueError(f"{truncation=} must divide {horizon=}, and {std=} must be positive.")

    def begin(params: Params, key: Array) -> tuple[PyTree, PyTree]:
        """Fast weights and optimizer states of fresh pairs, both halves alike."""
        keys = jax.random.split(key, pairs)
        make = lambda key: params.fast if start is None else start(params, key)
        fast = jax.vmap(make)(keys)
        inner = jax.vmap(rule.optimizer(params.rule).init)(fast)
        return jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), (fast, inner))

    def init(params: Params, tasks: Task, key: Array) -> PersistentState:
        if not jax.tree.leaves(params.rule):
            raise ValueError(
                "params.rule is empty; fill it with params._replace(rule=rule.init(params, key))."
            )
        _check_pairs(tasks, pairs)
        if start is None and not jax.tree.leaves(params.fast):
            raise ValueError(
                "params.fast has no array to begin from; fill it, or give start=(params, key) -> fast."
            )
        fast, inner = begin(params, key)
        drift = jnp.zeros(
            (pairs, ravel_pytree(params.rule)[0].size), ravel_pytree(params.rule)[0].dtype
        )
        age = jnp.arange(pairs, dtype=jnp.int32) * (horizon // truncation) // pairs * truncation
        state = PersistentState(
            params, optimizer.init(params.rule), jnp.int32(0), tasks, fast, inner, drift, age
        )
        return jax.tree.map(jnp.asarray, state)

    def unroll(
        params: Params, fast: PyTree, inner: PyTree, task: Task, key: Array
    ) -> tuple[PyTree, PyTree, Array]:
        """`truncation` inner steps of one problem, and the mean query loss after each."""
        transformation = rule.optimizer(params.rule)

        def step(carry: tuple[PyTree, PyTree], key: Array) -> tuple[tuple[PyTree, PyTree], Array]:
            fast, inner = carry
            sample_key, support_key, query_key = jax.random.split(key, 3)
            support = task.support if sample is None else sample(task.support, sample_key)
            slope = jax.grad(
                lambda fast: check_loss_value(
                    loss(params._replace(fast=fast), support, support_key)
                )
            )(fast)
            updates, inner = transformation.update(slope, inner, fast)
            fast = optax.apply_updates(fast, updates)
            return (fast, inner), check_loss_value(
                loss(params._replace(fast=fast), task.query, query_key)
            )

        (fast, inner), losses = jax.lax.scan(step, (fast, inner), jax.random.split(key, truncation))
        return fast, inner, losses.mean()

    def step(state: PersistentState, tasks: Task, key: Array) -> tuple[PersistentState, Info]:
        _check_pairs(tasks, pairs)
        begin_key, noise_key, unroll_key = jax.random.split(key, 3)
        done = state.age >= horizon

        def renew(fresh: Array, old: Array, axis: int) -> Array:
            shape = [1] * old.ndim
            shape[axis] = pairs
            return jnp.where(done.reshape(shape), fresh, old)

        tasks = jax.tree.map(lambda fresh, old: renew(fresh, old, 0), tasks, state.tasks)
        fresh = begin(state.params, begin_key)
        fast, inner = jax.tree.map(
            lambda fresh, old: renew(fresh, old, 1), fresh, (state.fast, state.inner)
        )
        drift, age = (renew(jnp.zeros_like(old), old, 0) for old in (state.drift, state.age))

        flat, unravel = ravel_pytree(state.params.rule)
        noise = std * jax.random.normal(noise_key, drift.shape, drift.dtype)
        perturbed = flat[None, None] + jnp.stack([noise, -noise])
        run = lambda flat, *problem: unroll(state.params._replace(rule=unravel(flat)), *problem)
        both = jax.vmap(jax.vmap(run), (0, 0, 0, None, None))  # over signs, then over pairs
        fast, inner, losses = both(
            perturbed, fast, inner, tasks, jax.random.split(unroll_key, pairs)
        )

        drift = drift + noise
        kept = jnp.isfinite(losses).all(axis=0)
        differences = jnp.where(kept, losses[0] - losses[1], 0)
        number = jnp.maximum(kept.sum(), 1)
        gradient = unravel((differences @ drift / (2 * std**2 * number)).astype(flat.dtype))
        updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.params.rule)
        params = state.params._replace(rule=optax.apply_updates(state.params.rule, updates))
        learned, before = (params, optimizer_state), (state.params, state.optimizer)
        learned = jax.tree.map(lambda new, old: jnp.where(kept.any(), new, old), learned, before)
        age = jnp.where(kept, age + truncation, horizon)
        loss_now = jnp.where(
            kept.any(), jnp.where(kept, losses.mean(axis=0), 0).sum() / number, jnp.nan
        )
        info = Info(loss_now, {}, optax.tree.norm(gradient), pairs - kept.sum())
        params, optimizer_state = learned
        return PersistentState(
            params, optimizer_state, state.step + 1, tasks, fast, inner, drift, age
        ), info

    return OuterLoop(init, step)


def _check_pairs(tasks: Any, pairs: int) -> None:
    if count_tasks(tasks) != pairs:
        raise ValueError(
            f"Persistent evolution needs a task for each of {pairs=}, got {count_tasks(tasks)}."
        )
