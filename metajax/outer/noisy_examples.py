"""Weights of noisy examples, by what they do to the loss of clean ones."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from metajax._checked import checked
from metajax._tree import count_rows, reference_rows, row_weights
from metajax.types import Array, Batch, Loss, Params, PyTree


@checked
def example_weights(loss: Loss, params: Params, noisy: Batch, clean: Batch, key: Array) -> Array:
    """Weights of noisy examples: how far a step on each alone lowers the loss of clean examples.

    wᵢ ∝ max(0, ∇lᵢ(θ)·∇L_clean(θ)), with the sum 1, or 0 where no example helps. It is the
    derivative of L_clean(θ - Σᵢ εᵢ ∇lᵢ(θ)) at ε = 0, with the other sign. θ are the fast weights.

    Args:
        loss: (params, batch, key) -> (scalar, metrics), which is Σᵢ wᵢ lᵢ where the weights are
            close to 0, as those of `metajax.losses` are.
        params: where the gradients are taken.
        noisy: the examples to weigh. Those of weight 0 stay at 0.
        clean: a few examples whose labels are right.
        key: for both losses.

    Returns:
        [examples].

    >>> loss = lambda params, batch, key: (batch.weight @ (params.fast - batch.y) ** 2, {})
    >>> noisy, clean = jnp.array([2.0, -3.0]), jnp.array([1.0])
    >>> batches = [Batch(y, y, jnp.ones(len(y))) for y in (noisy, clean)]
    >>> example_weights(loss, Params(jnp.zeros(()), {}), *batches, jax.random.key(0)).tolist()
    [1.0, 0.0]

    Source: Ren et al. 2018, arXiv 1803.09050, equations 7 to 11.
    """
    noisy_key, clean_key = jax.random.split(key)
    reference = reference_rows(noisy)
    if reference is None:
        reference = jnp.ones(count_rows(noisy), bool)

    def losses_of_rows(fast: PyTree) -> Array:
        def of_weights(weight: Array) -> Array:
            batch = noisy._replace(weight=weight, reference=reference)
            return loss(params._replace(fast=fast), batch, noisy_key)[0]

        return jax.grad(of_weights)(jnp.zeros(count_rows(noisy)))

    of_clean = lambda fast: loss(params._replace(fast=fast), clean, clean_key)[0]
    slope = jax.grad(of_clean)(params.fast)
    _, products = jax.jvp(losses_of_rows, (params.fast,), (slope,))
    weights = jnp.where(row_weights(noisy) > 0, jnp.maximum(products, 0), 0)
    total = weights.sum()
    return weights / jnp.where(total > 0, total, 1)
