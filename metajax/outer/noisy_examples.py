"""Weights of noisy examples, by what they do to the loss of clean ones."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from metajax._checked import checked
from metajax._tree import count_rows, reference_rows, row_weights, varying_like
from metajax.types import Array, Batch, Loss, Params, PyTree


@checked
def example_weights(loss: Loss, params: Params, noisy: Batch, clean: Batch, key: Array) -> Array:
    """Weights of noisy examples: how far a step on each alone lowers the loss of clean examples.

    wᵢ ∝ max(0, ∇lᵢ(θ)·∇L_clean(θ)), with the sum 1, or 0 where no example helps. It is the
    derivative of L_clean(θ - Σᵢ εᵢ ∇lᵢ(θ)) at ε = 0, with the other sign. θ are the fast weights.

    Args:
        loss: (params, batch, key) -> (scalar, metrics), a mean over the rows by weight, Σᵢ wᵢ lᵢ /
            Σᵢ wᵢ, as `cross_entropy`, `squared_error` and `gaussian_log_loss` are.
        params: where the gradients are taken.
        noisy: the examples to weigh. Those of weight 0 stay at 0.
        clean: a few examples whose labels are right.
        key: for both losses.

    Returns:
        [examples].

    >>> from metajax.losses import squared_error
    >>> loss = squared_error(lambda params, x, key, reference: params.fast * x)
    >>> noisy, clean = jnp.array([2.0, -3.0]), jnp.array([1.0])
    >>> batches = [Batch(jnp.ones_like(y), y) for y in (noisy, clean)]
    >>> example_weights(loss, Params(jnp.zeros(()), {}), *batches, jax.random.key(0)).tolist()
    [1.0, 0.0]

    Source: Ren et al. 2018, arXiv 1803.09050, equations 7 to 11.
    """
    noisy_key, clean_key = jax.random.split(key)
    reference = reference_rows(noisy)
    if reference is None:
        reference = jnp.ones(count_rows(noisy), bool)
    # The gradients of replicated weights would be summed over devices.
    start, counted = varying_like(
        (params.fast, (row_weights(noisy) > 0).astype(float)), (noisy, clean)
    )

    def losses_of_rows(fast: PyTree) -> Array:
        def of_weights(weight: Array) -> Array:
            batch = noisy._replace(weight=weight, reference=reference)
            return loss(params._replace(fast=fast), batch, noisy_key)[0]

        # lᵢ = L + n ∂L/∂wᵢ at weights of 1. At weights of 0 a loss may not look at the rows.
        mean, slope = jax.value_and_grad(of_weights)(counted)
        return mean + counted.sum() * slope

    of_clean = lambda fast: loss(params._replace(fast=fast), clean, clean_key)[0]
    slope = jax.grad(of_clean)(start)
    _, products = jax.jvp(losses_of_rows, (start,), (slope,))
    weights = jnp.where(counted > 0, jnp.maximum(products, 0), 0)
    total = weights.sum()
    return weights / jnp.where(total > 0, total, 1)
