"""Outer gradients without reverse mode."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import assert_close
from test_differentiate_strategies import KEY, ridge_loss, ridge_problem

import metajax as mj


def function(params, key):
    """A loss with aux and both kinds of shape."""
    return (params["a"] ** 2).sum() + jnp.sin(params["b"]), {"key": key}


POINT = {"a": jnp.array([1.0, -2.0]), "b": jnp.array(0.3)}


@pytest.mark.parametrize("has_aux", [True, False])
def test_forward_mode_is_reverse_mode(has_aux):
    some = function if has_aux else lambda *inputs: function(*inputs)[0]
    found, expected = (
        make(some, has_aux=has_aux)(POINT, KEY) for make in (mj.forward, jax.value_and_grad)
    )
    assert_close(found[1], expected[1])
    assert_close(jax.tree.leaves(found[0])[0], jax.tree.leaves(expected[0])[0])


def test_evolution_is_unbiased_on_a_quadratic_and_uses_the_key():
    estimate = mj.evolution(pairs=20_000, std=0.1)(function, has_aux=True)
    (value, _), slope = estimate(POINT, KEY)
    expected = jax.grad(lambda params: function(params, KEY)[0])(POINT)
    np.testing.assert_allclose(value, function(POINT, KEY)[0])
    np.testing.assert_allclose(
        slope["a"], expected["a"], atol=0.15
    )  # standard error 4.1 / √20 000 = 0.03
    np.testing.assert_allclose(slope["b"], expected["b"] * np.exp(-0.005), atol=0.15)
    assert (estimate(POINT, jax.random.key(1))[1]["a"] != slope["a"]).all()


@pytest.mark.parametrize(
    "draw", [lambda key: jax.random.split(key)[1], lambda key: jax.random.fold_in(key, 1)]
)
def test_the_noise_of_evolution_is_not_that_of_the_loss(draw):
    """For L = φ·z with z from the loss's key, the estimate is z εᵀε; its mean times z is 3."""
    params = jnp.zeros(3)
    loss = lambda params, key: params @ jax.random.normal(draw(key), (3,))

    def product(key):
        return mj.evolution(pairs=1, std=0.1)(loss)(params, key)[1] @ jax.random.normal(
            draw(key), (3,)
        )

    products = jax.vmap(product)(jax.random.split(KEY, 4000))
    np.testing.assert_allclose(
        products.mean(), 3.0, atol=0.5
    )  # 15 if they were the same numbers; standard error 0.1


@pytest.mark.parametrize("value_and_grad", [mj.forward, mj.evolution(pairs=500, std=0.01)])
def test_an_outer_loop_takes_them(value_and_grad):
    """Both steps lower the loss; forward mode takes the same step as reverse mode."""
    params, task = ridge_problem()
    tasks = jax.tree.map(lambda leaf: jnp.stack([leaf, 0.5 * leaf]), task)
    task_loss = mj.query_loss(mj.inner_loop(ridge_loss, optax.sgd(0.1), steps=5), ridge_loss)

    def step(**options):
        outer = mj.outer_loop(task_loss, optax.sgd(0.01), **options)
        return jax.jit(outer.step)(outer.init(params), tasks, KEY)[0].params

    before, after = (
        mj.evaluate(task_loss, p, tasks, KEY)["loss"].mean
        for p in (params, step(value_and_grad=value_and_grad))
    )
    assert after < before
    if value_and_grad is mj.forward:
        assert_close(step(value_and_grad=mj.forward, tasks_at_once=1), step())


def test_errors_say_what_to_do():
    with pytest.raises(
        ValueError, match=r"each of 3 meta-parameters, and most=2; use jax\.value_and_grad"
    ):
        functools.partial(mj.forward, most=2)(function, has_aux=True)(POINT, KEY)
    with pytest.raises(ValueError, match="pairs must be"):
        mj.evolution(pairs=0, std=0.1)
    with pytest.raises(ValueError, match="std=0"):
        mj.evolution(pairs=1, std=0)
    params, task = ridge_problem()
    inner = mj.inner_loop(ridge_loss, optax.sgd(0.1), steps=2, differentiate=mj.mixed_mode())
    with pytest.raises(ValueError, match="have a reverse mode only"):
        mj.forward(
            lambda params: mj.query_loss(inner, ridge_loss)(params, task, KEY), has_aux=True
        )(params)
    with pytest.raises(ValueError, match="draws its noise from the last argument"):
        mj.evolution(pairs=1, std=0.1)(function, has_aux=True)(POINT)
