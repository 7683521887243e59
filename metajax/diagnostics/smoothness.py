"""Whether a training changes smoothly where its examples are weighed differently."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from metajax._checked import checked
from metajax._checks import check_positive
from metajax.diagnostics.trainings import check_training, float_weights
from metajax.types import Adaptation, Array, Batch, Params

ROUGH = 0.9
"""The metasmoothness below which `attribute` calls a training rough."""


@checked
def metasmoothness(
    adaptation: Adaptation, params: Params, support: Batch, key: Array, *, step: float = 0.1
) -> float:
    """Whether the trained weights keep their direction of change: 1 is smooth, 0 is noise.

    Three trainings have the weights w, w(1 + hv) and w(1 + 2hv) of examples, with one direction v
    of normal numbers. With Δ₁ and Δ₂ the changes of the trained weights from one to the next,

        S = Σⱼ |Δ₁ + Δ₂|ⱼ sign(Δ₁)ⱼ sign(Δ₂)ⱼ / Σⱼ |Δ₁ + Δ₂|ⱼ.

    The trained weights of a rough training jump back and forth where examples change a little. Its
    derivative is right at one point, and says nothing about the next. A smooth training may still
    have a derivative that predicts little. Larger batches, a larger `eps_root`, smaller step sizes,
    smooth activations and normalisation make trainings smoother.

    Args:
        adaptation: the training.
        params: start, slow weights and rule.
        support: the examples to learn from.
        key: of the training, as `attribute` takes it; the direction is drawn from it, too.
        step: h.

    Returns:
        S, from -1 to 1. It is 1 where nothing changes.

    Raises:
        ValueError: a step that is not above 0, an adaptation with `path`, negative weights, or a
            training that diverges.

    >>> import optax
    >>> from metajax.inner import inner_loop
    >>> from metajax.losses import squared_error
    >>> loss = squared_error(lambda params, x, key, reference: params.fast * x)
    >>> support = Batch(x=jnp.ones(3), y=jnp.array([1.0, 2.0, 6.0]))
    >>> adaptation = inner_loop(loss, optax.sgd(0.5), steps=3)
    >>> metasmoothness(adaptation, Params(jnp.array(0.0), ()), support, jax.random.key(0))
    1.0

    Source: Engstrom et al. 2025, arXiv 2503.13751, definition 2.
    """
    check_positive("step", step)
    check_training(adaptation, params, support)
    adapt_key, direction_key = jax.random.split(key)

    @jax.jit
    def compare(params: Params, support: Batch) -> Array:
        weight = float_weights(support, params)
        direction = jax.random.normal(direction_key, weight.shape, weight.dtype)
        factors = 1 + step * jnp.arange(3.0).astype(weight.dtype)[:, None] * direction[None]

        def train(factor: Array) -> Params:
            # Not 0, which samplers take for padding.
            factor = jnp.maximum(factor, jnp.finfo(factor.dtype).tiny)
            of_train = support._replace(weight=weight * factor)
            return adaptation.adapt(params, of_train, adapt_key)

        moved, agreed = jnp.zeros(()), jnp.zeros(())
        for first, second, third in jax.tree.leaves(jax.vmap(train)(factors).fast):
            distance = jnp.abs(third - first)
            moved += distance.sum()
            agreed += (distance * jnp.sign(second - first) * jnp.sign(third - second)).sum()
        return jnp.where(moved == 0, 1.0, agreed / jnp.where(moved == 0, 1, moved))

    smoothness = float(compare(params, support))
    if math.isnan(smoothness):
        raise ValueError("One of three trainings diverges; take a smaller step size.")
    return smoothness
