"""Sweeps: runs side by side are the runs one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metajax as mj
from metajax import Params
from metajax.training import Sweep, grid, sweep

TARGETS = jnp.array([1.0, 3.0])
SETTINGS = grid(seed=range(2), rate=[0.01, 0.25, 0.1])


def task_loss(params, target, key):
    return (params.slow - target) ** 2 + 0.1 * jax.random.normal(key), {}


def sample(targets, key):
    return targets + jax.random.normal(key, targets.shape)


def make(setting):
    outer = mj.outer_loop(task_loss, optax.sgd(setting["rate"]))
    key = jax.random.key(setting["seed"])
    return outer, outer.init(Params({}, jax.random.normal(key))), key


def one_by_one(steps):
    """(slow weights, losses) of each run by `scan`."""
    found = []
    for number in range(6):
        outer, state, key = make(jax.tree.map(lambda leaf: leaf[number], SETTINGS))
        state, info = mj.training.scan(outer, state, sample, TARGETS, key, steps=steps)
        found.append((state.params.slow, info.loss))
    weights, losses = zip(*found, strict=True)
    return np.array(weights), np.array(losses)


def test_a_sweep_takes_the_steps_of_each_run():
    weights, losses = one_by_one(12)
    found = sweep(make, SETTINGS, sample, TARGETS, steps=12)
    assert isinstance(found, Sweep)
    np.testing.assert_allclose(found.loss, losses, rtol=1e-5)
    np.testing.assert_allclose(found.state.params.slow, weights[found.order], rtol=1e-5)
    np.testing.assert_allclose(found.scores, -losses.mean(axis=1), rtol=1e-5)
    assert found.order.tolist() == np.argsort(losses.mean(axis=1)).tolist()
    assert found.steps.tolist() == [12] * 6


def test_halving_goes_on_with_the_better_half():
    weights, losses = one_by_one(12)
    found = sweep(make, SETTINGS, sample, TARGETS, steps=12, halve_at=[4, 8])
    first = np.sort(np.argsort(losses[:, :4].mean(axis=1))[:3])
    second = first[np.argsort(losses[first, 4:8].mean(axis=1))[:2]]
    assert set(found.order) == set(second)
    expected = np.full(6, 4)
    expected[first] = 8
    expected[second] = 12
    assert found.steps.tolist() == expected.tolist()
    np.testing.assert_allclose(found.state.params.slow, weights[found.order], rtol=1e-5)
    assert np.isnan(found.loss[expected == 4, 4:]).all()


def test_a_score_of_the_params_decides_and_nan_is_the_worst():
    score = lambda params, key: jnp.where(params.slow > 2.2, jnp.nan, params.slow)
    found = sweep(make, SETTINGS, sample, TARGETS, steps=12, score=score)
    weights, _ = one_by_one(12)
    expected = np.where(weights > 2.2, -np.inf, weights)
    np.testing.assert_allclose(found.scores, expected, rtol=1e-5)
    assert found.order.tolist() == np.argsort(-expected, kind="stable").tolist()


def test_a_step_without_a_task_does_not_count_and_nothing_finite_is_an_error():
    def sometimes(params, target, key):
        value, metrics = task_loss(params, target, key)
        return jnp.where(params.slow > 1, jnp.nan, value), metrics

    def make_some(setting):
        outer = mj.outer_loop(sometimes, optax.sgd(setting["rate"]))
        start = Params({}, setting["start"])
        return outer, outer.init(start), jax.random.key(0)

    settings = {"rate": jnp.full(2, 1e-3), "start": jnp.array([0.0, 2.0])}
    found = sweep(make_some, settings, sample, TARGETS, steps=3)
    assert found.order.tolist() == [0, 1]
    assert np.isfinite(found.scores).tolist() == [True, False]
    with pytest.raises(FloatingPointError, match="No run has a finite score at step 3"):
        sweep(make_some, {"rate": jnp.ones(1), "start": jnp.full(1, 2.0)}, sample, TARGETS, steps=3)


def test_what_a_sweep_refuses():
    with pytest.raises(ValueError, match="must ascend from 1 to less than steps=5"):
        sweep(make, SETTINGS, sample, TARGETS, steps=5, halve_at=[3, 5])
    with pytest.raises(ValueError, match="must ascend"):
        sweep(make, SETTINGS, sample, TARGETS, steps=5, halve_at=[3, 2])
    mesh = jax.make_mesh((1,), ("tasks",))
    with pytest.raises(ValueError, match=r"axes \('tasks',\).*'runs'"):
        sweep(make, SETTINGS, sample, TARGETS, steps=5, mesh=mesh)
    with pytest.raises(ValueError, match="settings"):
        sweep(make, {"a": jnp.ones(2), "b": jnp.ones(3)}, sample, TARGETS, steps=5)
    with pytest.raises(ValueError, match="a value for every name"):
        grid(rate=[])
