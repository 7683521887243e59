"""Meta-gradients: against analysis, against finite differences, and one level deeper."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.test_util import check_grads
from problems import assert_close, first, make_net, make_tasks

import metajax as mj

KEY = jax.random.key(0)
OPTIMIZERS = {
    "sgd": optax.sgd(0.3),
    "momentum": optax.sgd(0.1, momentum=0.9, nesterov=True),
    "adam": optax.adam(0.05, eps_root=1e-8),
    "clipped": optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(0.3)),
}


def smooth_loss():
    """Cross-entropy of a smooth net, for which finite differences are exact enough."""
    _, params = make_net()

    def apply(params, x):
        net = params.fast
        hidden = jnp.tanh(x @ net["layers"][0]["kernel"] + net["layers"][0]["bias"][None])
        return hidden @ net["head"]["kernel"] + net["head"]["bias"][None]

    return mj.losses.cross_entropy(mj.nets.from_function(apply)[0]), params


def quadratic(params, batch, key):
    """½ a (θ - c)², with a and c the slow weights."""
    curvature, centre = params.slow
    return 0.5 * curvature * (params.fast - centre) ** 2, {}


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_descent_on_a_quadratic_is_exact(steps):
    adaptation = mj.inner_loop(quadratic, optax.sgd(0.1), steps=steps)
    batch = mj.Batch(x=jnp.zeros(1), y=jnp.zeros(1))

    def adapted(start, curvature, centre):
        return adaptation.adapt(mj.Params(start, (curvature, centre)), batch, KEY).fast

    def exact(start, curvature, centre):
        return centre + (1 - 0.1 * curvature) ** steps * (start - centre)

    point = (2.0, 3.0, -1.0)
    np.testing.assert_allclose(adapted(*point), exact(*point), rtol=1e-12)
    for number in range(3):
        derivatives = [jax.grad(function, number)(*point) for function in (adapted, exact)]
        np.testing.assert_allclose(*derivatives, rtol=1e-12, atol=1e-12)


def test_first_order_is_biased_as_it_says():
    adaptation = mj.inner_loop(quadratic, optax.sgd(0.1), steps=5, differentiate=mj.first_order())
    batch = mj.Batch(x=jnp.zeros(1), y=jnp.zeros(1))

    def adapted(start, curvature):
        return adaptation.adapt(mj.Params(start, (curvature, -1.0)), batch, KEY).fast

    np.testing.assert_allclose(adapted(2.0, 3.0), -1 + 0.7**5 * 3, rtol=1e-12)
    assert jax.grad(adapted, 0)(2.0, 3.0) == 1.0  # exact: 0.7⁵
    assert jax.grad(adapted, 1)(2.0, 3.0) == 0.0  # exact: not zero


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_meta_gradients_equal_finite_differences_in_both_modes(optimizer):
    loss, params = smooth_loss()
    task = first(make_tasks())
    task_loss = mj.query_loss(mj.inner_loop(loss, OPTIMIZERS[optimizer], steps=3), loss)

    def value(fast, support_x):
        support = task.support._replace(x=support_x)
        return task_loss(params._replace(fast=fast), task._replace(support=support), KEY)[0]

    check_grads(
        jax.jit(value), (params.fast, task.support.x), order=1, modes=("fwd", "rev"), rtol=1e-5
    )


def test_learned_step_sizes_have_exact_gradients():
    loss, params = smooth_loss()
    adaptation = mj.inner_loop(loss, mj.learned_rates(0.3), steps=3)
    params = adaptation.init(params, KEY)
    task_loss = mj.query_loss(adaptation, loss)
    value = lambda rule: task_loss(params._replace(rule=rule), first(make_tasks()), KEY)[0]
    check_grads(jax.jit(value), (params.rule,), order=1, modes=("fwd", "rev"), rtol=1e-5)


def test_equal_learned_step_sizes_are_plain_descent():
    loss, params = smooth_loss()
    support = first(make_tasks()).support
    learned = mj.inner_loop(loss, mj.learned_rates(0.3), steps=3)
    plain = mj.inner_loop(loss, optax.sgd(0.3), steps=3)
    one = learned.adapt(learned.init(params, KEY), support, KEY).fast
    assert_close(one, plain.adapt(params, support, KEY).fast)


@pytest.mark.thorough
def test_three_levels_nest():
    """The gradient of what two outer steps reach, by their start and by the inner step size."""
    loss, params = smooth_loss()
    tasks = make_tasks(number=2)

    def reached(fast, rate):
        adaptation = mj.inner_loop(loss, mj.learned_rates(0.3), steps=2)
        start = params._replace(
            fast=fast, rule=jax.tree.map(lambda leaf: rate * jnp.ones_like(leaf), fast)
        )
        outer = mj.outer_loop(mj.query_loss(adaptation, loss), optax.sgd(0.1), tasks_at_once=1)
        state = outer.init(start)
        for number in range(2):
            state, _ = outer.step(state, tasks, jax.random.fold_in(KEY, number))
        return mj.evaluate(mj.query_loss(adaptation, loss), state.params, tasks, KEY)["loss"].mean

    check_grads(jax.jit(reached), (params.fast, 0.3), order=1, modes=("rev",), rtol=1e-4)


def test_adam_without_eps_root_is_refused_unless_it_is_not_differentiated():
    loss, params = smooth_loss()
    support = first(make_tasks()).support
    with pytest.raises(ValueError, match="eps_root"):
        mj.inner_loop(loss, optax.adam(1e-2), steps=1).adapt(params, support, KEY)
    with pytest.raises(ValueError, match="eps_root"):
        jax.jit(mj.inner_loop(loss, optax.rmsprop(1e-2, eps_in_sqrt=False), steps=1).adapt)(
            params, support, KEY
        )
    first_order = mj.inner_loop(loss, optax.adamw(1e-2), steps=1, differentiate=mj.first_order())
    task_loss = mj.query_loss(first_order, loss)
    gradient = jax.grad(lambda params: task_loss(params, first(make_tasks()), KEY)[0])(params)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(gradient))


def test_a_step_size_may_be_traced():
    """As under a vmap over rates: one step on |x|²/2 from 1 gives 1 - rate."""
    loss = lambda params, batch, key: ((params.fast**2).sum() / 2, {})

    def end(rate):
        start, support = mj.Params(jnp.ones(1), ()), mj.Batch(jnp.zeros((1, 1)), jnp.zeros(1))
        return (
            mj.inner_loop(loss, optax.sgd(rate), steps=1)
            .adapt(start, support, jax.random.key(0))
            .fast[0]
        )

    rates = jnp.array([0.1, 0.5])
    np.testing.assert_allclose(jax.vmap(end)(rates), 1 - rates)
    np.testing.assert_allclose(jax.jit(jax.grad(end))(0.1), -1.0)


def test_dead_units_do_not_make_adam_nan():
    loss, params = smooth_loss()
    support = first(make_tasks()).support
    task = mj.Task(support._replace(x=support.x.at[:, 0].set(0)), first(make_tasks()).query)
    task_loss = mj.query_loss(mj.inner_loop(loss, optax.adam(1e-2, eps_root=1e-8), steps=3), loss)
    gradient = jax.grad(lambda params: task_loss(params, task, KEY)[0])(params)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("steps", [-1, 1.5])
def test_steps_must_be_a_count(steps):
    with pytest.raises(ValueError, match=f"got {steps}"):
        mj.inner_loop(quadratic, optax.sgd(0.1), steps=steps)


def test_errors_of_the_inner_loop_say_what_to_do():
    loss, params = smooth_loss()
    support = first(make_tasks()).support
    with pytest.raises(ValueError, match=r"optax\.GradientTransformation or a metajax\.Rule"):
        mj.inner_loop(loss, 0.1, steps=1)
    with pytest.raises(
        ValueError,
        match=r"must be a metajax.Strategy or None, got the function unroll, which was not called; "
        r"[^`]*`unroll\(\)`",
    ):
        mj.inner_loop(loss, optax.sgd(0.1), steps=1, differentiate=mj.unroll)
    learned = mj.inner_loop(loss, mj.learned_rates(0.1), steps=1)
    with pytest.raises(ValueError, match=r"adaptation\.init\(params, key\)"):
        learned.adapt(params, support, KEY)
    with pytest.raises(ValueError, match="nothing to adapt"):
        mj.inner_loop(loss, optax.sgd(0.1), steps=1).adapt(params._replace(fast={}), support, KEY)
    with pytest.raises(ValueError, match=r"must return \(scalar, metrics\)"):
        mj.inner_loop(lambda *_: jnp.zeros(3), optax.sgd(0.1), steps=1).adapt(params, support, KEY)
    chained = mj.chain(learned, mj.identity())
    with pytest.raises(ValueError, match=r"chain of 2 links .* adaptation\.init"):
        chained.adapt(params, support, KEY)
    initialised = learned.init(params, KEY)
    wider = initialised._replace(
        fast={**params.fast, "head": jax.tree.map(lambda a: a[..., :2], params.fast["head"])}
    )
    with pytest.raises(ValueError, match="learned step sizes have shapes"):
        learned.adapt(wider, support._replace(y=support.y % 2), KEY)
