"""One inner problem, kept warm."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_differentiate_strategies import KEY, ridge_loss, ridge_problem

import metajax as mj


def as_tasks(task):
    """A leading axis of length 1."""
    return jax.tree.map(lambda leaf: leaf[None], task)


def query_loss(params, batch, key):
    return ((batch.x @ params.fast - batch.y) ** 2).mean(), {}


@pytest.mark.parametrize(
    ("strategy", "steps", "value_and_grad"),
    [
        (mj.implicit(), 20, jax.value_and_grad),
        (mj.mixed_mode(), 200, jax.value_and_grad),
        (mj.unroll(), 200, mj.forward),
    ],
)
def test_a_hyperparameter_reaches_the_optimum(strategy, steps, value_and_grad):
    """The decay of ridge regression, against a search over a grid with the closed solution.

    Exact strategies see as far back as they have steps, `implicit` to the minimum.
    """
    params, task = ridge_problem()

    def solved(decay):
        x, y = task.support.x, task.support.y
        fast = jnp.linalg.solve(x.T @ x / len(y) + jnp.exp(decay) * jnp.eye(4), x.T @ y / len(y))
        return query_loss(params._replace(fast=fast), task.query, KEY)[0]

    grid = jnp.linspace(-6, 3, 2000)
    best = grid[jax.vmap(solved)(grid).argmin()]
    assert -5 < best < 2
    adaptation = mj.inner_loop(ridge_loss, optax.sgd(0.1), steps=steps, differentiate=strategy)
    outer = mj.bilevel(adaptation, query_loss, optax.adam(0.05), value_and_grad=value_and_grad)
    state = outer.init(params)
    state, _ = jax.lax.scan(
        lambda state, key: outer.step(state, as_tasks(task), key), state, jax.random.split(KEY, 400)
    )
    np.testing.assert_allclose(state.params.slow, best, atol=0.02)
    adapted = mj.inner_loop(ridge_loss, optax.sgd(0.1), steps=500).adapt(
        state.params, task.support, KEY
    )
    np.testing.assert_allclose(
        state.params.fast, adapted.fast, atol=1e-3
    )  # warm: it has followed the minimum


def test_a_step_that_is_not_finite_changes_nothing():
    params, task = ridge_problem()
    outer = mj.bilevel(
        mj.inner_loop(ridge_loss, optax.sgd(0.1), steps=2), query_loss, optax.adam(0.1)
    )
    bad = task._replace(query=task.query._replace(y=task.query.y * jnp.nan))
    start = outer.init(params)
    state, info = outer.step(start, as_tasks(bad), KEY)
    assert info.skipped == 1 and state.step == 1
    assert jax.tree.all(
        jax.tree.map(np.array_equal, state._replace(step=0), start._replace(step=0))
    )


def test_errors_say_what_to_do():
    params, _ = ridge_problem()
    with pytest.raises(ValueError, match="without path=True"):
        mj.bilevel(
            mj.inner_loop(ridge_loss, optax.sgd(0.1), steps=2, path=True),
            query_loss,
            optax.sgd(0.1),
        )
    with pytest.raises(ValueError, match=r"must be an optax\.GradientTransformation"):
        mj.bilevel(mj.identity(), query_loss, "adam")
    outer = mj.bilevel(
        mj.inner_loop(ridge_loss, optax.sgd(0.1), steps=2), query_loss, optax.sgd(0.1)
    )
    with pytest.raises(ValueError, match="nothing to learn"):
        outer.init(params._replace(slow=()))
    state = outer.init(params)
    _, task = ridge_problem()
    two = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), task)
    with pytest.raises(ValueError, match="one problem: give tasks with a leading axis of length 1"):
        outer.step(state, two, KEY)
