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


def modal(value, present=None):
    """Two modalities, of which "b" is always there."""
    rows = len(value)
    present = jnp.ones(rows, bool) if present is None else present
    other = jax.random.normal(KEY, (rows, 2))
    return mj.Modalities({"a": value, "b": other}, {"a": present, "b": jnp.ones(rows, bool)})


def test_large_integers_of_a_modality_are_refused_as_others_are():
    times = np.array([[1_700_000_000_000], [1_700_000_000_001]])
    with jax.enable_x64(False), pytest.raises(ValueError, match="int32"):
        mj.data.dataset(modal(times)._replace(value={"a": times, "b": np.ones((2, 1))}), [0, 1])


def test_features_of_half_precision_and_a_class_without_the_modality():
    """Its head is the mean of those of the others, and was NaN."""
    x = modal(jax.random.normal(KEY, (4, 3)), jnp.array([True, True, False, False]))
    half = x._replace(value=jax.tree.map(lambda leaf: leaf.astype(jnp.float16), x.value))
    encode = lambda params, x, key=None, reference=None: x.value
    adaptation = mj.modalities.modal_prototypes(encode, 2)
    adapt = lambda x: adaptation.adapt(mj.Params({}, {}), mj.Batch(x, jnp.array([0, 0, 1, 1])), KEY)
    assert jax.tree.all(jax.tree.map(lambda leaf: jnp.isfinite(leaf).all(), adapt(half).fast))
    assert_close(adapt(half).fast, adapt(x).fast, 1e-2)


def test_a_reference_without_a_row_is_all_rows():
    norm = mj.nets.TaskNorm(3, rngs=nnx.Rngs(0))
    x = jax.random.normal(KEY, (5, 3))
    assert_close(norm(x, jnp.zeros(5, bool)), norm(x), 1e-12)


def test_nan_in_rows_of_weight_0_reaches_no_class_mean_and_no_target():
    adaptation = mj.inner.prototypes(mj.nets.identity_encoder, 2)
    x = jnp.arange(6.0).reshape(3, 2)
    weight = jnp.array([1.0, 1.0, 0.0])
    y = jnp.array([0, 1, 0])
    adapt = lambda x: adaptation.adapt(mj.Params({}, {}), mj.Batch(x, y, weight), KEY).fast
    assert_close(adapt(x.at[2].set(jnp.nan)), adapt(x), 0)
    loss = mj.losses.squared_error(logits_loss)
    value = lambda y: loss(mj.Params({}, {}), mj.Batch(x, y, weight), KEY)[0]
    assert value(x.at[2].set(jnp.nan) + 1) == value(x + 1) == 1


def test_random_streams_of_a_module_differ():
    class Noisy(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Dropout(0.5, rng_collection="first", rngs=rngs)
            self.second = nnx.Dropout(0.5, rng_collection="second", rngs=rngs)
            self.scale = nnx.Param(jnp.ones(()))

        def __call__(self, x):
            return jnp.stack([self.first(x), self.second(x)]) * self.scale[...]

    apply, params = mj.nets.functional(Noisy(nnx.Rngs(first=0, second=1)))
    first_mask, second_mask = apply(params, jnp.ones(64), KEY) > 0
    assert (first_mask != second_mask).any()


def test_maximum_shows_a_modality_that_is_not_a_number():
    features = {"a": jnp.ones((2, 3)), "b": jnp.full((2, 3), jnp.nan)}
    present = {"a": jnp.ones(2, bool), "b": jnp.array([True, False])}
    found = mj.nets.fusion.maximum(features, present).features
    assert jnp.isnan(found[0]).all()
    assert (found[1] == 1).all()


def test_an_unknown_training_loss_does_not_make_all_weights_equal():
    before = mj.modalities.Losses({"a": 2.0, "b": 2.0}, {"a": 2.0, "b": 2.0})
    after = mj.modalities.Losses({"a": jnp.nan, "b": 0.0}, {"a": 1.0, "b": 1.0})
    weights = mj.modalities.blending_weights(before, after)
    assert weights == {"a": 0, "b": 1}


def test_a_column_of_numbers_without_a_number_is_refused(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("label,length,width\nx,,1\ny,,2\n")
    with pytest.raises(ValueError, match=r"Columns \['length'\] of .* have nothing in them"):
        mj.data.table(path, label="label", numbers={"length": ["length"], "width": ["width"]})


def test_tasks_with_rows_without_a_label_are_read_again(tmp_path):
    dataset = mj.data.dataset(np.arange(24.0).reshape(12, 2), np.arange(12) % 3)

    def sample(dataset, key):
        task = mj.data.episodes(ways=2, shots=2, queries=1)(dataset, key)
        return task._replace(support=task.support._replace(y=task.support.y.at[0].set(-1)))

    mj.data.save_tasks(tmp_path / "tasks.npz", sample, dataset, KEY, tasks=3)
    read = mj.data.load_tasks(tmp_path / "tasks.npz", dataset)
    assert (read.support.y[:, 0] == -1).all()
