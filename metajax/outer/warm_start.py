"""Bilevel problems without tasks: one inner problem whose weights stay between outer steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from metajax._checked import checked
from metajax._learnable import check_params
from metajax._tree import count_tasks
from metajax.outer.outer_loops import AnyState, Info, OuterLoop, State, checked_optimizer
from metajax.types import Adaptation, Array, Loss, Metrics, Params, PyTree, Task


@checked
def bilevel(
    adaptation: Adaptation,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    value_and_grad: Callable[..., Any] = jax.value_and_grad,
) -> OuterLoop[State]:
    """Learns `slow` and `rule` so that weights fitted to the support set do well on the query set.

    min over φ of L(θ*(φ), query) with θ*(φ) ≈ argmin over θ of L_inner(θ, φ, support). Each outer
    step adapts from where the last one ended, takes the gradient in φ through that adaptation, and
    keeps the adapted weights. The support set is the training set, the query set is the validation
    set, and φ are hyperparameters, weights of examples, or distilled data.

    Only the last adaptation is differentiated. With few steps in it the gradient is short-sighted;
    that of `implicit()` is not, as long as the weights stay near their minimum. To start afresh at
    every outer step, use `outer_loop`.

    There is one problem: `step` takes tasks whose leading axis has length 1, as `training.fit`
    gives them. A step whose loss or gradient is not finite changes only the count, and
    `info.skipped` is 1.

    Args:
        adaptation: an `inner_loop`, on the inner loss.
        loss: (params, batch, key) -> (scalar, metrics), of the query set.
        optimizer: optax transformation of (slow, rule).
        value_and_grad: as in `outer_loop`, of a function of ((slow, rule), task, key).

    Raises:
        ValueError: an optimizer that is not optax's, an adaptation with `path`; in `init`, nothing
            to learn in slow and rule; when traced, more than one task.

    Source: Franceschi et al. 2018, arXiv 1806.04910; Lorraine, Vicol and Duvenaud 2020,
    arXiv 1911.02590.
    """
    optimizer, wants_value = checked_optimizer(optimizer)
    if adaptation.path:
        raise ValueError(
            "bilevel() keeps the last fast weights; use an inner_loop without path=True."
        )

    def init(params: Params, tasks: PyTree = None, key: Array | None = None) -> State:
        check_params(params)
        learned = (params.slow, params.rule)
        if not jax.tree.leaves(learned):
            raise ValueError(
                "There is nothing to learn: params.slow and params.rule have no array."
            )
        return State(params, optimizer.init(learned), jnp.zeros((), jnp.int32))

    @checked
    def step(state: State, tasks: Task, key: Array) -> tuple[State, Info]:
        task = only_task(tasks)

        def value(learned: PyTree, task: Task, key: Array) -> tuple[Array, tuple[Metrics, PyTree]]:
            adapt_key, query_key = jax.random.split(key)
            params = Params(state.params.fast, *learned)
            adapted = adaptation.adapt(params, task.support, adapt_key)
            result, metrics = loss(adapted, task.query, query_key)
            return result, (metrics, adapted.fast)

        learned = (state.params.slow, state.params.rule)
        (result, (metrics, fast)), gradient = value_and_grad(value, has_aux=True)(
            learned, task, key
        )
        norm = optax.tree.norm(gradient)
        keep = jnp.isfinite(result) & jnp.isfinite(norm)
        extra = {"value": result, "grad": gradient} if wants_value else {}
        updates, optimizer_state = optimizer.update(gradient, state.optimizer, learned, **extra)
        params = Params(fast, *optax.apply_updates(learned, updates))
        moved = State(params, optimizer_state, state.step)
        return moved_if(keep, moved, state, Info(result, metrics, norm, jnp.int32(0)))

    return OuterLoop(init, step)


def moved_if(keep: Array, moved: AnyState, state: AnyState, info: Info) -> tuple[AnyState, Info]:
    """The state after a step of one problem, and what the step reports.

    Args:
        keep: whether the loss and the gradient are finite.
        moved: the state if they are.
        state: the state if they are not; only its count goes on.
        info: of the step. If they are not finite, its numbers are NaN, and one is skipped.
    """
    after: Any = jax.tree.map(lambda new, old: jnp.where(keep, new, old), moved, state)
    or_nan = lambda leaf: jnp.where(keep, leaf, jnp.nan)
    loss, metrics, norm = jax.tree.map(or_nan, (info.loss, info.metrics, info.grad_norm))
    return after._replace(step=after.step + 1), Info(
        loss, metrics, norm, 1 - keep.astype(jnp.int32)
    )


def only_task(tasks: Task) -> Task:
    """The task of a leading axis of length 1.

    Raises:
        ValueError: another length.
    """
    number = count_tasks(tasks)
    if number != 1:
        raise ValueError(
            f"There is only one problem: give tasks with a leading axis of length 1, got "
            f"{number}. `jax.tree.map(lambda leaf: leaf[None], task)` adds the axis."
        )
    return jax.tree.map(lambda leaf: leaf[0], tasks)
