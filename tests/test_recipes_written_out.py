"""Recipes beside their papers' formulas, written out on shared weights: loss and meta-gradient."""

import functools

import described_problems
import jax
import jax.numpy as jnp
import modal_problems
import numpy as np
import optax
import pytest
from flax import nnx
from modal_problems import NAMES
from problems import WAYS, assert_close, cast, first, make_module, make_tasks
from test_catalogue_modalities import DESCRIBED, RECIPES

import metajax as mj
from metajax import algorithms

KEY = jax.random.key(0)
RATE, STEPS = 0.2, 2


def logits(weights, x):
    """The small net of these tests."""
    layer, head = weights["layers"][0], weights["head"]
    hidden = jnp.maximum(x @ layer["kernel"] + layer["bias"][None], 0)
    return hidden @ head["kernel"] + head["bias"][None]


def entropy(found, y):
    """Mean cross-entropy."""
    return -jnp.take_along_axis(jax.nn.log_softmax(found), y[:, None], axis=1).mean()


def loss_of(weights, batch):
    return entropy(logits(weights, batch.x), batch.y)


def moved(weights, slope, rate):
    return jax.tree.map(lambda leaf, one: leaf - rate * one, weights, slope)


def descended(weights, batch, *, keep=(), stop=False):
    """Weights after two steps of gradient descent, of which some parts stay."""
    for _ in range(STEPS):
        slope = jax.grad(loss_of)(weights, batch)
        slope = jax.lax.stop_gradient(slope) if stop else slope
        after = moved(weights, slope, RATE)
        weights = {name: weights[name] if name in keep else after[name] for name in weights}
    return weights


def of_query(task, **options):
    """Weights -> the query loss after the inner loop."""
    return lambda weights: loss_of(descended(weights, task.support, **options), task.query)


def proto_maml(task):
    """Weights -> the query loss after descent from the head of class means."""

    def of_weights(weights):
        layer = weights["layers"][0]
        features = jnp.maximum(task.support.x @ layer["kernel"] + layer["bias"][None], 0)
        belongs = jax.nn.one_hot(task.support.y, WAYS, axis=0, dtype=features.dtype)
        means = belongs @ features / belongs.sum(axis=1, keepdims=True)
        head = {"kernel": 2 * means.T, "bias": -(means**2).sum(axis=1)}
        return of_query(task)({"layers": weights["layers"], "head": head})

    return of_weights


def implicit(task, proximity=0.5):
    """Weights -> the query loss at the minimum of the support loss and proximity/2 |θ' - θ|²."""

    def of_weights(weights):
        flat, unravel = jax.flatten_util.ravel_pytree(weights)
        pulled = lambda new, old: (
            loss_of(unravel(new), task.support) + proximity / 2 * ((new - old) ** 2).sum()
        )
        new = jax.lax.stop_gradient(flat)
        for _ in range(400):
            new = new - 0.3 * jax.grad(pulled)(new, jax.lax.stop_gradient(flat))
        # The minimum moves by (H/λ + I)⁻¹ of what the start moves by.
        hessian = jax.lax.stop_gradient(jax.hessian(pulled)(new, flat))
        change = jnp.linalg.solve(hessian, proximity * (flat - jax.lax.stop_gradient(flat)))
        return loss_of(unravel(jax.lax.stop_gradient(new) + change), task.query)

    return of_weights


options = {"inner_rate": RATE, "inner_steps": STEPS}
WRITTEN = {
    "maml": (algorithms.maml, options, of_query),
    "fomaml": (algorithms.fomaml, options, functools.partial(of_query, stop=True)),
    "anil": (algorithms.anil, options, functools.partial(of_query, keep=("layers",))),
    "boil": (algorithms.boil, options, functools.partial(of_query, keep=("head",))),
    "proto_maml": (lambda net, **o: algorithms.proto_maml(net, WAYS, **o), options, proto_maml),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_the_loss_and_the_meta_gradient_are_the_papers(name):
    make, arguments, written = WRITTEN[name]
    learner = make(make_module(), **arguments)
    params = cast(learner.params, jnp.float64)
    task = first(make_tasks())

    def ours(weights):
        divided = [
            {part: weights[part] for part in (place or {})} for place in (params.fast, params.slow)
        ]
        return learner.task_loss(mj.Params(*divided, params.rule), task, KEY)[0]

    weights = mj.nets.join_params(params)
    expected = jax.jit(jax.value_and_grad(written(task)))(weights)
    assert_close(jax.jit(jax.value_and_grad(ours))(weights), expected, 1e-8)


def test_imaml_is_the_derivative_of_a_minimum():
    task = first(make_tasks())
    solved = {"inner_steps": 400, "solver_steps": 60}
    learner = algorithms.imaml(make_module(), inner_rate=0.3, proximity=0.5, **solved)
    params = cast(learner.params, jnp.float64)
    ours = lambda fast: learner.task_loss(params._replace(fast=fast), task, KEY)[0]
    expected = jax.jit(jax.value_and_grad(implicit(task)))(params.fast)
    assert_close(jax.jit(jax.value_and_grad(ours))(params.fast), expected, 1e-3)


def test_reptile_goes_toward_the_adapted_weights():
    task = first(make_tasks())
    learner = algorithms.reptile(make_module(), inner_rate=RATE, inner_steps=STEPS)
    params = cast(learner.params, jnp.float64)
    slope = jax.grad(lambda params: learner.task_loss(params, task, KEY)[0])(params).fast
    weights, square = params.fast, jax.tree.map(jnp.zeros_like, params.fast)
    for step in (1, 2):  # Adam without momentum
        of_loss = jax.grad(loss_of)(weights, task.support)
        square = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, square, of_loss)
        size = 1 - 0.999**step
        ratio = jax.tree.map(
            lambda g, v, size=size: g / (jnp.sqrt(v / size) + 1e-8), of_loss, square
        )
        weights = moved(weights, ratio, RATE)
    assert_close(slope, jax.tree.map(lambda old, new: old - new, params.fast, weights), 1e-6)


def test_maml_plus_plus_weighs_the_query_losses_of_all_steps():
    task = first(make_tasks())
    learner = algorithms.maml_plus_plus(
        make_module(),
        initial_rate=RATE,
        inner_steps=STEPS,
        multi_step_until=10,
        first_order_until=0,
    )
    params = cast(learner.params, jnp.float64)
    rates = jax.tree.map(lambda leaf: leaf * jnp.array([1.0, 0.5]), params.rule)
    params = params._replace(rule=rates)
    shares = [0.5, 0.5]  # in the first outer step

    def written(weights, rates):
        total = 0.0
        for step in range(STEPS):
            slope = jax.grad(loss_of)(weights, task.support)
            weights = jax.tree.map(
                lambda leaf, one, rate, step=step: leaf - rate[step] * one, weights, slope, rates
            )
            total += shares[step] * loss_of(weights, task.query)
        return total

    outer = mj.outer_loop(learner.task_loss, optax.sgd(1.0))
    tasks = jax.tree.map(lambda leaf: leaf[None], task)
    state, info = jax.jit(outer.step)(outer.init(params), tasks, KEY)
    value, slopes = jax.value_and_grad(written, (0, 1))(params.fast, rates)
    np.testing.assert_allclose(info.loss, value, rtol=1e-8)
    before, after = ((one.fast, one.rule) for one in (params, state.params))
    assert_close(jax.tree.map(lambda old, new: old - new, before, after), slopes, 1e-8)


# Several modalities


def encoded(weights, x):
    """{modality: features} by the linear encoders of the recipes."""
    of = weights.get("encoders", weights)
    return {
        name: x.value[name] @ of[name]["head"]["kernel"] + of[name]["head"]["bias"][None]
        for name in NAMES
    }


def recipe(name):
    """(learner in float64, a task in which nothing is missing)."""
    learner = RECIPES[name]()
    learner = learner._replace(params=cast(learner.params, jnp.float64))
    return learner, first(modal_problems.make_tasks(1, 0))


def decided(weights, features):
    """Logits of the mean of the features."""
    mean = sum(features.values()) / len(features)
    head = weights["head"]
    return mean @ head["kernel"] + head["bias"][None]


def test_meta_kd_descends_the_task_and_what_modalities_teach():
    learner, task = recipe("meta_kd")
    importance = {name: jnp.asarray(0.3 * n) for n, name in enumerate(NAMES)}
    params = learner.params._replace(slow={**learner.params.slow, "importance": importance})

    def taught(weights, teachers):
        features = encoded(weights, task.support.x)
        frozen = encoded(teachers, task.support.x)
        value = entropy(decided(weights, features), task.support.y)
        for teacher in NAMES:
            for student in set(NAMES) - {teacher}:
                share = jnp.exp(importance[teacher] - importance[student])
                value += 0.1 * share * ((features[student] - frozen[teacher]) ** 2).mean()
        return value

    weights = params.fast
    for _ in range(2):
        weights = moved(weights, jax.grad(taught)(weights, weights), 0.5)
    found = learner.adaptation.adapt(params, task.support, KEY).fast
    assert_close(found, weights, 1e-8)


def test_smil_is_maml_on_completed_features():
    learner, task = recipe("smil")
    slow = learner.params.slow
    quiet = jax.tree.map(lambda leaf: jnp.full_like(leaf, -1e3), slow["completion"]["spread"])
    still = jax.tree.map(jnp.zeros_like, quiet)
    spread = {
        name: {"kernel": still[name]["kernel"], "bias": quiet[name]["bias"]} for name in NAMES
    }  # noise of width 0
    completion = {**slow["completion"], "spread": spread}
    params = learner.params._replace(slow={**slow, "completion": completion})
    lacking, *others = NAMES
    gone = jnp.arange(len(task.support.y)) % 2 == 0
    present = {**task.support.x.present, lacking: ~gone}
    support = task.support._replace(x=task.support.x._replace(present=present))

    def loss(weights):
        features = encoded(weights, support.x)
        read = 0.0
        for other in others:
            net = completion["weigh"][lacking][other]
            read += jnp.tanh(features[other] @ net["in"] + net["shift"][None]) @ net["out"]
        mean = jax.nn.softmax(read) @ completion["priors"][lacking]
        features[lacking] = jnp.where(gone[:, None], mean, features[lacking])
        return entropy(decided(weights, features), support.y)

    weights = params.fast
    for _ in range(2):
        weights = moved(weights, jax.grad(loss)(weights), 0.5)
    assert_close(learner.adaptation.adapt(params, support, KEY).fast, weights, 1e-8)


def test_croma_aligns_pairs_and_classifies_across():
    learner, task = recipe("croma")
    params = learner.params
    names = NAMES

    def contrast(weights):
        features = encoded(weights, task.support.x)
        one, other = (
            part / jnp.linalg.norm(part, axis=1, keepdims=True)
            for part in (features[name] for name in names)
        )
        scores = one @ other.T / 0.07
        same = jnp.arange(len(scores))
        return (entropy(scores, same) + entropy(scores.T, same)) / 2

    weights = {name: part for name, part in params.fast.items() if name != "head"}
    for _ in range(2):
        weights = moved(weights, jax.grad(contrast)(weights), 0.1)
    adapted = learner.adaptation.adapt(params, task.support, KEY)
    found = {name: part for name, part in adapted.fast.items() if name != "head"}
    assert_close(found, weights, 1e-8)
    of_support, of_query = (encoded(weights, part.x) for part in (task.support, task.query))
    means = jnp.stack([of_support[names[0]][task.support.y == k].mean(axis=0) for k in range(WAYS)])
    squared = ((of_query[names[1]][:, None] - means[None]) ** 2).sum(axis=2)
    answers = learner.apply(adapted, task.query.x)
    np.testing.assert_allclose(jax.nn.softmax(answers), jax.nn.softmax(-squared), rtol=1e-6)


def test_fumi_descends_from_the_head_that_the_network_writes():
    learner = DESCRIBED["fumi"]()
    params = cast(learner.params, jnp.float64)
    task = first(described_problems.make_tasks())
    describe, rule = params.slow["describe"]["text"], params.rule["head"]
    described = task.support.info["text"] @ describe["kernel"] + describe["bias"][None]
    hidden = jax.nn.gelu(described @ rule["in"] + rule["shift"][None])
    written = hidden @ rule["out"] + rule["bias"][None]
    head = {"kernel": written[:, :-1].T, "bias": written[:, -1]}
    weights = {"layers": params.fast["layers"], "head": head}
    for _ in range(2):
        weights = moved(weights, jax.grad(loss_of)(weights, task.support), 0.1)
    found = learner.adaptation.adapt(params, task.support, KEY).fast
    assert_close(found, weights, 1e-8)


def test_transductive_learners_read_the_queries_as_rows_without_a_label():
    task = first(make_tasks())
    inner = algorithms.soft_kmeans_protonets(make_module(), WAYS)
    params = cast(inner.params, jnp.float64)
    whole = mj.Batch(
        jnp.concatenate([task.support.x, task.query.x]),
        jnp.concatenate([task.support.y, jnp.full_like(task.query.y, -1)]),
    )
    adapted = inner.adaptation.adapt(params, whole, KEY)
    expected = entropy(inner.apply(adapted, task.query.x), task.query.y)
    found, _ = algorithms.transductive(inner).task_loss(params, task, KEY)
    np.testing.assert_allclose(found, expected, rtol=1e-8)
    assert optax.tree.norm(params.slow) > 0


# SNAIL


def layer_norm(weights, x):
    centred = x - x.mean(axis=-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-6)
    return scaled * weights["scale"] + weights["bias"]


def perceptron(weights, x):
    for layer in weights["layers"].values():
        x = np.maximum(x @ layer["kernel"] + layer["bias"], 0)
    return x @ weights["head"]["kernel"] + weights["head"]["bias"]


def block(weights, tokens, context, heads=4):
    """A layer of the transformer, by loops over heads and queries."""
    queries, known = (layer_norm(weights["before_attention"], x) for x in (tokens, context))
    of = weights["attention"]
    query, key, value = (
        x @ of[name]["kernel"] for name, x in (("query", queries), ("key", known), ("value", known))
    )
    size, found = query.shape[1] // heads, np.zeros_like(query)
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        for n, one in enumerate(query[:, part]):
            share = np.exp(key[:, part] @ one / np.sqrt(size))
            found[n, part] = share @ value[:, part] / share.sum()
    tokens = tokens + found @ of["output"]["kernel"]
    hidden = layer_norm(weights["before_hidden"], tokens)
    hidden = hidden @ weights["hidden"]["kernel"] + weights["hidden"]["bias"]
    gelu = np.asarray(jax.nn.gelu(hidden))
    return tokens + gelu @ weights["output"]["kernel"] + weights["output"]["bias"]


def test_snail_attends_from_queries_to_labelled_features():
    task = first(make_tasks())
    reader = mj.nets.TransformerProcess(8, WAYS, width=16, layers=2, rngs=nnx.Rngs(1))
    learner = algorithms.snail(make_module(), WAYS, reader)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(leaf + 0.1 * rng.normal(size=leaf.shape)), learner.params
    )
    adapted = learner.adaptation.adapt(params, task.support, KEY)
    found = learner.apply(adapted, task.query.x)

    slow = jax.tree.map(np.asarray, params.slow)
    layer, of = slow["layers"][0], slow["reader"]
    features = lambda x: np.maximum(np.asarray(x) @ layer["kernel"] + layer["bias"], 0)
    labels = np.eye(WAYS)[np.asarray(task.support.y)]
    known = perceptron(of["embedder"], np.hstack([features(task.support.x), labels]))
    nothing = np.zeros((len(task.query.y), WAYS))
    tokens = perceptron(of["embedder"], np.hstack([features(task.query.x), nothing]))
    for one in of["blocks"].values():
        tokens = block(one, tokens, known)
        known = block(one, known, known)
    expected = perceptron(of["predictor"], layer_norm(of["norm"], tokens))[:, :WAYS]
    np.testing.assert_allclose(found, expected, rtol=1e-7)
