"""Tables drawn from random structural models, on the device: the prior of in-context learners."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from metajax._checked import checked
from metajax.types import Array, Batch, PyTree, Sample, Size, Task

LAYERS, NODES = 4, 12
"""Layers of a model, and nodes of a layer. Columns and target are among all nodes."""

CATEGORICAL, SKEWED = 0.25, 0.15
"""Probability that a column has a few values only, and that it is the exponential of its node."""

WITH_GAPS, MOST_GAPS = 0.2, 0.3
"""Probability that cells of a table are missing, and the largest rate of missing cells."""

LEVELS = 6
"""Largest number of values of a categorical column."""


@checked
def structural_tables(
    rows: Size, queries: Size, *, columns: Size = 10, classes: int | None = 10
) -> Sample[Task]:
    """Draws tables from random structural models, to learn to read tables in context.

    A model is a random net: layer l + 1 is g(W zₗ) + σ ε, with sparse random weights W, noise of a
    random size σ, and for each node a random function g out of six. Layer 0 is noise. The target
    is a node of the last layer, and columns are other nodes of any layer; so columns are causes of
    the target, and other effects of its causes. Some columns have a few values only, some are
    skewed, and in some tables cells are missing.

    The number of columns is 1 to `columns`, and the number of classes 2 to `classes`. The classes
    are intervals of the target, whose names are shuffled. A query whose class has no example has
    the weight 0.

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
    others = LAYERS * NODES - 1
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
        nodes_NxM, target_N = _draw_nodes(rows + queries, keys[0])
        x_NxC = _draw_columns(nodes_NxM, columns, keys[1])
        x_NxC = _with_gaps(x_NxC, keys[2])
        if classes is None:
            support, query = (
                Batch(x_NxC[part], target_N[part][:, None])
                for part in (slice(rows), slice(rows, None))
            )
            return Task(support, query)
        y_N = _draw_classes(target_N, classes, keys[3])
        support = Batch(x_NxC[:rows], y_N[:rows])
        is_known = (y_N[rows:, None] == support.y[None]).any(axis=1)
        return Task(support, Batch(x_NxC[rows:], y_N[rows:], is_known.astype(jnp.float32)))

    return sample


def _standardised(z_NxM: Array) -> Array:
    """Columns of mean 0 and deviation 1; a constant column is 0."""
    centred_NxM = z_NxM - z_NxM.mean(axis=0, keepdims=True)
    return centred_NxM / jnp.maximum(z_NxM.std(axis=0, keepdims=True), 1e-6)


def _draw_nodes(number: int, key: Array) -> tuple[Array, Array]:
    """The nodes that may be columns [rows, nodes], and the target [rows], all standardised."""
    keys = jax.random.split(key, LAYERS + 2)
    z_NxH = jax.random.normal(keys[0], (number, NODES))
    layers = []
    for layer in range(LAYERS):
        z_NxH = _next_layer(z_NxH, keys[layer + 1])
        layers.append(z_NxH)
    nodes_NxM = jnp.concatenate(layers, axis=1)
    return nodes_NxM[:, :-1], nodes_NxM[:, -1]


def _next_layer(z_NxH: Array, key: Array) -> Array:
    """g(W z) + σ ε of one layer, standardised."""
    weight_key, mask_key, function_key, size_key, noise_key = jax.random.split(key, 5)
    weight_HxH = jax.random.normal(weight_key, (NODES, NODES))
    kept_HxH = jax.random.bernoulli(mask_key, 0.3, (NODES, NODES)) | jnp.eye(NODES, dtype=bool)
    sum_NxH = _standardised(z_NxH @ (weight_HxH * kept_HxH))
    functions = jnp.stack(
        [
            sum_NxH,
            jnp.tanh(2 * sum_NxH),
            jnp.sin(3 * sum_NxH),
            jnp.abs(sum_NxH),
            sum_NxH**2,
            (sum_NxH > 0).astype(sum_NxH.dtype),
        ]
    )
    chosen_H = jax.random.randint(function_key, (NODES,), 0, len(functions))
    is_chosen_FxH = chosen_H[None] == jnp.arange(len(functions))[:, None]
    value_NxH = (functions * is_chosen_FxH[:, None]).sum(axis=0)
    size_H = jnp.exp(jax.random.uniform(size_key, (NODES,), minval=-4.0, maxval=-0.5))
    noise_NxH = size_H[None] * jax.random.normal(noise_key, z_NxH.shape)
    return _standardised(_standardised(value_NxH) + noise_NxH)


def _draw_columns(nodes_NxM: Array, columns: int, key: Array) -> Array:
    """Some nodes as columns [rows, columns], categorical and skewed ones among them."""
    order_key, number_key, kind_key, level_key, code_key = jax.random.split(key, 5)
    order_M = jax.random.permutation(order_key, nodes_NxM.shape[1])
    x_NxC = nodes_NxM[:, order_M[:columns]]
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
    number = jax.random.randint(number_key, (), 1, columns + 1)
    return jnp.where(jnp.arange(columns)[None] < number, x_NxC, jnp.nan)


def _with_gaps(x_NxC: Array, key: Array) -> Array:
    """The table, in some draws with missing cells (NaN)."""
    table_key, rate_key, cell_key = jax.random.split(key, 3)
    rate = MOST_GAPS * jax.random.uniform(rate_key)
    rate = jnp.where(jax.random.bernoulli(table_key, WITH_GAPS), rate, 0)
    return jnp.where(jax.random.bernoulli(cell_key, rate, x_NxC.shape), jnp.nan, x_NxC)


def _draw_classes(target_N: Array, classes: int, key: Array) -> Array:
    """Intervals of the target as classes, whose numbers are shuffled, int32[rows]."""
    number_key, border_key, name_key = jax.random.split(key, 3)
    number = jax.random.randint(number_key, (), 2, classes + 1)
    # A row taken at random lies at a quantile taken at random.
    borders_B = jax.random.choice(border_key, target_N, (classes - 1,), replace=False)
    is_used_B = jnp.arange(classes - 1) < number - 1
    above_NxB = (target_N[:, None] > borders_B[None]) & is_used_B[None]
    interval_N = above_NxB.sum(axis=1)
    # The first `number` names, in random order, and then the others.
    chance_C = jax.random.uniform(name_key, (classes,))
    names_C = jnp.argsort(jnp.where(jnp.arange(classes) < number, chance_C, 2.0 + chance_C))
    return names_C[interval_N].astype(jnp.int32)
