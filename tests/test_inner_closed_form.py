import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from problems import assert_close, first, make_tasks

import metajax as mj

KEY = jax.random.key(0)
RAW = mj.nets.identity_encoder
EMPTY = mj.Params(fast={}, slow={})
linear = mj.linear_head()


def test_the_prototype_head_is_the_nearest_class_mean():
    task = first(make_tasks())
    logits = mj.predict(mj.prototypes(RAW, 3), linear, EMPTY, task.support, task.query.x, KEY)
    means = np.stack([task.support.x[task.support.y == k].mean(0) for k in range(3)])
    distance = ((np.asarray(task.query.x)[:, None] - means) ** 2).sum(-1)
    np.testing.assert_allclose(jax.nn.softmax(logits), jax.nn.softmax(-distance), rtol=1e-9)


def test_weights_of_rows_weigh_the_means():
    support = mj.Batch(
        jnp.array([[0.0], [4.0], [1.0]]), jnp.array([0, 0, 1]), weight=jnp.array([3.0, 1.0, 1.0])
    )
    head = mj.prototypes(RAW, 2).adapt(EMPTY, support, KEY).fast["head"]
    np.testing.assert_allclose(head["kernel"], [[2.0, 2.0]])


@pytest.mark.parametrize("width", [2, 12])  # fewer and more features than examples
@pytest.mark.parametrize("write", [mj.prototypes, mj.ridge])
def test_rows_without_a_label_have_no_influence(write, width):
    x = np.random.default_rng(0).normal(size=(8, width))
    y = np.array([0, 1, 0, 1, 0, 1, -1, -1])
    adaptation = write(RAW, 2)
    params = adaptation.init(EMPTY, KEY)
    head = lambda rows: adaptation.adapt(params, mj.Batch(x[:rows], y[:rows]), KEY).fast["head"]
    assert_close(head(8), head(6), 1e-12)
    if write is mj.ridge:
        system = x[:6].T @ x[:6] + np.eye(width)
        expected = np.linalg.solve(system, x[:6].T @ np.eye(2)[y[:6]])
        np.testing.assert_allclose(head(8)["kernel"], expected, atol=1e-12)


def test_weights_whose_sum_float16_does_not_have_weigh_the_means():
    x = jnp.arange(300, dtype=jnp.float16)[:, None] / 256
    support = mj.Batch(x, jnp.zeros(300, int), weight=jnp.full(300, 300, jnp.float16))
    head = mj.prototypes(RAW, 2).adapt(EMPTY, support, KEY).fast["head"]
    assert head["kernel"].dtype == jnp.float16
    np.testing.assert_allclose(head["kernel"][0], [299 / 256, 0], rtol=1e-3)


@pytest.mark.parametrize("examples", [3, 30])  # fewer and more than features
def test_ridge_is_the_minimum_of_its_loss(examples):
    rng = np.random.default_rng(0)
    x, y = jnp.asarray(rng.normal(size=(examples, 8))), jnp.asarray(rng.normal(size=(examples, 2)))
    weight = jnp.asarray(rng.uniform(size=examples))
    adaptation = mj.ridge(RAW)
    params = adaptation.init(EMPTY, KEY)
    params = params._replace(rule={**params.rule, "log_lambda": jnp.log(0.3)})
    kernel = adaptation.adapt(params, mj.Batch(x, y, weight), KEY).fast["head"]["kernel"]

    def loss(kernel):
        return (weight[:, None] * (x @ kernel - y) ** 2).sum() + 0.3 * (kernel**2).sum()

    np.testing.assert_allclose(jax.grad(loss)(kernel), np.zeros((8, 2)), atol=1e-9)


@pytest.mark.parametrize("write", [mj.prototypes, mj.ridge])
def test_a_class_without_support_is_never_chosen_and_changes_nothing(write):
    task = first(make_tasks())
    narrow, wide = write(RAW, 3), write(RAW, 5)
    answers = [
        mj.predict(adaptation, linear, adaptation.init(EMPTY, KEY), task.support, task.query.x, KEY)
        for adaptation in (narrow, wide)
    ]
    np.testing.assert_allclose(
        jax.nn.softmax(answers[1])[:, :3], jax.nn.softmax(answers[0]), rtol=1e-9
    )
    assert (jax.nn.softmax(answers[1])[:, 3:] == 0).all()
    gradients = [
        jax.grad(
            lambda x, a=adaptation: mj.predict(
                a, linear, a.init(EMPTY, KEY), task.support._replace(x=x), task.query.x, KEY
            )[:, :3].sum()
        )(task.support.x)
        for adaptation in (narrow, wide)
    ]
    assert_close(*gradients)


@pytest.mark.parametrize("shots", [1, 4])  # fewer and more examples than features
@pytest.mark.parametrize("write", [mj.prototypes, mj.ridge])
def test_gradients_equal_finite_differences(write, shots):
    task, adaptation = first(make_tasks(shots=shots)), write(RAW, 3)
    task_loss = mj.query_loss(adaptation, mj.losses.cross_entropy(linear))

    def value(rule, support_x, query_x):
        support, query = task.support._replace(x=support_x), task.query._replace(x=query_x)
        return task_loss(EMPTY._replace(rule=rule), mj.Task(support, query), KEY)[0]

    rule = adaptation.init(EMPTY, KEY).rule
    check_grads(
        jax.jit(value),
        (rule, task.support.x, task.query.x),
        order=1,
        modes=("fwd", "rev"),
        rtol=1e-5,
    )


def test_other_entries_of_fast_stay():
    params = mj.Params(fast={"body": jnp.ones(3), "head": jnp.zeros(2)}, slow={})
    fast = mj.prototypes(RAW, 3).adapt(params, first(make_tasks()).support, KEY).fast
    np.testing.assert_array_equal(fast["body"], np.ones(3))
    assert fast["head"]["kernel"].shape == (4, 3)
    assert (
        "other"
        in mj.prototypes(RAW, 3, entry="other").adapt(params, first(make_tasks()).support, KEY).fast
    )


def test_errors_say_what_to_do():
    support = first(make_tasks()).support
    for write in (mj.prototypes, mj.ridge):
        with pytest.raises(ValueError, match=r"ways must be .* got 0"):
            write(RAW, 0)
        adaptation = write(RAW, 3)
        params = adaptation.init(EMPTY, KEY)
        with pytest.raises(ValueError, match=r"Labels must be int\[examples\], got float"):
            adaptation.adapt(params, support._replace(y=support.y.astype(float)), KEY)
        with pytest.raises(ValueError, match="fast must be a dict"):
            adaptation.adapt(params._replace(fast=jnp.zeros(2)), support, KEY)
        with pytest.raises(ValueError, match=r"embed must return \[examples, d\]"):
            write(mj.nets.from_function(lambda params, x: x[:, None])[0], 3).adapt(
                params, support, KEY
            )
    with pytest.raises(ValueError, match=r"adaptation\.init"):
        mj.ridge(RAW, 3).adapt(EMPTY, support, KEY)
    with pytest.raises(ValueError, match=r"support\.y must be \[examples, k\]"):
        mj.ridge(RAW).adapt(mj.ridge(RAW).init(EMPTY, KEY), support, KEY)
