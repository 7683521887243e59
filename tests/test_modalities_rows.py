"""Weighted means, and two views of the same rows."""

import jax.numpy as jnp
import numpy as np
import pytest

from metajax.modalities.rows import paired_rows, weighted_mean


def test_a_weighted_mean_is_zero_without_weight():
    values, weight = jnp.array([1.0, 3.0, 8.0]), jnp.array([1.0, 3.0, 0.0])
    assert weighted_mean(values, weight) == 2.5
    assert weighted_mean(values, 0 * weight) == 0


def test_rows_of_weight_0_are_cleared_and_all_are_float32_or_wider():
    first = jnp.array([[1.0], [jnp.nan]], jnp.bfloat16)
    second = jnp.array([[[2, 3]], [[4, 5]]])
    first, second, weight = paired_rows(first, second, jnp.array([2, 0]))
    assert first.dtype == second.dtype == weight.dtype == jnp.float32
    np.testing.assert_array_equal(first, [[1], [0]])
    np.testing.assert_array_equal(second, [[[2, 3]], [[0, 0]]])
    assert paired_rows(first, first, None)[2].tolist() == [1, 1]


@pytest.mark.parametrize("shapes", [((4, 2), (3, 2), (4,)), ((4,), (4,), (4,)), ((4, 2),) * 3])
def test_views_need_the_same_rows(shapes):
    with pytest.raises(ValueError, match=r"with weights \[n\], got shapes"):
        paired_rows(*map(jnp.ones, shapes))
