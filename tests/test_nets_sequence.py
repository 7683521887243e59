import jax
import jax.numpy as jnp
import numpy as np
import pytest
from encoders import OUTPUTS, RNG, SERIES, draw, lengthen, quick
from problems import assert_close

from metajax import nets
from metajax.nets.sequence import windows


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_windows_times_matrix_is_convolution(stride):
    kernel = jnp.asarray(RNG.normal(size=(3, 2, 4)))
    expected = jax.lax.conv_general_dilated(
        SERIES.value, kernel, (stride,), [(1, 1)], dimension_numbers=("NTC", "TIO", "NTC")
    )
    found = windows(SERIES.value, stride) @ kernel.reshape(6, 4)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_statistics_are_over_valid_steps_of_the_reference():
    plain, params = draw(lambda rngs: nets.TemporalConv(2, OUTPUTS, width=4, blocks=2, rngs=rngs))
    apply = quick(plain)
    moved = SERIES._replace(value=SERIES.value.at[1].add(RNG.normal(size=(6, 2))))
    reference = jnp.array([True, False, False])
    first = apply(params, SERIES, reference=reference)[0]
    assert_close(apply(params, moved, reference=reference)[0], first)
    assert_close(apply(params, SERIES.value[:1])[0], first)
    of_all = apply(params, SERIES)[0]
    assert not np.allclose(apply(params, moved)[0], of_all)
    assert_close(apply(params, lengthen(SERIES))[0], of_all)


@pytest.mark.parametrize(
    "make",
    [
        lambda rngs: nets.GRU(2, OUTPUTS, width=4, rngs=rngs),
        lambda rngs: nets.SequenceTransformer(2, OUTPUTS, width=4, layers=1, heads=2, rngs=rngs),
    ],
)
def test_eager_is_compiled(make):
    apply, params = draw(make)
    assert_close(apply(params, SERIES), quick(apply)(params, SERIES))
