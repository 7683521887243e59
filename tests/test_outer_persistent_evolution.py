"""PES against the gradient that it estimates, and the learned optimizer that it trains."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import assert_close
from test_differentiate_strategies import KEY, ridge_loss, ridge_problem

import metajax as mj

RATE = mj.Rule(
    lambda params, key: jnp.array([-3.0, 0.5]),
    lambda rule: optax.sgd(jnp.exp(rule[0]), momentum=rule[1]),
)
RECORD = optax.GradientTransformation(
    lambda params: jnp.zeros_like(params),
    lambda gradient, state, params: (jnp.zeros_like(gradient), gradient),
)
"""Moves nothing and keeps the gradient."""


def problem(pairs):
    params, task = ridge_problem()
    return (
        params._replace(rule=RATE.init(params, KEY)),
        jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (pairs, *leaf.shape)), task),
        task,
    )


@pytest.mark.parametrize("truncation", [2, 6])
def test_the_estimate_is_unbiased_over_a_whole_problem(truncation):
    pairs, horizon = 20_000, 6
    params, tasks, task = problem(pairs)
    make = functools.partial(
        mj.persistent, RATE, ridge_loss, RECORD, horizon=horizon, truncation=truncation
    )
    outer = make(pairs=pairs, std=0.01)
    step, state, estimates = jax.jit(outer.step), outer.init(params, tasks, KEY), []
    for number in range(
        2 * horizon // truncation
    ):  # the first round ends what began at another age
        state, info = step(state, tasks, jax.random.fold_in(KEY, number))
        estimates.append(state.optimizer)
    found = np.mean(estimates[horizon // truncation :], axis=0)

    def mean_loss(rule):
        adaptation = mj.inner_loop(ridge_loss, RATE, steps=horizon, path=True)
        average = mj.query_loss(
            adaptation, ridge_loss, step_weights=lambda context: jnp.full(horizon, 1 / horizon)
        )
        return average(params._replace(rule=rule), task, KEY)[0]

    np.testing.assert_allclose(found, jax.grad(mean_loss)(params.rule), rtol=0.08)
    np.testing.assert_allclose(info.loss, mean_loss(params.rule), rtol=0.05)


def test_pairs_are_at_different_ages_and_start_anew():
    params, tasks, _ = problem(4)
    outer = mj.persistent(
        RATE, ridge_loss, optax.sgd(1e-3), horizon=8, truncation=2, pairs=4, std=0.01
    )
    state = outer.init(params, tasks, KEY)
    assert state.age.tolist() == [0, 2, 4, 6]
    step = jax.jit(outer.step)
    state, _ = step(state, tasks, KEY)
    assert state.age.tolist() == [2, 4, 6, 8]
    others = jax.tree.map(lambda leaf: 2 * leaf, tasks)
    after, _ = step(state, others, KEY)
    assert after.age.tolist() == [4, 6, 8, 2]
    assert_close(after.tasks.support.x[:3], tasks.support.x[:3], 0)
    assert_close(after.tasks.support.x[3], others.support.x[3], 0)
    assert bool((jnp.abs(after.drift[:3] - state.drift[:3]) > 0).all())


def test_a_pair_that_is_not_finite_is_left_out_and_starts_anew():
    params, tasks, _ = problem(3)
    outer = mj.persistent(RATE, ridge_loss, RECORD, horizon=8, truncation=2, pairs=3, std=0.01)
    bad = tasks._replace(query=tasks.query._replace(y=tasks.query.y.at[1].set(jnp.nan)))
    state, info = outer.step(outer.init(params, bad, KEY), tasks, KEY)
    assert (
        info.skipped == 1 and jnp.isfinite(info.loss) and bool(jnp.isfinite(state.optimizer).all())
    )
    state, info = outer.step(state, tasks, KEY)
    assert info.skipped == 0
    all_bad = tasks._replace(query=tasks.query._replace(y=tasks.query.y * jnp.nan))
    start = outer.init(params, all_bad, KEY)
    state, info = outer.step(start, tasks, KEY)
    assert info.skipped == 3 and jnp.isnan(info.loss)
    assert_close(state.params, start.params, 0)


def test_training_runs_by_fit_and_lowers_the_loss():
    params, tasks, task = problem(8)
    rule = mj.learned_optimizer(0.003, hidden=4)
    params = params._replace(rule=rule.init(params, KEY))
    start = lambda params, key: jax.random.normal(key, params.fast.shape)
    outer = mj.persistent(
        rule, ridge_loss, optax.adam(0.01), horizon=20, truncation=5, pairs=8, std=0.05,
        start=start,        sample=mj.minibatch(6),
    )  # fmt: skip
    state, records = mj.training.fit(
        outer,
        outer.init(params, tasks, KEY),
        lambda dataset, key: dataset,
        tasks,
        KEY,
        steps=200,
        fuse=50,
        every=50,
        progress=False,
    )
    assert records[-1]["loss"] < records[0]["loss"]
    task_loss = mj.query_loss(mj.inner_loop(ridge_loss, rule, steps=20), ridge_loss)
    assert task_loss(state.params, task, KEY)[0] < task_loss(params, task, KEY)[0]


def test_an_untrained_learned_optimizer_is_adam():
    params, task = ridge_problem()
    rule = mj.learned_optimizer(0.01)
    adaptation = mj.inner_loop(ridge_loss, rule, steps=5)
    adam = mj.inner_loop(ridge_loss, optax.adam(0.01, eps=0, eps_root=1e-16), steps=5)
    adapted = [a.adapt(a.init(params, KEY), task.support, KEY).fast for a in (adaptation, adam)]
    assert_close(*adapted, 1e-6)


def test_a_learned_optimizer_moves_short_floats():
    """Averages in bfloat16 would never move, and a zero gradient would be 0/0."""
    fast = {"a": jnp.full(3, 0.1, jnp.bfloat16)}
    loss = lambda params, batch, key: (params.fast["a"][:2].sum(), {})
    adaptation = mj.inner_loop(loss, mj.learned_optimizer(0.01), steps=5)
    params = adaptation.init(mj.Params(fast, ()), KEY)
    moved = adaptation.adapt(params, mj.Batch(jnp.ones(1), jnp.ones(1)), KEY).fast["a"]
    assert moved.dtype == jnp.bfloat16
    np.testing.assert_allclose(moved.astype(jnp.float32), [0.05, 0.05, 0.1], atol=2e-3)


def test_errors_say_what_to_do():
    params, tasks, _ = problem(3)
    make = functools.partial(mj.persistent, RATE, ridge_loss, optax.sgd(0.1))
    with pytest.raises(ValueError, match="truncation=3 must divide horizon=8"):
        make(horizon=8, truncation=3, pairs=2, std=0.1)
    with pytest.raises(ValueError, match="pairs must be"):
        make(horizon=8, truncation=2, pairs=0, std=0.1)
    outer = make(horizon=8, truncation=2, pairs=2, std=0.1)
    with pytest.raises(ValueError, match="each of pairs=2, got 3"):
        outer.init(params, tasks, KEY)
    with pytest.raises(ValueError, match=r"rule\.init\(params, key\)"):
        outer.init(params._replace(rule=()), jax.tree.map(lambda leaf: leaf[:2], tasks), KEY)
    with pytest.raises(ValueError, match="hidden must be a whole number, 1 or more, got 0"):
        mj.learned_optimizer(0.1, hidden=0)
    with pytest.raises(ValueError, match="this learned_optimizer needs"):
        mj.learned_optimizer(0.1).optimizer(params.rule)
    vector = lambda params, batch, key: (params.fast, {})
    outer = mj.persistent(RATE, vector, optax.sgd(0.1), horizon=2, truncation=2, pairs=3, std=0.1)
    with pytest.raises(ValueError, match=r"must return \(scalar, metrics\)"):
        outer.step(outer.init(params, tasks, KEY), tasks, KEY)
    with pytest.raises(ValueError, match=r"rule must be a metajax\.Rule, got"):
        mj.persistent(
            optax.sgd(0.1), ridge_loss, optax.sgd(0.1), horizon=2, truncation=2, pairs=3, std=0.1
        )
    with pytest.raises(ValueError, match="no array to begin from"):
        outer.init(params._replace(fast=()), tasks, KEY)
