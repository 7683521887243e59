"""The worst tasks: their mean, an outer loss of them, and batches of the risky ones."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metajax as mj

KEY = jax.random.key(0)


def test_the_worst_tenth_is_that_of_sorting():
    values = jax.random.normal(KEY, (200,))
    found = mj.summarize(values)
    in_order = np.sort(values)
    np.testing.assert_allclose(found.lowest.mean, in_order[:20].mean())
    np.testing.assert_allclose(found.highest.mean, in_order[-20:].mean())
    np.testing.assert_allclose(found.lowest.per_task, in_order[:20])
    few = mj.summarize(values[:40]).lowest
    assert few.mean == np.sort(values[:40])[:4].mean() and jnp.isnan(few.interval)
    assert jnp.isnan(mj.summarize(values.at[3].set(jnp.nan)).highest.mean)
    counts = jnp.arange(100, dtype=jnp.uint8)
    assert mj.summarize(counts).highest.mean == 94.5


def test_the_interval_of_the_worst_tenth_has_its_coverage():
    """Over 400 samples of 300 normal values, whose lowest tenth has the mean -1.755."""
    found = jax.vmap(lambda key: mj.summarize(jax.random.normal(key, (300,))).lowest)(
        jax.random.split(KEY, 400)
    )
    covered = jnp.abs(found.mean + 1.75498) <= found.interval
    assert 0.9 < covered.mean() < 0.99


def test_the_tail_loss_ends_at_the_mean_of_the_worst_tasks():
    losses = jax.random.uniform(KEY, (40,)) ** 2
    tasks = mj.Task(mj.Batch(losses, losses), mj.Batch(losses, losses))
    task_loss = lambda params, task, key: (task.query.x, {"half": task.query.x / 2})
    tail = mj.outer.tail_loss(task_loss, 0.2)
    params = mj.Params({}, {"tail_threshold": jnp.array(0.0)})
    loop = mj.outer_loop(tail, optax.adam(optax.cosine_decay_schedule(0.02, 1000)))
    state, _ = mj.training.scan(
        loop, loop.init(params), lambda tasks, key: tasks, tasks, KEY, steps=1000
    )
    found = mj.evaluate(tail, state.params, tasks, KEY)
    np.testing.assert_allclose(found["loss"].mean, np.sort(losses)[-8:].mean(), rtol=1e-3)
    np.testing.assert_allclose(found["task_loss"].per_task, losses)
    np.testing.assert_allclose(found["half"].per_task, losses / 2)


def test_only_tasks_above_the_threshold_have_a_gradient():
    apply, params = mj.nets.functional(mj.nets.MLP(1, (3,), 1, rngs=_rngs()))
    params = mj.Params({}, {**mj.nets.join_params(params), "tail_threshold": jnp.array(0.5)})
    loss = mj.losses.squared_error(apply)
    tail = mj.outer.tail_loss(lambda params, task, key: loss(params, task, key), 0.25)
    x = jnp.ones((2, 1))
    gradient = lambda y: jax.grad(lambda p: tail(p, mj.Batch(x, y), KEY)[0])(params).slow
    near = gradient(apply(params, x))
    assert near.pop("tail_threshold") == 1
    assert not any(leaf.any() for leaf in jax.tree.leaves(near))
    far = gradient(jnp.full((2, 1), 9.0))
    assert far.pop("tail_threshold") == 1 - 1 / 0.25
    plain = jax.grad(lambda p: loss(p, mj.Batch(x, jnp.full((2, 1), 9.0)), KEY)[0])(params).slow
    del plain["tail_threshold"]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, 4 * b), far, plain)


def _rngs():
    from flax import nnx

    return nnx.Rngs(0)


def test_risky_tasks_are_drawn_in_proportion():
    sample = lambda source, key: mj.Task(*2 * [mj.Batch(*2 * [jax.random.uniform(key, (1,))])])
    risk = lambda source, task: 3 * task.query.x[0] + source
    draw = lambda temperature, tasks=4: mj.data.risky_batch(
        sample, risk, tasks=tasks, drawn=16, temperature=temperature
    )
    means = {
        temperature: jnp.mean(
            jnp.stack([draw(temperature)(0.0, key).query.x for key in jax.random.split(KEY, 50)])
        )
        for temperature in (1e-3, 1.0, 1e6)
    }
    assert means[1e-3] > 0.8 and 0.6 < means[1.0] < 0.8 and abs(means[1e6] - 0.5) < 0.05
    best = draw(1e-6)(0.0, KEY).query.x
    every = draw(1e-6, 16)(0.0, KEY).query.x
    no_number = lambda source, task: jnp.where(task.query.x[0] > 0.5, jnp.nan, 0.0)
    kept = mj.data.risky_batch(sample, no_number, tasks=4, drawn=16)(0.0, KEY).query.x
    assert kept.max() <= 0.5
    whole = lambda source, task: (100 * task.query.x[0]).astype(int)
    kept = mj.data.risky_batch(sample, whole, tasks=4, drawn=16)(0.0, KEY).query.x
    assert kept.min() > 0.5
    np.testing.assert_array_equal(np.sort(best.ravel()), np.sort(every.ravel())[-4:])


def test_wrong_arguments_are_refused():
    task_loss = lambda params, task, key: (jnp.zeros(()), {})
    for share in (0.0, 1.5):
        with pytest.raises(ValueError, match="above 0 and up to 1"):
            mj.outer.tail_loss(task_loss, share)
    with pytest.raises(ValueError, match="tail_threshold"):
        mj.outer.tail_loss(task_loss, 0.5)(mj.Params({}, {}), None, KEY)
    sample = mj.data.sinusoids(shots=2, queries=2)
    risk = lambda source, task: task.query.y.mean()
    with pytest.raises(ValueError, match="must not be below tasks=4"):
        mj.data.risky_batch(sample, risk, tasks=4, drawn=3)
    with pytest.raises(ValueError, match="temperature"):
        mj.data.risky_batch(sample, risk, tasks=4, drawn=8, temperature=0.0)
    many = mj.data.risky_batch(sample, lambda source, task: task.query.y, tasks=4, drawn=8)
    with pytest.raises(ValueError, match="one number"):
        many((), KEY)
