"""Recipes: nets of other libraries, MAML++ inside `fit`, transfer, and what they are made of."""

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from problems import FEATURES, WAYS, assert_close, first, make_module, make_tasks

import metajax as mj
from metajax import algorithms
from metajax.inner import nearest_mean_head, write_head

KEY = jax.random.key(0)


def test_a_recipe_takes_the_net_of_an_adapter():
    task = first(make_tasks(dtype=jnp.float32))
    module = linen.Dense(WAYS)
    net = mj.nets.from_linen(module, module.init(KEY, task.support.x))
    learner = algorithms.maml(net, inner_rate=0.1)
    adapted = learner.adaptation.adapt(learner.params, task.support, KEY)
    assert set(adapted.fast) == {"kernel", "bias"}
    features = algorithms.protonets(net, WAYS)  # what a net without a head returns is features
    logits = mj.predict(
        features.adaptation, features.apply, features.params, task.support, task.query.x, KEY
    )
    assert logits.shape == (len(task.query.y), WAYS)
    assert float((logits.argmax(axis=1) == task.query.y).mean()) > 0.5


def test_parts_of_a_net_are_named_by_their_paths():
    in_head = algorithms.in_part("head")
    assert in_head("head/kernel") and not in_head("ahead/kernel")
    _, params = algorithms.as_function(make_module(), fast=in_head)
    assert list(params.fast) == ["head"] and list(params.slow) == ["layers"]
    with pytest.raises(ValueError, match="makes nothing fast"):
        algorithms.anil(make_module(), head="tail")
    with pytest.raises(ValueError, match="head='tail' matches no weight of the net"):
        algorithms.boil(make_module(), head="tail")
    with pytest.raises(ValueError, match=r"warp matches no weight .*'head', 'layers'"):
        algorithms.warp_grad(make_module(), algorithms.in_part("tail"))
    embed, apply, params = algorithms.as_encoder(make_module(), "head")
    x = jnp.ones((2, FEATURES), jnp.float32)
    assert embed(params, x).shape == (2, 8) and apply(params, x).shape == (2, WAYS)


def test_an_adaptation_to_features_is_that_of_the_net():
    embed, _, params = algorithms.as_encoder(make_module(), "head")
    support = first(make_tasks(dtype=jnp.float32)).support
    support = support._replace(weight=jnp.arange(len(support.y)) % 3 / 2)
    of_net = mj.prototypes(embed, WAYS)
    of_features = mj.inner.on_features(embed, mj.prototypes(mj.nets.identity_encoder, WAYS))
    found, expected = (one.adapt(params, support, KEY) for one in (of_features, of_net))
    assert_close(found, expected, 1e-6)
    assert of_features.inner is None


@pytest.mark.parametrize("steps", [1, 5])
def test_the_weights_of_the_multi_step_loss_move_to_the_last_step(steps):
    weights = algorithms.multi_step_weights(inner_steps=steps, until=100)
    for step in (0, 50, 100, 1_000):
        now = weights(jnp.int32(step))
        np.testing.assert_allclose(now.sum(), 1.0)
        share = max((1 - step / 100) / steps, 0.03 / steps)
        np.testing.assert_allclose(now[:-1], share, rtol=1e-6)
    assert weights(None).tolist() == [0.0] * (steps - 1) + [1.0]


@pytest.mark.thorough
def test_maml_plus_plus_anneals_inside_fit():
    """Before the switch a step is that of the first-order learner, and after it is not."""
    tasks = make_tasks(dtype=jnp.float32)
    options = {"initial_rate": 0.5, "inner_steps": 2, "multi_step_until": 10}
    sample = lambda dataset, key: dataset

    def train(first_order_until, steps):
        learner = algorithms.maml_plus_plus(
            make_module(), first_order_until=first_order_until, **options
        )
        outer = mj.outer_loop(learner.task_loss, optax.sgd(0.1))
        state, _ = mj.training.fit(
            outer, outer.init(learner.params), sample, tasks, KEY, steps=steps, progress=False
        )
        return state.params.fast["head"]["kernel"]

    never, at_one, at_two = (train(until, steps=2) for until in (0, 1, 2))
    assert not np.allclose(never, at_two, rtol=1e-4)
    assert not np.allclose(at_one, at_two, rtol=1e-6)
    np.testing.assert_array_equal(train(5, steps=2), at_two)


def test_pretraining_is_the_start_of_fine_tuning():
    union = mj.nets.MLP(FEATURES, (8,), 20, rngs=nnx.Rngs(1))
    pretrained = algorithms.pretraining(union)
    batch = first(make_tasks(dtype=jnp.float32)).query
    value, metrics = pretrained.task_loss(pretrained.params, batch, KEY)
    assert value > 0 and set(metrics) == {"accuracy"}
    for part in (None, algorithms.in_part("head")):
        tuned = algorithms.fine_tuning(make_module(), WAYS, steps=1, part=part)
        started = algorithms.with_pretrained_body(tuned, pretrained.params)
        body = mj.nets.join_params(started.params)["layers"]
        jax.tree.map(np.testing.assert_array_equal, body, pretrained.params.fast["layers"])
        own = mj.nets.join_params(started.params)["head"]["kernel"]
        assert own.shape == (8, WAYS) and ("layers" in started.params.slow) == bool(part)
    wider = algorithms.pretraining(mj.nets.MLP(FEATURES, (9,), 20, rngs=nnx.Rngs(1)))
    with pytest.raises(ValueError, match=r"parts differ.*8\].*9\]|parts differ.*9\].*8\]"):
        algorithms.with_pretrained_body(tuned, wider.params)
    with pytest.raises(ValueError, match="no part 'top'; its parts are"):
        algorithms.with_pretrained_body(tuned, pretrained.params, head="top")


def test_fine_tuning_of_the_last_layers_leaves_the_others():
    net = mj.nets.MLP(FEATURES, (8, 8, 8), WAYS, rngs=nnx.Rngs(0))
    late = algorithms.in_part("layers/2", "head")
    tuned = algorithms.fine_tuning(net, WAYS, rate=0.1, steps=2, part=late)
    task = first(make_tasks(dtype=jnp.float32))
    adapted = tuned.adaptation.adapt(tuned.params, task.support, KEY)
    assert set(adapted.fast["layers"]) == {2} and set(adapted.slow["layers"]) == {0, 1}
    before = tuned.params.fast["layers"][2]["kernel"]
    assert (adapted.fast["layers"][2]["kernel"] != before).any()


def test_low_rank_fine_tuning_moves_the_factors_and_the_head():
    union = algorithms.pretraining(mj.nets.MLP(FEATURES, (8,), 20, rngs=nnx.Rngs(1)))
    task = first(make_tasks(dtype=jnp.float32))
    tuned = [
        algorithms.with_pretrained_body(
            algorithms.low_rank_fine_tuning(make_module(), WAYS, rank=2, rate=0.1, steps=steps),
            union.params,
        )
        for steps in (0, 2)
    ]
    plain = algorithms.fine_tuning(make_module(), WAYS, steps=0)
    plain = algorithms.with_pretrained_body(plain, union.params)
    still, moved = (one.adaptation.adapt(one.params, task.support, KEY) for one in tuned)
    means = plain.adaptation.adapt(plain.params, task.support, KEY)
    assert_close(still.fast["head"], means.fast["head"], 1e-5)  # the factors change nothing yet
    assert_close(moved.slow, tuned[1].params.slow, 0)  # the body is frozen
    assert_close(moved.slow["layers"], union.params.fast["layers"], 0)

    def loss(fast):
        layer, factors = moved.slow["layers"][0], fast["low_rank"]["layers"][0]
        kernel = layer["kernel"] + factors["down"] @ factors["up"]
        hidden = jax.nn.relu(task.support.x @ kernel + layer["bias"])
        logits = hidden @ fast["head"]["kernel"] + fast["head"]["bias"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, task.support.y).mean()

    adam, fast = optax.adam(0.1, eps_root=1e-8), still.fast
    state = adam.init(fast)
    with jax.numpy_rank_promotion("allow"):
        for _ in range(2):
            updates, state = adam.update(jax.grad(loss)(fast), state, fast)
            fast = optax.apply_updates(fast, updates)
    assert_close(moved.fast, fast, 1e-4)


def test_a_head_of_nearest_means_is_written():
    means = jnp.array([[1.0, 0.0], [0.0, 2.0]])
    kernel, bias = nearest_mean_head(means, jnp.array([1.0, 0.0]))
    np.testing.assert_array_equal(kernel, 2 * means.T)
    np.testing.assert_array_equal(bias, [-1.0, -1e9])
    params = write_head(mj.Params({"other": 1}, {}), "head", kernel, bias)
    assert set(params.fast) == {"other", "head"}
