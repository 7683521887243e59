"""Features of a batch: cleared inputs, and the rows that normalisation reads."""

import jax.numpy as jnp
import numpy as np
import pytest

import metajax as mj
from metajax.modalities.encoding import encode_batch

VALUE = {"a": jnp.array([[1.0], [jnp.nan], [5.0]]), "b": jnp.ones((3, 2))}
X = mj.data.as_modalities(VALUE, {"a": jnp.array([True, False, True])})
BATCH = mj.Batch(X, jnp.zeros(3, jnp.int32), weight=jnp.array([1.0, 1.0, 0.0]))
EMPTY = mj.Params({}, {})


def test_an_encoder_sees_zeros_where_a_modality_is_absent():
    def encode(params, x, key=None, *, reference=None):
        assert reference.tolist() == [True, True, False]
        return x.value

    features = encode_batch(encode, EMPTY, BATCH, None)
    np.testing.assert_array_equal(features["a"], [[1], [0], [5]])


def test_errors_name_the_modalities():
    def renamed(params, x, key=None, *, reference=None):
        return {"c": x.value["a"]}

    with pytest.raises(ValueError, match=r"\['c'\] are not among .*\['a', 'b'\]"):
        encode_batch(renamed, EMPTY, BATCH, None)
    with pytest.raises(ValueError, match="x of the batch must be a Modalities, got ArrayImpl"):
        encode_batch(renamed, EMPTY, BATCH._replace(x=VALUE["a"]), None)
