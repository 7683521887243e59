"""Streams are scored before they are learned from."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metajax as mj
from metajax import outer

RATE, ROWS = 0.1, 7


def line(params, x, key, reference):
    return params.fast["slope"] * x + params.slow["offset"]


LOSS = mj.losses.squared_error(line)
PARAMS = mj.Params({"slope": jnp.array(0.5)}, {"offset": jnp.array(0.2)})
X = np.random.default_rng(0).normal(size=ROWS)
STREAM = mj.Batch(jnp.asarray(X), jnp.asarray(3 * X + 1))


def learner(chunk, strategy=None, **more):
    adaptation = mj.inner_loop(LOSS, optax.sgd(RATE), steps=2, differentiate=strategy)
    return mj.online(adaptation, LOSS, chunk=chunk, **more)


def by_hand(chunk, window):
    slope, offset, losses = 0.5, 0.2, []
    error = lambda rows: slope * X[rows] + offset - (3 * X[rows] + 1)
    for begin in range(0, ROWS, chunk):
        end = min(begin + chunk, ROWS)
        losses.append((error(slice(begin, end)) ** 2).mean())
        seen = slice(max(0, begin + chunk - window), end)
        for _ in range(2):
            slope -= RATE * (2 * error(seen) * X[seen]).mean()
    return losses, slope


@pytest.mark.parametrize(("chunk", "window"), [(1, None), (2, None), (7, None), (2, 5), (1, 20)])
def test_each_chunk_is_scored_and_then_learned_from(chunk, window):
    learned = learner(chunk, window=window)
    key = jax.random.key(0)
    found: outer.Scores = jax.jit(learned.scores)(PARAMS, STREAM, key)
    losses, slope = by_hand(chunk, window or chunk)
    np.testing.assert_allclose(found.losses, losses, rtol=1e-12)
    np.testing.assert_allclose(found.params.fast["slope"], slope, rtol=1e-12)
    sizes = [min(chunk, ROWS - begin) for begin in range(0, ROWS, chunk)]
    np.testing.assert_array_equal(found.weights, sizes)
    task = mj.Task(STREAM, STREAM)
    mean, _ = jax.jit(learned.task_loss)(PARAMS, task, key)
    np.testing.assert_allclose(mean, np.average(losses, weights=sizes), rtol=1e-12)
    adapted = learned.adaptation.adapt(PARAMS, STREAM, key)
    assert adapted.slow is PARAMS.slow and adapted.fast == found.params.fast


def test_the_derivative_of_the_scores_is_exact_under_each_strategy():
    task = mj.Task(STREAM, STREAM)
    value = lambda strategy: (
        lambda params: learner(2, strategy).task_loss(params, task, jax.random.key(0))[0]
    )
    found = jax.jit(jax.grad(value(mj.mixed_mode())))(PARAMS)
    expected = jax.jit(jax.grad(value(None)))(PARAMS)
    first = jax.jit(jax.grad(value(mj.first_order())))(PARAMS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), found, expected)
    assert abs(first.fast["slope"] - expected.fast["slope"]) > 0.1
    step = 1e-6
    moved = lambda sign: PARAMS._replace(fast={"slope": 0.5 + sign * step})
    difference = (value(None)(moved(1)) - value(None)(moved(-1))) / (2 * step)
    np.testing.assert_allclose(expected.fast["slope"], difference, rtol=1e-6)


def test_rows_of_weight_zero_and_fields_of_a_batch_are_walked():
    """Weights count, rows of weight 0 do not, and `info` is not divided."""
    learned = learner(2, window=4)
    key = jax.random.key(0)
    weight = jnp.array([1.0, 2, 0, 0, 1, 3, 1])
    stream = STREAM._replace(weight=weight, reference=weight > 0, info=jnp.ones((2, 3)))
    found = jax.jit(learned.scores)(PARAMS, stream, key)
    np.testing.assert_array_equal(found.weights, [3, 0, 4, 1])
    assert found.losses[1] == 0
    error = 0.5 * X[:2] + 0.2 - (3 * X[:2] + 1)
    np.testing.assert_allclose(found.losses[0], np.average(error**2, weights=[1, 2]), rtol=1e-10)
    nothing = stream._replace(weight=jnp.zeros(ROWS))
    loss, _ = learned.task_loss(PARAMS, mj.Task(nothing, nothing), key)
    after = learned.adaptation.adapt(PARAMS, nothing, key)
    assert loss == 0 and after.fast["slope"] == 0.5


def test_an_outer_loop_learns_where_a_stream_starts():
    def stream(seed):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=8)
        return mj.Batch(x, (3 + 0.1 * rng.normal()) * x + 1)

    tasks = jax.tree.map(lambda *rows: jnp.stack(rows), *map(stream, range(4)))
    loop = mj.outer_loop(learner(2).task_loss, optax.adam(0.1))
    state, _ = mj.training.scan(
        loop,
        loop.init(PARAMS),
        lambda tasks, key: mj.Task(tasks, tasks),
        tasks,
        jax.random.key(0),
        steps=200,
    )
    np.testing.assert_allclose(state.params.fast["slope"], 3, atol=0.15)
    np.testing.assert_allclose(state.params.slow["offset"], 1, atol=0.05)


def test_other_examples_are_asked_after_the_stream():
    learned: outer.Online = learner(2)
    task_loss = mj.query_loss(learned.adaptation, LOSS)
    query = jax.tree.map(lambda leaf: leaf[:3], STREAM)
    found, _ = task_loss(PARAMS, mj.Task(STREAM, query), jax.random.key(0))
    slope = by_hand(2, 2)[1]
    expected = ((slope * X[:3] + 0.2 - (3 * X[:3] + 1)) ** 2).mean()
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_what_cannot_walk_a_stream_is_refused():
    with pytest.raises(ValueError, match=r"window=1 must be (chunk=)?2 or more"):
        learner(2, window=1)
    path = mj.inner_loop(LOSS, optax.sgd(RATE), steps=1, path=True)
    with pytest.raises(ValueError, match="without path=True"):
        mj.online(path, LOSS, chunk=1)
    with pytest.raises(ValueError, match="needs a row or more"):
        learner(2).scores(PARAMS, mj.Batch(jnp.zeros(0), jnp.zeros(0)), jax.random.key(0))
    grows = mj.Adaptation(
        lambda params, key: params,
        lambda params, batch, key: params._replace(fast={"slope": jnp.ones(2)}),
    )
    with pytest.raises(ValueError, match="keeps the shapes of the fast weights"):
        mj.online(grows, LOSS, chunk=2).scores(PARAMS, STREAM, jax.random.key(0))
