"""Inputs at the edge of what is allowed, whose results were wrong once and are right or NaN now."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from problems import assert_close, first, make_net, make_tasks

import metajax as mj

KEY = jax.random.key(0)


def logits_loss(params, x, key=None, reference=None):
    """The logits are the inputs."""
    return x


@pytest.mark.parametrize(("dtype", "ways"), [("uint8", 256), ("int8", 128), ("int16", 40_000)])
@pytest.mark.parametrize("compile_it", [False, True])
def test_labels_of_narrow_integers_are_compared_as_they_are(dtype, ways, compile_it):
    loss = mj.losses.cross_entropy(logits_loss)
    labels = jnp.array([0, 3, 120], dtype)
    run = lambda batch: loss(mj.Params({}, {}), batch, KEY)[1]["accuracy"]
    run = jax.jit(run) if compile_it else run
    assert run(mj.Batch(jax.nn.one_hot(labels.astype(int), ways), labels)) == 1


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
def test_prototypes_of_unsigned_labels_in_compiled_code(dtype):
    adaptation = mj.inner.prototypes(mj.nets.identity_encoder, 3)
    x = jax.random.normal(KEY, (6, 4))
    y = np.array([0, 1, 2, 0, 1, 2])
    adapt = jax.jit(lambda batch: adaptation.adapt(mj.Params({}, {}), batch, KEY).fast)
    assert_close(adapt(mj.Batch(x, y.astype(dtype))), adapt(mj.Batch(x, y)), 0)


def test_a_net_that_diverged_has_no_accuracy():
    batch = mj.Batch(jnp.full((5, 5), jnp.nan), jnp.arange(5))
    value, metrics = mj.losses.cross_entropy(logits_loss)(mj.Params({}, {}), batch, KEY)
    assert jnp.isnan(value)
    assert jnp.isnan(metrics["accuracy"])
    scores = mj.Batch(jnp.full((2, 3, 4), jnp.nan), jnp.ones((2, 3), int))
    loss = mj.losses.sequence_cross_entropy(lambda params, x, key: x)
    value, metrics = loss(mj.Params({}, {}), scores, KEY)
    assert jnp.isnan(value)
    assert all(jnp.isnan(metric) for metric in metrics.values())


def test_what_is_hidden_in_sequences_changes_nothing():
    """Targets of weight 0 that are no characters, and padding that the net holds for impossible."""
    loss = mj.losses.sequence_cross_entropy(lambda params, x, key: x)
    scores = jax.nn.log_softmax(jax.random.normal(KEY, (3, 4, 5))).at[..., 0].set(-jnp.inf)
    y = jnp.array([[1, 2, 0, 0], [3, 0, 0, 0], [4, 4, 4, 0]])
    weight = jnp.array([1.0, 1.0, 0.0])
    expected = loss(mj.Params({}, {}), mj.Batch(scores[:2], y[:2]), KEY)
    assert jnp.isfinite(expected[0])
    for other in (-100, 999):
        strange = mj.Batch(scores, y.at[2].set(other), weight)
        assert_close(loss(mj.Params({}, {}), strange, KEY), expected, 1e-12)


def test_a_step_that_bilevel_skips_says_so():
    nan_gradient = lambda params, batch, key: (jnp.sqrt(params.slow["a"]), {})
    problem = mj.bilevel(mj.identity(), nan_gradient, optax.sgd(0.1))
    batch = mj.Batch(jnp.ones((1, 2)), jnp.ones((1, 2)))
    start = problem.init(mj.Params({}, {"a": jnp.zeros(())}))
    state, info = problem.step(start, mj.Task(batch, batch), KEY)
    assert info.skipped == 1
    assert jnp.isnan(info.loss)
    assert jnp.isnan(info.grad_norm)
    assert_close(state.params, start.params, 0)


def test_a_head_of_another_name_stands_on_the_features():
    net = mj.nets.MLP(8, (16,), 5, rngs=nnx.Rngs(0))
    support = mj.Batch(jax.random.normal(KEY, (10, 8)), jnp.arange(10) % 5)
    answers = []
    for entry in ("head", "means"):
        learner = mj.algorithms.protonets(net, 5, entry=entry)
        adapted = learner.adaptation.adapt(learner.params, support, KEY)
        answers.append(learner.apply(adapted, support.x))
    assert_close(*answers, 1e-12)


def test_imaml_without_a_proximity_is_refused():
    with pytest.raises(ValueError, match=r"proximity=0\.0 must be positive"):
        mj.algorithms.imaml(mj.nets.MLP(2, (3,), 2, rngs=nnx.Rngs(0)), proximity=0.0)


def test_a_head_that_mmaml_cannot_find_is_refused():
    net = mj.nets.MLP(2, (3,), 2, rngs=nnx.Rngs(0))
    reader = lambda outputs: mj.nets.MLP(3, (3,), outputs, rngs=nnx.Rngs(1))
    with pytest.raises(ValueError, match="no part 'output'; give head= one of"):
        mj.algorithms.mmaml(net, reader, head="output")


def test_negative_weights_are_refused_in_regression_too():
    adaptation = mj.inner.ridge(mj.nets.identity_encoder, None)
    params = adaptation.init(mj.Params({}, {}), KEY)
    support = mj.Batch(jnp.ones((2, 3)), jnp.ones((2, 1)), jnp.array([1.0, -1.0]))
    with pytest.raises(ValueError, match="0 or more"):
        adaptation.adapt(params, support, KEY)


def test_minibatches_of_numpy_arrays():
    apply, params = make_net()
    loss = mj.losses.cross_entropy(apply)
    adaptation = mj.inner_loop(loss, optax.sgd(0.1), steps=2, sample=mj.minibatch(3))
    task = first(make_tasks())
    as_numpy = jax.tree.map(np.asarray, task.support)
    expected = adaptation.adapt(params, task.support, KEY)
    assert_close(adaptation.adapt(params, as_numpy, KEY), expected, 0)


def test_evolution_refuses_half_precision():
    """A perturbation of 0.001 of a bfloat16 near 1 is rounded away, and the gradient was zero."""
    evolve = mj.evolution(pairs=2, std=1e-3)
    with pytest.raises(ValueError, match="float32 or wider, got bfloat16"):
        evolve(lambda w, key: (w**2).sum())(jnp.ones(3, jnp.bfloat16), KEY)


def test_numbers_of_python_can_be_learned_without_compilation():
    outer = mj.outer_loop(lambda params, task, key: ((params.slow - task) ** 2, {}), optax.sgd(0.5))
    state, info = outer.step(outer.init(mj.Params({}, 3.0)), jnp.ones(2), KEY)
    assert state.params.slow == 1
    assert info.loss == 4
