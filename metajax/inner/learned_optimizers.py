"""A learned optimizer: a small network that runs on every fast weight."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from metajax._checked import checked
from metajax._checks import shapes
from metajax.inner.rules import Rule
from metajax.types import Array, Params, PyTree, Size

_DECAYS = (0.5, 0.9, 0.99)
"""Decays of the averages of the gradient: over about 2, 10 and 100 steps."""


@checked
def learned_optimizer(rate: float, *, hidden: Size = 16) -> Rule:
    """A network for every parameter, which corrects Adam: Δθ = -rate e^a (m/√v + b).

    (a, b) = MLP(features). The features of a weight are its gradient, the averages of its gradient
    over 2, 10 and 100 steps, and the weight itself, each scaled to a mean square of 1 over its
    leaf; the averages divided by √v; and the time on three scales. The last layer starts at zero,
    so that an untrained rule is Adam with this rate. √v has a term under the root, so that it has a
    derivative. For long inner loops train it with `persistent`.

    Args:
        rate: step size before learning.
        hidden: units of the hidden layer.

    Raises:
        ValueError: hidden below 1; on adaptation, when `params.rule` is not what `init` makes.

    Source: after Metz et al. 2020, arXiv 2009.11243.
    """
    inputs = 2 + 2 * len(_DECAYS) + 3

    @checked
    def init(params: Params | None, key: Array) -> PyTree:
        kernel = jax.random.normal(key, (inputs, hidden)) / inputs**0.5
        return {
            "hidden": (kernel, jnp.zeros(hidden)),
            "out": (jnp.zeros((hidden, 2)), jnp.zeros(2)),
        }

    def optimizer(weights: PyTree) -> optax.GradientTransformation:
        expected = jax.eval_shape(init, None, jax.random.key(0))
        if jax.tree.map(jnp.shape, weights) != jax.tree.map(jnp.shape, expected):
            raise ValueError(
                f"params.rule holds {shapes(weights)}, this learned_optimizer needs "
                f"{shapes(expected)}; call params = adaptation.init(params, key), with the same "
                "`hidden` as in training."
            )

        def start(fast: PyTree) -> tuple[Array, PyTree, PyTree]:
            zeros = jax.tree.map(lambda leaf: jnp.zeros_like(leaf, _wide(leaf)), fast)
            return jnp.zeros((), jnp.int32), [zeros for _ in _DECAYS], zeros

        def update(gradients: PyTree, state: Any, fast: PyTree = None) -> tuple[PyTree, Any]:
            count, means, squares = state
            count = count + 1
            wide = jax.tree.map(lambda leaf: leaf.astype(_wide(leaf)), gradients)
            means = [
                _average(decay, mean, wide) for decay, mean in zip(_DECAYS, means, strict=True)
            ]
            squares = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, squares, wide)
            change = lambda *leaves: _change(weights, rate, count, *leaves)
            changes = jax.tree.map(change, wide, fast, squares, *means)
            updates = jax.tree.map(lambda leaf, g: leaf.astype(g.dtype), changes, gradients)
            return updates, (count, means, squares)

        return optax.GradientTransformation(start, update)

    return Rule(init, optimizer)


def _average(decay: float, mean: PyTree, gradients: PyTree) -> PyTree:
    """The exponential moving average after one more gradient."""
    return jax.tree.map(lambda m, g: decay * m + (1 - decay) * g, mean, gradients)


def _change(
    weights: PyTree, rate: float, count: Array, g: Array, theta: Array, v: Array, *means: Array
) -> Array:
    """The change of one leaf of the fast weights."""
    time = count.astype(g.dtype)
    theta = theta.astype(g.dtype)
    root = jnp.sqrt(v / (1 - 0.999**time) + 1e-16)
    unbiased = [mean / (1 - decay**time) for decay, mean in zip(_DECAYS, means, strict=True)]
    ratios = [mean / root for mean in unbiased]
    clock = [jnp.broadcast_to(jnp.tanh(time / scale), g.shape) for scale in (10.0, 100.0, 1000.0)]
    scaled = [_with_unit_square(leaf) for leaf in (g, theta, *unbiased)]
    features = jnp.stack([*scaled, *ratios, *clock], axis=-1)
    (kernel, bias), (out_kernel, out_bias) = weights["hidden"], weights["out"]
    axes = (1,) * g.ndim
    hidden = jax.nn.relu(features @ kernel + bias.reshape(*axes, -1))
    a, b = jnp.moveaxis(hidden @ out_kernel + out_bias.reshape(*axes, -1), -1, 0)
    return -rate * jnp.exp(a) * (ratios[1] + b)


def _wide(leaf: Array) -> jnp.dtype:
    """Averages are kept in float32 or wider, because 0.999 is 1 in bfloat16."""
    return jnp.promote_types(leaf.dtype, jnp.float32)


def _with_unit_square(leaf: Array) -> Array:
    """The leaf scaled to a mean square of 1."""
    return leaf * jax.lax.rsqrt((leaf**2).mean() + 1e-16)
