import jax
import jax.numpy as jnp
import numpy as np
import pytest
from encoders import quick
from flax import nnx
from jax.test_util import check_grads

from metajax import nets

RNG = np.random.default_rng(0)


def native(x, kernel, stride=1):
    dimensions = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), "SAME", dimension_numbers=dimensions
    )


def with_patches(x, kernel, stride):
    return nets.patches(x, stride) @ kernel.reshape(-1, kernel.shape[-1])


@pytest.mark.parametrize("stride", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(6, 6), (7, 5), (4, 8)])
def test_patches_times_matrix_is_convolution(stride, size):
    x = jnp.asarray(RNG.normal(size=(2, *size, 3)))
    kernel = jnp.asarray(RNG.normal(size=(3, 3, 3, 4)))
    conv = nets.Conv(3, 4, stride=stride, rngs=nnx.Rngs(0))
    conv.kernel.set_value(kernel)

    def all_ways(x):
        found = [conv(x), nets.in_one_pass(x, kernel, stride), with_patches(x, kernel, stride)]
        if stride == 1:
            found.append(nets.in_two_passes(x, kernel))
        return found, native(x, kernel, stride)

    found, expected = quick(all_ways)(x)
    for y in found:
        np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolution_has_derivatives_of_second_order(stride):
    x = jnp.asarray(RNG.normal(size=(2, 4, 5, 2)))
    kernel = jnp.asarray(RNG.normal(size=(3, 3, 2, 3)))
    ways = [lambda x, kernel: nets.in_one_pass(x, kernel, stride)]
    if stride == 1:
        ways.append(nets.in_two_passes)
    for convolve in ways:
        check_grads(jax.jit(convolve), (x, kernel), order=2, modes=("fwd", "rev"))


def test_convolution_inside_a_second_order_step_has_the_gradients_of_lax_conv():
    x = jnp.asarray(RNG.normal(size=(3, 2, 6, 6, 2)))
    kernel = jnp.asarray(RNG.normal(size=(3, 3, 2, 4)))

    def meta_loss(kernel, convolve):
        def one(x):
            loss = lambda kernel: (jnp.tanh(convolve(x, kernel, 2)) ** 2).mean()
            return loss(kernel - 0.1 * jax.grad(loss)(kernel))

        return jax.vmap(one)(x).sum()

    gradient = quick(jax.grad(meta_loss), static_argnums=1)
    ours, expected = (gradient(kernel, convolve) for convolve in (nets.in_one_pass, native))
    np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("size", [(4, 4), (5, 7)])
def test_max_pool(size):
    x = jnp.asarray(RNG.normal(size=(2, *size, 3)))
    expected = nnx.max_pool(x, (2, 2), (2, 2))
    np.testing.assert_array_equal(nets.max_pool(x), expected)
    check_grads(jax.jit(nets.max_pool), (x,), order=2, modes=("fwd", "rev"))


def test_the_first_of_equal_values_has_the_derivative_of_max_pool():
    gradient = jax.grad(lambda x: nets.max_pool(x).sum())(jnp.ones((1, 2, 2, 1)))
    np.testing.assert_array_equal(gradient[0, :, :, 0], [[1.0, 0.0], [0.0, 0.0]])


def test_max_pool_keeps_nan():
    """A task that is not finite must not become finite."""
    windows = jnp.where(jnp.eye(4, dtype=bool), jnp.nan, 1.0).reshape(4, 2, 2, 1)
    assert jnp.isnan(nets.max_pool(windows)).all()


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.int32])
def test_integers_are_refused_because_nothing_scales_them(dtype):
    x = jnp.zeros((1, 4, 4, 1), dtype)
    message = rf"Images must be floats, got {jnp.dtype(dtype)}\[1, 4, 4, 1\]; divide them by 255"
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: nets.Conv(1, 2, rngs=nnx.Rngs(0))(x))
