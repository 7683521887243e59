"""Persistent evolution strategies: a rule is trained while its inner problems go on."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from metajax._checked import checked
from metajax._checks import check_loss_value
from metajax._learnable import check_params
from metajax._tree import along, count_tasks, widened
from metajax.inner.rules import Rule
from metajax.outer.estimators import check_perturbable
from metajax.outer.meshes import AXIS, places_on
from metajax.outer.outer_loops import Info, OuterLoop, checked_optimizer
from metajax.types import Array, Batch, Loss, Params, PyTree, Sample, Size, Task


class PersistentState(NamedTuple):
    """What `persistent` carries from step to step.

    Inner problems come in antithetic pairs, along leading axes [2, pairs].

    Attributes:
        params: what is learned; only `rule` is.
        optimizer: state of the outer optimizer.
        step: int32, number of outer steps taken.
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


_PLACES: dict[str, Any] = {
    "params": P(),
    "optimizer": P(),
    "step": P(),
    "tasks": P(AXIS),
    "fast": P(None, AXIS),
    "inner": P(None, AXIS),
    "drift": P(AXIS),
    "age": P(AXIS),
}
SPECS = PersistentState(**_PLACES)
"""The axis of pairs in each part of a state, where pairs are divided over a mesh."""


@checked
def persistent(
    rule: Rule,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    horizon: Size,
    truncation: Size,
    pairs: Size,
    std: float,
    start: Callable[[Params, Array], PyTree] | None = None,
    sample: Sample[Batch] | None = None,
) -> OuterLoop[PersistentState]:
    """Trains `params.rule`, such as a learned optimizer, by persistent evolution strategies (PES).

    It takes an outer step after every few inner steps, and the gradient is unbiased all the same.
    Each pair of inner problems runs under φ + εᵢ and φ - εᵢ and goes on from outer step to outer
    step. After `horizon` inner steps it starts anew, on the task that is given then. With ξᵢ the
    sum of its perturbations so far,

        g = 1/(2nσ²) Σᵢ ξᵢ (L⁺ᵢ - L⁻ᵢ),

    where L is the mean query loss after each inner step of this truncation. Truncated
    backpropagation and truncated evolution strategies use εᵢ instead of ξᵢ, and are biased toward
    what helps at once.

    `init` needs the first tasks, one for each pair, and a key. Pairs start at different ages, so
    that their problems are at different stages. `step` reads the tasks of those pairs that start
    anew. A pair whose loss is not finite is left out, counted in `info.skipped`, and starts anew.
    A pair that diverges and stays finite makes a huge estimate: clip it in `optimizer`, with
    `optax.chain(optax.clip_by_global_norm(1.0), ...)`.

    Args:
        rule: what is learned. Fill in `params.rule` by `rule.init(params, key)`. The initial state
            of its optimizer must not depend on `params.rule`, as that of
            `optax.inject_hyperparams` does.
        loss: (params, batch, key) -> (scalar, metrics): of the support set for the inner steps, of
            the query set for the outer ones.
        optimizer: outer optax transformation, on `params.rule`.
        horizon: inner steps of a whole problem, a multiple of `truncation`.
        truncation: inner steps between two outer steps.
        pairs: n.
        std: σ of the perturbations.
        start: (params, key) -> the fast weights that a problem starts from; None is `params.fast`.
        sample: the minibatch of an inner step, as in `inner_loop`.

    Raises:
        ValueError: not a `Rule`, counts below 1, a horizon that truncation does not divide, a std
            that is not positive; in `init`, no tasks or key, or a rule that was not initialised
            or is in half precision; when traced, another number of tasks than pairs, no fast
            weights, or a loss that is not scalar.

    Source: Vicol, Metz and Sohl-Dickstein 2021, arXiv 2112.13835.
    """
    if not isinstance(rule, Rule):
        raise ValueError(
            f"persistent() trains a metajax.Rule, such as learned_optimizer(1e-3), got {rule!r}."
        )
    optimizer, wants_value = checked_optimizer(optimizer)
    if horizon % truncation or not std > 0:
        raise ValueError(f"{truncation=} must divide {horizon=}, and {std=} must be positive.")

    def begin(params: Params, keys: Array) -> tuple[PyTree, PyTree]:
        """Fast weights and optimizer states of fresh pairs; both halves are equal."""

        def make(key: Array) -> PyTree:
            return params.fast if start is None else start(params, key)

        fast = jax.vmap(make)(keys)
        inner = jax.vmap(rule.optimizer(params.rule).init)(fast)
        return jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), (fast, inner))

    def init(
        params: Params, tasks: Task | None = None, key: Array | None = None
    ) -> PersistentState:
        if tasks is None or key is None:
            raise ValueError(
                "persistent() starts on tasks: call init(params, tasks, key) with one task for "
                "each pair."
            )
        check_params(params)
        if not jax.tree.leaves(params.rule):
            raise ValueError(
                "params.rule is empty; fill it with params._replace(rule=rule.init(params, key))."
            )
        _check_pairs(tasks, pairs)
        if start is None and not jax.tree.leaves(params.fast):
            raise ValueError(
                "params.fast has no array to begin from; fill it, or give "
                "start=(params, key) -> fast."
            )
        fast, inner = begin(params, jax.random.split(key, pairs))
        check_perturbable(params.rule)
        flat, _ = ravel_pytree(params.rule)
        drift = jnp.zeros((pairs, flat.size), flat.dtype)
        stage = jnp.arange(pairs, dtype=jnp.int32) * (horizon // truncation) // pairs
        state = PersistentState(
            params=params,
            optimizer=optimizer.init(params.rule),
            step=jnp.int32(0),
            tasks=tasks,
            fast=fast,
            inner=inner,
            drift=drift,
            age=stage * truncation,
        )
        return jax.tree.map(jnp.asarray, state)

    def unroll(
        params: Params, fast: PyTree, inner: PyTree, task: Task, key: Array
    ) -> tuple[PyTree, PyTree, Array]:
        """`truncation` inner steps of one problem, and the mean query loss after each step."""
        transformation = rule.optimizer(params.rule)

        def loss_at(fast: PyTree, batch: Batch, key: Array) -> Array:
            return check_loss_value(loss(params._replace(fast=fast), batch, key))

        def step(carry: tuple[PyTree, PyTree], key: Array) -> tuple[tuple[PyTree, PyTree], Array]:
            fast, inner = carry
            sample_key, support_key, query_key = jax.random.split(key, 3)
            support = task.support if sample is None else sample(task.support, sample_key)
            slope = jax.grad(loss_at)(fast, support, support_key)
            updates, inner = transformation.update(slope, inner, fast)
            fast = optax.apply_updates(fast, updates)
            return (fast, inner), loss_at(fast, task.query, query_key)

        keys = jax.random.split(key, truncation)
        (fast, inner), losses = jax.lax.scan(step, (fast, inner), keys)
        return fast, inner, widened(losses).mean()

    def step_on(
        state: PersistentState, tasks: Task, key: Array, axis_name: str | None
    ) -> tuple[PersistentState, Info]:
        """An outer step on the pairs of this device."""
        own = lambda rows: rows
        add = lambda sums: sums
        if axis_name is not None:
            places, _ = places_on(axis_name, len(state.age), None)
            own = lambda rows: rows[places]
            add = functools.partial(jax.lax.psum, axis_name=axis_name)
        begin_key, noise_key, unroll_key = jax.random.split(key, 3)
        fresh = begin(state.params, own(jax.random.split(begin_key, pairs)))
        state = _renew(state, tasks, fresh, state.age >= horizon)

        flat, unravel = ravel_pytree(state.params.rule)
        noise = std * own(jax.random.normal(noise_key, (pairs, flat.size), state.drift.dtype))
        perturbed = flat[None, None] + jnp.stack([noise, -noise])

        def run(flat: Array, *problem: PyTree) -> tuple[PyTree, PyTree, Array]:
            return unroll(state.params._replace(rule=unravel(flat)), *problem)

        over_signs_and_pairs = jax.vmap(jax.vmap(run), (0, 0, 0, None, None))
        keys = own(jax.random.split(unroll_key, pairs))
        fast, inner, losses = over_signs_and_pairs(
            perturbed, state.fast, state.inner, state.tasks, keys
        )

        drift = state.drift + noise
        kept = jnp.isfinite(losses).all(axis=0)
        differences = jnp.where(kept, losses[0] - losses[1], 0)
        total_loss = jnp.where(kept, losses.mean(axis=0), 0).sum()
        number_here = kept.sum(dtype=total_loss.dtype)  # all in one type, as one message
        slope, total_loss, kept_pairs = add((differences @ drift, total_loss, number_here))
        kept_pairs = kept_pairs.astype(jnp.int32)
        number = jnp.maximum(kept_pairs, 1)
        gradient = unravel((slope / (2 * std**2 * number)).astype(flat.dtype))
        mean_loss = total_loss / number
        any_kept = kept_pairs > 0
        extra = {"value": mean_loss, "grad": gradient} if wants_value else {}
        params, optimizer_state = _learn(optimizer, state, gradient, any_kept, extra)
        mean_loss = jnp.where(any_kept, mean_loss, jnp.nan)
        norm = jnp.where(any_kept, optax.tree.norm(gradient), jnp.nan)
        info = Info(mean_loss, {}, norm, pairs - kept_pairs)
        state = state._replace(
            params=params,
            optimizer=optimizer_state,
            step=state.step + 1,
            fast=fast,
            inner=inner,
            drift=drift,
            age=jnp.where(kept, state.age + truncation, horizon),
        )
        return state, info

    @checked
    def step(state: PersistentState, tasks: Task, key: Array) -> tuple[PersistentState, Info]:
        _check_pairs(tasks, pairs)
        return step_on(state, tasks, key, None)

    @functools.cache
    def step_over(mesh: Mesh) -> Callable[..., tuple[PersistentState, Info]]:
        devices = mesh.shape[AXIS]
        if pairs % devices:
            raise ValueError(
                f"{pairs=} must be divisible by the {devices} devices of the axis {AXIS!r}, each "
                "of which keeps as many pairs."
            )
        mapped = jax.shard_map(
            functools.partial(step_on, axis_name=AXIS),
            mesh=mesh,
            in_specs=(SPECS, P(AXIS), P()),
            out_specs=(SPECS, P()),
            axis_names={AXIS},
        )

        @checked
        def divided(
            state: PersistentState, tasks: Task, key: Array
        ) -> tuple[PersistentState, Info]:
            _check_pairs(tasks, pairs)
            return mapped(state, tasks, key)

        return step if devices == 1 else divided

    return OuterLoop(init, step, step_over=step_over, specs=SPECS)


def _renew(
    state: PersistentState, tasks: Task, fresh: tuple[PyTree, PyTree], done: Array
) -> PersistentState:
    """The state in which the pairs that are done start anew on the given tasks."""

    def by_pair(fresh: Array, old: Array) -> Array:
        return jnp.where(along(done, old), fresh, old)

    def by_sign_and_pair(fresh: Array, old: Array) -> Array:
        return jnp.where(along(done[None], old), fresh, old)

    fast, inner = jax.tree.map(by_sign_and_pair, fresh, (state.fast, state.inner))
    return state._replace(
        tasks=jax.tree.map(by_pair, tasks, state.tasks),
        fast=fast,
        inner=inner,
        drift=by_pair(jnp.zeros_like(state.drift), state.drift),
        age=by_pair(jnp.zeros_like(state.age), state.age),
    )


def _learn(
    optimizer: optax.GradientTransformationExtraArgs,
    state: PersistentState,
    gradient: PyTree,
    any_kept: Array,
    extra: dict[str, Any],
) -> tuple[Params, PyTree]:
    """Params and optimizer state after an outer step; unchanged if no pair was kept."""
    rule = state.params.rule
    updates, optimizer_state = optimizer.update(gradient, state.optimizer, rule, **extra)
    params = state.params._replace(rule=optax.apply_updates(rule, updates))
    return jax.tree.map(
        lambda new, old: jnp.where(any_kept, new, old),
        (params, optimizer_state),
        (state.params, state.optimizer),
    )


def _check_pairs(tasks: Task, pairs: int) -> None:
    number = count_tasks(tasks)
    if number != pairs:
        raise ValueError(f"Persistent evolution needs a task for each of {pairs=}, got {number}.")
