"""Task losses that know the outer step, and Reptile's metrics."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import first, make_problem, make_tasks

import metajax as mj

KEY = jax.random.key(0)
PARAMS = mj.Params(jnp.array(1.0), ())
TASKS = jnp.ones((2, 1))


def constant(value):
    """A task loss of this slope."""
    return lambda params, task, key: (value * params.fast, {"slope": jnp.asarray(value)})


def test_a_task_loss_switches_at_an_outer_step_and_is_the_last_one_in_evaluation():
    task_loss = mj.switch_at(2, constant(1.0), constant(-1.0))
    outer = mj.outer_loop(task_loss, optax.sgd(0.1))
    state = outer.init(PARAMS)
    slopes = []
    step = jax.jit(outer.step)
    for _ in range(4):
        state, info = step(state, TASKS, KEY)
        slopes.append(float(info.metrics["slope"]))
    assert slopes == [1, 1, -1, -1]
    assert mj.evaluate(task_loss, PARAMS, TASKS, KEY)["slope"].mean == -1


def test_step_weights_get_the_outer_step():
    def loss(params, batch, key):
        return (params.fast - batch.y).sum() ** 2, {}

    inner = mj.inner_loop(loss, optax.sgd(0.1), steps=2, path=True)

    def weights(step):
        return jnp.array([0.0, 1.0]) if step is None else jnp.stack([step, 1 - step]) * 1.0

    task_loss = mj.query_loss(inner, loss, step_weights=weights)
    batch = mj.Batch(jnp.zeros((1, 1)), jnp.ones(1))
    task = mj.Task(batch, batch)
    after_one, after_two = inner.adapt(mj.Params(jnp.array(0.0), ()), batch, KEY).fast
    losses = [
        task_loss(mj.Params(jnp.array(0.0), ()), task, KEY, step=step)[0]
        for step in (jnp.array(1), jnp.array(0), None)
    ]
    expected = [(after_one - 1) ** 2, (after_two - 1) ** 2, (after_two - 1) ** 2]
    np.testing.assert_allclose(losses, expected, rtol=1e-12)


def test_reptile_reports_the_query_set_without_training_on_it():
    problem, task = make_problem("reptile"), first(make_tasks())
    silent = mj.reptile(problem.adaptation)
    (distance, metrics), slope = jax.value_and_grad(problem.task_loss, has_aux=True)(
        problem.params, task, KEY
    )
    assert set(metrics) == {"query_loss", "accuracy"}
    other = task._replace(query=task.query._replace(x=2 * task.query.x))
    assert problem.task_loss(problem.params, other, KEY)[1]["query_loss"] != metrics["query_loss"]
    expected = jax.grad(lambda params: silent(params, other, KEY)[0])(problem.params)
    jax.tree.map(np.testing.assert_array_equal, slope, expected)
    np.testing.assert_array_equal(distance, silent(problem.params, task, KEY)[0])


def test_queries_are_integers_where_the_support_set_is():
    """uint8 images are from 0 to 255, those of floats from 0 to 1."""
    embed = mj.nets.identity_encoder
    learner = mj.algorithms.protonets((embed, mj.Params({}, {})), 2)
    support = mj.Batch(jnp.eye(2, dtype=jnp.float32), jnp.arange(2))
    images = jnp.full((3, 2), 255, jnp.uint8)
    predict = lambda x: mj.predict(
        learner.adaptation, learner.apply, learner.params, support, x, KEY
    )
    message = r"examples must be alike, got support='float32\[2\]' and query='uint8\[2\]'"
    with pytest.raises(ValueError, match=message):
        predict(images)
    for dtype in (jnp.float16, jnp.float64):  # of the same scale
        np.testing.assert_allclose(predict(support.x.astype(dtype)), [[1, -1], [-1, 1]])
