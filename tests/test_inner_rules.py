"""Rules whose hyperparameters are learned."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metajax as mj

KEY = jax.random.key(0)
SUPPORT = mj.Batch(x=jnp.array([1.0, 2.0]), y=jnp.array([2.0, 4.0]))


def loss(params, batch, key):
    """A line through zero, with a penalty that makes decay matter."""
    return ((params.fast * batch.x - batch.y) ** 2).mean(), {}


def adapted(rule, hyperparameters=None):
    """The slope after three steps."""
    adaptation = mj.inner_loop(loss, rule, steps=3)
    params = adaptation.init(mj.Params(fast=jnp.array(0.5), slow=()), KEY)
    if hyperparameters is not None:
        params = params._replace(rule=hyperparameters)
    return adaptation.adapt(params, SUPPORT, KEY).fast


def test_a_learned_optimizer_starts_as_the_plain_one():
    plain = mj.inner_loop(loss, optax.sgd(0.05), steps=3)
    expected = plain.adapt(mj.Params(fast=jnp.array(0.5), slow=()), SUPPORT, KEY).fast
    np.testing.assert_allclose(adapted(mj.learned(optax.sgd, 0.05)), expected, rtol=1e-12)


def test_every_hyperparameter_has_the_gradient_of_a_finite_difference():
    def make(h):
        return optax.adamw(h["rate"], eps_root=1e-8, weight_decay=h["decay"])

    rule = mj.learned(make, {"rate": 0.1, "decay": 0.2})
    start = rule.init(mj.Params(fast=jnp.array(0.5), slow=()), KEY)
    assert jax.tree.map(jnp.result_type, start) == {"rate": jnp.float64, "decay": jnp.float64}
    slopes = jax.grad(lambda h: adapted(rule, h))(start)
    for name in start:
        ends = [adapted(rule, {**start, name: start[name] + step}) for step in (1e-6, -1e-6)]
        np.testing.assert_allclose(slopes[name], (ends[0] - ends[1]) / 2e-6, rtol=1e-5)
        assert slopes[name] != 0


@pytest.mark.parametrize("make", [mj.learned_rates, mj.leaf_rates, mj.shared_rate])
@pytest.mark.parametrize("steps", [0, True, 1.5])
def test_steps_are_a_count(make, steps):
    with pytest.raises(ValueError, match=r"steps must be a whole number.* got"):
        make(0.1, steps=steps)


def test_step_sizes_of_weights_that_are_python_numbers():
    rates = mj.learned_rates(0.1).init(mj.Params({"image": 0.0}, {}), jax.random.key(0))
    assert float(rates["image"]) == 0.1
