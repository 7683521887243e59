import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import assert_close

import metajax as mj

KEY = jax.random.key(0)
PARAMS = mj.Params({}, {})
LOGITS = jnp.array([[2.0, 0.0], [0.0, 3.0], [5.0, 0.0]])


def inputs_as_outputs(params, x, key=None, *, reference=None):
    return x


def test_cross_entropy_is_a_mean_by_weight():
    loss = mj.losses.cross_entropy(inputs_as_outputs)
    batch = mj.Batch(LOGITS, jnp.array([0, 0, 1]))
    rows = np.log1p(np.exp([-2.0, 3.0, 5.0]))
    value, metrics = loss(PARAMS, batch, KEY)
    np.testing.assert_allclose(value, rows.mean())
    np.testing.assert_allclose(metrics["accuracy"], 1 / 3)
    value, metrics = loss(PARAMS, batch._replace(weight=jnp.array([1.0, 3.0, 0.0])), KEY)
    np.testing.assert_allclose(value, (rows[0] + 3 * rows[1]) / 4)
    np.testing.assert_allclose(metrics["accuracy"], 0.25)
    value, metrics = loss(PARAMS, batch._replace(weight=jnp.zeros(3)), KEY)
    assert value == metrics["accuracy"] == 0


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.uint8])
def test_weights_are_added_up_in_float32_or_wider(dtype):
    logits = jnp.tile(LOGITS, (100, 1))
    batch = mj.Batch(logits, jnp.tile(jnp.array([0, 0, 1]), 100))
    loss = mj.losses.cross_entropy(inputs_as_outputs)
    weight = jnp.full(300, 240, dtype)  # the sum of 72000 is not a float16
    assert_close(loss(PARAMS, batch._replace(weight=weight), KEY), loss(PARAMS, batch, KEY), 1e-12)


def test_the_weights_of_sequences_are_added_up_in_float32():
    log_p = jnp.tile(jnp.log(jnp.array([0.25, 0.5, 0.25], jnp.float16)), (300, 2, 1))
    batch = mj.Batch(log_p, jnp.ones((300, 2), int), jnp.full(300, 300, jnp.float16))
    value, metrics = mj.losses.sequence_cross_entropy(inputs_as_outputs)(PARAMS, batch, KEY)
    np.testing.assert_allclose(value, np.log(2), rtol=1e-3)
    assert metrics["accuracy"] == metrics["characters"] == 1


def test_squared_error_is_a_mean_over_outputs_and_rows():
    loss = mj.losses.squared_error(inputs_as_outputs)
    batch = mj.Batch(LOGITS, jnp.zeros((3, 2)))
    value, metrics = loss(PARAMS, batch, KEY)
    np.testing.assert_allclose(value, (4 + 9 + 25) / 6)
    assert metrics == {}
    value, _ = loss(PARAMS, batch._replace(weight=jnp.array([1.0, 3.0, 0.0])), KEY)
    np.testing.assert_allclose(value, (2.0 + 3 * 4.5) / 4)
    assert loss(PARAMS, batch._replace(weight=jnp.zeros(3)), KEY)[0] == 0


def test_sequence_cross_entropy_is_a_mean_over_characters_without_padding():
    first = [[0.1, 0.7, 0.2], [0.2, 0.2, 0.6]]
    second = [[0.1, 0.5, 0.4], [1.0, 1e-9, 1e-9]]
    loss = mj.losses.sequence_cross_entropy(inputs_as_outputs)
    batch = mj.Batch(jnp.log(jnp.array([first, second])), jnp.array([[1, 2], [2, 0]]))
    value, metrics = loss(PARAMS, batch, KEY)
    np.testing.assert_allclose(value, -np.log([0.7, 0.6, 0.4]).mean())
    assert_close(metrics, {"accuracy": jnp.array(0.5), "characters": jnp.array(2 / 3)})
    value, metrics = loss(PARAMS, batch._replace(weight=jnp.array([1.0, 2.0])), KEY)
    np.testing.assert_allclose(value, -np.log([0.7, 0.6, 0.4, 0.4]).mean())
    assert_close(metrics, {"accuracy": jnp.array(1 / 3), "characters": jnp.array(0.5)})
    assert loss(PARAMS, batch._replace(weight=jnp.zeros(2)), KEY)[0] == 0


def test_means_over_half_precision_outputs_are_float32():
    loss = mj.losses.squared_error(inputs_as_outputs)
    batch = mj.Batch(jnp.full((4096, 1), 1.01, jnp.bfloat16), jnp.zeros((4096, 1), jnp.bfloat16))
    value, _ = loss(PARAMS, batch, KEY)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, float(batch.x[0, 0]) ** 2, rtol=1e-6)
    logits = jnp.zeros((4096, 3), jnp.bfloat16)
    labels = jnp.zeros(4096, jnp.int32)
    value, _ = mj.losses.cross_entropy(inputs_as_outputs)(PARAMS, mj.Batch(logits, labels), KEY)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, np.log(3), rtol=1e-6)


def test_a_network_computed_in_bfloat16_gets_narrow_floats_and_gives_wide_ones():
    def apply(params, x, key=None, *, reference=None):
        assert params.fast.dtype == x["real"].dtype == jnp.bfloat16
        assert x["index"].dtype == jnp.int32
        return {"real": params.fast * x["real"], "index": x["index"], "options": reference}

    params = mj.Params(jnp.float32(1 / 3), {})
    x = {"real": jnp.ones(2, jnp.float32), "index": jnp.arange(2, dtype=jnp.int32)}
    found = mj.losses.computed_in(apply)(params, x, None, reference=jnp.array([True, False]))
    assert found["real"].dtype == jnp.float32
    np.testing.assert_allclose(found["real"], 0.33398438)
    np.testing.assert_array_equal(found["index"], [0, 1])
    np.testing.assert_array_equal(found["options"], [True, False])
    narrower = mj.losses.computed_in(lambda params, x, key: x, jnp.float16)
    assert narrower(params, jnp.float32(1e-9)) == 0, "float16 has no number as small"


@pytest.mark.parametrize("y", [jnp.zeros(3), jnp.zeros((3, 1), jnp.int32)])
def test_labels_that_are_not_one_integer_for_each_row_are_refused(y):
    loss = mj.losses.cross_entropy(inputs_as_outputs)
    with pytest.raises(ValueError, match=r"Labels must be integers of shape \[3\], got"):
        loss(PARAMS, mj.Batch(LOGITS, y), KEY)


def test_labels_of_another_number_of_rows_are_refused():
    loss = mj.losses.cross_entropy(inputs_as_outputs)
    with pytest.raises(ValueError, match=r"same number of rows, got .*y='int32\[2\]'"):
        loss(PARAMS, mj.Batch(LOGITS, jnp.zeros(2, jnp.int32)), KEY)


def test_targets_of_another_shape_are_refused():
    batch = mj.Batch(LOGITS, jnp.zeros(3))
    with pytest.raises(ValueError, match=r"shape \(3,\), predictions \(3, 2\); make them equal"):
        mj.losses.squared_error(inputs_as_outputs)(PARAMS, batch, KEY)
    loss = mj.losses.sequence_cross_entropy(inputs_as_outputs)
    batch = mj.Batch(jnp.zeros((2, 4, 5)), jnp.zeros((2, 4)))
    with pytest.raises(ValueError, match=r"integers of shape \[2, 4\], got float64\[2, 4\]"):
        loss(PARAMS, batch, KEY)
    with pytest.raises(ValueError, match=r"integers of shape \[2, 4\], got int32\[2, 3\]"):
        loss(PARAMS, batch._replace(y=jnp.zeros((2, 3), jnp.int32)), KEY)
