"""Inner optimizers that are themselves learned."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from metajax._tree import shapes
from metajax._types import Array, Params, PyTree


class Rule(NamedTuple):
    """An inner optimizer with parameters that the outer loop learns.

    optax transformations close over their step size, so one with a learned step size has to be built inside the trace.

    Attributes:
        init: (params, key) -> the rule's parameters, which come to stand in `params.rule`.
        optimizer: rule's parameters -> the optax transformation.
    """

    init: Callable[[Params, Array], PyTree]
    optimizer: Callable[[PyTree], optax.GradientTransformation]


def learned_rates(initial: float) -> Rule:
    """Meta-SGD: descent with a learned step size for every fast weight, θ' = θ - α ⊙ ∇L(θ).

    Args:
        initial: what every step size starts from; α may become negative.

    Raises:
        ValueError: on adaptation, when the step sizes do not have the shapes of the fast weights.

    Source: Li et al. 2017, arXiv 1707.09835.
    """

    def init(params: Params, key: Array) -> PyTree:
        return jax.tree.map(lambda leaf: jnp.full_like(leaf, initial), params.fast)

    def optimizer(rates: PyTree) -> optax.GradientTransformation:
        def update(gradients: PyTree, params: PyTree) -> PyTree:
            if shapes(rates) != shapes(gradients):
                raise ValueError(
                    f"The learned step sizes have shapes {shapes(rates)}, the fast weights {shapes(gradients)}; "
                    "adapt weights of the same shapes as those that `init` saw."
                )
            return jax.tree.map(lambda rate, gradient: -rate * gradient, rates, gradients)

        return optax.stateless(update)

    return Rule(init, optimizer)
