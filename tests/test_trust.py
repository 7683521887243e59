"""What the tools say of gradients that are right, and of each way to be wrong."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import assert_close
from test_strategies import KEY, learned_rate, ridge_loss, ridge_problem

import metajax as mj


def check(strategy=None, loss=ridge_loss, steps=400, **options):
    params, task = ridge_problem()
    adaptation = mj.inner_loop(loss, optax.sgd(0.1), steps=steps, differentiate=strategy, **options)
    return mj.check_meta_gradient(adaptation, loss, params, task, KEY)


def test_a_right_gradient_passes():
    found = check(mj.mixed_mode(), steps=4)
    assert set(found.difference) == {"fast", "slow"}
    assert max(found.difference.values()) < 1e-6
    assert found.zero == found.not_finite == []
    assert found.asymmetry < 1e-12
    assert found.stopped < 1e-8


@jax.custom_jvp
def scaled(x):
    """The identity, with a tangent that is no derivative: scaled by the norm of x."""
    return x


scaled.defjvp(lambda primals, tangents: (primals[0], tangents[0] * jnp.linalg.norm(primals[0])))


@jax.custom_vjp
def clipped(x):
    """The identity, with a cotangent that is scaled by the norm of x."""
    return x


clipped.defvjp(lambda x: (x, x), lambda x, cotangent: (cotangent * jnp.linalg.norm(x),))


@pytest.mark.parametrize("wrong", [scaled, clipped])
def test_a_tangent_that_is_no_derivative_is_named(wrong):
    found = check(
        mj.unroll(), lambda p, *rest: ridge_loss(p._replace(fast=wrong(p.fast)), *rest), steps=2
    )
    assert found.asymmetry > 0.01
    assert check(mj.mixed_mode(), steps=2).asymmetry < 1e-12


def test_stop_gradient_shows_in_the_differences_and_mixed_mode_stays_unroll():
    def stopped(params, batch, key):
        value, _ = ridge_loss(params, batch, key)
        return value * (1 + jax.lax.stop_gradient(params.fast**2 * params.slow).sum()), {}

    found = check(mj.mixed_mode(), stopped, steps=2)
    assert found.asymmetry < 1e-12
    assert found.stopped > 0.1
    assert max(found.difference.values()) > 0.1
    assert "stop_gradient" in str(found)
    params, task = ridge_problem()
    slopes = []
    for strategy in (mj.unroll(), mj.mixed_mode()):
        adaptation = mj.inner_loop(stopped, optax.sgd(0.1), steps=4, differentiate=strategy)
        slopes.append(
            jax.grad(lambda p: mj.query_loss(adaptation, stopped)(p, task, KEY)[0])(params)
        )  # noqa: B023
    assert_close(*slopes)


def test_implicit_that_has_not_converged_is_seen():
    converged, early = (
        check(mj.implicit(), proximity=0.5),
        check(mj.implicit(), proximity=0.5, steps=2),
    )
    assert converged.inner_gradient < 1e-10 and max(converged.difference.values()) < 1e-4
    assert early.inner_gradient > 0.1 and max(early.difference.values()) > 0.1
    assert converged.solve_residual < 1e-5
    nearly = check(mj.implicit(), steps=100)  # the start has no gradient, and a difference near 0
    assert nearly.zero == ["fast"] and max(nearly.difference.values()) < 0.1
    params, task = ridge_problem()
    adaptation = mj.inner_loop(ridge_loss, optax.sgd(0.1), steps=5)
    hasty = mj.conjugate_gradient(steps=1)
    assert (
        mj.check_meta_gradient(
            adaptation, ridge_loss, params, task, KEY, solver=hasty
        ).solve_residual
        > 0.01
    )


def test_leaves_without_gradient_are_named():
    loss = lambda params, batch, key: ridge_loss(
        params._replace(slow=params.slow["used"]), batch, key
    )
    params, task = ridge_problem()
    params = params._replace(slow={"used": params.slow, "unused": jnp.ones(2)})
    found = mj.check_meta_gradient(
        mj.inner_loop(loss, optax.sgd(0.1), steps=2), loss, params, task, KEY
    )
    assert found.zero == ["slow['unused']"]
    assert "slow['unused']: the gradient is zero" in str(found)
    broken = lambda params, batch, key: (
        jnp.sqrt(params.slow["unused"] - 1).sum() + loss(params, batch, key)[0],
        {},
    )
    found = mj.check_meta_gradient(mj.identity(), broken, params, task, KEY)
    assert found.not_finite == ["slow['unused']"]
    assert np.isnan(found[3:]).all()


def test_a_learned_rule_is_checked_too():
    params, task = ridge_problem()
    adaptation = mj.inner_loop(
        ridge_loss,
        learned_rate(functools.partial(optax.adam, eps_root=1e-8)),
        steps=3,
        differentiate=mj.mixed_mode(),
    )
    found = mj.check_meta_gradient(adaptation, ridge_loss, adaptation.init(params, KEY), task, KEY)
    assert found.difference["rule"] < 1e-6
