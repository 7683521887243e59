"""Celo2: a small network that runs on every weight, whose changes have a mean square of 1."""

from __future__ import annotations

import functools
import math
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metajax._checked import checked
from metajax._checks import shapes
from metajax.inner.rules import Rule
from metajax.types import Array, Params, PyTree, Size

WEIGHTS = pathlib.Path(__file__).parent / "weights" / "celo2.npz"

DECAYS = (0.9, 0.99, 0.999)
"""Decays of the averages of gradients, and of their squares over rows and over columns."""

SQUARE_DECAY = 0.95
"""Decay of the average of squared gradients of each weight."""

OF_VECTORS, OF_MATRICES = 15, 30
"""Numbers that the network reads of a weight; those of vectors are the first ones of matrices."""


@checked
def celo2(rate: float, *, hidden: Size = 8, normalised: bool = True) -> Rule:
    """Celo2-base: a network for every weight, whose change has a mean square of 1 in each array.

    Δθ = -rate d / √mean(d²) with d = MLP(features), of two hidden layers. The features of a weight
    are its gradient g, g clipped to ±0.1, the weight, the averages m of g with decays of 0.9, 0.99
    and 0.999, the average v of g², m/√v, 1/√v, g/√v and g by Adafactor's estimate of the root. A
    weight of a matrix reads Adafactor's averages of g² over rows and columns, too, their inverse
    roots, and m by the estimate. Each feature is scaled to a mean square of 1 over the last two
    axes. The averages start at 0, without correction. Train it with `persistent`, as
    `benchmarks/train_celo2.py` does; `scale_by_celo2` has its trained weights.

    Args:
        rate: the root of the mean square of every change.
        hidden: units of each hidden layer.
        normalised: False leaves d as it is, for comparison.

    Raises:
        ValueError: hidden below 1; on adaptation, when `params.rule` is not what `init` makes.

    Source: Moudgil, Knyazev and Belilovsky 2026, arXiv 2602.19142, and the authors' code.
    """

    @checked
    def init(params: Params | None, key: Array) -> PyTree:
        widths = (OF_MATRICES, hidden, hidden, 1)
        keys = jax.random.split(key, len(widths) - 1)
        return [
            (jax.random.truncated_normal(k, -2, 2, (m, n)) / math.sqrt(m), jnp.zeros(n))
            for k, m, n in zip(keys, widths[:-1], widths[1:], strict=True)
        ]

    def optimizer(weights: PyTree) -> optax.GradientTransformation:
        expected = jax.eval_shape(init, None, jax.random.key(0))
        if jax.tree.map(jnp.shape, weights) != jax.tree.map(jnp.shape, expected):
            raise ValueError(
                f"params.rule holds {shapes(weights)}, this celo2 needs {shapes(expected)}; call "
                "params = adaptation.init(params, key), with the same `hidden` as in training."
            )
        return optax.GradientTransformation(
            lambda fast: jax.tree.map(_first_averages, fast),
            lambda gradients, state, fast=None: _update(
                weights, rate, normalised, gradients, state, fast
            ),
        )

    return Rule(init, optimizer)


@checked
def scale_by_celo2() -> optax.GradientTransformation:
    """Celo2-base with trained weights: directions whose mean square is 1 in each array.

    Chain it with the learning rate, as every `optax.scale_by_...`, and with weight decay where that
    helps. `update` needs the parameters. It was trained by `benchmarks/train_celo2.py` on images of
    8 x 8 pixels, in 20 minutes of one core. The weights have 2.8 kB, and the licence of this
    package, Apache-2.0.

    >>> optimizer = optax.chain(scale_by_celo2(), optax.scale_by_learning_rate(1e-3))
    >>> params = {"kernel": jnp.ones((3, 2))}
    >>> updates, state = optimizer.update(params, optimizer.init(params), params)

    Source: as of `celo2`.
    """
    return celo2(-1.0).optimizer(_trained_weights())


@functools.cache
def _trained_weights() -> PyTree:
    """The weights that are part of this package, on the host."""
    with np.load(WEIGHTS, allow_pickle=False) as saved:
        return [(saved[f"kernel{i}"], saved[f"bias{i}"]) for i in range(len(saved.files) // 2)]


def _update(
    weights: PyTree, rate: float, normalised: bool, gradients: PyTree, state: PyTree, fast: PyTree
) -> tuple[PyTree, PyTree]:
    """The changes of all fast weights, and the next averages."""
    wide = jax.tree.map(lambda g: jnp.clip(g.astype(_wide(g)), -1000, 1000), gradients)

    def change(g: Array, leaf: Array, averages: dict[str, Array]) -> Array:
        features = _features(g, leaf.astype(g.dtype), averages)
        direction = _network(weights, features, g.shape)
        return -rate * (_with_unit_square(direction) if normalised else direction)

    state = jax.tree.map(_next_averages, wide, state)
    changes = jax.tree.map(change, wide, fast, state)
    return jax.tree.map(lambda one, g: one.astype(g.dtype), changes, gradients), state


def _first_averages(leaf: Array) -> dict[str, Array]:
    """Averages of 0: of g and g² of each weight, and of g² over the columns and over the rows."""
    zeros = jnp.zeros(jnp.shape(leaf), _wide(leaf))
    many = jnp.zeros((*zeros.shape, len(DECAYS)), zeros.dtype)
    axes = _factored(zeros.shape)
    if axes is None:
        return {"mean": many, "square": zeros, "rows": many}
    return {
        "mean": many,
        "square": zeros,
        "rows": many.mean(axis=axes[1]),
        "columns": many.mean(axis=axes[0]),
    }


def _next_averages(g: Array, before: dict[str, Array]) -> dict[str, Array]:
    """The averages after one more gradient."""
    decays = jnp.array(DECAYS, g.dtype).reshape((1,) * g.ndim + (-1,))
    mixed = lambda old, new, decay: decay * old + (1 - decay) * new
    square = g**2 + 1e-30
    axes = _factored(g.shape)
    after = {
        "mean": mixed(before["mean"], g[..., None], decays),
        "square": mixed(before["square"], g**2, SQUARE_DECAY),
    }
    if axes is None:
        return {**after, "rows": mixed(before["rows"], square[..., None], decays)}
    short = decays[0]
    return {
        **after,
        "rows": mixed(before["rows"], square.mean(axis=axes[1])[..., None], short),
        "columns": mixed(before["columns"], square.mean(axis=axes[0])[..., None], short),
    }


def _features(g: Array, theta: Array, averages: dict[str, Array]) -> Array:
    """What the network reads of each weight, [..., OF_VECTORS or OF_MATRICES]."""
    mean, square = averages["mean"], averages["square"][..., None]
    wide = g[..., None]
    inverse = jax.lax.rsqrt(square + 1e-8)
    axes = _factored(g.shape)
    if axes is None:
        by_estimate = _inverse_root(averages["rows"] + 1e-9)
    else:
        rows = jnp.expand_dims(averages["rows"], axes[1])
        columns = jnp.expand_dims(averages["columns"], axes[0])
        of_all = rows.mean(axis=axes[0], keepdims=True)
        by_estimate = _inverse_root(rows / (of_all + 1e-9)) * _inverse_root(columns)
    found = [wide, wide.clip(-0.1, 0.1), theta[..., None], mean, square]
    found += [mean * inverse, inverse, wide * by_estimate, wide * inverse]
    if axes is not None:
        full = lambda part: jnp.broadcast_to(part, mean.shape)
        found += [full(rows), full(columns)]
        found += [full(jax.lax.rsqrt(rows + 1e-8)), full(jax.lax.rsqrt(columns + 1e-8))]
        found += [mean * by_estimate]
    return _with_unit_square(jnp.concatenate(found, axis=-1), of_features=True)


def _network(weights: PyTree, features: Array, shape: tuple[int, ...]) -> Array:
    """The direction of each weight."""
    (first, bias), *others = weights
    x = features.reshape(-1, features.shape[-1]) @ first[: features.shape[-1]] + bias[None]
    for kernel, bias in others:
        x = jax.nn.relu(x) @ kernel + bias[None]
    return x.reshape(shape)


def _factored(shape: tuple[int, ...]) -> tuple[int, int] | None:
    """The second largest and the largest axis of a matrix, None for a vector."""
    if len(shape) < 2:
        return None
    second, first = np.argsort(shape, kind="stable")[-2:]
    return int(second), int(first)


def _inverse_root(x: Array) -> Array:
    return jax.lax.rsqrt(jnp.maximum(x, 1e-9))


def _with_unit_square(x: Array, *, of_features: bool = False) -> Array:
    """The array scaled to a mean square of 1 over the last two axes of weights."""
    axes = tuple(range(x.ndim - of_features))[-2:]
    return x * jax.lax.rsqrt((x**2).mean(axis=axes, keepdims=True) + 1e-9)


def _wide(leaf: Any) -> jnp.dtype:
    """Averages are kept in float32 or wider, because 0.999 is 1 in bfloat16."""
    return jnp.promote_types(jnp.result_type(leaf), jnp.float32)
