"""Tables drawn from random structural models, on the device: the prior of in-context learners."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax._checked import checked
from metajax.types import Array, Batch, PyTree, Sample, Size, Task

LAYERS, NODES = 4, 12
"""Layers of a model behind the causes, and nodes of a layer. Columns are among all of them."""

CATEGORICAL, SKEWED = 0.25, 0.15
"""Probability that a column has a few values only, and that it is the exponential of its node."""

WITH_GAPS, MOST_GAPS = 0.2, 0.3
"""Probability that cells of a table are missing, and the largest rate of missing cells."""

LEVELS = 6
"""Largest number of values of a categorical column."""

TARGETS, PREFERENCE = 3, 60.0
"""Largest number of nodes that decide a class, and largest strength of the preference."""


@checked
def structural_tables(
    rows: Size, queries: Size, *, columns: Size = 10, classes: int | None = 10
) -> Sample[Task]:
    """Draws tables from random structural models, to learn to read tables in context.

    A model is a random net: layer l + 1 is g(W zₗ) + σ ε, with sparse random weights W, noise of a
    random size σ, and for each node a random function g: linear, tanh, sine, absolute value,
    square, step, or the product with another node. Layer 0 are the causes, 1 to 12 of them. The
    targets are nodes of one of the layers behind it, and columns are other nodes: causes, what lies
    between, and other effects. Nodes that correlate with a target are preferred, by a strength that
    is random, too, and in half of the tables all causes are preferred. Some columns have a few
    values only, some are skewed, and in some tables cells are missing.

    The number of columns is 1 to `columns`, and the number of classes 2 to `classes`. A class is
    the set of rows that are nearest to one random row, in the space of 1 to 3 targets. A query
    whose class has no example has the weight 0.

    Args:
        rows: examples of the support set.
        queries: examples of the query set.
        columns: largest number of columns; the others are NaN, as missing cells are.
        classes: largest number of classes. None regresses the target, standardised.

    Returns:
        Sampler (dataset, key) -> Task with x float32[rows or queries, columns] and y int32[rows or
        queries], or float32[rows or queries, 1]. The data set is ignored; pass ().

    Raises:
        ValueError: sizes below 1, more columns than other nodes, fewer than 2 classes, or more
            classes than rows and queries.

    >>> task = structural_tables(20, 5, columns=4)((), jax.random.key(0))
    >>> task.support.x.shape, task.query.y.shape
    ((20, 4), (5,))

    Source: after Hollmann et al. 2023, arXiv 2207.01848, section 4 and appendix C.
    """
    others = LAYERS * NODES + 1 - TARGETS  # with a single cause
    if columns > others:
        raise ValueError(f"columns must be at most {others}, the other nodes, got {columns}.")
    if classes is not None and classes > rows + queries:
        raise ValueError(
            f"classes must be at most {rows + queries}, the rows and queries, got {classes}."
        )
    if classes is not None and classes < 2:
        raise ValueError(f"classes must be 2 or more, or None to regress, got {classes}.")

    @checked
    def sample(dataset: PyTree, key: Array) -> Task:
        keys = jax.random.split(key, 4)
        nodes = _draw_nodes(rows + queries, keys[0], 1 if classes is None else TARGETS)
        targets_NxT = nodes.targets
        x_NxC = _draw_columns(nodes, columns, keys[1])
        x_NxC = _with_gaps(x_NxC, keys[2])
        if classes is None:
            support, query = (
                Batch(x_NxC[part], targets_NxT[part]) for part in (slice(rows), slice(rows, None))
            )
            return Task(support, query)
        y_N = _draw_classes(targets_NxT, classes, keys[3])
        support = Batch(x_NxC[:rows], y_N[:rows])
        is_known = (y_N[rows:, None] == support.y[None]).any(axis=1)
        return Task(support, Batch(x_NxC[rows:], y_N[rows:], is_known.astype(jnp.float32)))

    return sample


def _standardised(z_NxM: Array) -> Array:
    """Columns of mean 0 and deviation 1; a constant column is 0."""
    centred_NxM = z_NxM - z_NxM.mean(axis=0, keepdims=True)
    return centred_NxM / jnp.maximum(z_NxM.std(axis=0, keepdims=True), 1e-6)


class _Nodes(NamedTuple):
    """The nodes of a model, standardised.

    Attributes:
        value: [rows, nodes], the causes first.
        allowed: bool[nodes], which may be columns: not the targets, and not the absent causes.
        is_cause: bool[nodes].
        targets: [rows, 3], of which those that do not count are 0; or [rows, 1].
    """

    value: Array
    allowed: Array
    is_cause: Array
    targets: Array


def _draw_nodes(number: int, key: Array, most_targets: int) -> _Nodes:
    """The nodes of a random model."""
    keys = jax.random.split(key, LAYERS + 5)
    cause_key, number_key, size_key, depth_key, target_key, *layer_keys = keys
    causes = jnp.floor(jnp.exp(jax.random.uniform(number_key, maxval=jnp.log(NODES + 1.0))))
    is_there_H = jnp.arange(NODES) < causes
    z_NxH = jax.random.normal(cause_key, (number, NODES)) * is_there_H[None]
    size = jnp.exp(jax.random.uniform(size_key, minval=-6.0, maxval=-0.2))
    layers = [z_NxH]
    for layer_key in layer_keys:
        layers.append(_next_layer(layers[-1], size, layer_key))
    value_NxM = jnp.concatenate(layers, axis=1)
    depth = jax.random.randint(depth_key, (), 1, LAYERS + 1)
    places_T = NODES * (depth + 1) - 1 - jnp.arange(most_targets)
    targets = jax.random.randint(target_key, (), 1, most_targets + 1)
    counts_T = jnp.arange(most_targets) < targets
    places_M = jnp.arange(value_NxM.shape[1])
    is_cause_M = places_M < NODES
    is_target_M = (places_M[:, None] == places_T[None]).any(axis=1)
    is_there_M = jnp.where(is_cause_M, places_M < causes, True)
    targets_NxT = value_NxM[:, places_T] * counts_T[None]
    return _Nodes(value_NxM, is_there_M & ~is_target_M, is_cause_M, targets_NxT)


def _next_layer(z_NxH: Array, size: Array, key: Array) -> Array:
    """g(W z) + σ ε of one layer, standardised."""
    weight_key, share_key, mask_key, function_key, size_key, noise_key = jax.random.split(key, 6)
    weight_HxH = jax.random.normal(weight_key, (NODES, NODES))
    share = jax.random.uniform(share_key, minval=0.2)
    kept_HxH = jax.random.bernoulli(mask_key, share, (NODES, NODES)) | jnp.eye(NODES, dtype=bool)
    sum_NxH = _standardised(z_NxH @ (weight_HxH * kept_HxH))
    functions = jnp.stack(
        [
            sum_NxH,
            sum_NxH,
            jnp.tanh(2 * sum_NxH),
            jnp.sin(2 * sum_NxH),
            jnp.abs(sum_NxH),
            sum_NxH**2,
            (sum_NxH > 0).astype(sum_NxH.dtype),
            sum_NxH * jnp.roll(sum_NxH, 1, axis=1),
        ]
    )
    chosen_H = jax.random.randint(function_key, (NODES,), 0, len(functions))
    is_chosen_FxH = chosen_H[None] == jnp.arange(len(functions))[:, None]
    value_NxH = (functions * is_chosen_FxH[:, None]).sum(axis=0)
    size_H = size * jnp.exp(jax.random.uniform(size_key, (NODES,), minval=-1.5, maxval=0.0))
    noise_NxH = size_H[None] * jax.random.normal(noise_key, z_NxH.shape)
    return _standardised(_standardised(value_NxH) + noise_NxH)


def _draw_columns(nodes: _Nodes, columns: int, key: Array) -> Array:
    """Some nodes as columns [rows, columns], categorical and skewed ones among them."""
    keys = jax.random.split(key, 8)
    order_key, strength_key, cause_key, number_key, kind_key, level_key, code_key, last_key = keys
    correlation_M = jnp.abs(nodes.targets.T @ nodes.value / len(nodes.value)).max(axis=0)
    strength = PREFERENCE * jax.random.uniform(strength_key)
    bonus = PREFERENCE * jax.random.bernoulli(cause_key)
    # The largest of these sums are a draw without replacement, by exp(strength * correlation).
    sum_M = strength * correlation_M + bonus * nodes.is_cause
    sum_M += jax.random.gumbel(order_key, sum_M.shape)
    best_C = jax.lax.top_k(jnp.where(nodes.allowed, sum_M, -jnp.inf), columns)[1]
    number = jax.random.randint(number_key, (), 1, columns + 1)
    # The first `number` of them in random order.
    chance_C = jax.random.uniform(last_key, (columns,)) + 2 * (jnp.arange(columns) >= number)
    x_NxC = nodes.value[:, best_C[jnp.argsort(chance_C)]]
    levels_C = jax.random.randint(level_key, (columns,), 2, LEVELS + 1)
    rank_NxC = x_NxC.argsort(axis=0).argsort(axis=0) / len(x_NxC)
    level_NxC = jnp.floor(rank_NxC * levels_C[None]).astype(jnp.int32)
    codes_CxL = jax.random.permutation(
        code_key, jnp.tile(jnp.arange(LEVELS, dtype=jnp.float32), (columns, 1)), 1, independent=True
    )
    coded_NxC = jnp.take_along_axis(codes_CxL.T, level_NxC, axis=0)
    kind_1xC = jax.random.uniform(kind_key, (1, columns))
    x_NxC = jnp.where(kind_1xC < SKEWED, jnp.exp(x_NxC), x_NxC)
    x_NxC = jnp.where(kind_1xC > 1 - CATEGORICAL, coded_NxC, x_NxC)
    return jnp.where(jnp.arange(columns)[None] < number, x_NxC, jnp.nan)


def _with_gaps(x_NxC: Array, key: Array) -> Array:
    """The table, in some draws with missing cells (NaN)."""
    table_key, rate_key, cell_key = jax.random.split(key, 3)
    rate = MOST_GAPS * jax.random.uniform(rate_key)
    rate = jnp.where(jax.random.bernoulli(table_key, WITH_GAPS), rate, 0)
    return jnp.where(jax.random.bernoulli(cell_key, rate, x_NxC.shape), jnp.nan, x_NxC)


def _draw_classes(targets_NxT: Array, classes: int, key: Array) -> Array:
    """The random row that is nearest in the space of the targets, int32[rows]."""
    number_key, row_key = jax.random.split(key)
    number = jax.random.randint(number_key, (), 2, classes + 1)
    centers_CxT = jax.random.choice(row_key, targets_NxT, (classes,), replace=False)
    distance_NxC = ((targets_NxT[:, None] - centers_CxT[None]) ** 2).sum(axis=2)
    # The names are those below `number`, and the centers are in a random order already.
    is_used_1xC = jnp.arange(classes)[None] < number
    return jnp.where(is_used_1xC, distance_NxC, jnp.inf).argmin(axis=1).astype(jnp.int32)
