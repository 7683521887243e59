"""Bilevel problems by a penalty, against the implicit gradient and the optimum."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_differentiate_strategies import KEY, ridge_loss, ridge_problem
from test_outer_warm_start import as_tasks, query_loss

import metajax as mj


def gradient(strength, **options):
    """The gradient after so many inner steps that both minima are reached."""
    params, task = ridge_problem()
    outer = mj.outer.penalized(
        ridge_loss,
        query_loss,
        optax.sgd(0.1),
        optax.sgd(1.0),
        inner_steps=3000,
        strength=strength,
        **options,
    )
    state = outer.init(params)
    assert isinstance(state, mj.outer.PenaltyState)
    state, info = jax.jit(outer.step)(state, as_tasks(task), KEY)
    assert info.skipped == 0
    return params.slow - state.params.slow


def test_the_gradient_nears_that_of_the_bilevel_problem_as_one_over_the_strength():
    params, task = ridge_problem()
    adaptation = mj.inner_loop(ridge_loss, optax.sgd(0.1), steps=3000, differentiate=mj.implicit())
    task_loss = mj.query_loss(adaptation, query_loss)
    exact = jax.grad(lambda params: task_loss(params, task, KEY)[0])(params).slow
    errors = [float(jnp.abs(gradient(strength) - exact)) for strength in (10.0, 100.0, 1000.0)]
    assert errors[0] < 0.5 * float(jnp.abs(exact))
    np.testing.assert_allclose([errors[0] / errors[1], errors[1] / errors[2]], 10, rtol=0.3)


def test_the_same_draws_of_rows_are_the_whole():
    whole = lambda batch, key: batch
    np.testing.assert_allclose(gradient(10.0, sample=whole), gradient(10.0), rtol=1e-10)
    few = gradient(10.0, sample=mj.inner.minibatch(6))
    assert np.isfinite(few).all() and not np.allclose(few, gradient(10.0))


def test_a_hyperparameter_reaches_the_optimum():
    params, task = ridge_problem()
    settings = {"inner_steps": 20, "strength": 1000.0}
    by_penalty = mj.outer.penalized(
        ridge_loss, query_loss, optax.sgd(0.1), optax.adam(0.05), **settings
    )
    implicit = mj.inner_loop(ridge_loss, optax.sgd(0.1), steps=20, differentiate=mj.implicit())
    found = []
    for outer in (by_penalty, mj.bilevel(implicit, query_loss, optax.adam(0.05))):
        step = lambda state, key, outer=outer: outer.step(state, as_tasks(task), key)
        state, _ = jax.lax.scan(step, outer.init(params), jax.random.split(KEY, 600))
        found.append(state.params.slow)
    np.testing.assert_allclose(*found, atol=0.05)


def test_fit_takes_its_steps():
    params, task = ridge_problem()
    outer = mj.outer.penalized(
        ridge_loss, query_loss, optax.sgd(0.1), optax.adam(0.05), inner_steps=5
    )
    sample = lambda problem, key: as_tasks(problem)
    state, records = mj.training.fit(outer, outer.init(params), sample, task, KEY, steps=6, every=3)
    assert state.step == 6 and len(records) == 2
    assert records[-1]["loss"] < records[0]["loss"]


def test_a_step_that_is_not_finite_changes_nothing():
    params, task = ridge_problem()
    bad = task._replace(query=task.query._replace(y=task.query.y * jnp.nan))
    outer = mj.outer.penalized(
        ridge_loss, query_loss, optax.sgd(0.1), optax.adam(0.05), inner_steps=5
    )
    start = outer.init(params)
    state, info = outer.step(start, as_tasks(bad), KEY)
    assert info.skipped == 1 and state.step == 1
    kept = jax.tree.map(np.array_equal, state._replace(step=0), start._replace(step=0))
    assert jax.tree.all(kept)


def test_bad_input_has_errors_that_say_what_to_do():
    params, task = ridge_problem()
    arguments = (ridge_loss, query_loss, optax.sgd(0.1), optax.adam(0.05))
    with pytest.raises(ValueError, match="strength must be above 0"):
        mj.outer.penalized(*arguments, inner_steps=5, strength=0.0)
    outer = mj.outer.penalized(*arguments, inner_steps=5)
    for bad in (params._replace(slow={}), params._replace(fast={})):
        with pytest.raises(ValueError, match="fast weights to fit and slow weights to learn"):
            outer.init(bad)
    with pytest.raises(ValueError, match="no use for"):
        outer.init(params._replace(rule=jnp.ones(1)))
    with pytest.raises(ValueError, match="nothing but gradients and params"):
        mj.outer.penalized(*arguments[:2], optax.polyak_sgd(), arguments[3], inner_steps=5)
    scalar = lambda params, batch, key: query_loss(params, batch, key)[0]
    wrong = mj.outer.penalized(ridge_loss, scalar, *arguments[2:], inner_steps=5)
    with pytest.raises(ValueError, match=r"must return \(scalar, metrics"):
        wrong.step(wrong.init(params), as_tasks(task), KEY)
    two = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), task)
    with pytest.raises(ValueError, match="leading axis of length 1, got 2"):
        outer.step(outer.init(params), two, KEY)
