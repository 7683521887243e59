"""The noise of an outer gradient, against what it was made of."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_differentiate_strategies import ridge_loss, ridge_problem

import metajax as mj
from metajax import diagnostics

KEY = jax.random.key(0)
WIDTH = 50


def noisy_loss(params, task, key):
    """Its gradient is 1 + 2 task + 3 draw in each of WIDTH weights, with normal task and draw."""
    draw = jax.random.normal(key, (WIDTH,), task.dtype)
    return (params.slow * (1 + 2 * task + 3 * draw)).sum(), {}


def measured(number, draws):
    tasks = jax.random.normal(KEY, (number, WIDTH))
    return diagnostics.measure_noise(
        noisy_loss, mj.Params({}, jnp.zeros(WIDTH)), tasks, KEY, draws=draws
    )


def test_signal_and_both_noises_are_those_that_were_put_in():
    found = measured(400, 4)
    assert isinstance(found, diagnostics.GradientNoise)
    np.testing.assert_allclose(found.signal, WIDTH, rtol=0.1)
    np.testing.assert_allclose(found.of_tasks, 4 * WIDTH, rtol=0.1)
    np.testing.assert_allclose(found.of_draws, 9 * WIDTH, rtol=0.1)
    np.testing.assert_allclose(found.critical_batch, 13, rtol=0.15)
    np.testing.assert_allclose(found.cosine(13), 0.5**0.5, rtol=0.1)
    assert math.isnan(found.rounding)
    assert repr(found).startswith("critical batch 1")


def test_one_draw_or_one_task_see_one_noise():
    one_draw = measured(400, 1)
    assert math.isnan(one_draw.of_draws)
    np.testing.assert_allclose(one_draw.noise, 13 * WIDTH, rtol=0.1)
    one_task = measured(1, 400)
    assert math.isnan(one_task.of_tasks)
    np.testing.assert_allclose(one_task.noise, 9 * WIDTH, rtol=0.1)


def test_the_signal_has_no_bias():
    """The square of a mean of noise is not signal."""
    loss = lambda params, task, key: ((params.slow * task).sum(), {})
    params = mj.Params({}, jnp.zeros(WIDTH))
    signals = []
    for seed in range(20):
        tasks = jax.random.normal(jax.random.key(seed), (4, WIDTH))
        signals.append(diagnostics.measure_noise(loss, params, tasks, KEY, draws=1).signal)
    assert abs(np.mean(signals)) < 0.25 * WIDTH / 4
    nothing = diagnostics.GradientNoise(-1.0, 2.0, 0.0, math.nan)
    assert nothing.critical_batch == math.inf and nothing.cosine(8) == 0
    assert "no signal" in repr(nothing)


def test_rounding_is_the_distance_from_float64():
    with jax.enable_x64(False):
        params, task = ridge_problem()
        narrow = lambda leaf: jnp.asarray(leaf, jnp.float32)
        params, task = jax.tree.map(narrow, (params, task))
        tasks = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), task)
        adaptation = mj.inner_loop(ridge_loss, optax.sgd(0.1), steps=5)
        task_loss = mj.query_loss(adaptation, ridge_loss)
        found = diagnostics.measure_noise(task_loss, params, tasks, KEY, double=True)
    assert 1e-9 < found.rounding < 1e-5
    assert found.of_draws == 0


def test_bad_input_has_errors_that_say_what_to_do():
    params = mj.Params({}, jnp.zeros(WIDTH))
    tasks = jnp.ones((1, WIDTH))
    with pytest.raises(ValueError, match="two tasks or more, or draws=2"):
        diagnostics.measure_noise(noisy_loss, params, tasks, KEY, draws=1)
    with pytest.raises(ValueError, match="that do not depend on the key"):
        diagnostics.measure_noise(noisy_loss, params, tasks, KEY, double=True)
    quiet = lambda params, task, key: ((params.slow * task).sum(), {})
    with pytest.raises(ValueError, match="give params in float32"):
        diagnostics.measure_noise(quiet, params, tasks, KEY, double=True)
    with pytest.raises(ValueError, match="not finite"):
        diagnostics.measure_noise(noisy_loss, params, jnp.nan * tasks, KEY)
