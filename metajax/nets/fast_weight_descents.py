"""Fast weights that descend: by gradients, and by orthogonal steps."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metajax._checked import checked
from metajax.nets.fast_weight_rules import (
    FastRule,
    Tokens,
    Weights,
    kept_since_start,
    kept_within,
    read,
)
from metajax.types import Array, Size


class DescentState(NamedTuple):
    """Fast weights that descend.

    Attributes:
        base: the weights at the start of the chunk, where gradients are taken.
        weights: the weights now.
        momentum: the sum of past gradients, like the weights.
    """

    base: Weights
    weights: Weights
    momentum: Weights


@checked
def descent(*, momentum: bool = False, exact: bool = True) -> FastRule:
    """Gradient descent on ½|f(k) - v|², with the gradients of a chunk at the weights of its start.

    Mₜ = βₜ Mₜ₋₁ + ηₜ ∇ℓₜ(W at the start of the chunk),  Wₜ = αₜ Wₜ₋₁ - Mₜ,  oₜ = f(qₜ; Wₜ)

    with the loss ℓₜ of token t, the share α of the weights and β of the momentum that stays, and
    β = 0 without momentum. The memory f is a matrix or an MLP of any depth.

    Args:
        momentum: whether there is momentum.
        exact: whether derivatives pass through the inner gradients ∇ℓ, as in MAML. False holds
            them constant, as in first-order MAML. Projections to keys and values, which only these
            gradients read, then stay as they are.

    Source: Sun et al. 2024, arXiv 2407.04620, for the descent and its dual form; Behrouz, Zhong and
    Mirrokni 2025, arXiv 2501.00663, for decay and momentum.
    """

    def start(weights: Weights) -> DescentState:
        return DescentState(weights, weights, jax.tree.map(jnp.zeros_like, weights))

    def by_token(state: DescentState, tokens: Tokens) -> tuple[Array, DescentState]:
        def step(carry: tuple[Weights, Weights], token: Any) -> tuple[Any, Array]:
            (query, rate, valid, keep, beta), of_token = token
            weights, before = carry
            gradient = tuple(jnp.outer(error, entry) for error, entry in of_token)
            moved = tuple(
                beta * old + rate * one for old, one in zip(before, gradient, strict=True)
            )
            changed = tuple(
                keep * one - valid * move for one, move in zip(weights, moved, strict=True)
            )
            return (changed, moved), read(changed, query[None])[0]

        ones = jnp.ones_like(tokens.rate)
        keep = ones if tokens.keep is None else tokens.keep
        beta = 0 * ones if tokens.momentum is None else tokens.momentum
        rows = (tokens.query, tokens.rate, tokens.valid.astype(ones.dtype), keep, beta)
        carry = state.weights, state.momentum
        (weights, moved), outputs = jax.lax.scan(
            step, carry, (rows, tuple(gradients_of(state.base, tokens, exact)))
        )
        return outputs, DescentState(state.base, weights, moved if momentum else state.momentum)

    def at_once(state: DescentState, tokens: Tokens) -> tuple[Array, DescentState]:
        of_keep = kept_within(tokens.keep, tokens.rate)
        of_start = kept_since_start(tokens.keep, tokens.rate)
        if tokens.momentum is None:
            of_token, of_momentum = of_keep, None
        else:
            active = tokens.valid.astype(tokens.rate.dtype)
            of_keep = of_keep * active[None]
            of_beta = kept_within(tokens.momentum, tokens.rate)
            beta_since_start = kept_since_start(tokens.momentum, tokens.rate)
            of_token = of_keep @ of_beta
            of_momentum = of_keep @ beta_since_start
        x = tokens.query
        weights, moved = [], []
        parts = zip(
            state.weights, state.momentum, gradients_of(state.base, tokens, exact), strict=True
        )
        for index, (matrix, before, (errors, inputs)) in enumerate(parts):
            if index:
                x = jax.nn.gelu(x)
            steps = tokens.rate[:, None] * errors
            output = of_start[:, None] * (x @ matrix.T) - (of_token * (x @ inputs.T)) @ steps
            after = of_start[-1] * matrix - (of_token[-1][:, None] * steps).T @ inputs
            if of_momentum is not None:
                output -= of_momentum[:, None] * (x @ before.T)
                after -= of_momentum[-1] * before
                before = beta_since_start[-1] * before
                before += (of_beta[-1][:, None] * steps).T @ inputs
            x = output
            weights.append(after)
            moved.append(before)
        return x, DescentState(state.base, tuple(weights), tuple(moved))

    def finish(state: DescentState) -> DescentState:
        return state._replace(base=state.weights)

    return FastRule(start, by_token, at_once, finish, False, momentum, first_rate=0.1)


class OrthogonalState(NamedTuple):
    """Fast weights whose steps are orthogonal.

    Attributes:
        weights: the weights of the whole chunk.
        momentum: the sum of past gradients, like the weights.
        gradient: the sum of the gradients of the chunk so far, times their rates.
        sums: of the chunk so far: "rate" is the sum of the rates, "keep" and "beta" are
            products of the shares that stay.
    """

    weights: Weights
    momentum: Weights
    gradient: Weights
    sums: dict[str, Array]


@checked
def orthogonal_descent(
    *, momentum: bool = False, exact: bool = True, iterations: Size = 5
) -> FastRule:
    """One step for each chunk, by an orthogonal matrix near its gradient, as Muon takes it.

    G = Σₜ ηₜ ∇ℓₜ(W),  M ← β M + G,  W ← α W - (Σₜ ηₜ) orthogonal(M),  oₜ = f(qₜ; W)

    with ℓₜ as in `descent`, and α and β the products of those of the tokens. The outputs of a chunk
    read the weights of its start, which have learned from the chunks before. LaCT differs in the
    loss (-f(k)·v), the memory (SwiGLU), and in that it keeps the length of the weights. Where M is
    zero, nothing changes.

    Args:
        momentum: whether there is momentum; without it, β = 0.
        exact: as in `descent`.
        iterations: of Newton and Schulz. Singular values end between about 0.7 and 1.2.

    Source: Zhang et al. 2025, arXiv 2505.23884; the iteration as in Jordan et al. 2024, Muon,
    kellerjordan.github.io/posts/muon.
    """

    def start(weights: Weights) -> OrthogonalState:
        none = jax.tree.map(jnp.zeros_like, weights)
        zero = jnp.zeros_like(weights[0][0, 0])
        return OrthogonalState(
            weights, none, none, {"rate": zero, "keep": zero + 1, "beta": zero + 1}
        )

    def add(state: OrthogonalState, tokens: Tokens, gradient: Weights) -> OrthogonalState:
        sums = dict(state.sums, rate=state.sums["rate"] + tokens.rate.sum())
        if tokens.keep is not None:
            sums["keep"] *= tokens.keep.prod()
        if tokens.momentum is not None:
            sums["beta"] *= tokens.momentum.prod()
        return state._replace(gradient=gradient, sums=sums)

    def by_token(state: OrthogonalState, tokens: Tokens) -> tuple[Array, OrthogonalState]:
        def step(gradient: Weights, token: Any) -> tuple[Weights, Array]:
            query, rate, of_token = token
            of_token = tuple(rate * jnp.outer(error, entry) for error, entry in of_token)
            gradient = tuple(old + one for old, one in zip(gradient, of_token, strict=True))
            return gradient, read(state.weights, query[None])[0]

        rows = tokens.query, tokens.rate, tuple(gradients_of(state.weights, tokens, exact))
        gradient, outputs = jax.lax.scan(step, state.gradient, rows)
        return outputs, add(state, tokens, gradient)

    def at_once(state: OrthogonalState, tokens: Tokens) -> tuple[Array, OrthogonalState]:
        parts = zip(state.gradient, gradients_of(state.weights, tokens, exact), strict=True)
        gradient = tuple(
            old + (tokens.rate[:, None] * errors).T @ inputs for old, (errors, inputs) in parts
        )
        return read(state.weights, tokens.query), add(state, tokens, gradient)

    def finish(state: OrthogonalState) -> OrthogonalState:
        sums, moved = state.sums, state.gradient
        if momentum:
            parts = zip(state.momentum, moved, strict=True)
            moved = tuple(sums["beta"] * before + one for before, one in parts)
        weights = tuple(
            sums["keep"] * matrix - sums["rate"] * orthogonal(move, iterations)
            for matrix, move in zip(state.weights, moved, strict=True)
        )
        return start(weights)._replace(momentum=moved if momentum else state.momentum)

    return FastRule(start, by_token, at_once, finish, False, momentum, first_rate=0.02)


def gradients_of(base: Weights, tokens: Tokens, exact: bool) -> list[tuple[Array, Array]]:
    """(errors [c, outputs], inputs [c, inputs]) of each matrix of a memory.

    The gradient of the loss of token i by the matrix is errors[i]·inputs[i]ᵀ.
    """
    inputs, pulls = [tokens.key], []
    for matrix in base[:-1]:
        activated, pull = jax.vjp(jax.nn.gelu, inputs[-1] @ matrix.T)
        inputs.append(activated)
        pulls.append(pull)
    errors = [inputs[-1] @ base[-1].T - tokens.value]
    for matrix, pull in zip(base[:0:-1], pulls[::-1], strict=True):
        errors.append(pull(errors[-1] @ matrix)[0])
    found = list(zip(errors[::-1], inputs, strict=True))
    return found if exact else jax.lax.stop_gradient(found)


def orthogonal(matrix: Array, iterations: int) -> Array:
    """An orthogonal matrix near one, by Newton and Schulz's iteration of degree five."""
    wide = matrix.shape[0] <= matrix.shape[1]
    x = matrix if wide else matrix.T
    square = (x**2).sum()
    is_zero = square < 1e-12  # it has no direction, and the derivative of its direction is infinite
    x = jnp.where(is_zero, 0, x) / jnp.sqrt(jnp.where(is_zero, 1, square))
    for _ in range(iterations):
        square = x @ x.T
        x = 3.4445 * x + (-4.775 * square + 2.0315 * square @ square) @ x
    return x if wide else x.T
