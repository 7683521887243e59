"""Inner optimizers that are themselves learned."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from metajax._checks import shapes
from metajax.types import Array, Params, PyTree


class Rule(NamedTuple):
    """An inner optimizer with parameters that the outer loop learns.

    optax transformations close over their step size, so one with a learned step size has to be built inside the trace.

    Attributes:
        init: (params, key) -> the rule's parameters, which come to stand in `params.rule`.
        optimizer: rule's parameters -> the optax transformation.
    """

    init: Callable[[Params, Array], PyTree]
    optimizer: Callable[[PyTree], optax.GradientTransformation]


def learned_rates(initial: float, *, steps: int | None = None) -> Rule:
    """Meta-SGD: descent with a learned step size for every fast weight, θ' = θ - α ⊙ ∇L(θ).

    Args:
        initial: what every step size starts from; α may become negative.
        steps: None for the same step sizes at every step; a number gives each of so many steps its own, and steps
            beyond use those of the last.

    Raises:
        ValueError: steps below 1; on adaptation, when the step sizes do not fit the fast weights.

    Source: Li et al. 2017, arXiv 1707.09835.
    """
    return _rates(initial, steps, lambda fast: fast)


def leaf_rates(initial: float, *, steps: int | None = None) -> Rule:
    """Descent with a learned step size for every leaf of the fast weights; with `steps`, that of MAML++.

    Arguments and errors are those of `learned_rates`. Source: Antoniou et al. 2019, arXiv 1810.09502.
    """
    return _rates(initial, steps, lambda fast: jax.tree.map(_scalar_like, fast))


def shared_rate(initial: float, *, steps: int | None = None) -> Rule:
    """Descent with one learned step size for all fast weights; with `steps`, a learned schedule.

    Arguments and errors are those of `learned_rates`.
    """
    return _rates(initial, steps, lambda fast: _scalar_like(jax.tree.leaves(fast)[0]))


def _rates(initial: float, steps: int | None, like: Callable[[PyTree], PyTree]) -> Rule:
    """Step sizes for what is `like` the fast weights: of their shapes, or a scalar for each leaf, or for all."""
    if steps is not None and steps < 1:
        raise ValueError(
            f"{steps=} must be 1 or more, or None for the same step sizes at every step."
        )
    axis = () if steps is None else (steps,)

    def init(params: Params, key: Array) -> PyTree:
        if not jax.tree.leaves(params.fast):
            raise ValueError(
                "params.fast has no array that a step size could be for; make some of the weights fast."
            )
        return jax.tree.map(
            lambda leaf: jnp.full((*axis, *leaf.shape), initial, leaf.dtype), like(params.fast)
        )

    def optimizer(rates: PyTree) -> optax.GradientTransformation:
        def update(
            gradients: PyTree, count: Array, params: PyTree | None = None
        ) -> tuple[PyTree, Array]:
            expected = jax.tree.map(lambda leaf: (*axis, *leaf.shape), like(gradients))
            if jax.tree.map(jnp.shape, rates) != expected:
                raise ValueError(
                    f"The learned step sizes have shapes {shapes(rates)}, the fast weights {shapes(gradients)}; "
                    "adapt weights of the same shapes as those that `init` saw."
                )
            now = (
                rates
                if steps is None
                else jax.tree.map(lambda leaf: leaf[jnp.minimum(count, steps - 1)], rates)
            )
            full = jax.tree.broadcast(now, gradients)
            return jax.tree.map(lambda rate, gradient: -rate * gradient, full, gradients), count + 1

        return optax.GradientTransformation(lambda params: jnp.zeros((), jnp.int32), update)

    return Rule(init, optimizer)


def _scalar_like(leaf: Array) -> Array:
    return jnp.zeros((), leaf.dtype)
