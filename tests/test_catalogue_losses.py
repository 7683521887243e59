"""Learned losses, weights of examples and warped gradients, against their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from problems import WAYS, assert_close, cast, first, make_module, make_net, make_tasks
from test_catalogue import EMPTY, KEY, features, numbers

import metajax as mj
from metajax import algorithms
from metajax.nets import MLP


def test_a_learned_loss_is_its_formula():
    task = first(make_tasks())
    _, weights = net = make_net()
    learner = algorithms.ml3(net, MLP(3, (8,), 1, rngs=nnx.Rngs(1)), inner_rate=0.2)
    slow = cast(learner.params.slow, jnp.float64)
    params = learner.params._replace(slow=slow)
    layer, head = numbers(slow["measure"]["layers"][0]), numbers(slow["measure"]["head"])

    def loss(fast):
        logits = net[0](weights._replace(fast=fast), task.support.x)
        target = jnp.eye(WAYS)[task.support.y]
        read = jnp.stack([logits, jax.nn.log_softmax(logits), target], axis=2)
        hidden = jnp.maximum(read @ layer["kernel"] + layer["bias"][None, None], 0)
        return jax.nn.softplus(hidden @ head["kernel"] + head["bias"][None, None]).mean()

    slope = jax.grad(loss)(weights.fast)
    expected = jax.tree.map(lambda leaf, by: leaf - 0.2 * by, weights.fast, slope)
    adapted = learner.adaptation.adapt(params, task.support, KEY)
    assert_close(adapted.fast, expected, 1e-8)


def test_a_learned_loss_of_numbers():
    """It reads outputs and targets; rows of weight 0 do not count, whatever they hold."""
    x, y = jnp.asarray(features(4)), jnp.asarray(features(4, seed=1))
    measure = lambda params, read, key=None, *, reference=None: (
        params.slow * (read[:, :1] - read[:, 1:]) ** 2
    )
    params = EMPTY._replace(slow={"measure": 2.0})
    loss = mj.losses.learned_loss(lambda params, x, key, reference: x, measure)
    expected = np.log1p(np.exp(2 * (x - y) ** 2))
    value, metrics = loss(params, mj.Batch(x, y), KEY)
    np.testing.assert_allclose(value, expected.mean(), rtol=1e-10)
    assert metrics == {}
    weight = jnp.array([1.0, 0, 3, 0])
    padded = mj.Batch(x, y.at[1].set(jnp.nan), weight)
    value, _ = loss(params, padded, KEY)
    np.testing.assert_allclose(value, weight @ expected.mean(axis=1) / 4, rtol=1e-10)
    with pytest.raises(ValueError, match="Targets have shape"):
        loss(params, mj.Batch(x, y[:, :1]), KEY)


def test_a_learned_loss_learns_where_squares_fail():
    """One target of five is far off. A learned loss learns to leave it out; squares cannot."""
    rng = np.random.default_rng(0)
    slopes = rng.normal(size=(300, 1, 1))
    x = rng.normal(size=(300, 15, 1))
    y = x * slopes
    y[:, :10:5] += 20
    part = lambda rows: mj.Batch(jnp.asarray(x[:, rows]), jnp.asarray(y[:, rows]))
    tasks = mj.Task(part(slice(0, 10)), part(slice(10, 15)))
    line, _ = mj.nets.from_function(lambda params, x: x * params.fast)
    net = (line, mj.Params(jnp.zeros(()), {}))
    squares = mj.losses.squared_error
    learned = algorithms.ml3(
        net, MLP(2, (16,), 1, rngs=nnx.Rngs(0)), loss=squares, inner_rate=0.1, inner_steps=5
    )
    fixed = algorithms.meta_sgd(net, loss=squares, inner_steps=5)
    errors = []
    for learner in (learned, fixed):
        outer = mj.outer_loop(learner.task_loss, optax.adam(3e-3))
        state = outer.init(cast(learner.params, jnp.float64))
        step = jax.jit(outer.step)
        for number in range(300):
            state, _ = step(state, tasks, jax.random.key(number))
        errors.append(mj.evaluate(learner.task_loss, state.params, tasks, KEY)["loss"])
    learned_error, fixed_error = errors
    assert learned_error.mean + learned_error.interval < 0.5 * fixed_error.mean


def noisy_batches():
    """Examples of two classes, every third of which has the wrong label, and 6 clean ones."""
    rng = np.random.default_rng(0)
    y = rng.integers(2, size=36)
    x = np.where(y == 1, 1.0, -1.0)[:, None] + 0.5 * rng.normal(size=(36, 2))
    wrong = np.arange(30) % 3 == 0
    shown = np.where(wrong, 1 - y[:30], y[:30])
    noisy = mj.Batch(jnp.asarray(x[:30]), jnp.asarray(shown))
    return noisy, mj.Batch(jnp.asarray(x[30:]), jnp.asarray(y[30:])), wrong


def test_weights_of_examples_are_their_formula():
    noisy, clean, wrong = noisy_batches()
    line = lambda params, x, key, reference: x @ params.fast
    loss = mj.losses.cross_entropy(line)
    start = np.random.default_rng(1).normal(size=(2, 2))
    params = EMPTY._replace(fast=jnp.asarray(start))

    def slope(x, y):
        logits = x @ start
        p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        return np.einsum("nd,nk->ndk", x, p - np.eye(2)[y])

    mean = slope(clean.x, clean.y).mean(axis=0)
    products = np.maximum(-(-slope(noisy.x, noisy.y) * mean).sum(axis=(1, 2)), 0)
    found = mj.outer.example_weights(loss, params, noisy, clean, KEY)
    np.testing.assert_allclose(found, products / products.sum(), rtol=1e-8)
    # The same by the paper's way: the derivative of a step by the weights, at weights of 0.
    of_noisy = lambda fast, weight: loss(
        params._replace(fast=fast), noisy._replace(weight=weight), KEY
    )[0]

    def after_step(weight):
        moved = params.fast - jax.grad(of_noisy)(params.fast, weight)
        return loss(params._replace(fast=moved), clean, KEY)[0]

    by_step = jnp.maximum(-jax.grad(after_step)(jnp.zeros(30)), 0)
    np.testing.assert_allclose(found, by_step / by_step.sum(), rtol=1e-8)
    silent = noisy._replace(weight=jnp.ones(30).at[:3].set(0))
    assert not mj.outer.example_weights(loss, params, silent, clean, KEY)[:3].any()
    backwards = clean._replace(y=1 - clean.y)
    good = jnp.flatnonzero(~wrong)
    none = jax.tree.map(lambda leaf: leaf[good], noisy)
    zero = params._replace(fast=jnp.zeros((2, 2)))
    nothing = mj.outer.example_weights(loss, zero, none, backwards, KEY)
    assert nothing.sum() <= 1 and jnp.isfinite(nothing).all()


def test_weights_of_examples_with_targets():
    """The formula for a line and squares; targets count, and rows of weight 0 do not."""
    x, y = features(6, 2), features(6, 1, seed=1)
    clean = mj.Batch(jnp.asarray(features(3, 2, seed=2)), jnp.asarray(features(3, 1, seed=3)))
    start = np.array([[0.3], [-0.2]])
    loss = mj.losses.squared_error(lambda params, x, key, reference: x @ params.fast)
    slope = lambda x, y: 2 * (x @ start - y) * x
    mean = slope(np.asarray(clean.x), np.asarray(clean.y)).mean(axis=0)
    products = np.maximum(slope(x, y) @ mean, 0)
    params = EMPTY._replace(fast=jnp.asarray(start))
    found = mj.outer.example_weights(loss, params, mj.Batch(x, y), clean, KEY)
    np.testing.assert_allclose(found, products / products.sum(), rtol=1e-8)
    weight = jnp.array([0.0, 1, 1, 1, 1, 1])
    padded = mj.Batch(jnp.asarray(x).at[0].set(0), jnp.asarray(y), weight)
    found = mj.outer.example_weights(loss, params, padded, clean, KEY)
    products[0] = 0
    np.testing.assert_allclose(found, products / products.sum(), rtol=1e-8)


def test_wrong_labels_count_less():
    noisy, clean, wrong = noisy_batches()
    net = mj.nets.MLP(2, (), 2, rngs=nnx.Rngs(0))
    learner = algorithms.learning_to_reweight(net)
    outer = mj.outer_loop(learner.task_loss, optax.sgd(0.5))
    state = outer.init(cast(learner.params, jnp.float64))
    tasks = jax.tree.map(lambda leaf: leaf[None], mj.Task(noisy, clean))
    for number in range(20):
        state, info = jax.jit(outer.step)(state, tasks, jax.random.key(number))
    loss = mj.losses.cross_entropy(learner.apply)
    weights = mj.outer.example_weights(loss, state.params, noisy, clean, KEY)
    assert weights[wrong].sum() < 0.1
    assert set(info.metrics) >= {"query_loss", "accuracy"}


def test_rated_examples_have_the_derivative_of_one_step():
    """dL/dsⱼ = -α wⱼ (pⱼ - Σᵢ wᵢ pᵢ) with pᵢ = ∇lᵢ·∇L after the step, for softmax regression."""
    x, query_x = features(6, 2), features(5, 2, seed=1)
    y, query_y = np.arange(6) % 2, np.arange(5) % 2
    start = mj.Params({"w": jnp.ones((2, 2))}, {})
    net = mj.nets.from_function(lambda params, x: x @ params.fast["w"], start)
    line = np.array([[0.7], [-0.4]])
    of_line = mj.Params({"r": jnp.asarray(line)}, {})
    rater = mj.nets.from_function(lambda params, x: x @ params.fast["r"], of_line)
    learner = algorithms.data_rater(net, rater, optimizer=optax.sgd(0.5), inner_steps=1)
    task = mj.Task(mj.Batch(x, y), mj.Batch(query_x, query_y))
    params = cast(learner.params, jnp.float64)
    found = jax.grad(lambda params: learner.task_loss(params, task, KEY)[0])(params)

    def slopes(w, x, y):
        logits = np.exp(x @ w)
        error = logits / logits.sum(axis=1, keepdims=True) - np.eye(2)[y]
        return x[:, :, None] * error[:, None]

    share = np.exp(x @ line)[:, 0]
    share /= share.sum()
    of_rows = slopes(np.ones((2, 2)), x, y)
    moved = np.ones((2, 2)) - 0.5 * np.einsum("n,nij->ij", share, of_rows)
    products = np.einsum("nij,ij->n", of_rows, slopes(moved, query_x, query_y).mean(axis=0))
    of_scores = -0.5 * share * (products - share @ products)
    np.testing.assert_allclose(found.slow["rater"]["r"][:, 0], of_scores @ x, rtol=1e-7)


def test_a_rater_that_reads_labels_learns_which_are_wrong():
    noisy, clean, wrong = noisy_batches()
    net = mj.nets.MLP(2, (), 2, rngs=nnx.Rngs(0))
    rater = mj.nets.MLP(4, (16,), 1, rngs=nnx.Rngs(1))
    reads = lambda batch: jnp.concatenate([batch.x, jax.nn.one_hot(batch.y, 2)], axis=1)
    learner = algorithms.data_rater(
        net, rater, reads=reads, optimizer=optax.sgd(1.0), inner_steps=3
    )
    loss = mj.losses.cross_entropy(learner.apply)
    outer = mj.bilevel(learner.adaptation, loss, optax.adam(0.03))
    state = outer.init(cast(learner.params, jnp.float64))
    tasks = jax.tree.map(lambda leaf: leaf[None], mj.Task(noisy, clean))
    step = jax.jit(outer.step)
    for number in range(60):
        state, info = step(state, tasks, jax.random.key(number))
    rate, _ = mj.nets.functional(rater)
    scores = rate(mj.Params(state.params.slow["rater"], {}), reads(noisy))[:, 0]
    assert scores[wrong].mean() < scores[~wrong].mean() - 1
    assert set(info.metrics) == {"accuracy"}


def test_warped_gradients_are_their_formula():
    task = first(make_tasks())
    net = make_module()
    learner = algorithms.warp_grad(net, algorithms.in_part("head"), inner_rate=0.2, inner_steps=3)
    params = cast(learner.params, jnp.float64)
    assert list(params.fast) == ["layers"] and list(params.slow) == ["head"]

    def loss(fast, slow, batch):
        layer, head = fast["layers"][0], slow["head"]
        hidden = jnp.maximum(batch.x @ layer["kernel"] + layer["bias"][None], 0)
        log_p = jax.nn.log_softmax(hidden @ head["kernel"] + head["bias"][None])
        return -jnp.take_along_axis(log_p, batch.y[:, None], axis=1).mean()

    def step(fast, slow):
        slope = jax.grad(loss)(fast, slow, task.support)
        return jax.tree.map(lambda leaf, by: leaf - 0.2 * by, fast, slope)

    points = [params.fast]
    for _ in range(2):
        points.append(step(points[-1], params.slow))
    of_warp = jax.grad(lambda slow: sum(loss(step(p, slow), slow, task.query) for p in points))
    end = lambda fast: step(step(step(fast, params.slow), params.slow), params.slow)
    of_start = jax.grad(lambda fast: loss(end(fast), params.slow, task.query))
    value = lambda params: learner.task_loss(params, task, KEY)[0]
    found = jax.grad(value)(params)
    assert_close(found.slow, of_warp(params.slow), 1e-8)
    assert_close(found.fast, of_start(params.fast), 1e-8)
    assert_close(value(params), loss(end(params.fast), params.slow, task.query), 1e-8)
