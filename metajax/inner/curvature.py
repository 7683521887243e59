"""A learned rule that multiplies gradients by matrices."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import optax

from metajax._checked import checked
from metajax._checks import shapes
from metajax.inner.rules import Rule
from metajax.types import Array, Params, PyTree


@checked
def learned_curvature(rate: float) -> Rule:
    """Gradient descent with a learned matrix for each axis of every leaf: θ' = θ - rate · MC(∇L).

    MC(G) = G ×₁ M₁ ×₂ M₂ ×₃ M₃ multiplies the gradient of a kernel [..., in, out] along its input
    channels, its output channels, and all axes before these taken together. That of a bias has one
    matrix. All matrices start at the identity, which is `optax.sgd(rate)`.

    Args:
        rate: step size.

    Raises:
        ValueError: on adaptation, matrices that do not fit the fast weights.

    Source: Park and Oliva 2019, arXiv 1902.03356, equation 8.
    """

    @checked
    def init(params: Params, key: Array) -> PyTree:
        return jax.tree.map(_identities, params.fast)

    def optimizer(matrices: PyTree) -> optax.GradientTransformation:
        def update(
            gradients: PyTree, state: tuple, params: PyTree | None = None
        ) -> tuple[PyTree, tuple]:
            expected = shapes(
                jax.eval_shape(lambda fast: jax.tree.map(_identities, fast), gradients)
            )
            if shapes(matrices) != expected:
                raise ValueError(
                    f"The learned matrices have shapes {shapes(matrices)}, the fast weights need "
                    f"{expected}; adapt weights of the same shapes as those that `init` got."
                )
            step = lambda gradient, of_axes: -rate * _multiply(gradient, of_axes)
            return jax.tree.map(step, gradients, matrices), state

        return optax.GradientTransformation(lambda params: (), update)

    return Rule(init, optimizer)


def _axes(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The sizes of the axes that have a matrix: those before the last two count as one."""
    return shape if len(shape) < 3 else (math.prod(shape[:-2]), *shape[-2:])


def _identities(leaf: Array) -> list[Array]:
    """An identity matrix for each axis of a leaf."""
    return [jnp.eye(size, dtype=leaf.dtype) for size in _axes(leaf.shape)]


def _multiply(gradient: Array, matrices: list[Array]) -> Array:
    """The gradient times a matrix along each axis."""
    product = gradient.reshape(_axes(gradient.shape))
    for axis, matrix in enumerate(matrices):
        product = jnp.moveaxis(jnp.tensordot(matrix, product, (1, axis)), 0, axis)
    return product.reshape(gradient.shape)
