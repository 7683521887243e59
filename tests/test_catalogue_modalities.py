"""The recipes of several modalities and of side information: absent values, gradients, learning."""

import functools

import described_problems
import jax
import jax.numpy as jnp
import modal_problems
import numpy as np
import optax
import pytest
from flax import nnx
from modal_problems import NAMES, WAYS, WIDTH, spoil, with_x
from problems import assert_close, cast

import metajax as mj
from metajax import algorithms
from metajax.nets import MLP, Multimodal, fusion

KEY = jax.random.key(0)


def encoders():
    """A linear encoder of each modality."""
    return {name: MLP(WIDTH, (), 4, rngs=nnx.Rngs(n)) for n, name in enumerate(NAMES)}


def multimodal():
    """Encoders, gates and a head."""
    return Multimodal(encoders(), fusion.mean, 4, WAYS, rngs=nnx.Rngs(3))


def bottleneck():
    """A net whose modalities exchange tokens."""
    tokens = fusion.Bottleneck(NAMES, 4, heads=2, layers=1, fusion_layer=0, rngs=nnx.Rngs(4))
    return Multimodal(encoders(), tokens, 4, WAYS, rngs=nnx.Rngs(3))


def priors():
    return {
        name: jnp.asarray(np.random.default_rng(n).normal(size=(3, 4)))
        for n, name in enumerate(NAMES)
    }


RECIPES = {
    "computed": lambda: algorithms.computed_modality_weights(encoders(), WAYS),
    "descended": lambda: algorithms.descended_modality_weights(encoders(), WAYS, inner_steps=2),
    "smil": lambda: algorithms.smil(multimodal(), priors(), inner_rate=0.5, inner_steps=2),
    "meta_kd": lambda: algorithms.meta_kd(multimodal(), inner_rate=0.5, inner_steps=2),
    "croma": lambda: algorithms.croma(encoders(), *NAMES, WAYS, inner_steps=2),
    "maml_of_bottleneck": lambda: algorithms.maml(bottleneck(), inner_rate=0.5, inner_steps=1),
}
every = pytest.mark.parametrize("name", RECIPES)


@functools.cache
def problem(name):
    """(learner, its gradient and a step of the outer loop, compiled)."""
    learner = RECIPES[name]()
    learner = learner._replace(params=cast(learner.params, jnp.float64))
    value = lambda params, task: learner.task_loss(params, task, KEY)
    gradient = jax.jit(jax.value_and_grad(value, has_aux=True))
    outer = mj.outer_loop(learner.task_loss, optax.adam(1e-2))
    return learner, gradient, outer, jax.jit(outer.step)


def first(tree):
    return jax.tree.map(lambda leaf: leaf[0], tree)


@every
def test_what_is_absent_changes_nothing(name):
    learner, gradient, *_ = problem(name)
    task = first(modal_problems.make_tasks(1, 0, missing=0.4))
    found = gradient(learner.params, task)
    assert_close(gradient(learner.params, with_x(spoil, task)), found, 0)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))


@every
def test_every_weight_gets_a_gradient(name):
    learner, gradient, *_ = problem(name)
    tasks = modal_problems.make_tasks(3, 1, missing=0.3)
    rows = [jax.tree.map(lambda leaf, i=i: leaf[i], tasks) for i in range(3)]
    # The last layer of the network that computes weights starts at 0, before which nothing moves.
    params = learner.params
    if name == "computed":
        moved = {**params.rule["weights"], "out": params.rule["weights"]["out"] + 0.3}
        params = params._replace(rule={**params.rule, "weights": moved})
    slopes = [gradient(params, task)[1] for task in rows]
    total = jax.tree.map(lambda *leaves: sum(np.abs(leaf).sum() for leaf in leaves), *slopes)
    silent = {
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(total)
        if not leaf > 0
    }
    replaced = {".fast['modality_weights']" + f"['{one}']" for one in NAMES}
    assert silent <= (replaced if name == "computed" else set())


@every
def test_learning_helps_on_unseen_tasks(name):
    learner, _, outer, step = problem(name)
    state = outer.init(learner.params)
    for number in range(60):
        tasks = modal_problems.make_tasks(8, number, missing=0.2)
        state, _ = step(state, tasks, jax.random.key(number))
    unseen = modal_problems.make_tasks(200, 99, missing=0.2)
    before, after = (
        mj.evaluate(learner.task_loss, params, unseen, KEY)["loss"]
        for params in (learner.params, state.params)
    )
    gain = mj.summarize(before.per_task - after.per_task)
    assert gain.mean > gain.interval


def test_croma_leaves_out_what_is_absent():
    """Rows without the first modality have no part in the means; such queries have equal logits."""
    learner = RECIPES["croma"]()
    task = first(modal_problems.make_tasks(1, 0))
    first_name, second = NAMES
    without = lambda x, name, rows: x._replace(
        present={**x.present, name: x.present[name].at[rows].set(False)}
    )
    lost = jnp.array([0, 3])
    partly = task.support._replace(x=without(task.support.x, first_name, lost))
    weight = jnp.ones(len(partly.y)).at[lost].set(0)
    adapt = lambda support: learner.adaptation.adapt(learner.params, support, KEY).fast["head"]
    assert_close(adapt(partly), adapt(partly._replace(weight=weight)), 1e-6)
    adapted = learner.adaptation.adapt(learner.params, task.support, KEY)
    logits = learner.apply(adapted, without(task.query.x, second, jnp.array([1])))
    assert logits[1].tolist() == [0.0] * WAYS and np.abs(logits[0]).max() > 0


def test_an_encoder_that_is_missing():
    with pytest.raises(ValueError, match=r"no encoder for \['video'\]"):
        algorithms.croma(encoders(), "image", "video", WAYS)


# Side information


def describer():
    """A linear map of the texts."""

    class Describe(nnx.Module):
        def __init__(self):
            self.text = nnx.Linear(described_problems.TEXT, 8, rngs=nnx.Rngs(5))

        def __call__(self, info):
            return self.text(info["text"])

    return Describe()


def body():
    return MLP(described_problems.WIDTH, (8,), described_problems.WAYS, rngs=nnx.Rngs(0))


DESCRIBED = {
    "am3": lambda: algorithms.am3(body(), describer(), 3, 8),
    "cross_modal_adaptation": lambda: algorithms.cross_modal_adaptation(body(), describer(), 3),
    "fumi": lambda: algorithms.fumi(body(), describer(), 3, 8, inner_rate=0.1, inner_steps=2),
}


@pytest.mark.parametrize("name", DESCRIBED)
def test_descriptions_help_after_training(name):
    """After the same training, the shots with their descriptions beat those with others'."""
    learner = DESCRIBED[name]()
    learner = learner._replace(params=cast(learner.params, jnp.float64))
    outer = mj.outer_loop(learner.task_loss, optax.adam(1e-2))
    step = jax.jit(outer.step)
    state = outer.init(learner.params)
    for number in range(150):
        tasks = described_problems.make_tasks(8, shots=1, seed=number)
        state, info = step(state, tasks, jax.random.key(number))
    assert jnp.isfinite(info.loss)
    tasks = described_problems.make_tasks(100, shots=1, seed=999)
    turned = jax.tree.map(lambda leaf: jnp.roll(leaf, 1, axis=1), tasks.support.info)
    wrong = tasks._replace(support=tasks.support._replace(info=turned))
    right, permuted = (
        mj.evaluate(learner.task_loss, state.params, some, KEY)["accuracy"]
        for some in (tasks, wrong)
    )
    assert right.mean - right.interval > permuted.mean + permuted.interval
    assert right.mean > 0.6


def test_am3_without_shots_is_the_description_alone():
    learner = DESCRIBED["am3"]()
    task = first(described_problems.make_tasks(shots=1))
    learner = learner._replace(params=cast(learner.params, jnp.float64))
    none = task.support._replace(weight=jnp.zeros(3))
    other = none._replace(x=none.x + 5)
    answers = [
        mj.predict(learner.adaptation, learner.apply, learner.params, one, task.query.x, KEY)
        for one in (none, other)
    ]
    assert_close(*answers, 0)
