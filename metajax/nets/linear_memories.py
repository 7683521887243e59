"""Fast weights that solve for what a linear memory stores: the delta rule and ridge regression."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metajax._checked import checked
from metajax._checks import check_positive
from metajax.nets.fast_weight_rules import (
    FastRule,
    Tokens,
    Weights,
    kept_since_start,
    kept_within,
    same,
)
from metajax.types import Array


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


def sqrt_or_zero(x: Array) -> Array:
    """The square root, with derivative 0 where x is 0."""
    return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1)), 0)
