"""Streams of classes: OML and ANML against their steps in NumPy, and what is forgotten."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from problems import FEATURES, WAYS, cast, first, make_net, make_tasks

import metajax as mj
from metajax import algorithms, outer

KEY = jax.random.key(0)
WIDTH, RATE = 5, 0.3


def softmax(logits):
    shifted = np.exp(logits - logits.max())
    return shifted / shifted.sum()


def head_steps(features, y, kernel, bias):
    """The kernel and bias after one step for each example, in NumPy."""
    for row, label in zip(np.asarray(features), np.asarray(y), strict=True):
        error = softmax(row @ kernel + bias) - np.eye(WAYS)[label]
        kernel = kernel - RATE * np.outer(row, error)
        bias = bias - RATE * error
    return kernel, bias


def test_oml_takes_a_step_of_the_head_for_each_example_in_order():
    task = first(make_tasks())
    net = make_net()
    learner = algorithms.oml(net, inner_rate=RATE)
    adapted = learner.adaptation.adapt(learner.params, task.support, KEY)
    layer = learner.params.slow["layers"][0]
    hidden = np.maximum(task.support.x @ layer["kernel"] + layer["bias"][None], 0)
    head = learner.params.fast["head"]
    kernel, bias = head_steps(
        hidden, task.support.y, np.asarray(head["kernel"]), np.asarray(head["bias"])
    )
    np.testing.assert_allclose(adapted.fast["head"]["kernel"], kernel, rtol=1e-10)
    np.testing.assert_allclose(adapted.fast["head"]["bias"], bias, rtol=1e-10)
    backwards = jax.tree.map(lambda leaf: leaf[::-1], task.support)
    other = learner.adaptation.adapt(learner.params, backwards, KEY)
    assert not np.allclose(other.fast["head"]["kernel"], kernel)


def make_anml():
    body, gate = (nnx.Linear(FEATURES, WIDTH, rngs=nnx.Rngs(seed)) for seed in (0, 1))
    learner = algorithms.anml(body, gate, WIDTH, WAYS, rngs=nnx.Rngs(2), inner_rate=RATE)
    return learner._replace(params=cast(learner.params, jnp.float64))


def test_anml_gates_the_features_and_its_steps_leave_the_gate():
    task = first(make_tasks())
    learner = make_anml()
    body, gate = learner.params.fast, learner.params.slow["gate"]
    opened = jax.nn.sigmoid(task.query.x @ gate["kernel"] + gate["bias"][None])
    features = (task.query.x @ body["kernel"] + body["bias"][None]) * opened
    head = body["classifier"]
    expected = features @ head["kernel"] + head["bias"][None]
    np.testing.assert_allclose(learner.apply(learner.params, task.query.x), expected, rtol=1e-10)

    one = jax.tree.map(lambda leaf: leaf[:1], task.support)
    adapted = learner.adaptation.adapt(learner.params, one, KEY)
    opened = jax.nn.sigmoid(one.x @ gate["kernel"] + gate["bias"][None])
    features = np.asarray((one.x @ body["kernel"] + body["bias"][None]) * opened)
    kernel, bias = np.asarray(head["kernel"]), np.asarray(head["bias"])
    error = softmax(features[0] @ kernel + bias) - np.eye(WAYS)[one.y[0]]
    expected = kernel - RATE * np.outer(features[0], error)
    np.testing.assert_allclose(adapted.fast["classifier"]["kernel"], expected, rtol=1e-10)
    of_body = np.outer(one.x[0], (kernel @ error) * np.asarray(opened[0]))
    expected = body["kernel"] - RATE * of_body
    np.testing.assert_allclose(adapted.fast["kernel"], expected, rtol=1e-10)
    assert adapted.slow is learner.params.slow


@pytest.mark.parametrize("make", [lambda: algorithms.oml(make_net(), inner_rate=RATE), make_anml])
def test_what_is_learned_is_learned_through_the_stream(make):
    learner = make()
    task = first(make_tasks())
    value = lambda params: learner.task_loss(params, task, KEY)[0]
    slopes = jax.jit(jax.grad(value))(learner.params)
    direction = jax.tree.map(
        lambda leaf: jnp.cos(jnp.arange(leaf.size)).reshape(leaf.shape), slopes
    )
    step = 1e-6
    moved = lambda sign: jax.tree.map(
        lambda leaf, by: leaf + sign * step * by, learner.params, direction
    )
    difference = (value(moved(1)) - value(moved(-1))) / (2 * step)
    found = optax.tree.vdot(slopes, direction)
    np.testing.assert_allclose(found, difference, rtol=1e-6)
    assert optax.tree.norm(slopes.slow) > 0


def test_the_matrix_has_what_is_known_of_each_task_after_each():
    """The fast weight is the label that was seen last, and each task has one label."""
    adaptation = mj.Adaptation(
        lambda params, key: params,
        lambda params, support, key: params._replace(fast=support.y[0].astype(jnp.float64)),
    )
    loss = lambda params, batch, key: (
        ((params.fast - batch.y) ** 2).mean(),
        {"accuracy": (jnp.abs(params.fast - batch.y) < 1.5).mean()},
    )
    labels = jnp.arange(4)[:, None] * jnp.ones((4, 2), jnp.int32)
    batch = mj.Batch(jnp.zeros((4, 2)), labels)
    params = mj.Params(jnp.zeros((), jnp.float64), ())
    in_turn = outer.continual_loss(adaptation, loss)
    value, found = in_turn(params, mj.Task(batch, batch), KEY)
    near = np.abs(np.subtract.outer(np.arange(4), np.arange(4))) <= 1
    np.testing.assert_array_equal(found["matrix"], near)
    assert value == np.mean([9, 4, 1, 0]) and found["accuracy"] == 0.5
    assert found["learned"] == 1
    np.testing.assert_allclose(found["forgotten"], 2 / 3)

    sequences = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), mj.Task(batch, batch))
    summary = mj.evaluate(in_turn, params, sequences, KEY)
    assert summary["matrix"].mean.shape == (4, 4)
    single = jax.tree.map(lambda leaf: leaf[:1], mj.Task(batch, batch))
    assert in_turn(params, single, KEY)[1]["forgotten"] == 0


def test_what_cannot_be_learned_in_turn_is_refused():
    _, params = net = make_net()
    loss = mj.losses.squared_error(net[0])
    step = mj.inner_loop(loss, optax.sgd(0.1), steps=1)
    tasks = make_tasks()
    numbers = jax.tree.map(lambda leaf: leaf, tasks)
    as_numbers = lambda batch: batch._replace(y=jax.nn.one_hot(batch.y, WAYS, dtype=jnp.float64))
    numbers = mj.Task(as_numbers(tasks.support), as_numbers(tasks.query))
    with pytest.raises(ValueError, match="no metric 'accuracy'"):
        outer.continual_loss(step, loss)(params, numbers, KEY)
    path = mj.inner_loop(loss, optax.sgd(0.1), steps=1, path=True)
    with pytest.raises(ValueError, match="without path=True"):
        outer.continual_loss(path, loss)
    body = mj.nets.from_function(
        lambda params, x: x @ params.fast["classifier"],
        mj.Params({"classifier": jnp.ones((FEATURES, WIDTH))}, {}),
    )
    gate = nnx.Linear(FEATURES, WIDTH, rngs=nnx.Rngs(1))
    with pytest.raises(ValueError, match="a part 'classifier'"):
        algorithms.anml(body, gate, WIDTH, WAYS, rngs=nnx.Rngs(0))
