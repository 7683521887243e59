"""Layers that are fast when every task has weights of its own, and normalisation as a declared policy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from metajax.types import Array


class Conv(nnx.Module):
    """3x3 convolution without a bias, zero-padded ("SAME"), as shifts and a product of matrices.

    Under `vmap` over weights that differ from task to task, `lax.conv` becomes a grouped convolution, which XLA lowers
    badly on a CPU; shifted copies and one product do not care. What is left is memory traffic, so there are two ways:
    `patches` of all nine neighbours times the kernel, or three shifts before the product and three after it, which
    write 3 (inputs + outputs) numbers a place instead of 9 inputs. The latter is taken where it was measured to be
    faster, on a CPU where it writes less; every other backend gets patches. docs/performance.md has the figures.

    Args:
        inputs: channels of the input.
        outputs: channels of the output.
        stride: 1 or more.
        rngs: for the weights, He-normal.
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1, rngs: nnx.Rngs):
        self.kernel = nnx.Param(
            nnx.initializers.he_normal()(rngs.params(), (3, 3, inputs, outputs))
        )
        self.stride = stride

    def __call__(self, x: Array) -> Array:
        """[n, height, width, inputs] -> [n, ⌈height / stride⌉, ⌈width / stride⌉, outputs]."""
        kernel = self.kernel[...]
        inputs, outputs = kernel.shape[2:]
        if jax.default_backend() == "cpu" and self.stride == 1 and outputs < 2 * inputs:
            return in_two_passes(x, kernel)
        return in_one_pass(x, kernel, self.stride)


def in_one_pass(x: Array, kernel: Array, stride: int = 1) -> Array:
    """All nine neighbours times the kernel."""
    neighbours = patches(x, stride)
    inputs, outputs = kernel.shape[2:]
    return (neighbours.reshape(-1, 9 * inputs) @ kernel.reshape(-1, outputs)).reshape(
        *neighbours.shape[:3], -1
    )


def in_two_passes(x: Array, kernel: Array) -> Array:
    """Neighbours across, times all rows of the kernel, and then the sum of what comes from above, here and below."""
    n, height, width, inputs = x.shape
    x = jnp.pad(x, ((0, 0), (0, 0), (1, 1), (0, 0)))
    across = jnp.concatenate([x[:, :, column : column + width] for column in range(3)], axis=-1)
    kernel = kernel.transpose(1, 2, 0, 3).reshape(3 * inputs, -1)
    narrow = jnp.promote_types(x.dtype, kernel.dtype)
    wide = jnp.promote_types(narrow, jnp.float32)  # for the sum of three
    product = jnp.matmul(across.reshape(-1, 3 * inputs), kernel, preferred_element_type=wide)
    rows = product.reshape(n, height, width, 3, -1)
    above = jnp.pad(rows[:, :-1, :, 0], ((0, 0), (1, 0), (0, 0), (0, 0)))
    below = jnp.pad(rows[:, 1:, :, 2], ((0, 0), (0, 1), (0, 0), (0, 0)))
    return (above + rows[:, :, :, 1] + below).astype(narrow)


def patches(x: Array, stride: int = 1) -> Array:
    """The 3x3 neighbourhood of each place: [n, h, w, c] -> [n, ⌈h/stride⌉, ⌈w/stride⌉, 9c], zero-padded as "SAME"."""
    height, width = x.shape[1:3]
    rows, columns = -(-height // stride), -(-width // stride)
    tall, wide = (rows - 1) * stride + 3, (columns - 1) * stride + 3
    before = max(tall - height, 0) // 2, max(wide - width, 0) // 2
    after = tall - height - before[0], wide - width - before[1]
    x = jnp.pad(x, ((0, 0), (before[0], max(after[0], 0)), (before[1], max(after[1], 0)), (0, 0)))
    across = [slice(column, column + wide - 2, stride) for column in range(3)]
    down = [slice(row, row + tall - 2, stride) for row in range(3)]
    if stride == 1:  # In two passes: the same copies in fewer operations, which compile faster.
        x = jnp.concatenate([x[:, :, column] for column in across], axis=-1)
        return jnp.concatenate([x[:, row] for row in down], axis=-1)
    return jnp.concatenate([x[:, row, column] for row in down for column in across], axis=-1)


def max_pool(x: Array) -> Array:
    """Maximum of 2x2 windows: [n, h, w, c] -> [n, ⌊h/2⌋, ⌊w/2⌋, c]. Of a tie the first has the derivative.

    Values are compared with each other and never with a maximum: under rematerialisation XLA may round the two
    differently, and a derivative masked by `x == max` then silently loses windows.
    """
    images, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2].reshape(
        images, height // 2, 2, width // 2, 2, channels
    )
    x = _larger(x[:, :, 0], x[:, :, 1])
    return _larger(x[:, :, :, 0], x[:, :, :, 1])


def _larger(first: Array, second: Array) -> Array:
    """The larger of two, or NaN where one is."""
    return jnp.where((first >= second) | jnp.isnan(first), first, second)
