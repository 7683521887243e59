"""Inner optimizers that are themselves learned."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metajax._checked import checked
from metajax._checks import is_concrete, shapes
from metajax.types import Array, Params, PyTree, Size


class Rule(NamedTuple):
    """An inner optimizer with parameters that the outer loop learns.

    An optax transformation closes over its step size. One with a learned step size is therefore
    built inside the trace, from the parameters in `params.rule`.

    Attributes:
        init: (params, key) -> the rule's parameters, which are stored in `params.rule`.
        optimizer: the rule's parameters -> the optax transformation.
    """

    init: Callable[[Params, Array], PyTree]
    optimizer: Callable[[PyTree], optax.GradientTransformation]


@checked
def learned(make: Callable[[PyTree], optax.GradientTransformation], initial: PyTree) -> Rule:
    """Any optax optimizer with hyperparameters that the outer loop learns.

    Args:
        make: hyperparameters -> optax transformation, such as `optax.sgd`. Adam needs `eps_root`.
        initial: hyperparameters to start from: a number, or a pytree of numbers and arrays, which
            become floats.

    Raises:
        ValueError: a hyperparameter that is not finite.

    >>> rule = learned(optax.sgd, 0.5)
    >>> float(rule.init(Params(fast=jnp.ones(2), slow=()), jax.random.key(0)))
    0.5
    >>> decayed = lambda h: optax.adamw(h["rate"], eps_root=1e-8, weight_decay=h["decay"])
    >>> rule = learned(decayed, {"rate": 1e-3, "decay": 0.1})
    """
    if is_concrete(initial) and not all(np.isfinite(one).all() for one in jax.tree.leaves(initial)):
        raise ValueError(f"Hyperparameters must be finite, got {initial}.")

    @checked
    def init(params: Params, key: Array) -> PyTree:
        return jax.tree.map(lambda number: jnp.asarray(number, dtype=float), initial)

    return Rule(init, make)


@checked
def learned_rates(initial: float, *, steps: Size | None = None) -> Rule:
    """Meta-SGD: gradient descent with a learned step size for every fast weight.

    θ' = θ - α ⊙ ∇L(θ).

    Args:
        initial: initial value of every step size. A learned step size may become negative.
        steps: None learns one step size for all steps. A number gives each of so many steps its
            own; later steps use that of the last one.

    Raises:
        ValueError: steps below 1; in `init`, no fast weights; on adaptation, step sizes that do not
            fit the fast weights.

    Source: Li et al. 2017, arXiv 1707.09835.
    """
    return _descent_with_rates(initial, steps, lambda fast: fast)


@checked
def leaf_rates(initial: float, *, steps: Size | None = None) -> Rule:
    """Gradient descent with a learned step size for every leaf of the fast weights.

    With `steps` it is the rule of MAML++. Arguments and errors are those of `learned_rates`.

    Source: Antoniou et al. 2019, arXiv 1810.09502.
    """
    return _descent_with_rates(initial, steps, lambda fast: jax.tree.map(_scalar_like, fast))


@checked
def shared_rate(initial: float, *, steps: Size | None = None) -> Rule:
    """Gradient descent with one learned step size for all fast weights.

    With `steps` it is a learned schedule. Arguments and errors are those of `learned_rates`.
    """
    return _descent_with_rates(initial, steps, lambda fast: _scalar_like(jax.tree.leaves(fast)[0]))


def _descent_with_rates(
    initial: float, steps: int | None, like: Callable[[PyTree], PyTree]
) -> Rule:
    """Descent with learned step sizes.

    `like` maps the fast weights to a tree with one leaf for each array of step sizes.
    """
    axis = () if steps is None else (steps,)

    @checked
    def init(params: Params, key: Array) -> PyTree:
        if not jax.tree.leaves(params.fast):
            raise ValueError(
                "params.fast has no array that a step size could be for; make some of the weights "
                "fast."
            )
        fast = jax.tree.map(jnp.asarray, params.fast)
        return jax.tree.map(
            lambda leaf: jnp.full((*axis, *leaf.shape), initial, leaf.dtype), like(fast)
        )

    def optimizer(rates: PyTree) -> optax.GradientTransformation:
        def update(
            gradients: PyTree, count: Array, params: PyTree | None = None
        ) -> tuple[PyTree, Array]:
            expected = jax.tree.map(lambda leaf: (*axis, *leaf.shape), like(gradients))
            if jax.tree.map(jnp.shape, rates) != expected:
                raise ValueError(
                    f"The learned step sizes have shapes {shapes(rates)}, the fast weights "
                    f"{shapes(gradients)}; adapt weights of the same shapes as those that `init` "
                    "got."
                )
            now = rates
            if steps is not None:
                index = jnp.minimum(count, steps - 1)
                now = jax.tree.map(lambda leaf: leaf[index], rates)
            full = jax.tree.broadcast(now, gradients)
            updates = jax.tree.map(lambda rate, slope: -rate * slope, full, gradients)
            return updates, count + 1

        return optax.GradientTransformation(lambda params: jnp.zeros((), jnp.int32), update)

    return Rule(init, optimizer)


def _scalar_like(leaf: Array) -> Array:
    return jnp.zeros((), leaf.dtype)
