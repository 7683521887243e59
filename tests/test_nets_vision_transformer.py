import jax
import jax.numpy as jnp
import pytest
from encoders import IMAGES
from flax import nnx

from metajax import nets


def make(patch):
    return nets.ViT(3, channels=2, patch=patch, width=4, layers=1, heads=2, rngs=nnx.Rngs(0))


def test_any_size_that_the_patch_divides():
    for height, places in ((8, 4), (12, 6)):
        x = jnp.zeros((2, height, 8, 2))
        tokens, valid = jax.eval_shape(lambda x: make(4).tokens(x), x)
        assert tokens.shape == (2, places, 3) and valid.shape == (2, places)


def test_images_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="patch=3 does not divide images of 8 x 8"):
        jax.eval_shape(lambda: make(3)(IMAGES))
    with pytest.raises(ValueError, match=r"Images must be floats, got uint8.*scale=255"):
        jax.eval_shape(lambda: make(4)(IMAGES.astype(jnp.uint8)))
