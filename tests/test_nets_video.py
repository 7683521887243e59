import jax
import jax.numpy as jnp
import numpy as np
import pytest
from encoders import OUTPUTS, RNG, VIDEO, draw, lengthen, quick
from flax import nnx
from problems import assert_close

from metajax import nets


def make(rngs):
    image = nets.ResNet12(4, channels=1, widths=(3,), rngs=rngs)
    return nets.Video(image, nets.TemporalConv(4, OUTPUTS, width=4, blocks=1, rngs=rngs))


def test_statistics_are_over_valid_frames_of_the_reference():
    plain, params = draw(make)
    apply = quick(plain)
    moved = VIDEO._replace(value=VIDEO.value.at[1].add(RNG.normal(size=(3, 4, 4, 1))))
    reference = jnp.array([True, False])
    first = apply(params, VIDEO, reference=reference)[0]
    assert_close(apply(params, moved, reference=reference)[0], first)
    assert_close(apply(params, VIDEO.value[:1])[0], first)
    of_all = apply(params, VIDEO)[0]
    assert not np.allclose(apply(params, moved)[0], of_all)
    assert_close(apply(params, lengthen(VIDEO))[0], of_all)


def test_widths_that_differ_are_refused():
    def build():
        image = nets.Conv4(4, rngs=nnx.Rngs(0))
        return nets.Video(image, nets.GRU(2, 3, rngs=nnx.Rngs(0)))

    with pytest.raises(ValueError, match=r"image gives 4 features and sequence.inputs=2"):
        jax.eval_shape(build)
