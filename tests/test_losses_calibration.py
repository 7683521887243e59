"""A calibration error that can be differentiated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metajax as mj

KEY = jax.random.key(0)
PLAIN = lambda params, x, key, reference: x * params.fast


def test_it_is_near_the_calibration_error_of_bins():
    logits = 2 * jax.random.normal(KEY, (4000, 3))
    y = jax.random.categorical(jax.random.key(1), logits / 2)
    loss = mj.losses.calibrated_cross_entropy(PLAIN, strength=2.0)
    value, metrics = loss(mj.Params(jnp.ones(()), {}), mj.Batch(logits, y), None)
    bins = mj.diagnostics.reliability(jax.nn.softmax(logits), y)
    np.testing.assert_allclose(metrics["calibration_error"], bins.error, atol=0.01)
    plain = mj.losses.cross_entropy(PLAIN)(mj.Params(jnp.ones(()), {}), mj.Batch(logits, y), None)
    np.testing.assert_allclose(value, plain[0] + 2 * metrics["calibration_error"])
    assert metrics["accuracy"] == plain[1]["accuracy"]


def test_its_gradient_leads_to_the_right_temperature():
    logits = jax.random.normal(KEY, (4000, 3))
    y = jax.random.categorical(jax.random.key(1), logits / 2)
    loss = mj.losses.calibrated_cross_entropy(PLAIN)
    error = lambda scale: loss(mj.Params(scale, {}), mj.Batch(logits, y), None)[1][
        "calibration_error"
    ]
    scale = jnp.array(1.0)
    for _ in range(60):
        scale -= 0.1 * jax.grad(error)(scale)
    np.testing.assert_allclose(scale, 0.54, atol=0.06)
    slope = (error(1.0 + 1e-5) - error(1.0 - 1e-5)) / 2e-5
    np.testing.assert_allclose(jax.grad(error)(1.0), slope, rtol=1e-4)


def test_rows_of_weight_zero_count_nothing_and_wrong_labels_are_refused():
    logits = jax.random.normal(KEY, (6, 3))
    y = jnp.array([0, 1, 2, 0, 1, 2])
    loss = mj.losses.calibrated_cross_entropy(PLAIN)
    params = mj.Params(jnp.ones(()), {})
    weight = jnp.array([1.0, 1, 1, 1, 0, 0])
    found = loss(params, mj.Batch(logits, y.at[5].set(9), weight), None)
    expected = loss(params, mj.Batch(logits[:4], y[:4]), None)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-6)
    assert loss(params, mj.Batch(logits, y, jnp.zeros(6)), None)[0] == 0
    with pytest.raises(ValueError, match="9"):
        loss(params, mj.Batch(logits, y.at[5].set(9)), None)
    with pytest.raises(ValueError, match="0 or more"):
        mj.losses.calibrated_cross_entropy(PLAIN, strength=-1.0)
