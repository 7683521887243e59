"""Losses over a network: (params, batch, key) -> (scalar, metrics), each the mean over rows by weight."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from metajax._tree import reference_rows, row_weights
from metajax.types import Apply, Array, Batch, Loss, Metrics, Params, PyTree


def computed_in(apply: Apply, dtype: Any = jnp.bfloat16) -> Apply:
    """The same network with weights and data in `dtype` inside; weights, their steps and the loss keep their own.

    Fast weights that were bfloat16 themselves would lose every step smaller than 1/512 of a weight. Here they stay
    float32 through the inner loop, and only the network computes in 16 bits.

    Args:
        apply: (params, x, key, **options) -> outputs, what the other functions here take.
        dtype: of all floating-point weights and data inside. Floating-point outputs are float32 or wider.

    Source: master weights of Micikevicius et al. 2018, arXiv 1710.03740.

    >>> from metajax.types import Params
    >>> apply = computed_in(lambda params, x, key: params.fast * x)
    >>> apply(Params(jnp.float32(1 / 3), ()), jnp.float32(1), None)
    Array(0.33398438, dtype=float32)
    """

    def cast(leaf: Array, dtype: Any) -> Array:
        return (
            jnp.asarray(leaf, dtype)
            if jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
            else leaf
        )

    def narrow(params: Params, x: PyTree, key: Array | None = None, **options: Any) -> PyTree:
        params, x = jax.tree.map(lambda leaf: cast(leaf, dtype), (params, x))
        return jax.tree.map(lambda leaf: cast(leaf, _wide(leaf)), apply(params, x, key, **options))

    return narrow


def cross_entropy(apply: Apply) -> Loss:
    """Classification: -Σ wᵢ log softmax(logitsᵢ)[yᵢ] / Σ wᵢ, with metric "accuracy".

    Args:
        apply: (params, x, key, reference=...) -> logits [examples, ways].

    Raises:
        ValueError: when traced, if labels are not int[examples].
    """

    def loss(params: Params, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        logits = apply(params, batch.x, key, reference=reference_rows(batch))
        if (
            not jnp.issubdtype(jnp.result_type(batch.y), jnp.integer)
            or jnp.shape(batch.y) != logits.shape[:-1]
        ):
            got = f"{jnp.result_type(batch.y)}{list(jnp.shape(batch.y))}"
            raise ValueError(
                f"Labels must be integers of shape {list(logits.shape[:-1])}, got {got}."
            )
        value = optax.softmax_cross_entropy_with_integer_labels(
            logits.astype(_wide(logits)), batch.y
        )
        correct = (logits.argmax(axis=-1) == batch.y).astype(value.dtype)
        return _mean(value, batch), {"accuracy": _mean(correct, batch)}

    return loss


def squared_error(apply: Apply) -> Loss:
    """Regression: Σ wᵢ |f(xᵢ) - yᵢ|² / Σ wᵢ, the square averaged over the k outputs.

    Args:
        apply: (params, x, key, reference=...) -> predictions [examples, k].

    Raises:
        ValueError: when traced, if targets do not have the shape of the predictions.
    """

    def loss(params: Params, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        predictions = apply(params, batch.x, key, reference=reference_rows(batch))
        if predictions.shape != batch.y.shape:
            raise ValueError(
                f"Targets have shape {batch.y.shape}, predictions {predictions.shape}; make them equal."
            )
        squares = (predictions.astype(_wide(predictions)) - batch.y) ** 2
        return _mean(squares.reshape(len(squares), -1).mean(axis=1), batch), {}

    return loss


def sequence_cross_entropy(apply: Apply) -> Loss:
    """-Σ wᵢ log p(yᵢₜ) / Σ wᵢ over the characters of all targets; metrics "accuracy" (whole targets) and "characters".

    A target counts as right where every character is the likeliest one after the true ones before it. By induction this
    is where greedy translation says exactly the target: no decoding is needed to judge.

    Args:
        apply: (params, x, key) -> log-probabilities [n, t, characters]; y is int[n, t], 0 for padding.

    Raises:
        ValueError: when traced, if y is not int[n, t].
    """

    def loss(params: Params, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        likely, y = apply(params, batch.x, key), batch.y
        if not jnp.issubdtype(jnp.result_type(y), jnp.integer) or jnp.shape(y) != likely.shape[:-1]:
            got = f"{jnp.result_type(y)}{list(jnp.shape(y))}"
            raise ValueError(
                f"Targets must be integers of shape {list(likely.shape[:-1])}, got {got}."
            )
        row = row_weights(batch).astype(likely.dtype)
        counts = row[:, None] * (y > 0)
        right = likely.argmax(axis=-1) == y
        log_p = jnp.take_along_axis(likely, y[..., None], axis=-1)[..., 0]
        total, rows = (jnp.where(value > 0, value, 1) for value in (counts.sum(), row.sum()))
        whole = (right | (y == 0)).all(axis=1)
        metrics = {
            "accuracy": (row * whole).sum() / rows,
            "characters": (counts * right).sum() / total,
        }
        return -(counts * log_p).sum() / total, metrics

    return loss


def _wide(values: Array) -> jnp.dtype:
    """At least float32, so that a mean over half-precision outputs is not lost."""
    return jnp.promote_types(values.dtype, jnp.float32)


def _mean(values: Array, batch: Batch) -> Array:
    """Mean over rows by weight; zero where nothing counts."""
    if batch.weight is None:
        return values.mean()
    total = row_weights(batch).sum()
    return (values * batch.weight).sum() / jnp.where(total > 0, total, 1)
