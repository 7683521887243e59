import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from encoders import draw, quick
from flax import nnx
from problems import assert_close

import metajax as mj
from metajax import nets

RNG = np.random.default_rng(0)


class NormalisedNet(nnx.Module):
    def __init__(self, rngs):
        self.norm = nets.TaskNorm(4, rngs=rngs)
        self.head = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x, reference=None):
        return self.head(jax.nn.relu(self.norm(x, reference)))


NORMS = [nets.TaskNorm, nets.FrozenNorm, nets.GroupNorm, nets.NoNorm]


def test_task_norm_normalises_by_the_rows_of_reference():
    norm = quick(nets.TaskNorm(3))
    x = jnp.asarray(RNG.normal(2.0, 3.0, size=(6, 4, 4, 3)))
    y = norm(x)
    np.testing.assert_allclose(y.mean((0, 1, 2)), np.zeros(3), atol=1e-12)
    np.testing.assert_allclose(y.std((0, 1, 2)), np.ones(3), rtol=1e-4)
    first = norm(x[:4])
    reference = jnp.array([True] * 4 + [False] * 2)
    np.testing.assert_allclose(norm(x, reference)[:4], first, rtol=1e-9)
    np.testing.assert_allclose(norm(x, jnp.ones(6, bool)), y, rtol=1e-9)
    moved = x.at[4:].set(100.0)
    np.testing.assert_allclose(norm(moved, reference)[:4], first, rtol=1e-9)


@pytest.mark.parametrize("policy", NORMS)
def test_a_norm_pools_what_it_gives(policy):
    """Also where its scale is negative, so that the largest is made of the smallest."""
    apply, params = nets.functional(policy(16, rngs=nnx.Rngs(0)))
    fast = jax.tree.map(lambda leaf: jnp.asarray(RNG.normal(size=leaf.shape)), params.fast)
    x = jnp.asarray(RNG.normal(size=(3, 4, 5, 16)))
    reference = jnp.array([True, True, False])

    def loss(fast, x, inside):
        pool = nets.max_pool if inside else None
        y = apply(params._replace(fast=fast), x, reference=reference, pool=pool)
        return ((y if inside else nets.max_pool(y)) ** 2).sum()

    run = quick(jax.value_and_grad(loss, (0, 1)), static_argnums=2)
    assert_close(run(fast, x, True), run(fast, x, False), 1e-12)


def test_group_norm_is_flax_s():
    x = jnp.asarray(RNG.normal(size=(3, 5, 5, 16)))
    ours = nets.GroupNorm(16, groups=4)
    theirs = nnx.GroupNorm(16, num_groups=4, epsilon=1e-5, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(quick(ours)(x), quick(theirs)(x), rtol=1e-6, atol=1e-6)


def test_groups_that_do_not_divide_the_channels_are_refused():
    with pytest.raises(ValueError, match="groups=3 must divide features=8"):
        nets.GroupNorm(8, groups=3)


def test_frozen_norm_keeps_its_statistics_out_of_what_is_learned():
    mean, variance = jnp.array([1.0, 2.0]), jnp.array([4.0, 9.0])
    apply, params = nets.functional(nets.FrozenNorm(2, mean=mean, variance=variance, epsilon=0.0))
    assert sorted(params.fast) == ["scale", "shift"]
    np.testing.assert_allclose(apply(params, jnp.array([[3.0, 5.0]])), [[1.0, 1.0]], rtol=1e-6)


def test_no_norm_is_a_bias():
    apply, params = nets.functional(nets.NoNorm(2))
    assert list(params.fast) == ["shift"]
    moved = params._replace(fast={"shift": jnp.array([1.0, 2.0])})
    np.testing.assert_allclose(apply(moved, jnp.array([[3.0, 5.0]])), [[4.0, 7.0]])


@pytest.mark.filterwarnings("ignore:TaskNorm normalises one example")
def test_inductive_outputs_do_not_depend_on_each_other():
    apply, params = draw(NormalisedNet)
    loss = mj.losses.cross_entropy(apply)
    adaptation = mj.inner_loop(loss, optax.sgd(0.1), steps=1)
    x = jnp.asarray(RNG.normal(size=(8, 4)))
    support = mj.Batch(x[:4], jnp.array([0, 0, 1, 1]))
    key = jax.random.key(0)
    predict = functools.partial(mj.predict, adaptation, apply, params, support, key=key)
    for inductive in (False, True):
        answer = quick(functools.partial(predict, inductive=inductive))
        together = answer(x=x[4:])
        alone = jnp.concatenate([answer(x=row[None]) for row in x[4:]])
        assert np.allclose(together, alone, atol=1e-4) == inductive
    query = mj.Batch(x[4:], jnp.array([0, 1, 0, 1]))
    task_loss = mj.query_loss(adaptation, loss, inductive=True)
    value, _ = quick(task_loss)(params, mj.Task(support, query), key)
    expected = optax.softmax_cross_entropy_with_integer_labels(together, query.y).mean()
    np.testing.assert_allclose(value, expected, rtol=1e-5)
