import jax.numpy as jnp
import numpy as np

import metajax as mj


def test_take_picks_rows_of_every_leaf_but_not_of_classes():
    present = {"image": jnp.array([True, False, True])}
    x = mj.Modalities({"image": jnp.arange(6.0).reshape(3, 2)}, present)
    batch = mj.Batch(
        x, jnp.array([0, 1, 1]), weight=jnp.ones(3), reference=jnp.array([1, 0, 1]), info=jnp.eye(2)
    )
    part = mj.take(batch, jnp.array([2, 1]))
    np.testing.assert_array_equal(part.x.value["image"], [[4.0, 5.0], [2.0, 3.0]])
    np.testing.assert_array_equal(part.x.present["image"], [True, False])
    np.testing.assert_array_equal(part.y, [1, 1])
    np.testing.assert_array_equal(part.reference, [1, 0])
    np.testing.assert_array_equal(part.info, np.eye(2))


def test_losses_are_means_by_weight():
    logits = jnp.array([[2.0, 0.0], [0.0, 3.0], [5.0, 0.0]])
    loss = mj.losses.cross_entropy(mj.nets.identity_encoder)
    batch = mj.Batch(logits, jnp.array([0, 0, 1]), weight=jnp.array([1.0, 3.0, 0.0]))
    value, metrics = loss(mj.Params((), ()), batch, None)
    rows = np.log1p(np.exp([-2.0, 3.0]))
    np.testing.assert_allclose(value, (rows[0] + 3 * rows[1]) / 4)
    np.testing.assert_allclose(metrics["accuracy"], 0.25)
    nothing, metrics = loss(mj.Params((), ()), batch._replace(weight=jnp.zeros(3)), None)
    assert nothing == metrics["accuracy"] == 0
    squared = mj.losses.squared_error(mj.nets.identity_encoder)
    value, _ = squared(mj.Params((), ()), batch._replace(y=jnp.zeros((3, 2))), None)
    np.testing.assert_allclose(value, (2.0 + 3 * 4.5) / 4)


def test_half_precision_losses_are_not_lost():
    loss = mj.losses.squared_error(mj.nets.identity_encoder)
    batch = mj.Batch(jnp.full((4096, 1), 1.01, jnp.bfloat16), jnp.zeros((4096, 1), jnp.bfloat16))
    value, _ = loss(mj.Params((), ()), batch, None)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, float(batch.x[0, 0]) ** 2, rtol=1e-6)
