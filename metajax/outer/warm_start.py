"""Bilevel problems without tasks: one inner problem, whose weights stay warm between outer steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from metajax.outer.outer_loops import Info, OuterLoop, State
from metajax.types import Adaptation, Array, Loss, Metrics, Params, PyTree, Task


def bilevel(
    adaptation: Adaptation,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    value_and_grad: Callable[..., Any] = jax.value_and_grad,
) -> OuterLoop:
    """Learns `slow` and `rule` so that weights fitted to the support set do well on the query set.

    min over φ of L(θ*(φ), query) with θ*(φ) ≈ argmin over θ of L_inner(θ, φ, support). Each outer step adapts from
    where the last one ended, takes the gradient in φ through that adaptation, and keeps the adapted weights. Support
    is the training set, query the validation set; φ are hyperparameters, weights of examples, or distilled data.

    Only the last adaptation is differentiated: with few steps in it the gradient is short-sighted, which `implicit()`
    is not where the weights stay near their minimum. To start afresh at every outer step, use `outer_loop`.

    `step` is (state, task, key) -> (state, info), of one `Task` without a leading axis. A step whose loss or gradient
    is not finite changes nothing but the count, and `info.skipped` is 1.

    Args:
        adaptation: an `inner_loop`, on the inner loss.
        loss: (params, batch, key) -> (scalar, metrics), of the query set.
        optimizer: of (slow, rule).
        value_and_grad: as in `outer_loop`, of a function of ((slow, rule), task, key).

    Raises:
        ValueError: an optimizer that is not optax's, an adaptation with `path`; when traced, nothing to learn in slow
            and rule.

    Source: Franceschi et al. 2018, arXiv 1806.04910; Lorraine, Vicol and Duvenaud 2020, arXiv 1911.02590.
    """
    if not isinstance(optimizer, optax.GradientTransformation):
        raise ValueError(f"optimizer must be an optax.GradientTransformation, got {optimizer!r}.")
    if adaptation.path:
        raise ValueError(
            "bilevel() keeps the last fast weights; use an inner_loop without path=True."
        )

    def init(params: Params) -> State:
        if not jax.tree.leaves((params.slow, params.rule)):
            raise ValueError(
                "There is nothing to learn: params.slow and params.rule have no array."
            )
        return State(params, optimizer.init((params.slow, params.rule)), jnp.zeros((), jnp.int32))

    def step(state: State, task: Task, key: Array) -> tuple[State, Info]:
        def value(learned: PyTree, task: Task, key: Array) -> tuple[Array, tuple[Metrics, PyTree]]:
            adapt_key, query_key = jax.random.split(key)
            adapted = adaptation.adapt(Params(state.params.fast, *learned), task.support, adapt_key)
            result, metrics = loss(adapted, task.query, query_key)
            return result, (metrics, adapted.fast)

        learned = (state.params.slow, state.params.rule)
        (result, (metrics, fast)), gradient = value_and_grad(value, has_aux=True)(
            learned, task, key
        )
        norm = optax.tree.norm(gradient)
        kept = jnp.isfinite(result) & jnp.isfinite(norm)
        updates, optimizer_state = optimizer.update(gradient, state.optimizer, learned)
        moved = State(
            Params(fast, *optax.apply_updates(learned, updates)), optimizer_state, state.step
        )
        state = jax.tree.map(lambda new, old: jnp.where(kept, new, old), moved, state)
        return state._replace(step=state.step + 1), Info(
            result, metrics, norm, 1 - kept.astype(jnp.int32)
        )

    return OuterLoop(init, step)
