import jax
import jax.numpy as jnp
import numpy as np
import pytest
from encoders import IMAGES, OUTPUTS, draw, quick, shape_of
from flax import nnx
from problems import assert_close

from metajax import nets

X = jnp.asarray(np.random.default_rng(0).normal(size=(3, 16, 16, 1)), jnp.float32)


@pytest.mark.filterwarnings("ignore:TaskNorm normalises one example")
@pytest.mark.parametrize("norm", [nets.TaskNorm, nets.FrozenNorm, nets.GroupNorm, nets.NoNorm])
@pytest.mark.parametrize("pool", [False, True])
def test_conv4_in_all_policies(norm, pool):
    net = nets.Conv4(5, width=16, pool=pool, size=16, norm=norm, rngs=nnx.Rngs(0))
    apply, params = nets.functional(net)

    def run(params):
        loss = lambda params: (apply(params, X) ** 2).sum()
        alone = jax.lax.map(lambda row: apply(params, row[None])[0], X)
        first = apply(params, X, reference=jnp.array([True, False, False]))[:1]
        return apply(params, X), alone, first, jax.grad(loss)(params)

    logits, alone, first, gradient = quick(run)(params)
    np.testing.assert_allclose(first, alone[:1], rtol=1e-4, atol=1e-5)
    assert logits.shape == (3, 5)
    depends_on_others = not np.allclose(alone, logits, atol=1e-4)
    assert depends_on_others == (norm is nets.TaskNorm)
    assert all(bool((leaf != 0).any()) for leaf in jax.tree.leaves(gradient))
    embed = lambda params, x: apply(params, x, method="embed")
    assert jax.eval_shape(embed, params, X).shape == (3, 16)
    halves = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), (params, X))
    assert jax.eval_shape(apply, *halves).dtype == jnp.bfloat16


def test_the_mean_of_the_tokens_of_conv4_is_its_output():
    apply, params = draw(lambda rngs: nets.Conv4(OUTPUTS, channels=2, width=4, rngs=rngs))

    def run(params):
        tokens, valid = apply(params, IMAGES, method="tokens")
        return tokens, valid, apply(params, IMAGES)

    tokens, valid, output = quick(run)(params)
    assert valid.all() and valid.shape == tokens.shape[:2]
    assert_close(tokens.mean(1), output)


def test_resnet_has_the_size_that_is_published():
    _, shapes = shape_of(lambda rngs: nets.ResNet12(64, rngs=rngs))
    widths = [(3, 64), (64, 160), (160, 320), (320, 640)]
    convolutions = sum(9 * a * b + 18 * b * b + a * b for a, b in widths)
    norms = 4 * 2 * (64 + 160 + 320 + 640)
    head = 641 * 64
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == convolutions + norms + head


PIXELS = jnp.zeros((1, 28, 28, 1), jnp.uint8)
RGB = jnp.zeros((1, 8, 8, 3))
REFUSED = {
    "size=12 is too small": lambda: nets.Conv4(5, pool=True, size=12, rngs=nnx.Rngs(0)),
    "take pool=False": lambda: nets.Conv4(3, pool=True, rngs=nnx.Rngs(0)).tokens(X),
    "too small for 4 poolings": lambda: nets.ResNet12(3, widths=(2,) * 4, rngs=nnx.Rngs(0))(RGB),
    r"Images must be floats, got uint8\[1, 28, 28, 1\]; divide .*scale=255": lambda: nets.Conv4(
        5, rngs=nnx.Rngs(0)
    )(PIXELS),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_does_not_fit_is_refused(message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(REFUSED[message])
