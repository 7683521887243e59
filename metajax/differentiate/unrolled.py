"""Strategies that follow the steps of the inner loop by ordinary differentiation."""

from __future__ import annotations

import jax

from metajax._checks import check_count
from metajax.differentiate.strategies import Inner, Strategy, descend, descend_late, end
from metajax.types import Array, PyTree


def unroll(*, remat: int = 0) -> Strategy:
    """Exact reverse or forward mode through every step. Memory grows with the number of steps.

    Args:
        remat: how much to compute again in the backward pass. 0 stores everything; 1 stores the fast weights and the
            optimizer's state of every step; r > 1 stores about r K^(1/r) of them for K steps, and runs each step about
            r times more (recursive checkpointing, Chen et al. 2016, arXiv 1604.06174).

    Raises:
        ValueError: remat below 0.

    Source: Finn, Abbeel and Levine 2017, arXiv 1703.03400.
    """
    check_count("remat", remat, 0)
    return Strategy(
        lambda inner, keys: end(inner, descend(jax.grad(inner.loss), inner, keys, remat=remat))
    )


def first_order() -> Strategy:
    """Takes the inner gradients for constants: no second derivatives, little memory, biased.

    With plain descent the derivative of the adapted weights with respect to their start is the identity (FOMAML, Finn
    et al. 2017, section 5.2). What the optimizer itself does, such as learned step sizes, is still differentiated.
    """

    def solve(inner: Inner, keys: Array) -> PyTree:
        return end(
            inner,
            descend(
                lambda *inputs: jax.lax.stop_gradient(jax.grad(inner.loss)(*inputs)), inner, keys
            ),
        )

    return Strategy(solve, through_optimizer=False)


def truncated(last: int) -> Strategy:
    """Differentiates the last steps only: memory of `last` steps, biased.

    Before the cut the start passes as the identity, so that it keeps a gradient; the other meta-parameters get the part
    that the last steps contribute. With `last` equal to the number of steps it is `unroll()`.

    Args:
        last: number of steps to differentiate.

    Raises:
        ValueError: last below 1; on adaptation, more than there are steps.

    Source: Shaban et al. 2019, arXiv 1810.10667.
    """
    check_count("last", last, 1)
    return Strategy(lambda inner, keys: descend_late(jax.grad(inner.loss), inner, keys, last))
