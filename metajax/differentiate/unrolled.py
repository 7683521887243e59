"""Strategies that differentiate the steps of the inner loop by ordinary reverse or forward mode."""

from __future__ import annotations

import jax

from metajax._checked import checked
from metajax.differentiate.strategies import Inner, Strategy, descend, result, solve_late
from metajax.types import Array, Count, PyTree, Size


@checked
def unroll(*, remat: Count = 0) -> Strategy:
    """Exact derivatives through every step. Memory grows with the number of steps.

    Args:
        remat: how much the backward pass computes again. 0 stores everything. 1 stores the fast
            weights and the state of the optimizer of every step. r > 1 stores about r K^(1/r) of
            them for K steps, and runs each step about r times more (recursive checkpointing).

    Raises:
        ValueError: remat below 0.

    Source: Finn, Abbeel and Levine 2017, arXiv 1703.03400; recursive checkpointing, Chen et al.
    2016, arXiv 1604.06174.
    """

    def solve(inner: Inner, keys: Array) -> PyTree:
        return result(inner, descend(jax.grad(inner.loss), inner, keys, remat=remat))

    return Strategy(solve)


@checked
def first_order() -> Strategy:
    """Treats the inner gradients as constants: no second derivatives, little memory, biased.

    With plain gradient descent, the derivative of the adapted weights with respect to their start
    is then the identity (FOMAML). What the optimizer itself does with a gradient, such as
    multiplying it by a learned step size, is still differentiated.

    Source: Finn, Abbeel and Levine 2017, arXiv 1703.03400, section 5.2.
    """

    def solve(inner: Inner, keys: Array) -> PyTree:
        def gradient(fast: PyTree, inputs: PyTree, key: Array) -> PyTree:
            return jax.lax.stop_gradient(jax.grad(inner.loss)(fast, inputs, key))

        return result(inner, descend(gradient, inner, keys))

    return Strategy(solve, through_optimizer=False)


@checked
def truncated(last: Size) -> Strategy:
    """Differentiates the last steps only. It takes the memory of `last` steps, and is biased.

    The optimizer's state at the cut is a constant. The start keeps a gradient, because the steps
    before the cut count as the identity. Other meta-parameters get the part of their gradient that
    comes from the last steps. With `last` equal to the number of steps this is `unroll()`.

    Args:
        last: number of steps to differentiate.

    Raises:
        ValueError: last below 1; on adaptation, more than there are steps.

    Source: Shaban et al. 2019, arXiv 1810.10667.
    """

    def solve(inner: Inner, keys: Array) -> PyTree:
        return solve_late(jax.grad(inner.loss), inner, keys, last)

    return Strategy(solve)
