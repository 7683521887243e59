"""How derivatives pass through an inner solve: the values of `inner_loop(differentiate=...)`."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import optax

from metajax._types import Array, PyTree

Gradient = Callable[[PyTree, PyTree, Array], PyTree]
"""(fast, inputs, key) -> gradient of the inner loss; `inputs` is all else that it depends on."""


class Strategy(NamedTuple):
    """How to run the inner solve so that it has the derivatives that are wanted.

    Attributes:
        solve: (gradient, optimizer, fast, inputs, keys[steps]) -> fast. It gets the gradient and not a finished step,
            so that a strategy may give the gradient derivatives of its own.
        through_optimizer: whether derivatives pass through the optimizer's use of the gradient.
    """

    solve: Callable[[Gradient, optax.GradientTransformation, PyTree, PyTree, Array], PyTree]
    through_optimizer: bool


def unroll() -> Strategy:
    """Exact reverse or forward mode through every step. Memory grows with the number of steps.

    Source: Finn, Abbeel and Levine 2017, arXiv 1703.03400.
    """
    return Strategy(_descend, through_optimizer=True)


def first_order() -> Strategy:
    """Takes the inner gradients for constants: no second derivatives, little memory, biased.

    With plain descent the derivative of the adapted weights with respect to their start is the identity (FOMAML, Finn
    et al. 2017, section 5.2). What the optimizer itself does, such as learned step sizes, is still differentiated.
    """

    def solve(
        gradient: Gradient, optimizer: optax.GradientTransformation, fast: PyTree, inputs: PyTree, keys: Array
    ) -> PyTree:
        def constant(fast: PyTree, inputs: PyTree, key: Array) -> PyTree:
            return jax.lax.stop_gradient(gradient(fast, inputs, key))

        return _descend(constant, optimizer, fast, inputs, keys)

    return Strategy(solve, through_optimizer=False)


def _descend(
    gradient: Gradient, optimizer: optax.GradientTransformation, fast: PyTree, inputs: PyTree, keys: Array
) -> PyTree:
    def step(carry: tuple[PyTree, PyTree], key: Array) -> tuple[tuple[PyTree, PyTree], None]:
        fast, state = carry
        updates, state = optimizer.update(gradient(fast, inputs, key), state, fast)
        return (optax.apply_updates(fast, updates), state), None

    return jax.lax.scan(step, (fast, optimizer.init(fast)), keys)[0][0]
