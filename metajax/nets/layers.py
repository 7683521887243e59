"""Convolution and pooling that stay fast when every task has weights of its own."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from metajax._checked import checked
from metajax.types import Array, Size


@checked
class Conv(nnx.Module):
    """A 3x3 convolution without a bias, zero-padded ("SAME"), as shifts and a matrix product.

    Under `vmap` over weights that differ from task to task, `lax.conv` becomes a grouped
    convolution, which XLA lowers badly on a CPU. Shifted copies and one matrix product stay fast.
    Their cost is memory traffic, so there are two ways. `in_one_pass` multiplies `patches` of all
    nine neighbours. `in_two_passes` shifts three times before the product and three times after
    it, and writes 3 (inputs + outputs) numbers for each place instead of 9 inputs. It is used on a
    CPU where it writes less, because it was measured to be faster there; see docs/performance.md.

    Args:
        inputs: channels of the input.
        outputs: channels of the output.
        stride: 1 or more.
        rngs: for the weights, which are He-normal.

    >>> Conv(1, 4, stride=2, rngs=nnx.Rngs(0))(jnp.ones((2, 28, 28, 1))).shape
    (2, 14, 14, 4)
    """

    def __init__(self, inputs: Size, outputs: Size, *, stride: Size = 1, rngs: nnx.Rngs):
        init = nnx.initializers.he_normal()
        self.kernel = nnx.Param(init(rngs.params(), (3, 3, inputs, outputs)))
        self.stride = stride

    def __call__(self, x: Array) -> Array:
        """Convolves images.

        Args:
            x: float[n, height, width, inputs].

        Returns:
            [n, ⌈height / stride⌉, ⌈width / stride⌉, outputs].

        Raises:
            ValueError: integers, such as the raw pixels of an image, or another number of channels.
        """
        check_scaled(x, "Images", 255)
        kernel = self.kernel[...]
        inputs, outputs = kernel.shape[2:]
        check_channels("Conv", x, inputs, 4)
        if jax.default_backend() == "cpu" and self.stride == 1 and outputs < 2 * inputs:
            return in_two_passes(x, kernel)
        return in_one_pass(x, kernel, self.stride)


def check_scaled(x: Array, what: str, scale: int) -> None:
    """Checks that raw data have been scaled to floats; nothing guesses a scale from the dtype.

    Args:
        x: inputs of a net.
        what: what they are, for the message.
        scale: the scale that fits the usual integers, for the message.

    Raises:
        ValueError: integers.
    """
    if jnp.issubdtype(x.dtype, jnp.integer):
        raise ValueError(
            f"{what} must be floats, got {x.dtype}{list(x.shape)}; divide them by {scale}, or "
            "declare the scale where the data set is made, such as "
            f"metajax.data.dataset(x, y, scale={scale})."
        )


def check_channels(layer: str, x: Array, channels: int, axes: int | None = None) -> None:
    """Checks the last axis of the input of a layer. Reshapes and broadcasts would hide a mistake.

    Args:
        layer: its name, for the message.
        x: its input.
        channels: the number that the layer was made for.
        axes: the number of axes that the input must have; None checks only the last one.

    Raises:
        ValueError: another number of channels or axes.
    """
    if x.ndim == 0 or x.shape[-1] != channels or axes not in (None, x.ndim):
        places = "..." if axes is None else ", ".join(["n", "height", "width"][: axes - 1])
        remedy = "make the layer with the number of channels of its input, which is the last axis"
        if axes == x.ndim + 1 and x.shape[-1] == channels:
            remedy = "a single image needs a leading axis, x[None]"
        elif axes == x.ndim + 1 and channels == 1:
            remedy = "grey images need an axis of one channel, x[..., None]"
        elif axes == x.ndim + 2 and channels == 1:
            remedy = (
                "a single grey image needs a leading axis and one of channels, x[None, ..., None]"
            )
        raise ValueError(
            f"{layer} was made for inputs [{places}, {channels}], got shape {list(x.shape)}; "
            f"{remedy}."
        )


@checked
def in_one_pass(x: Array, kernel: Array, stride: int = 1) -> Array:
    """A 3x3 convolution as one product of all nine neighbours and the kernel.

    Args:
        x: [n, height, width, inputs].
        kernel: [3, 3, inputs, outputs].
        stride: 1 or more.

    Returns:
        [n, ⌈height / stride⌉, ⌈width / stride⌉, outputs].
    """
    neighbours = patches(x, stride)
    inputs, outputs = kernel.shape[2:]
    product = neighbours.reshape(-1, 9 * inputs) @ kernel.reshape(-1, outputs)
    return product.reshape(*neighbours.shape[:3], -1)


@checked
def in_two_passes(x: Array, kernel: Array) -> Array:
    """A 3x3 convolution of stride 1 as shifts along the width, a product, shifts along the height.

    The product has the three columns of neighbours as inputs and gives the terms of the three rows
    of the kernel; their sum is taken over the row above, the own row and the row below.

    Args:
        x: [n, height, width, inputs].
        kernel: [3, 3, inputs, outputs].

    Returns:
        [n, height, width, outputs].
    """
    n, height, width, inputs = x.shape
    x = jnp.pad(x, ((0, 0), (0, 0), (1, 1), (0, 0)))
    across = jnp.concatenate([x[:, :, column : column + width] for column in range(3)], axis=-1)
    kernel = kernel.transpose(1, 2, 0, 3).reshape(3 * inputs, -1)
    narrow = jnp.promote_types(x.dtype, kernel.dtype)
    wide = jnp.promote_types(narrow, jnp.float32)  # for the sum of the three terms
    product = jnp.matmul(across.reshape(-1, 3 * inputs), kernel, preferred_element_type=wide)
    rows = product.reshape(n, height, width, 3, -1)
    above = jnp.pad(rows[:, :-1, :, 0], ((0, 0), (1, 0), (0, 0), (0, 0)))
    below = jnp.pad(rows[:, 1:, :, 2], ((0, 0), (0, 1), (0, 0), (0, 0)))
    return (above + rows[:, :, :, 1] + below).astype(narrow)


@checked
def patches(x: Array, stride: int = 1) -> Array:
    """The 3x3 neighbourhood of each pixel, zero-padded as "SAME" of `jax.lax.conv` is.

    With stride 2 and an even size, "SAME" pads only after the last pixel, so that the windows are
    centred on the pixels 1, 3, ….

    Args:
        x: [n, height, width, channels].
        stride: 1 or more.

    Returns:
        [n, ⌈height / stride⌉, ⌈width / stride⌉, 9 channels], in the order row, column, channel.

    >>> patches(jnp.ones((1, 4, 4, 2)), stride=2).shape
    (1, 2, 2, 18)
    """
    rows, top, bottom = _padding(x.shape[1], stride)
    columns, left, right = _padding(x.shape[2], stride)
    tall = (rows - 1) * stride + 3
    wide = (columns - 1) * stride + 3
    x = jnp.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    across = [slice(column, column + wide - 2, stride) for column in range(3)]
    down = [slice(row, row + tall - 2, stride) for row in range(3)]
    if stride == 1:
        # Along one axis after the other: the same copies in fewer operations, which compile faster.
        x = jnp.concatenate([x[:, :, column] for column in across], axis=-1)
        return jnp.concatenate([x[:, row] for row in down], axis=-1)
    return jnp.concatenate([x[:, row, column] for row in down for column in across], axis=-1)


def _padding(size: int, stride: int) -> tuple[int, int, int]:
    """(number of windows along an axis, zeros before it, zeros after it), as "SAME" has it."""
    windows = -(-size // stride)
    covered = (windows - 1) * stride + 3
    before = max(covered - size, 0) // 2
    after = max(covered - size - before, 0)
    return windows, before, after


@checked
def max_pool(x: Array) -> Array:
    """The maximum of 2x2 windows. The first of equal maxima receives the gradient.

    Values are compared with each other, never with their maximum: under rematerialisation XLA may
    round the two differently, and a derivative masked by `x == max` then silently loses windows.

    Args:
        x: [n, height, width, channels].

    Returns:
        [n, ⌊height / 2⌋, ⌊width / 2⌋, channels].

    >>> max_pool(jnp.arange(16.0).reshape(1, 4, 4, 1))[0, :, :, 0].tolist()
    [[5.0, 7.0], [13.0, 15.0]]
    """
    images, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    x = x.reshape(images, height // 2, 2, width // 2, 2, channels)
    x = _larger(x[:, :, 0], x[:, :, 1])
    return _larger(x[:, :, :, 0], x[:, :, :, 1])


def _larger(first: Array, second: Array) -> Array:
    """The larger of two values, or NaN where either is NaN."""
    return jnp.where((first >= second) | jnp.isnan(first), first, second)
