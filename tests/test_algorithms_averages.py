"""Ensembles and test-time augmentation are the means that one would take by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import WAYS, assert_close, first, make_module, make_tasks

import metajax as mj
from metajax import algorithms

KEY = jax.random.key(0)
MAKE = {
    "maml": lambda net: algorithms.maml(net, inner_rate=0.1),
    "protonets": lambda net: algorithms.protonets(net, WAYS),
    "maml++": lambda net: algorithms.maml_plus_plus(net, inner_steps=2),
}


def members(learner, number=3):
    """Params of several nets: the first is the learner's, the others differ from it."""

    def shift(seed):
        key = jax.random.key(seed)
        move = lambda leaf: leaf + 0.1 * seed * jax.random.normal(key, leaf.shape, leaf.dtype)
        return jax.tree.map(move, learner.params)

    return [shift(seed) for seed in range(number)]


def answers(learner, params, task):
    return mj.predict(learner.adaptation, learner.apply, params, task.support, task.query.x, KEY)


@pytest.mark.parametrize("name", MAKE)
def test_an_ensemble_answers_with_the_mean_of_its_members(name):
    task = first(make_tasks(dtype=jnp.float32))
    learner = MAKE[name](make_module())
    nets = members(learner)
    several = algorithms.ensemble(learner, nets)
    one_by_one = jnp.stack([answers(learner, params, task) for params in nets])
    assert float(jnp.abs(one_by_one[0] - one_by_one[2]).max()) > 0.01
    assert_close(answers(several, several.params, task), one_by_one.mean(axis=0), 1e-5)
    alone = algorithms.ensemble(learner, nets[1:2])
    assert_close(answers(alone, alone.params, task), one_by_one[1], 1e-5)


def test_evaluate_scores_the_mean():
    tasks = make_tasks(dtype=jnp.float32)
    learner = MAKE["maml"](make_module())
    several = algorithms.ensemble(learner, members(learner))
    found = mj.evaluate(several.task_loss, several.params, tasks, KEY)
    number = len(found["loss"].per_task)
    for index in range(number):
        task = jax.tree.map(lambda leaf, index=index: leaf[index], tasks)
        logits = answers(several, several.params, task)
        right = logits.argmax(axis=1) == task.query.y
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, task.query.y)
        weight = jnp.ones(len(right)) if task.query.weight is None else task.query.weight
        mean = lambda rows, weight=weight: float((weight * rows).sum() / weight.sum())
        np.testing.assert_allclose(found["loss"].per_task[index], mean(losses), rtol=1e-4)
        np.testing.assert_allclose(found["accuracy"].per_task[index], mean(right), rtol=1e-5)


def test_copies_of_a_query_are_averaged_with_the_query_itself():
    task = first(make_tasks(dtype=jnp.float32))
    learner = MAKE["protonets"](make_module())
    halve = lambda x, key: 0.5 * x
    found = algorithms.augmented_queries(learner, halve, copies=3)
    adapted = learner.adaptation.adapt(learner.params, task.support, KEY)
    own, half = (learner.apply(adapted, scale * task.query.x) for scale in (1, 0.5))
    assert_close(answers(found, found.params, task), 0.25 * own + 0.75 * half, 1e-5)


def test_draws_differ_between_rows_copies_and_seeds_and_are_the_same_again():
    def outputs_are_inputs(params, x, key=None, *, reference=None):
        return x

    learner = MAKE["maml"](make_module())._replace(apply=outputs_are_inputs)
    noise = lambda x, key: x + jax.random.normal(key, x.shape, x.dtype)
    x = jnp.zeros((4, 2))
    outputs = [
        algorithms.augmented_queries(learner, noise, copies=5, seed=seed).apply(learner.params, x)
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(outputs[0], outputs[1])
    assert not np.allclose(outputs[0], outputs[2])
    assert len(np.unique(np.asarray(outputs[0])[:, 0])) == 4
    many = algorithms.augmented_queries(learner, noise, copies=400).apply(learner.params, x)
    assert 0 < float(jnp.abs(many).max()) < 0.3, "the mean of many draws, not of one many times"


def test_an_ensemble_of_augmented_copies_in_compiled_code():
    task = first(make_tasks(dtype=jnp.float32))
    learner = MAKE["maml"](make_module())
    nets = members(learner, 2)
    double = lambda x, key: 2 * x
    both = algorithms.augmented_queries(algorithms.ensemble(learner, nets), double, copies=1)
    one_by_one = [
        answers(algorithms.augmented_queries(learner, double, copies=1), params, task)
        for params in nets
    ]
    compiled = jax.jit(lambda params, task: answers(both, params, task))
    assert_close(compiled(both.params, task), sum(one_by_one) / 2, 1e-5)


def test_the_variance_of_a_mean_has_the_spread_of_its_members():
    def between(params, x, key=None, *, reference=None):
        return mj.Gaussian(params.slow * x, jnp.ones_like(x))

    learner = MAKE["maml"](make_module())._replace(apply=between)
    nets = [mj.Params({}, jnp.array(slow)) for slow in (1.0, 3.0)]
    both = algorithms.ensemble(learner._replace(params=nets[0]), nets)
    found = both.apply(both.params, jnp.array([1.0, 2.0]))
    assert found.mean.tolist() == [2.0, 4.0]
    assert found.variance.tolist() == [2.0, 5.0]  # 1 within, and 1 or 4 between


def test_rows_that_statistics_come_from_are_not_augmented():
    def outputs_are_inputs(params, x, key=None, *, reference=None):
        return x

    learner = MAKE["maml"](make_module())._replace(apply=outputs_are_inputs)
    doubled = algorithms.augmented_queries(learner, lambda x, key: 2 * x, copies=1)
    reference = jnp.array([True, False])
    found = doubled.apply(learner.params, jnp.ones((2, 1)), reference=reference)
    assert found.tolist() == [[1.0], [1.5]]


def test_members_of_other_nets_are_refused():
    learner = MAKE["maml"](make_module())
    with pytest.raises(ValueError, match="one or more params of the same net, got none"):
        algorithms.ensemble(learner, [])
    other = learner.params._replace(slow={"more": jnp.ones(2)})
    with pytest.raises(ValueError, match=r"params of the same net, got .*more"):
        algorithms.ensemble(learner, [learner.params, other])
    with pytest.raises(ValueError, match="copies must be a whole number, 1 or more"):
        algorithms.augmented_queries(learner, lambda x, key: x, copies=0)
