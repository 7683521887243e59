"""The core knows nothing of Flax: nets of other libraries learn through it."""

import equinox as eqx
import flax.linen as linen
import haiku as hk
import jax
import jax.numpy as jnp
import optax
import pytest

import metajax as mj

SAMPLE = mj.data.meta_batch(mj.data.sinusoids(shots=10, queries=10), tasks=16)
X = jnp.zeros((1, 1), jnp.float32)


class LinenNet(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.Dense(1)(jax.nn.relu(linen.Dense(32)(x)))


def make_linen(key):
    net = LinenNet()
    return net.init(key, X), net.apply


def make_haiku(key):
    net = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([32, 1])(x)))
    return net.init(key, X), net.apply


def make_equinox(key):
    arrays, static = eqx.partition(eqx.nn.MLP(1, 1, 32, 1, key=key), eqx.is_array)
    arrays = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), arrays)
    return arrays, lambda arrays, x: jax.vmap(eqx.combine(arrays, static))(x)


@pytest.mark.parametrize("make", [make_linen, make_haiku, make_equinox])
def test_maml_learns_through_a_net_of(make):
    weights, forward = make(jax.random.key(0))

    def loss(params, batch, key):
        return ((forward(params.fast, batch.x) - batch.y) ** 2).mean(), {}

    task_loss = mj.query_loss(mj.inner_loop(loss, optax.sgd(0.01), steps=1), loss)
    outer = mj.outer_loop(task_loss, optax.adam(3e-3))
    tasks = SAMPLE((), jax.random.key(9))
    before = mj.evaluate(task_loss, mj.Params(weights, ()), tasks, jax.random.key(1))["loss"].mean
    state, _ = mj.training.fit(
        outer,
        outer.init(mj.Params(weights, ())),
        SAMPLE,
        (),
        jax.random.key(2),
        steps=1000,
        fuse=100,
        progress=False,
    )
    after = mj.evaluate(task_loss, state.params, tasks, jax.random.key(1))["loss"].mean
    assert after < 0.7 * before
