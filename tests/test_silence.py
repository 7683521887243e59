"""Inputs that once gave finite wrong numbers: now they are right, refused, or said."""

import functools
import json
import math
import os
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import modal_problems
import numpy as np
import optax
import pytest
import several_devices
from flax import nnx
from problems import assert_close, first, make_module, make_net, make_tasks

import metajax as mj

KEY = jax.random.key(0)


def logits_loss():
    """Cross-entropy of inputs that are logits already."""
    return mj.losses.cross_entropy(mj.nets.identity_encoder)


def value_of(loss, batch):
    return loss(mj.Params({}, {}), batch, KEY)


# Old-style keys


@pytest.mark.parametrize(
    "strategy", [mj.unroll(remat=2), mj.unroll(remat=3), mj.mixed_mode(remat=2)]
)
def test_old_and_new_keys_take_the_same_steps(strategy):
    loss = lambda params, batch, key: (jnp.sum((params.fast - batch.x) ** 2), {})
    adaptation = mj.inner_loop(loss, optax.sgd(0.1), steps=4, differentiate=strategy)
    params, support = mj.Params(jnp.ones(2), ()), mj.Batch(jnp.zeros(2), jnp.zeros(2))
    for key in (jax.random.key(0), jax.random.PRNGKey(0)):
        adapted = adaptation.adapt(params, support, key)
        np.testing.assert_allclose(adapted.fast, 0.8**4, rtol=1e-12)


@pytest.mark.parametrize("make_key", [jax.random.key, jax.random.PRNGKey])
def test_every_entry_takes_either_kind_of_key(make_key):
    key = make_key(0)
    learner = mj.algorithms.maml(make_module(), inner_rate=0.2, inner_steps=4)
    outer = mj.outer_loop(learner.task_loss, optax.sgd(0.1), tasks_at_once=2)
    tasks = make_tasks(dtype=jnp.float32)
    state = outer.init(learner.params)
    sample = lambda dataset, key: dataset
    fitted, records = mj.training.fit(outer, state, sample, tasks, key, steps=2, progress=False)
    assert int(fitted.step) == 2
    assert np.isfinite(records[0]["loss"])
    summary = mj.evaluate(learner.task_loss, fitted.params, tasks, key)
    assert np.isfinite(summary["loss"].mean)
    task = first(tasks)
    logits = mj.predict(
        learner.adaptation, learner.apply, fitted.params, task.support, task.query.x, key
    )
    assert np.isfinite(logits).all()


# Nets of one's own that normalise by batch


class Own(nnx.Module):
    """A net whose call does not take the reference rows."""

    def __init__(self, norm):
        self.layer = nnx.Linear(3, 4, rngs=nnx.Rngs(0))
        self.norm = norm
        self.head = nnx.Linear(4, 2, rngs=nnx.Rngs(1))

    def __call__(self, x):
        return self.head(jax.nn.relu(self.norm(self.layer(x))))


def test_task_norm_in_an_own_net_counts_the_reference_rows():
    apply, params = mj.nets.functional(Own(mj.nets.TaskNorm(4)))
    x = jax.random.normal(KEY, (6, 3))
    reference = jnp.arange(6) < 4
    expected = apply(params, x[:4])
    np.testing.assert_allclose(apply(params, x, reference=reference)[:4], expected, rtol=1e-6)
    other = x.at[4:].set(100.0)
    np.testing.assert_allclose(apply(params, other, reference=reference)[:4], expected, rtol=1e-6)
    assert not np.allclose(apply(params, other)[:4], expected)


def test_batch_norm_in_an_own_net_is_refused_by_name():
    norm = nnx.BatchNorm(4, rngs=nnx.Rngs(0))
    apply, params = mj.nets.functional(Own(norm))
    x = jax.random.normal(KEY, (6, 3))
    with pytest.raises(ValueError, match=r"The layer norm is an nnx.BatchNorm.*TaskNorm"):
        apply(params, x, reference=jnp.arange(6) < 4)
    net = Own(norm)
    net.eval()
    norm.mean[...] = jnp.ones(4, jnp.float32)  # as if it were trained
    apply, params = mj.nets.functional(net)
    one = apply(params, x[:1], reference=jnp.ones(1, bool))
    np.testing.assert_allclose(apply(params, x, reference=jnp.arange(6) < 4)[:1], one, rtol=1e-6)


class Masked(nnx.Module):
    """A net of images that hands the reference rows on to an nnx.BatchNorm as its mask."""

    def __init__(self):
        self.norm = nnx.BatchNorm(2, rngs=nnx.Rngs(0))
        self.head = nnx.Linear(2, 2, rngs=nnx.Rngs(1))

    def embed(self, x, reference=None):
        mask = None if reference is None else reference[:, None, None, None]
        return jax.nn.relu(self.norm(x, mask=mask)).mean((1, 2))

    def __call__(self, x, reference=None):
        return self.head(self.embed(x, reference))


@pytest.mark.parametrize("name", ["maml", "protonets"])
def test_batch_norm_with_a_mask_is_inductive(name):
    makers = {
        "maml": functools.partial(mj.algorithms.maml, inner_rate=0.1),
        "protonets": functools.partial(mj.algorithms.protonets, ways=2),
    }
    learner = makers[name](Masked(), inductive=True)
    support_key, query_key = jax.random.split(KEY)
    x = jax.random.normal(support_key, (4, 3, 3, 2), jnp.float32)  # as the stored statistics
    support = mj.Batch(x, jnp.array([0, 0, 1, 1]))
    query = jax.random.normal(query_key, (5, 3, 3, 2), jnp.float32)
    predict = functools.partial(
        mj.predict, learner.adaptation, learner.apply, learner.params, support, key=KEY
    )
    alone = predict(x=query[:1], inductive=True)
    np.testing.assert_allclose(predict(x=query, inductive=True)[:1], alone, rtol=1e-5)
    assert not np.allclose(predict(x=query)[:1], alone, rtol=1e-3)
    task = mj.Task(support, mj.Batch(query[:1], jnp.zeros(1, int)))
    expected = -jax.nn.log_softmax(alone)[0, 0]
    np.testing.assert_allclose(learner.task_loss(learner.params, task, KEY)[0], expected, rtol=1e-5)


def test_stored_statistics_that_nothing_has_learned_are_said():
    net = Own(nnx.BatchNorm(4, use_running_average=True, rngs=nnx.Rngs(0)))
    with pytest.warns(UserWarning, match=r"The layer norm is an nnx.BatchNorm .* not normalise"):
        mj.nets.functional(net)
    net.norm.var[...] = jnp.full(4, 2, jnp.float32)
    mj.nets.functional(net)  # a warning would be an error here


def test_one_query_that_is_normalised_by_its_own_statistics_is_said():
    learner = mj.algorithms.maml(Own(mj.nets.TaskNorm(4)), inner_rate=0.1)
    x = jax.random.normal(KEY, (4, 3))
    support = mj.Batch(x, jnp.array([0, 0, 1, 1]))
    predict = functools.partial(
        mj.predict, learner.adaptation, learner.apply, learner.params, support, key=KEY
    )
    with pytest.warns(UserWarning, match="one example by its own statistics.*inductive=True"):
        predict(x=x[:1])
    one = predict(x=x[:1], inductive=True)  # a warning would be an error here
    np.testing.assert_allclose(one, predict(x=x, inductive=True)[:1], rtol=1e-5)


def test_a_padded_task_of_an_own_net_is_the_task_without_padding():
    apply, params = mj.nets.functional(Own(mj.nets.TaskNorm(4)))
    loss = mj.losses.cross_entropy(apply)
    x, y = jax.random.normal(KEY, (6, 3)), jnp.arange(6) % 2
    padded = mj.Batch(x.at[4:].set(7.0), y, jnp.array([1.0, 1, 1, 1, 0, 0]))
    plain = mj.Batch(x[:4], y[:4])
    assert_close(loss(params, padded, KEY), loss(params, plain, KEY), 1e-6)


def test_haiku_batch_norm_is_refused():
    hk = pytest.importorskip("haiku")

    def forward(x, is_training):
        return hk.BatchNorm(True, True, 0.9)(x, is_training)

    transformed = hk.transform_with_state(forward)
    x = jnp.ones((4, 3))
    weights, state = transformed.init(KEY, x, is_training=True)
    apply, params = mj.nets.from_haiku(transformed, weights, state)
    with pytest.raises(ValueError, match=r"hk\.BatchNorm counts all rows"):
        apply(params, x, reference=jnp.arange(4) < 2, is_training=True)
    assert apply(params, x, reference=jnp.arange(4) < 2, is_training=False).shape == (4, 3)


# Labels and weights


@pytest.mark.parametrize("shape", [(3, 3, 3), (2, 4, 5), (4, 3)])
@pytest.mark.parametrize("weighted", [False, True])
def test_labels_of_pixels_and_tokens(shape, weighted):
    rng = np.random.default_rng(0)
    logits, y = rng.normal(size=(*shape, 6)), rng.integers(0, 6, shape)
    weight = np.arange(1.0, shape[0] + 1) if weighted else np.ones(shape[0])
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    losses = -np.take_along_axis(log_p, y[..., None], -1)[..., 0]
    rows = losses.reshape(shape[0], -1).mean(1)
    right = (logits.argmax(-1) == y).reshape(shape[0], -1).mean(1)
    given = jnp.asarray(weight) if weighted else None
    value, metrics = value_of(logits_loss(), mj.Batch(jnp.asarray(logits), jnp.asarray(y), given))
    np.testing.assert_allclose(value, (weight * rows).sum() / weight.sum(), rtol=1e-9)
    np.testing.assert_allclose(metrics["accuracy"], (weight * right).sum() / weight.sum())


@pytest.mark.parametrize("make", [logits_loss, lambda: mj.losses.squared_error(
    mj.nets.identity_encoder)])  # fmt: skip
@pytest.mark.parametrize(
    ("weight", "error"),
    [
        (jnp.ones((3, 1)), r"Weights must have shape \[3\].*got float64\[3, 1\]"),
        (jnp.ones(2), r"same number of rows, got .*weight='float64\[2\]'"),
        (jnp.array([1.0, -1.0, 1.0]), r"Weights must be 0 or more, got -1\.0"),
    ],
)
def test_weights_are_one_for_each_row(make, weight, error):
    loss = make()
    y = jnp.zeros(3, int) if make is logits_loss else jnp.zeros((3, 2))
    with pytest.raises(ValueError, match=error):
        value_of(loss, mj.Batch(jnp.ones((3, 2)), y, weight))


WRONG_LABELS = [[-1, 0, 1], [1, 2, 3], [-100, 0, 1], [0, 1, 5]]


@pytest.mark.parametrize("labels", WRONG_LABELS)
def test_labels_that_are_not_classes_are_refused_and_in_compiled_code_nan(labels):
    batch = mj.Batch(jnp.eye(3), jnp.array(labels))
    wrong = sorted({label for label in labels if not 0 <= label < 3})
    with pytest.raises(ValueError, match=re.escape("from 0 to 2, the classes") + ".*" + re.escape(
        str(wrong))):  # fmt: skip
        value_of(logits_loss(), batch)
    value, metrics = jax.jit(lambda batch: value_of(logits_loss(), batch))(batch)
    assert np.isnan(value)
    assert np.isnan(metrics["accuracy"])
    ignored = batch._replace(weight=jnp.array([float(0 <= label < 3) for label in labels]))
    assert np.isfinite(value_of(logits_loss(), ignored)[0])


@pytest.mark.parametrize("make", [mj.prototypes, mj.ridge])
def test_heads_are_not_written_from_labels_that_are_not_classes(make):
    adaptation = make(mj.nets.identity_encoder, ways=3)
    params = adaptation.init(mj.Params({}, {}), KEY)
    support = mj.Batch(jnp.eye(4), jnp.array([0, 1, 2, 3]))
    with pytest.raises(ValueError, match="from -1 to 2"):
        adaptation.adapt(params, support, KEY)
    adapted = jax.jit(adaptation.adapt)(params, support, KEY)
    assert np.isnan(adapted.fast["head"]["kernel"]).all()


def test_targets_that_are_not_characters_are_nan():
    loss = mj.losses.sequence_cross_entropy(lambda params, x, key: x)
    batch = mj.Batch(jnp.zeros((1, 2, 3)), jnp.array([[1, 3]]))
    with pytest.raises(ValueError, match="from 0 to 2"):
        value_of(loss, batch)
    assert np.isnan(jax.jit(lambda batch: value_of(loss, batch)[0])(batch))


@pytest.mark.parametrize("label", [-1, 3])
def test_annotations_that_are_not_classes_are_refused_and_in_compiled_code_nan(label):
    head = mj.linear_head(lambda params, x, key, reference: x.value["image"], entry="kind")
    loss = mj.modalities.annotated(lambda params, batch, key: (jnp.zeros(()), {}), {"kind": head})
    params = mj.Params({"kind": {"kernel": jnp.ones((2, 3)), "bias": jnp.arange(3.0)}}, {})
    value = {"image": jnp.ones((2, 2)), "kind": jnp.array([label, 1])}

    def total(params, present):
        x = mj.data.as_modalities(value, {"kind": jnp.array([present, True])})
        return loss(params, mj.Batch(x, jnp.zeros(2, jnp.int32)), KEY)[0]

    with pytest.raises(ValueError, match=rf"integers from 0 to 2, .* got \[{label}\]"):
        total(params, True)
    run = jax.jit(jax.value_and_grad(lambda params, present: total(params, present)))
    wrong, slope = run(params, jnp.array(True))
    assert jnp.isnan(wrong) and jnp.isnan(slope.fast["kind"]["kernel"]).any()
    assert_close(run(params, jnp.array(False))[0], -jax.nn.log_softmax(jnp.arange(3.0))[1])


@pytest.mark.parametrize("token", [-1, 7])
@pytest.mark.parametrize("name", ["text", "source", "target", "language"])
def test_ids_outside_the_vocabulary_are_refused_and_in_compiled_code_nan(name, token):
    rngs = nnx.Rngs(0)
    if name == "text":
        net, x = mj.nets.Text(7, mj.nets.GRU(2, 3, rngs=rngs), rngs=rngs), jnp.ones((2, 3), int)
        spoiled = x.at[0, 0].set(token)
    else:
        net = mj.nets.Translator(7, 3, 3, width=8, heads=2, languages=2, rngs=rngs)
        x = {"source": jnp.ones((2, 3), int), "target": jnp.ones((2, 3), int)}
        x["language"] = jnp.ones(2, int)
        place = (0, 0)[: x[name].ndim]
        spoiled = x | {name: x[name].at[place].set(token)}
    apply, params = mj.nets.functional(net)
    with pytest.raises(ValueError, match=rf"Ids must be from 0 to ., .* got \[{token}\]"):
        apply(params, spoiled)
    run = jax.jit(lambda params, x: jnp.isnan(apply(params, x)).reshape(2, -1).any(1))
    assert run(params, spoiled).tolist() == [True, False]


def test_labels_without_a_class_are_no_shots():
    batch = mj.Batch(jnp.zeros((3, 1)), jnp.array([0, 1, 2]))
    with pytest.raises(ValueError, match=r"integers from -1 to 1, .* got \[2\]"):
        mj.modalities.first_shots(mj.Task(batch, batch), 1, 2)


def test_one_logit_for_two_classes_is_refused():
    with pytest.raises(ValueError, match="there must be two or more"):
        value_of(logits_loss(), mj.Batch(jnp.ones((3, 1)), jnp.zeros(3, int)))


@pytest.mark.parametrize("strategy", [mj.unroll(), mj.mixed_mode()])
def test_fit_evaluate_and_predict_say_what_is_wrong_with_labels(strategy):
    """A net of three outputs, on tasks whose labels begin with 1."""
    apply, params = make_net(dtype=jnp.float32)
    loss = mj.losses.cross_entropy(apply)
    adaptation = mj.inner_loop(loss, optax.sgd(0.1), steps=1, differentiate=strategy)
    task_loss = mj.query_loss(adaptation, loss)
    outer = mj.outer_loop(task_loss, optax.sgd(0.1))
    tasks = make_tasks(dtype=jnp.float32)
    shifted = jax.tree.map(lambda leaf: leaf + 1 if leaf.dtype == jnp.int32 else leaf, tasks)
    with pytest.raises(ValueError, match=r"from 0 to 2.*got \[3\]"):
        mj.evaluate(task_loss, params, shifted, KEY)
    sample = lambda dataset, key: dataset
    with pytest.raises(ValueError, match=r"from 0 to 2.*got \[3\]"):
        mj.training.fit(outer, outer.init(params), sample, shifted, KEY, steps=3, progress=False)
    support = first(shifted).support
    if strategy.solve.__qualname__.startswith("unroll"):
        with pytest.raises(ValueError, match=r"from 0 to 2.*got \[3\]"):
            mj.predict(adaptation, apply, params, support, support.x, KEY)
    else:  # its derivative rule hides the values
        assert np.isnan(mj.predict(adaptation, apply, params, support, support.x, KEY)).all()


# Layers


@pytest.mark.parametrize(("inputs", "outputs", "channels"), [(1, 8, 3), (64, 128, 32), (3, 6, 1)])
def test_a_convolution_checks_its_channels(inputs, outputs, channels):
    layer = mj.nets.Conv(inputs, outputs, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=rf"Conv was made for inputs .*, {inputs}\]"):
        layer(jnp.ones((2, 6, 6, channels)))


@pytest.mark.parametrize(("shape", "remedy"), [((6, 6, 1), r"x\[None\]"),
                                               ((6, 6), r"x\[None, \.\.\., None\]"),
                                               ((2, 6, 6), r"x\[\.\.\., None\]")])  # fmt: skip
def test_a_convolution_says_which_axis_an_image_lacks(shape, remedy):
    layer = mj.nets.Conv(1, 8, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=remedy + r"\.$"):
        layer(jnp.ones(shape))


@pytest.mark.parametrize("norm", [mj.nets.TaskNorm, mj.nets.FrozenNorm, mj.nets.NoNorm,
                                  mj.nets.GroupNorm])  # fmt: skip
def test_a_normalisation_checks_its_channels(norm):
    with pytest.raises(ValueError, match="was made for inputs"):
        norm(8)(jnp.ones((4, 1)))
    with pytest.raises(ValueError, match="was made for inputs"):
        norm(8)(jnp.ones((4, 16)))


@pytest.mark.parametrize("reference", [None, jnp.arange(64) < 48])
@pytest.mark.parametrize("mean", [0.0, 1e3, 3e3, -1e5])
def test_task_norm_keeps_a_variance_that_is_small_beside_the_mean(mean, reference):
    x = np.random.default_rng(0).normal(size=(64, 5, 2)) + mean
    counted = x if reference is None else x[:48]
    expected = (x - counted.mean((0, 1))) / np.sqrt(counted.var((0, 1)) + 1e-5)
    found = mj.nets.TaskNorm(2)(jnp.asarray(x, jnp.float32), reference)
    rounding = 1e-6 * (1 + abs(mean))  # of x itself in float32
    np.testing.assert_allclose(found, expected, atol=rounding)


def test_group_norm_of_single_values_is_refused():
    layer = mj.nets.GroupNorm(8, groups=8)
    with pytest.raises(ValueError, match="one value in each group"):
        layer(jnp.ones((4, 8)))
    assert layer(jnp.ones((4, 2, 2, 8))).shape == (4, 2, 2, 8)


# What can be learned


@pytest.mark.parametrize(
    ("leaf", "error"),
    [
        (jnp.ones(2, jnp.complex64), r"complex64\[2\]"),
        (jnp.ones(2, int), r"int\d+\[2\]"),
        (jnp.ones(2, bool), r"bool\[2\]"),
        (3, "int"),
        ("name", "str"),
        (jax.random.key(0), r"key<fry>\[\]"),
        (jnp.tanh, ""),
    ],
)
def test_leaves_that_gradient_descent_cannot_learn_are_refused(leaf, error):
    loss = lambda params, batch, key: (jnp.zeros(()), {})
    params = mj.Params({"w": leaf}, {})
    outer = mj.outer_loop(mj.supervised(loss), optax.sgd(0.1))
    with pytest.raises(ValueError, match=rf"\['w'\] is .*{error}"):
        outer.init(params)
    adaptation = mj.inner_loop(loss, optax.sgd(0.1), steps=1)
    with pytest.raises(ValueError, match=rf"params\.fast\['w'\] is .*{error}"):
        adaptation.adapt(params, mj.Batch(jnp.ones(1), jnp.ones(1)), KEY)


def test_a_state_in_place_of_params_is_refused():
    outer = mj.outer_loop(lambda params, task, key: (params.slow, {}), optax.sgd(0.1))
    state = outer.init(mj.Params({}, jnp.ones(())))
    with pytest.raises(
        ValueError, match=r"must be a metajax\.Params, got State; give its \.params"
    ):
        outer.init(state)
    support = mj.Batch(np.ones(2), np.zeros(2))
    with pytest.raises(ValueError, match=r"metajax\.Params, got a State; give its \.params"):
        mj.predict(mj.identity(), lambda params, x: x, state, support, np.ones(2), KEY)


def test_a_recipe_names_its_own_argument():
    net = make_module()
    with pytest.raises(ValueError, match=r"got a Learner; give its \.task_loss"):
        mj.outer_loop(mj.algorithms.maml(net), optax.sgd(0.1))
    with pytest.raises(ValueError, match="loss must be a function that makes a loss of a net"):
        mj.algorithms.maml(net, loss=net)
    with pytest.raises(ValueError, match=r"inner_steps must be .* 0 or more, got -1"):
        mj.algorithms.maml(net, inner_steps=-1)
    with pytest.raises(ValueError, match=r"weights of its own under 'head'.* method `embed`"):
        mj.algorithms.protonets(Own(mj.nets.TaskNorm(4)), ways=2)


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.radam(1e-2),
        optax.lamb(1e-2),
        optax.lars(1e-2),
        optax.chain(optax.scale_by_trust_ratio(), optax.sgd(0.1)),
        optax.contrib.muon(1e-2),
    ],
)
def test_an_optimizer_whose_derivative_is_nan_is_refused(optimizer):
    fast = {"w": jnp.ones((3, 2)), "dead": jnp.ones(2)}
    loss = lambda params, batch, key: ((params.fast["w"] ** 2).sum(), {})
    adaptation = mj.inner_loop(loss, optimizer, steps=2)
    with pytest.raises(ValueError, match="no finite derivative"):
        adaptation.adapt(mj.Params(fast, {}), mj.Batch(jnp.ones(1), jnp.ones(1)), KEY)


# Records


@pytest.mark.parametrize("name", ["loss"])
def test_a_metric_does_not_replace_the_loss_in_a_summary(name):
    task_loss = lambda params, task, key: (params.slow * task, {name: task})
    with pytest.raises(ValueError, match=rf"\['{name}'\], which a record already has"):
        mj.evaluate(task_loss, mj.Params({}, jnp.ones(())), jnp.ones(3), KEY)


@pytest.mark.parametrize("name", ["loss", "step", "seconds", "skipped", "grad_norm", "message"])
def test_a_metric_does_not_replace_an_entry_of_a_record(name):
    task_loss = lambda params, task, key: (params.slow * task, {name: task})
    outer = mj.outer_loop(task_loss, optax.sgd(0.1))
    state = outer.init(mj.Params({}, jnp.ones(())))
    with pytest.raises(ValueError, match=rf"\['{name}'\], which a record already has"):
        mj.training.fit(outer, state, lambda d, key: d, jnp.ones(3), KEY, steps=1, progress=False)


def diverging(steps=10, **options):
    """A run in which every task is lost from the first step on."""
    task_loss = lambda params, task, key: (params.slow * jnp.nan, {})
    outer = mj.outer_loop(task_loss, optax.sgd(0.1))
    state = outer.init(mj.Params({}, jnp.ones(())))
    sample = lambda dataset, key: dataset
    return mj.training.fit(
        outer, state, sample, jnp.ones(3), KEY, steps=steps, every=1, progress=False, **options
    )


def test_a_run_that_keeps_no_task_says_so_and_stops(tmp_path):
    log = tmp_path / "log.jsonl"
    with pytest.raises(FloatingPointError, match=r"No task was kept.*This was so in 3 records"):
        diverging(log=log)
    lines = log.read_text().splitlines()
    records = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert [record["step"] for record in records] == [1, 2, 3]
    assert all(record["loss"] is None and "labels" in record["message"] for record in records)
    _, records = diverging(steps=4, empty_records=None)
    assert len(records) == 4


# Filters


@pytest.mark.parametrize(
    "fast", [nnx.Not(nnx.PathContains("0")), nnx.PathContains("haed"),
             nnx.All(nnx.Param, nnx.PathContains("bodi"))]
)  # fmt: skip
def test_a_filter_that_names_no_part_is_refused(fast):
    with pytest.raises(ValueError, match=r"names no part of the module; the parts are .*'head'"):
        mj.nets.functional(make_module(), fast=fast)


def test_a_learned_proximity_of_a_functional_net():
    """The recipe that the docstring of inner_loop prints."""
    apply, params = make_net()
    loss = mj.losses.cross_entropy(apply)
    params = params._replace(slow={**params.slow, "decay": jnp.zeros(())})
    adaptation = mj.inner_loop(
        loss, optax.sgd(0.1), steps=2, proximity=lambda p: jnp.exp(p.slow["decay"])
    )
    task_loss = mj.query_loss(adaptation, loss)
    slope = jax.grad(lambda p: task_loss(p, first(make_tasks()), KEY)[0])(params)
    assert slope.slow["decay"] != 0
    assert math.isfinite(slope.slow["decay"])


# Several devices


def test_evaluate_and_predict_inside_shard_map_are_those_of_one_device():
    apply, params = make_net()
    loss = mj.losses.cross_entropy(apply)
    adaptation = mj.inner_loop(loss, optax.sgd(0.3), steps=2)
    task_loss = mj.query_loss(adaptation, loss)
    tasks = make_tasks(number=4)
    mesh = jax.make_mesh((1,), ("tasks",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec

    def losses(params, tasks):
        return mj.evaluate(task_loss, params, tasks, KEY)["loss"].per_task

    mapped = jax.jit(
        jax.shard_map(losses, mesh=mesh, in_specs=(spec(), spec("tasks")), out_specs=spec("tasks"))
    )
    np.testing.assert_allclose(mapped(params, tasks), losses(params, tasks), rtol=1e-12)


@pytest.mark.thorough
def test_evaluate_and_predict_on_two_and_four_devices_are_those_of_one():
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4"
    programs = jax.config.jax_compilation_cache_dir
    environment = {
        **os.environ,
        "XLA_FLAGS": flags,
        "JAX_COMPILATION_CACHE_DIR": programs,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    script = pathlib.Path(__file__).with_name("several_devices.py")
    done = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, check=False
    )
    compared = done.stdout.split()
    names = [*several_devices.DESCENTS, *several_devices.NAMES, *several_devices.LEARNERS]
    assert compared == names, done.stderr


# jaxlib 0.10.2 computes some products of width 3 wrongly (jax#39103)


def by_product(x):
    """|M x|² by a product of matrices."""
    matrix = jnp.arange(9.0, dtype=jnp.float32).reshape(3, 3)
    return ((matrix @ x) ** 2).sum()


def by_sums(x):
    """The same number without a product of matrices."""
    matrix = jnp.arange(9.0, dtype=jnp.float32).reshape(3, 3)
    return ((matrix * x[None]).sum(axis=1) ** 2).sum()


def test_many_tasks_of_width_3_are_right():
    tasks = jax.random.normal(KEY, (40_000, 3), jnp.float32)

    def losses(function):
        task_loss = lambda params, task, key: (function(params.slow * task), {})
        params = mj.Params({}, jnp.ones(3, jnp.float32))
        return mj.evaluate(task_loss, params, tasks, KEY, tasks_at_once=40_000)["loss"].per_task

    np.testing.assert_allclose(losses(by_product), losses(by_sums), rtol=1e-4, atol=1e-4)


def test_many_perturbations_of_width_3_are_right():
    estimator = mj.evolution(pairs=40_000, std=0.1)

    def slope(function):
        value = lambda x, key: (function(x), {})
        x = jnp.array([1.0, -2.0, 0.5], jnp.float32)
        return jax.jit(estimator(value, has_aux=True))(x, KEY)[1]

    np.testing.assert_allclose(slope(by_product), slope(by_sums), rtol=1e-3)


# Numbers that make everything NaN


@pytest.mark.parametrize("rate", [math.inf, math.nan])
def test_a_rate_that_is_not_finite_is_refused(rate):
    net = mj.nets.from_function(lambda fast, x: x @ fast, mj.Params(jnp.ones((2, 3)), {}))
    with pytest.raises(ValueError, match="inner_rate must be a finite real number, got"):
        mj.algorithms.maml(net, inner_rate=rate)
    with pytest.raises(ValueError, match="initial must be a finite real number, got"):
        mj.leaf_rates(rate)
    with pytest.raises(ValueError, match="Hyperparameters must be finite, got"):
        mj.learned(optax.sgd, {"learning_rate": rate})


@pytest.mark.parametrize("temperature", [0.0, math.inf])
@pytest.mark.parametrize("name", ["info_nce", "distill_logits"])
def test_a_temperature_of_0_or_infinity_is_refused(name, temperature):
    loss = getattr(mj.modalities, name)
    with pytest.raises(ValueError, match=f"must be above 0 and finite, got {temperature}"):
        loss(jnp.ones((2, 2)), jnp.ones((2, 2)), temperature=temperature)


# Kinds of arguments


@pytest.mark.parametrize("key", [None, 0, "key", jnp.ones(2), jax.random.split(KEY, 2)])
def test_what_is_no_key_is_refused(key):
    learner = mj.algorithms.maml(make_module(), inner_rate=0.1, inner_steps=1)
    task, tasks = first(make_tasks()), make_tasks()
    source = mj.data.dataset(np.arange(12.0)[:, None], np.repeat(np.arange(3), 4))
    outer = mj.outer_loop(learner.task_loss, optax.sgd(0.1))
    state = outer.init(learner.params)
    calls = [
        lambda: learner.adaptation.adapt(learner.params, task.support, key),
        lambda: learner.task_loss(learner.params, task, key),
        lambda: mj.evaluate(learner.task_loss, learner.params, tasks, key),
        lambda: outer.step(state, tasks, key),
        lambda: mj.data.episodes(2, 1, 1)(source, key),
        lambda: mj.data.meta_batch(mj.data.episodes(2, 1, 1), tasks=2)(source, key),
        lambda: mj.training.fit(outer, state, lambda d, key: d, tasks, key, steps=1),
        lambda: mj.minibatch(2)(task.support, key),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="key must be one random key"):
            call()


def test_a_list_of_images_is_refused():
    images = [np.ones((8, 8))] * 8
    learner = mj.algorithms.maml(make_module(), inner_rate=0.1, inner_steps=1)
    task = first(make_tasks())
    listed = task._replace(query=task.query._replace(x=images))
    calls = [
        lambda: mj.data.dataset(images, np.arange(8)),
        lambda: mj.data.check_task(listed, ways=3),
        lambda: learner.task_loss(learner.params, listed, KEY),
        lambda: mj.predict(
            learner.adaptation, learner.apply, learner.params, task.support, images, KEY
        ),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"is a list of 8; stack examples"):
            call()


# The ruler


def modal_tasks(seed, scale=1.0, dtype=jnp.float32):
    """Tasks whose modalities have noise of their own."""
    tasks = modal_problems.make_tasks(100, seed, width=8)
    times = lambda x: x._replace(
        value={name: (scale * part).astype(dtype) for name, part in x.value.items()}
    )
    return jax.tree.map(
        lambda part: times(part) if isinstance(part, mj.Modalities) else part,
        tasks,
        is_leaf=lambda part: isinstance(part, mj.Modalities),
    )


def measure_ruler(scale):
    measured = mj.modalities.ruler(
        mj.nets.identity_encoder, mj.Params({}, ()), modal_tasks(4, scale), modal_tasks(5, scale),
        KEY, ways=modal_problems.WAYS, shots=[2], grid=4, steps=100,
    )  # fmt: skip
    return {row: float(one.mean) for row, one in measured[2].accuracy.items()}


def test_the_scale_of_features_does_not_change_the_ruler():
    expected = measure_ruler(1.0)
    for scale in (0.1, 10.0):
        found = measure_ruler(scale)
        assert found == pytest.approx(expected, abs=2e-3), scale
    assert expected["chosen"] >= max(expected["image"], expected["audio"]) - 0.02


def test_a_modality_that_is_nan_is_named_by_the_ruler():
    tasks = modal_tasks(4)
    x = tasks.support.x
    spoiled = x._replace(value={**x.value, "audio": x.value["audio"].at[3].set(jnp.nan)})
    bad = tasks._replace(support=tasks.support._replace(x=spoiled))
    with pytest.raises(ValueError, match=r"features of 'audio' are not finite in 1 test tasks.*3"):
        mj.modalities.ruler(
            mj.nets.identity_encoder, mj.Params({}, ()), tasks, bad, KEY,
            ways=modal_problems.WAYS, shots=[2],
            grid=2, steps=2,
        )  # fmt: skip


@pytest.mark.parametrize("name", ["info_nce", "sigmoid_loss", "triplet"])
def test_alignment_of_nan_is_nan(name):
    x = jnp.eye(3).at[1, 0].set(jnp.nan)
    measure = getattr(mj.modalities, name)
    assert np.isnan(measure(x, jnp.eye(3)))
    assert np.isfinite(measure(x, jnp.eye(3), weight=jnp.array([1.0, 0.0, 1.0])))
    assert np.isnan(mj.modalities.recall(x, jnp.eye(3), 1))


def test_a_zero_before_a_token_hides_no_token():
    series = mj.nets.GRU(8, 5, rngs=nnx.Rngs(0))
    text = mj.nets.Text(20, series, rngs=nnx.Rngs(1))
    for one, other in (([0, 0, 7, 3], [0, 0, 9, 4]), ([7, 0, 3, 0], [7, 0, 9, 0])):
        assert abs(text(jnp.array([one])) - text(jnp.array([other]))).max() > 1e-3
    assert_close(text(jnp.array([[7, 0, 3, 0]])), text(jnp.array([[7, 0, 3]])), 1e-6)


def test_metrics_of_targets_that_are_no_characters():
    loss = mj.losses.sequence_cross_entropy(lambda params, x, key: x)
    likely = jnp.log(jnp.array([[[0.1, 0.8, 0.1]], [[0.1, 0.8, 0.1]]]))
    params = mj.Params({}, {})
    _, metrics = loss(params, mj.Batch(likely, jnp.array([[2], [0]])), KEY)
    assert (metrics["accuracy"], metrics["characters"]) == (0, 0)
    value, metrics = jax.jit(loss)(params, mj.Batch(likely, jnp.array([[1], [7]])), KEY)
    assert np.isnan([value, metrics["accuracy"], metrics["characters"]]).all()


@pytest.mark.parametrize("severity", [-0.1, 50.0, jnp.nan])
def test_severities_are_from_zero_to_one(severity):
    x = mj.data.as_modalities({"a": jnp.ones((3, 5, 2))})
    corruptions = {"a": mj.modalities.corruptions.series}
    with pytest.raises(ValueError, match=r"severity must be in \[0, 1\]"):
        mj.modalities.corrupt(x, corruptions, severity, KEY)
    severities = jnp.array([0.0, severity])
    with pytest.raises(ValueError, match=r"severity must be in \[0, 1\]"):
        mj.modalities.severity_curve(lambda x: x.value, x, corruptions, severities, KEY)


def test_severities_of_robustness_ascend():
    with pytest.raises(ValueError, match="must ascend"):
        mj.modalities.robustness(jnp.array([1.0, 0.0]), jnp.ones(2), jnp.zeros(2))


def test_a_translator_of_several_languages_asks_which():
    net = mj.nets.Translator(10, 4, 4, width=8, heads=2, languages=3, rngs=nnx.Rngs(0))
    x = {"source": jnp.array([[3, 4, 0, 0]]), "target": jnp.array([[4, 3, 1, 0]])}
    with pytest.raises(ValueError, match="made for 3 languages"):
        net(x)
    assert np.isfinite(net(x | {"language": jnp.array([2])})).all()


def test_a_stream_refuses_numbers_that_jax_would_wrap():
    rows = mj.data.dataset(np.arange(6, dtype=np.int32), np.repeat(np.arange(2), 3))
    sample = mj.data.meta_batch(mj.data.episodes(2, 1, 1), tasks=1)
    with jax.enable_x64(False):
        feed = mj.data.stream(sample, rows, lambda numbers: numbers.astype(np.int64) + 2**33)
        with pytest.raises(ValueError, match="What fetch returns is too large for int32"):
            next(mj.data.tasks_of(feed, KEY))
        feed = mj.data.stream(sample, rows, lambda numbers: numbers.tolist())
        assert next(mj.data.tasks_of(feed, KEY)).support.y.shape == (1, 2)


def test_a_number_with_underscores_is_not_a_number(tmp_path):
    (tmp_path / "table.csv").write_text("class,size\na,1\na,1_000\nb,2\n")
    with pytest.raises(ValueError, match="no number in 'size': '1_000'"):
        mj.data.table(tmp_path / "table.csv", label="class", numbers=["size"])
