import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.test_util import check_grads
from problems import assert_close

import metajax as mj
from metajax import nets

RNG = np.random.default_rng(0)


def native(x, kernel, stride):
    dimensions = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), "SAME", dimension_numbers=dimensions
    )


def ours(x, kernel, stride):
    return nets.patches(x, stride) @ kernel.reshape(-1, kernel.shape[-1])


@pytest.mark.parametrize("stride", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(6, 6), (7, 5), (4, 8)])
def test_patches_times_matrix_is_convolution(stride, size):
    x, kernel = (
        jnp.asarray(RNG.normal(size=(2, *size, 3))),
        jnp.asarray(RNG.normal(size=(3, 3, 3, 4))),
    )
    conv = nets.Conv(3, 4, stride=stride, rngs=nnx.Rngs(0))
    conv.kernel.set_value(kernel)
    np.testing.assert_allclose(conv(x), native(x, kernel, stride), rtol=1e-12, atol=1e-12)
    check_grads(functools.partial(ours, stride=stride), (x, kernel), order=2, modes=("fwd", "rev"))


def test_convolution_inside_a_second_order_step_has_the_gradients_of_lax_conv():
    x, kernel = (
        jnp.asarray(RNG.normal(size=(3, 2, 6, 6, 2))),
        jnp.asarray(RNG.normal(size=(3, 3, 2, 4))),
    )

    def meta_loss(kernel, convolve):
        def one(x):
            loss = lambda kernel: (jnp.tanh(convolve(x, kernel, 2)) ** 2).mean()
            return loss(kernel - 0.1 * jax.grad(loss)(kernel))

        return jax.vmap(one)(x).sum()

    gradients = [jax.grad(meta_loss)(kernel, convolve) for convolve in (ours, native)]
    np.testing.assert_allclose(*gradients, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("size", [(4, 4), (5, 7)])
def test_max_pool(size):
    x = jnp.asarray(RNG.normal(size=(2, *size, 3)))
    expected = nnx.max_pool(x, (2, 2), (2, 2))
    np.testing.assert_array_equal(nets.max_pool(x), expected)
    check_grads(nets.max_pool, (x,), order=2, modes=("fwd", "rev"))
    tie = jax.grad(lambda x: nets.max_pool(x).sum())(jnp.ones((1, 2, 2, 1)))
    np.testing.assert_array_equal(tie[0, :, :, 0], [[1.0, 0.0], [0.0, 0.0]])
    for place in range(4):  # a task that is not finite must not become so
        one = jnp.ones(4).at[place].set(jnp.nan).reshape(1, 2, 2, 1)
        assert jnp.isnan(nets.max_pool(one)).all()


def test_task_norm_normalises_by_the_rows_of_reference():
    norm = nets.TaskNorm(3)
    x = jnp.asarray(RNG.normal(2.0, 3.0, size=(6, 4, 4, 3)))
    y = norm(x)
    np.testing.assert_allclose(y.mean((0, 1, 2)), np.zeros(3), atol=1e-12)
    np.testing.assert_allclose(y.std((0, 1, 2)), np.ones(3), rtol=1e-4)
    reference = jnp.array([True] * 4 + [False] * 2)
    np.testing.assert_allclose(norm(x, reference)[:4], norm(x[:4]), rtol=1e-9)
    np.testing.assert_allclose(norm(x, jnp.ones(6, bool)), y, rtol=1e-9)
    moved = x.at[4:].set(100.0)
    np.testing.assert_allclose(norm(moved, reference)[:4], norm(x[:4]), rtol=1e-9)


NORMS = [nets.TaskNorm, nets.FrozenNorm, nets.GroupNorm, nets.NoNorm]


@pytest.mark.parametrize("policy", NORMS)
def test_a_norm_pools_what_it_gives(policy):
    """Also where its scale is negative, which makes the largest of the smallest."""
    norm = policy(16, rngs=nnx.Rngs(0))
    apply, params = nets.functional(norm)
    fast = jax.tree.map(lambda leaf: jnp.asarray(RNG.normal(size=leaf.shape)), params.fast)
    x = jnp.asarray(RNG.normal(size=(3, 4, 5, 16)))
    reference = jnp.array([True, True, False])

    def loss(fast, x, inside):
        inner, outer = (nets.max_pool, lambda y: y) if inside else (None, nets.max_pool)
        return (
            outer(apply(params._replace(fast=fast), x, reference=reference, pool=inner)) ** 2
        ).sum()

    both = [jax.value_and_grad(loss, (0, 1))(fast, x, inside) for inside in (True, False)]
    assert_close(*both, 1e-12)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("pool", [False, True])
def test_conv4_in_all_policies(norm, pool):
    net = nets.Conv4(5, width=16, pool=pool, size=16, norm=norm, rngs=nnx.Rngs(0))
    plain, params = nets.functional(net)
    apply = jax.jit(plain, static_argnames="method")
    x = jnp.asarray(RNG.normal(size=(3, 16, 16, 1)), jnp.float32)
    logits = apply(params, x)
    assert logits.shape == (3, 5)
    assert apply(params, x, method="embed").shape == (3, 16)
    alone = jnp.concatenate([apply(params, row[None]) for row in x])
    depends_on_others = not np.allclose(alone, logits, atol=1e-4)
    assert depends_on_others == (norm is nets.TaskNorm)
    gradient = jax.jit(jax.grad(lambda params: (plain(params, x) ** 2).sum()))(params)
    assert all(bool((leaf != 0).any()) for leaf in jax.tree.leaves(gradient))
    halves = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    assert apply(halves, x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_a_net_computed_in_bfloat16_keeps_its_weights_and_small_steps():
    seen = []

    def apply(params, x, key=None, *, reference=None):
        seen.append((params.fast.dtype, x.dtype))
        return x * params.fast

    loss = mj.losses.squared_error(mj.losses.computed_in(apply))
    batch = mj.Batch(jnp.ones((2, 1), jnp.float32), jnp.zeros((2, 1), jnp.float32))
    start = mj.Params(jnp.ones((), jnp.float32), ())
    adapt = mj.inner_loop(loss, optax.sgd(1e-4), steps=10).adapt
    assert adapt(start, batch, jax.random.key(0)).fast.dtype == jnp.float32
    np.testing.assert_allclose(
        adapt(start, batch, jax.random.key(0)).fast, 0.998, atol=1e-4
    )  # (1 - 2e-4)^10
    assert set(seen) == {(jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.bfloat16))}
    narrow = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), start)
    lost = mj.inner_loop(mj.losses.squared_error(apply), optax.sgd(1e-4), steps=10).adapt
    assert lost(narrow, batch, jax.random.key(0)).fast == 1


def test_group_norm_is_flax_s():
    x = jnp.asarray(RNG.normal(size=(3, 5, 5, 16)))
    ours, theirs = (
        nets.GroupNorm(16, groups=4),
        nnx.GroupNorm(16, num_groups=4, epsilon=1e-5, rngs=nnx.Rngs(0)),
    )
    np.testing.assert_allclose(ours(x), theirs(x), rtol=1e-6, atol=1e-6)


def test_frozen_norm_keeps_its_statistics_out_of_what_is_learned():
    mean, variance = jnp.array([1.0, 2.0]), jnp.array([4.0, 9.0])
    apply, params = nets.functional(nets.FrozenNorm(2, mean=mean, variance=variance, epsilon=0.0))
    assert sorted(params.fast) == ["scale", "shift"]
    np.testing.assert_allclose(apply(params, jnp.array([[3.0, 5.0]])), [[1.0, 1.0]], rtol=1e-6)


def test_inductive_answers_do_not_depend_on_each_other():
    apply, params = nets.functional(nets.Conv4(2, width=4, rngs=nnx.Rngs(0)))
    loss = mj.losses.cross_entropy(apply)
    adaptation = mj.inner_loop(loss, optax.sgd(0.1), steps=1)
    x = jnp.asarray(RNG.normal(size=(8, 28, 28, 1)), jnp.float32)
    support = mj.Batch(x[:4], jnp.array([0, 0, 1, 1]))
    key = jax.random.key(0)
    for inductive in (False, True):
        predict = functools.partial(
            mj.predict, adaptation, apply, params, support, key=key, inductive=inductive
        )
        answer = jax.jit(predict)
        together, alone = answer(x=x[4:]), jnp.concatenate([answer(x=row[None]) for row in x[4:]])
        assert np.allclose(together, alone, atol=1e-4) == inductive
    query = mj.Batch(x[4:], jnp.array([0, 1, 0, 1]))
    task_loss = mj.query_loss(adaptation, loss, inductive=True)
    value = jax.jit(task_loss)(params, mj.Task(support, query), key)
    logits = answer(x=x[4:])
    np.testing.assert_allclose(
        value[0], optax.softmax_cross_entropy_with_integer_labels(logits, query.y).mean(), rtol=1e-5
    )


class WithDropout(nnx.Module):
    def __init__(self, rngs):
        self.layer = nnx.Linear(4, 4, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.dropout(self.layer(x))


def test_a_key_seeds_dropout_and_none_is_deterministic():
    apply, params = nets.functional(WithDropout(nnx.Rngs(0)))
    x = jnp.ones((2, 4))
    keys = jax.random.split(jax.random.key(0))
    assert_close(apply(params, x), apply(params, x))
    assert_close(apply(params, x, keys[0]), apply(params, x, keys[0]))
    assert not np.allclose(apply(params, x, keys[0]), apply(params, x, keys[1]))
    assert (apply(params, x, keys[0]) == 0).any()
    assert not (apply(params, x) == 0).any()


def test_functional_splits_by_filter():
    net = nets.Conv4(5, width=4, rngs=nnx.Rngs(0))
    _, params = nets.functional(net, fast=nnx.PathContains("head"))
    assert list(params.fast) == ["head"]
    assert sorted(params.slow) == ["convolutions", "norms"]
    with pytest.raises(
        ValueError, match=r"makes nothing fast; the module has .*\['head'\]\['kernel'\]"
    ):
        nets.functional(net, fast=nnx.PathContains("tail"))


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="size=12 is too small"):
        nets.Conv4(5, pool=True, size=12, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="groups=3 must divide features=8"):
        nets.GroupNorm(8, groups=3)


def test_mlp_has_the_layers_of_maml_s_sinusoid_net():
    apply, params = nets.functional(nets.MLP(1, (40, 40), 1, rngs=nnx.Rngs(0)))
    assert apply(params, jnp.ones((7, 1))).shape == (7, 1)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 1761
