"""Findings for gradients that are right, and for each way to be wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from problems import assert_close
from test_differentiate_strategies import KEY, ridge_loss, ridge_problem

import metajax as mj


def check(strategy=None, loss=ridge_loss, steps=400, solver=None, **options):
    params, task = ridge_problem()
    adaptation = mj.inner_loop(loss, optax.sgd(0.1), steps=steps, differentiate=strategy, **options)
    return mj.check_meta_gradient(adaptation, loss, params, task, KEY, solver=solver)


def test_a_right_gradient_passes():
    found = check(mj.mixed_mode(), steps=4)
    assert set(found.difference) == {"fast", "slow"}
    assert max(found.difference.values()) < 1e-6
    assert found.zero == found.not_finite == []
    assert found.asymmetry < 1e-12
    assert found.stopped < 1e-8
    assert max(found.plateau.values()) < 1e-6
    assert found.verdict == {"fast": "right", "slow": "right"}
    text = str(found)
    assert text.splitlines()[-1].startswith("Verdict: RIGHT.")
    assert "slow: the gradient differs from finite differences by" in text
    assert "implicit needs 0" in text
    assert all(line.endswith(".") for line in text.splitlines())


@pytest.fixture(scope="module")
def sines():
    """One task of sinusoids, and a net with kinks that 200 steps of descent cross many times."""
    apply, params = mj.nets.functional(mj.nets.MLP(1, (40, 40), 1, rngs=nnx.Rngs(0)))
    task = mj.data.sinusoids(shots=10, queries=10)((), jax.random.key(0))
    params, task = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), (params, task))
    return mj.losses.squared_error(apply), params, task


def check_200_steps(sines, outer_loss=None, dtype=jnp.float64):
    loss, params, task = sines
    adaptation = mj.inner_loop(loss, optax.sgd(0.01), steps=200)
    params, task = jax.tree.map(lambda leaf: leaf.astype(dtype), (params, task))
    return mj.check_meta_gradient(adaptation, outer_loss or loss, params, task, KEY)


def test_a_right_gradient_of_200_steps_of_a_relu_net_passes(sines):
    found = check_200_steps(sines)
    assert set(found.verdict.values()) == {"right"}
    assert max(found.difference.values()) < 1e-5
    assert max(found.plateau.values()) < 1e-5
    assert found.stopped < 1e-6
    assert str(found).endswith("Verdict: RIGHT. The gradient agrees with finite differences.")


def test_a_wrong_gradient_of_200_steps_of_a_relu_net_is_condemned(sines):
    """One leaf of the adapted weights gets 99 % of its gradient."""

    def almost(params, batch, key):
        kernel = params.fast["head"]["kernel"]
        kernel = 0.99 * kernel + 0.01 * jax.lax.stop_gradient(kernel)
        head = {**params.fast["head"], "kernel": kernel}
        return sines[0](params._replace(fast={**params.fast, "head": head}), batch, key)

    found = check_200_steps(sines, almost)
    assert found.verdict["fast['head']['kernel']"] == "wrong"
    assert max(found.plateau.values()) < 1e-5
    assert str(found).splitlines()[-1].startswith("Verdict: WRONG for ")


def test_where_differences_do_not_agree_the_verdict_is_unclear(sines):
    found = check_200_steps(sines, dtype=jnp.float32)
    assert "unclear" in found.verdict.values()
    assert "wrong" not in found.verdict.values()
    unclear = [name for name, verdict in found.verdict.items() if verdict == "unclear"]
    last = str(found).splitlines()[-1]
    assert last.startswith(f"Verdict: UNCLEAR for {', '.join(unclear)}.") and "float64" in last


@jax.custom_jvp
def scaled(x):
    """The identity, with a tangent that is not a derivative: scaled by the norm of x."""
    return x


scaled.defjvp(lambda primals, tangents: (primals[0], tangents[0] * jnp.linalg.norm(primals[0])))


@jax.custom_vjp
def clipped(x):
    """The identity, with a cotangent that is scaled by the norm of x."""
    return x


clipped.defvjp(lambda x: (x, x), lambda x, cotangent: (cotangent * jnp.linalg.norm(x),))


@pytest.mark.parametrize("wrong", [scaled, clipped])
def test_a_tangent_that_is_not_a_derivative_is_found(wrong):
    loss = lambda params, *rest: ridge_loss(params._replace(fast=wrong(params.fast)), *rest)
    assert check(mj.unroll(), loss, steps=2).asymmetry > 0.01


def test_stop_gradient_shows_in_the_differences_and_mixed_mode_equals_unroll():
    def stopped(params, batch, key):
        value, _ = ridge_loss(params, batch, key)
        return value * (1 + jax.lax.stop_gradient(params.fast**2 * params.slow).sum()), {}

    found = check(mj.mixed_mode(), stopped, steps=2)
    assert found.asymmetry < 1e-12
    assert found.stopped > 0.1
    assert max(found.difference.values()) > 0.1
    assert "stop_gradient" in str(found)
    params, task = ridge_problem()

    def slope(strategy):
        adaptation = mj.inner_loop(stopped, optax.sgd(0.1), steps=4, differentiate=strategy)
        task_loss = mj.query_loss(adaptation, stopped)
        return jax.jit(jax.grad(lambda params: task_loss(params, task, KEY)[0]))(params)

    assert_close(slope(mj.unroll()), slope(mj.mixed_mode()))


def test_an_implicit_gradient_that_has_not_converged_is_found():
    converged = check(mj.implicit(), proximity=0.5)
    assert converged.inner_gradient < 1e-10
    assert max(converged.difference.values()) < 1e-4
    assert converged.solve_residual < 1e-5
    early = check(mj.implicit(), proximity=0.5, steps=2)
    assert early.inner_gradient > 0.1
    assert max(early.difference.values()) > 0.1
    assert converged.verdict["slow"] == "right" and early.verdict["slow"] == "wrong"


def test_a_start_without_gradient_has_a_small_difference():
    """After many steps the finite difference is near 0 as well, and is not divided by itself."""
    nearly = check(mj.implicit(), steps=100)
    assert nearly.zero == ["fast"]
    assert max(nearly.difference.values()) < 0.1


def test_a_solver_that_stops_early_is_found():
    hasty = check(steps=5, solver=mj.conjugate_gradient(steps=1))
    assert hasty.solve_residual > 0.01


def test_leaves_without_gradient_are_named():
    params, task = ridge_problem()
    params = params._replace(slow={"used": params.slow, "unused": jnp.ones(2)})

    def loss(params, batch, key):
        return ridge_loss(params._replace(slow=params.slow["used"]), batch, key)

    adaptation = mj.inner_loop(loss, optax.sgd(0.1), steps=2)
    found = mj.check_meta_gradient(adaptation, loss, params, task, KEY)
    assert found.zero == ["slow['unused']"]
    assert "slow['unused']: the gradient is zero." in str(found)


def test_leaves_whose_gradient_is_not_finite_are_named():
    params, task = ridge_problem()
    params = params._replace(slow={"used": params.slow, "broken": jnp.ones(2)})

    def loss(params, batch, key):
        value, _ = ridge_loss(params._replace(slow=params.slow["used"]), batch, key)
        return jnp.sqrt(params.slow["broken"] - 1).sum() + value, {}

    found = mj.check_meta_gradient(mj.identity(), loss, params, task, KEY)
    assert found.not_finite == ["slow['broken']"]
    assert "slow['broken']: the gradient is not finite." in str(found)
    assert np.isnan(found[5:]).all()
    assert found.verdict["slow['broken']"] == "wrong"
    assert "The inner loop was not checked" in str(found)


def test_a_learned_rule_is_checked_too():
    params, task = ridge_problem()
    rule = mj.Rule(
        lambda params, key: jnp.asarray(0.05, jnp.float64),
        lambda rate: optax.adam(rate, eps_root=1e-8),
    )
    adaptation = mj.inner_loop(ridge_loss, rule, steps=3, differentiate=mj.mixed_mode())
    params = adaptation.init(params, KEY)
    found = mj.check_meta_gradient(adaptation, ridge_loss, params, task, KEY)
    assert found.difference["rule"] < 1e-6


def test_a_loss_that_is_not_scalar_is_refused():
    params, task = ridge_problem()
    loss = lambda params, batch, key: (params.fast, {})
    with pytest.raises(ValueError, match=r"must return \(scalar, metrics\)"):
        mj.check_meta_gradient(mj.identity(), loss, params, task, KEY)
