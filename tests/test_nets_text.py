import jax
import jax.numpy as jnp
import pytest
from encoders import TEXT, draw
from flax import nnx
from problems import assert_close

from metajax import nets


def make(rngs):
    return nets.Text(7, nets.GRU(2, 3, width=4, rngs=rngs), rngs=rngs)


def test_a_text_is_the_series_of_the_vectors_of_its_ids():
    apply, params = draw(make)
    series = apply(params, TEXT, method="series")
    assert series.length.tolist() == [4, 2, 0]
    assert_close(series.value, params.fast["embedding"][TEXT])


@pytest.mark.parametrize("x", [jnp.zeros((2, 3)), jnp.zeros(3, jnp.int32)])
def test_what_is_not_token_ids_is_refused(x):
    with pytest.raises(ValueError, match=r"must be token ids int\[n, t\], got"):
        jax.eval_shape(lambda: make(nnx.Rngs(0))(x))
