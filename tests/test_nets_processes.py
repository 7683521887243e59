"""Neural processes: what they must not depend on, and that they learn to predict."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import metajax as mj
from metajax import algorithms

KEY = jax.random.key(0)
NETS = {
    "CNP": lambda rngs: mj.nets.ConditionalProcess(1, 2, width=8, rngs=rngs),
    "ANP": lambda rngs: mj.nets.AttentiveProcess(1, 2, width=8, heads=2, rngs=rngs),
    "TNP": lambda rngs: mj.nets.TransformerProcess(1, 2, width=8, layers=2, heads=2, rngs=rngs),
    "ConvCNP": lambda rngs: mj.nets.ConvolutionalProcess(
        2, low=-4, high=4, points=33, width=8, layers=2, rngs=rngs
    ),
}
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.uniform(-1, 1, size=(5, 1)))
Y = jnp.asarray(RNG.normal(size=(5, 2)))
QUERIES = jnp.asarray(RNG.uniform(-1, 1, size=(4, 1)))
every = pytest.mark.parametrize("name", NETS)


def learner_of(name):
    """A learner with weights in float64."""
    learner = algorithms.neural_process(NETS[name](nnx.Rngs(0)))
    wide = jax.tree.map(lambda leaf: leaf.astype(float), learner.params)
    return learner._replace(params=wide)


def predict(learner, support, x=QUERIES):
    return mj.predict(learner.adaptation, learner.apply, learner.params, support, x, KEY)


def assert_alike(one, other, tolerance=1e-10):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@every
def test_order_padding_and_other_queries_do_not_matter(name):
    learner = learner_of(name)
    expected = predict(learner, mj.Batch(X, Y))
    assert expected.mean.shape == expected.variance.shape == (4, 2)
    order = jnp.array([3, 0, 4, 1, 2])
    assert_alike(predict(learner, mj.Batch(X[order], Y[order])), expected)
    nan = jnp.full((2, 1), jnp.nan)
    x, y = jnp.concatenate([X, nan]), jnp.concatenate([Y, jnp.tile(nan, 2)])
    weight = jnp.array([1.0] * 5 + [0.0] * 2)
    assert_alike(predict(learner, mj.Batch(x, y, weight)), expected)
    alone = predict(learner, mj.Batch(X, Y), QUERIES[:1])
    assert_alike(alone, [leaf[:1] for leaf in expected])


@every
def test_an_empty_context_is_one_without_weight(name):
    learner = learner_of(name)
    without = predict(learner, mj.Batch(X, Y, jnp.zeros(5)))
    other = predict(learner, mj.Batch(X + 1, 2 * Y, jnp.zeros(5)))
    assert jnp.isfinite(without.mean).all() and (without.variance > 0).all()
    assert_alike(other, without)
    empty = predict(learner, mj.Batch(X[:0], Y[:0]))
    assert_alike(empty, without)


@every
def test_every_weight_has_a_gradient_and_learning_helps(name):
    learner = learner_of(name)
    draw = mj.data.meta_batch(sines, tasks=8)
    tasks = draw((), jax.random.key(5))
    outer = mj.outer_loop(learner.task_loss, optax.adam(3e-3))

    def mean(params):
        losses, _ = jax.vmap(learner.task_loss, (None, 0, None))(params, tasks, KEY)
        return losses.mean()

    slopes = jax.jit(jax.grad(mean))(learner.params)
    assert all(bool((slope != 0).any()) for slope in jax.tree.leaves(slopes))
    learn = jax.jit(lambda state, key: mj.training.scan(outer, state, draw, (), key, steps=150))
    state, _ = learn(outer.init(learner.params), KEY)
    assert float(jax.jit(mean)(state.params)) < float(jax.jit(mean)(learner.params)) - 0.2


def sines(source, key):
    """A task of two waves that share their phase, of 6 and 8 points."""
    phase_key, x_key = jax.random.split(key)
    x = jax.random.uniform(x_key, (14, 1), minval=-2.0, maxval=2.0)
    phase = jax.random.uniform(phase_key, (1, 2), maxval=3.0)
    y = jnp.sin(jnp.concatenate([x, 2 * x], axis=1) + phase)
    return mj.Task(mj.Batch(x[:6], y[:6]), mj.Batch(x[6:], y[6:]))


def test_a_conditional_process_is_its_formula():
    learner = learner_of("CNP")
    weights = learner.params.slow

    def layers(part, rows):
        for layer in part["layers"].values():
            rows = np.maximum(rows @ layer["kernel"] + layer["bias"][None], 0)
        return rows @ part["head"]["kernel"] + part["head"]["bias"][None]

    weight = jnp.array([1.0, 2.0, 0.5, 1.0, 1.0])
    encoded = layers(weights["encoder"], np.concatenate([X, Y], axis=1))
    context = (weight[:, None] * encoded).sum(axis=0) / weight.sum()
    rows = np.concatenate([QUERIES, np.tile(context, (4, 1))], axis=1)
    raw = layers(weights["decoder"], rows)
    found = predict(learner, mj.Batch(X, Y, weight))
    np.testing.assert_allclose(found.mean, raw[:, :2], rtol=1e-10)
    deviation = 0.1 + 0.9 * np.log1p(np.exp(raw[:, 2:]))
    np.testing.assert_allclose(found.variance, deviation**2, rtol=1e-10)


def test_a_convolutional_process_moves_with_its_examples():
    """The spacing of the grid is 0.25. The other nets know where they are."""
    for name in NETS:
        learner = learner_of(name)
        here = predict(learner, mj.Batch(X, Y))
        there = predict(learner, mj.Batch(X + 0.5, Y), QUERIES + 0.5)
        moves = np.allclose(here.mean, there.mean, rtol=1e-6, atol=1e-8)
        assert moves == (name == "ConvCNP"), name


def test_the_attention_of_a_process_is_that_of_flax():
    """A copy of the weights in `nnx.MultiHeadAttention`, without a mask and with one."""
    net = NETS["ANP"](nnx.Rngs(0)).across
    theirs = nnx.MultiHeadAttention(
        2, 8, use_bias=False, decode=False, rngs=nnx.Rngs(1), param_dtype=jnp.float64
    )
    kernel = lambda layer: layer.kernel[...].astype(float)
    theirs.query.kernel[...] = kernel(net.query).reshape(8, 2, 4)
    theirs.key.kernel[...] = kernel(net.key).reshape(8, 2, 4)
    theirs.value.kernel[...] = kernel(net.value).reshape(8, 2, 4)
    theirs.out.kernel[...] = kernel(net.output).reshape(2, 4, 8)
    queries, places, values = (jnp.asarray(RNG.normal(size=(n, 8))) for n in (3, 5, 5))
    for valid in (jnp.ones(5, bool), jnp.array([True, False, True, True, False])):
        mask = jnp.broadcast_to(valid, (1, 2, 3, 5))
        expected = theirs(queries[None], places[None], values[None], mask=mask)[0]
        found = net(queries[None], places[None], valid[None], values[None])[0]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_grid_has_an_end():
    learner = learner_of("ConvCNP")
    assert jnp.isnan(predict(learner, mj.Batch(X, Y), jnp.array([[4.5]])).mean).all()
    assert jnp.isnan(predict(learner, mj.Batch(X + 9, Y)).mean).all()
    integers = predict(learner, mj.Batch(jnp.array([[1], [2]]), Y[:2]), jnp.array([[0]]))
    floats = predict(learner, mj.Batch(jnp.array([[1.0], [2.0]]), Y[:2]), jnp.array([[0.0]]))
    assert_alike(integers, floats, 1e-6)
    with pytest.raises(ValueError, match="ConvolutionalProcess"):
        predict(learner, mj.Batch(jnp.ones((2, 2)), Y[:2]), jnp.ones((1, 2)))


def test_bad_processes_are_refused():
    with pytest.raises(ValueError, match="no method read and no predict"):
        algorithms.neural_process(nnx.Linear(1, 1, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match=r"low < high .* low=1, high=1, points=9"):
        mj.nets.ConvolutionalProcess(1, low=1, high=1, points=9, rngs=nnx.Rngs(0))
