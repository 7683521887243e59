"""How the fast weights of a layer learn from the tokens that it reads.

A rule is written twice. `by_token` changes the weights token by token, and reads as its paper's
equation does. `at_once` takes all tokens of a chunk in a few matrix products and never makes the
weights between two of them; it is the dual form, and equal up to rounding.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from metajax._checked import checked
from metajax._checks import check_positive
from metajax.types import Array, Size

Weights: TypeAlias = tuple[Array, ...]
"""Matrices [outputs, inputs] of a memory, with a gelu between two of them."""


class Tokens(NamedTuple):
    """What one head reads of a chunk of c tokens. Those that are not valid are not learned from.

    Attributes:
        query: [c, d], where the memory is read.
        key: [c, d], where a value is stored.
        value: [c, d], what is stored.
        rate: [c], the step size of each token, 0 or more, and 0 for those that are not valid.
        valid: bool[c].
        keep: [c], the share of the weights that stays at each token, from 0 to 1 and 1 for those
            that are not valid; None means all.
        momentum: [c], the share of the momentum that stays at each token; None means no momentum.
    """

    query: Array
    key: Array
    value: Array
    rate: Array
    valid: Array
    keep: Array | None = None
    momentum: Array | None = None


class FastRule(NamedTuple):
    """How fast weights learn from tokens.

    Attributes:
        start: (weights) -> state.
        by_token: (state, tokens) -> (outputs [c, d], state), for tokens within one chunk.
        at_once: the same in matrix products.
        finish: state -> state at the end of a chunk.
        linear: whether the memory must be one matrix.
        momentum: whether the rule has momentum.
        first_rate: where a learned step size starts, between 0 and 1.
    """

    start: Callable[[Weights], Any]
    by_token: Callable[[Any, Tokens], tuple[Array, Any]]
    at_once: Callable[[Any, Tokens], tuple[Array, Any]]
    finish: Callable[[Any], Any]
    linear: bool
    momentum: bool
    first_rate: float


def read(weights: Weights, x: Array) -> Array:
    """What a memory stores at x: Wₙ·gelu(… gelu(W₁·x)), [c, inputs] -> [c, outputs]."""
    *hidden, last = weights
    for matrix in hidden:
        x = jax.nn.gelu(x @ matrix.T)
    return x @ last.T


def same(state: Any) -> Any:
    """The state."""
    return state


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


@checked
def delta_rule() -> FastRule:
    """The delta rule: each token corrects what a linear memory stores at its key.

    Wₜ = αₜ Wₜ₋₁ + ηₜ (vₜ - αₜ Wₜ₋₁ kₜ) kₜᵀ,  oₜ = Wₜ qₜ

    It is descent with every gradient at the weights of the token before, after their decay. Keys of
    length 1 and rates of at most 1 keep it stable. The dual form solves one triangular system for
    each chunk.

    Source: Yang et al. 2024, arXiv 2406.06484; with decay, Yang, Kautz and Hatamizadeh 2024,
    arXiv 2412.06464.
    """

    def start(weights: Weights) -> Array:
        return weights[0]

    def by_token(weights: Array, tokens: Tokens) -> tuple[Array, Array]:
        def step(weights: Array, token: tuple[Array, ...]) -> tuple[Array, Array]:
            query, key, value, rate, keep = token
            weights = keep * weights
            weights += rate * jnp.outer(value - weights @ key, key)
            return weights, weights @ query

        keep = jnp.ones_like(tokens.rate) if tokens.keep is None else tokens.keep
        rows = tokens.query, tokens.key, tokens.value, tokens.rate, keep
        weights, outputs = jax.lax.scan(step, weights, rows)
        return outputs, weights

    def at_once(weights: Array, tokens: Tokens) -> tuple[Array, Array]:
        within = kept_within(tokens.keep, tokens.rate)
        since_start = kept_since_start(tokens.keep, tokens.rate)
        rate, start_share = tokens.rate[:, None], since_start[:, None]
        # (I + D T) corrections = D (V - start) with T the strictly lower part.
        earlier = jnp.tril(within * (tokens.key @ tokens.key.T), -1)
        system = jnp.eye(len(rate), dtype=earlier.dtype) + rate * earlier
        right = rate * (tokens.value - start_share * (tokens.key @ weights.T))
        corrections = jax.scipy.linalg.solve_triangular(
            system, right, lower=True, unit_diagonal=True
        )
        outputs = start_share * (tokens.query @ weights.T)
        outputs += (within * (tokens.query @ tokens.key.T)) @ corrections
        after = since_start[-1] * weights
        after += (within[-1][:, None] * corrections).T @ tokens.key
        return outputs, after

    return FastRule(start, by_token, at_once, same, True, False, first_rate=0.5)


class RidgeState(NamedTuple):
    """A ridge regression of values on keys.

    Attributes:
        start: the weights that it is pulled toward.
        keys: Σ ηᵢ kᵢ kᵢᵀ, [d, d].
        values: Σ ηᵢ (vᵢ - start kᵢ) kᵢᵀ, [outputs, d].
        keep: the share of both sums that stays at the end of the chunk.
    """

    start: Array
    keys: Array
    values: Array
    keep: Array


@checked
def ridge_rule(penalty: float = 1.0) -> FastRule:
    """Ridge regression of all values so far on their keys, in closed form.

    Wₜ = argmin_W Σ_{i≤t} γᵢ ηᵢ |W kᵢ - vᵢ|² + λ |W - W₀|²,  oₜ = Wₜ qₜ

    with γᵢ = 1 for the tokens of the chunk of t. At the end of each chunk, the γ of all tokens so
    far is multiplied by the product of the shares that its tokens keep. MesaNet has this decay at
    every token, and W₀ = 0. The dual form takes one Cholesky factor for the past and one of
    [c, c] for the chunk.

    Args:
        penalty: λ, above 0.

    Raises:
        ValueError: a penalty that is not above 0.

    Source: von Oswald et al. 2025, arXiv 2506.05233.
    """
    check_positive("penalty", penalty)

    def start(weights: Weights) -> RidgeState:
        (matrix,) = weights
        square = jnp.zeros((matrix.shape[1], matrix.shape[1]), matrix.dtype)
        return RidgeState(matrix, square, jnp.zeros_like(matrix), jnp.ones_like(matrix[0, 0]))

    def penalised(keys: Array) -> Array:
        return keys + penalty * jnp.eye(len(keys), dtype=keys.dtype)

    def kept(state: RidgeState, tokens: Tokens) -> Array:
        return state.keep if tokens.keep is None else state.keep * tokens.keep.prod()

    def by_token(state: RidgeState, tokens: Tokens) -> tuple[Array, RidgeState]:
        def step(sums: tuple[Array, Array], token: tuple[Array, ...]) -> tuple[Any, Array]:
            query, key, value, rate = token
            keys = sums[0] + rate * jnp.outer(key, key)
            values = sums[1] + rate * jnp.outer(value - state.start @ key, key)
            solution = jnp.linalg.solve(penalised(keys), query)
            return (keys, values), state.start @ query + values @ solution

        rows = tokens.query, tokens.key, tokens.value, tokens.rate
        (keys, values), outputs = jax.lax.scan(step, (state.keys, state.values), rows)
        return outputs, RidgeState(state.start, keys, values, kept(state, tokens))

    def at_once(state: RidgeState, tokens: Tokens) -> tuple[Array, RidgeState]:
        root = sqrt_or_zero(tokens.rate)[:, None]
        key = root * tokens.key
        value = root * (tokens.value - tokens.key @ state.start.T)
        factor = jax.scipy.linalg.cho_factor(penalised(state.keys), lower=True)
        of_key = jax.scipy.linalg.cho_solve(factor, key.T)  # [d, c]
        past = state.values @ of_key  # what the past predicts of each value, [outputs, c]
        # The lower factor of the covariance of the values whitens them in order, so that row i
        # knows the tokens before i only.
        covariance = jnp.eye(len(key), dtype=key.dtype) + key @ of_key
        lower = jnp.linalg.cholesky(covariance)
        whiten = functools.partial(jax.scipy.linalg.solve_triangular, lower, lower=True)
        surprise = whiten(value - past.T)  # [c, outputs]
        reach = jnp.tril(whiten(of_key.T @ tokens.query.T).T)  # [query, token]
        of_query = jax.scipy.linalg.cho_solve(factor, tokens.query.T)
        outputs = tokens.query @ state.start.T + (state.values @ of_query).T + reach @ surprise
        keys = state.keys + key.T @ key
        values = state.values + value.T @ key
        return outputs, RidgeState(state.start, keys, values, kept(state, tokens))

    def finish(state: RidgeState) -> RidgeState:
        keys, values = state.keep * state.keys, state.keep * state.values
        return RidgeState(state.start, keys, values, jnp.ones_like(state.keep))

    return FastRule(start, by_token, at_once, finish, True, False, first_rate=0.5)


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


def kept_within(share: Array | None, like: Array) -> Array:
    """The products of shares i + 1 to t at [t, i] for i ≤ t, and 0 above the diagonal."""
    lower = jnp.tril(jnp.ones((len(like), len(like)), like.dtype))
    if share is None:
        return lower
    total = jnp.cumsum(_safe_log(share))
    return lower * jnp.exp(lower * (total[:, None] - total[None]))


def kept_since_start(share: Array | None, like: Array) -> Array:
    """The products of shares 1 to t, [c]."""
    return jnp.ones_like(like) if share is None else jnp.exp(jnp.cumsum(_safe_log(share)))


def _safe_log(share: Array) -> Array:
    return jnp.log(jnp.maximum(share, 1e-30))


def sqrt_or_zero(x: Array) -> Array:
    """The square root, with derivative 0 where x is 0."""
    return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1)), 0)


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
