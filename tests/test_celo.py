"""Celo2: the change of every weight, as the paper and its code have it, in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import metajax as mj
from metajax import inner

KEY = jax.random.key(0)
DECAYS = np.array([0.9, 0.99, 0.999])


def unit(x, axes):
    return x / np.sqrt((x**2).mean(axis=axes, keepdims=True) + 1e-9)


class Written:
    """The change of one array, step by step; `largest` is its largest axis, `second` the next."""

    def __init__(self, weights, shape):
        self.weights = [(np.asarray(kernel), np.asarray(bias)) for kernel, bias in weights]
        self.mean, self.square = np.zeros((3, *shape)), np.zeros(shape)
        self.full = np.zeros((3, *shape))  # the average of g² + 1e-30, of which rows are means
        *_, self.second, self.largest = (None, None, *np.argsort(shape, kind="stable"))

    def direction(self, g, theta):
        g = np.clip(g, -1000, 1000)
        of_each = DECAYS.reshape(3, *[1] * g.ndim)
        self.mean = of_each * self.mean + (1 - of_each) * g
        self.full = of_each * self.full + (1 - of_each) * (g**2 + 1e-30)
        self.square = 0.95 * self.square + 0.05 * g**2
        root = np.sqrt(self.square + 1e-8)
        columns = [g, np.clip(g, -0.1, 0.1), theta, *self.mean, self.square]
        columns += [*(self.mean / root), 1 / root]
        inverse = lambda x: 1 / np.sqrt(np.maximum(x, 1e-9))
        if g.ndim < 2:
            columns += [*(g * inverse(self.full + 1e-9)), g / root]
        else:
            rows = self.full.mean(axis=1 + self.largest, keepdims=True) + 0 * self.full
            others = self.full.mean(axis=1 + self.second, keepdims=True) + 0 * self.full
            of_all = rows.mean(axis=1 + self.second, keepdims=True)
            estimate = inverse(rows / (of_all + 1e-9)) * inverse(others)
            columns += [*(g * estimate), g / root, *rows, *others]
            columns += [*(1 / np.sqrt(rows + 1e-8)), *(1 / np.sqrt(others + 1e-8))]
            columns += [*(self.mean * estimate)]
        axes = tuple(range(g.ndim))[-2:]
        x = np.stack([unit(column, axes) for column in columns], axis=-1)
        (kernel, bias), *others = self.weights
        x = x @ kernel[: len(columns)] + bias
        for kernel, bias in others:
            x = np.maximum(x, 0) @ kernel + bias
        return unit(x[..., 0], axes)


@pytest.mark.parametrize("shape", [(), (5,), (4, 6), (6, 4), (3, 3), (3, 3, 2, 5)])
def test_the_changes_are_those_of_the_equation(shape):
    rule = inner.celo2(0.1)
    weights = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), rule.init(None, KEY))
    weights = [(kernel, bias + 0.1) for kernel, bias in weights]
    optimizer, expected = rule.optimizer(weights), Written(weights, shape)
    rng = np.random.default_rng(0)
    theta = rng.normal(size=shape)
    params = {"leaf": jnp.asarray(theta)}
    state = optimizer.init(params)
    for size in (1.0, 1e-3, 1e4):
        g = size * rng.normal(size=shape)
        updates, state = optimizer.update({"leaf": jnp.asarray(g)}, state, params)
        change = -0.1 * expected.direction(g, theta)
        np.testing.assert_allclose(updates["leaf"], change, rtol=1e-6, atol=1e-9)
        params = optax.apply_updates(params, updates)
        theta = theta + change


def test_a_change_has_the_size_that_was_asked_for():
    params = {"kernel": jnp.ones((4, 3), jnp.float32), "bias": jnp.zeros(3, jnp.bfloat16)}
    slopes = jax.tree.map(
        lambda leaf: jnp.arange(leaf.size, dtype=leaf.dtype).reshape(leaf.shape), params
    )
    optimizer = inner.scale_by_celo2()
    updates, _ = optimizer.update(slopes, optimizer.init(params), params)
    for name, leaf in updates.items():
        assert leaf.dtype == params[name].dtype
        np.testing.assert_allclose(float((leaf.astype(float) ** 2).mean()), 1, rtol=0.02)
    loose = inner.celo2(0.5, normalised=False)
    tight = inner.celo2(0.5)
    weights = loose.init(None, KEY)
    first, second = (
        rule.optimizer(weights).update(slopes, optimizer.init(params), params)[0]["kernel"]
        for rule in (loose, tight)
    )
    np.testing.assert_allclose(0.5 * first / jnp.sqrt((first**2).mean()), second, rtol=1e-4)
    with pytest.raises(ValueError, match="this celo2 needs"):
        inner.celo2(0.1, hidden=4).optimizer(weights)


def test_the_trained_weights_descend():
    x = jax.random.normal(KEY, (64, 8), jnp.float32)
    y = jnp.sin(x @ jnp.arange(8.0)[:, None])
    apply, params = mj.nets.functional(mj.nets.MLP(8, (32,), 1, rngs=nnx.Rngs(0)))
    error = lambda fast: ((apply(params._replace(fast=fast), x) - y) ** 2).mean()
    optimizer = optax.chain(
        inner.scale_by_celo2(), optax.scale_by_learning_rate(optax.cosine_decay_schedule(1e-2, 200))
    )

    @jax.jit
    def step(carry, _):
        fast, state = carry
        value, slope = jax.value_and_grad(error)(fast)
        updates, state = optimizer.update(slope, state, fast)
        return (optax.apply_updates(fast, updates), state), value

    _, values = jax.lax.scan(step, (params.fast, optimizer.init(params.fast)), length=200)
    assert values[-1] < 0.3 * values[0]
