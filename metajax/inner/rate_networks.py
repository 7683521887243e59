"""A learned rule whose step sizes and weight decays a network computes at every step."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from metajax._checked import checked
from metajax._checks import shapes
from metajax.inner.rules import Rule
from metajax.types import Array, Params, PyTree, Size

WEIGHT_DECAY = 5e-4
"""Initial decay of the weights in a step, as a share of its step size."""


@checked
def generated_rates(initial: float, *, steps: Size) -> Rule:
    """ALFA: gradient descent whose step sizes and weight decays a network computes.

    θₗ' = (1 - βₗ) θₗ - αₗ ∇ₗL for every leaf l. A network of two layers reads the means of all
    leaves and of their gradients, which count as constants. It computes two factors for each leaf:
    αₗ is the first one times a learned step size, and βₗ the second one times a learned decay. Each
    step has its own learned step sizes and decays. All of them may become negative.

    Args:
        initial: initial value of every step size. That of every decay is `WEIGHT_DECAY` times it.
        steps: number of steps that have step sizes of their own; later steps use those of the last
            one.

    Raises:
        ValueError: on adaptation, a rule that does not fit the fast weights.

    Source: Baik et al. 2020, arXiv 2011.00209, whose β is 1 - β here. Initial step sizes and decays
    are as in the authors' code, github.com/baiksung/ALFA. The bias of the network's output starts
    at 1, so that learning starts near gradient descent where the gradients are small.
    """

    @checked
    def init(params: Params, key: Array) -> PyTree:
        leaves = len(jax.tree.leaves(params.fast))
        width = 2 * leaves
        first, second = jax.random.split(key)
        return {
            "hidden": {
                "kernel": jax.random.normal(first, (width, width)) / width**0.5,
                "bias": jnp.zeros(width),
            },
            "out": {
                "kernel": jax.random.normal(second, (width, width)) / width,
                "bias": jnp.ones(width),
            },
            "rate": jnp.full((steps, leaves), initial),
            "decay": jnp.full((steps, leaves), WEIGHT_DECAY * initial),
        }

    def optimizer(rule: PyTree) -> optax.GradientTransformation:
        def update(gradients: PyTree, count: Array, params: PyTree) -> tuple[PyTree, Array]:
            slopes, structure = jax.tree.flatten(gradients)
            weights = jax.tree.leaves(params)
            if rule["rate"].shape != (steps, len(slopes)):
                raise ValueError(
                    f"The rule has step sizes [steps, leaves] of {shapes(rule['rate'])}, the fast "
                    f"weights have {len(slopes)} leaves and the rule {steps} steps; adapt the "
                    "weights that `init` got."
                )
            constant = jax.lax.stop_gradient(slopes)
            means = jnp.stack([leaf.mean() for leaf in [*weights, *constant]])
            hidden = jax.nn.relu(means @ rule["hidden"]["kernel"] + rule["hidden"]["bias"])
            factors = hidden @ rule["out"]["kernel"] + rule["out"]["bias"]
            index = jnp.minimum(count, steps - 1)
            rates = factors[: len(slopes)] * rule["rate"][index]
            decays = factors[len(slopes) :] * rule["decay"][index]
            updates = [
                (-decay * weight - rate * slope).astype(slope.dtype)
                for rate, decay, weight, slope in zip(rates, decays, weights, slopes, strict=True)
            ]
            return jax.tree.unflatten(structure, updates), count + 1

        return optax.GradientTransformation(lambda params: jnp.zeros((), jnp.int32), update)

    return Rule(init, optimizer)
