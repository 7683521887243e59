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

TARGETS, PREFERENCE = 3, 60.0
"""Largest number of nodes that decide the class, and of the preference for nodes that correlate."""


@checked
def structural_tables(
    rows: Size, queries: Size, *, columns: Size = 10, classes: int | None = 10
) -> Sample[Task]:
    """Draws tables from random structural models, to learn to read tables in context.

    A model is a random net: layer l + 1 is g(W zₗ) + σ ε, with sparse random weights W, noise of a
    random size σ, and for each node a random function g out of six. Layer 0 is noise in 1 to 12
    nodes, and 0 in the others: with few causes, a few columns tell much. The targets
    are nodes of the last layer, and columns are other nodes of any layer; so columns are causes of
    the target, and other effects of its causes. Nodes that correlate with a target are preferred,
    by a strength that is random, too. Some columns have a few values only, some are skewed, and in
    some tables cells are missing.

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
    others = LAYERS * NODES - TARGETS
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
        nodes_NxM, targets_NxT = _draw_nodes(rows + queries, keys[0])
        if classes is None:
            targets_NxT = targets_NxT[:, :1]
        x_NxC = _draw_columns(nodes_NxM, targets_NxT, columns, keys[1])
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


def _draw_nodes(number: int, key: Array) -> tuple[Array, Array]:
    """The nodes that may be columns [rows, nodes], and the targets [rows, 3], all standardised."""
    root_key, number_key, size_key, *keys = jax.random.split(key, LAYERS + 3)
    roots = jax.random.randint(number_key, (), 1, NODES + 1)
    z_NxH = jax.random.normal(root_key, (number, NODES)) * (jnp.arange(NODES)[None] < roots)
    size = jnp.exp(jax.random.uniform(size_key, minval=-6.0, maxval=-0.2))
    layers = []
    for layer_key in keys:
        z_NxH = _next_layer(z_NxH, size, layer_key)
        layers.append(z_NxH)
    nodes_NxM = jnp.concatenate(layers, axis=1)
    return nodes_NxM[:, :-TARGETS], nodes_NxM[:, -TARGETS:]


def _next_layer(z_NxH: Array, size: Array, key: Array) -> Array:
    """g(W z) + σ ε of one layer, standardised."""
    weight_key, mask_key, function_key, size_key, noise_key = jax.random.split(key, 5)
    weight_HxH = jax.random.normal(weight_key, (NODES, NODES))
    kept_HxH = jax.random.bernoulli(mask_key, 0.3, (NODES, NODES)) | jnp.eye(NODES, dtype=bool)
    sum_NxH = _standardised(z_NxH @ (weight_HxH * kept_HxH))
    functions = jnp.stack(
        [
            sum_NxH,
            jnp.tanh(2 * sum_NxH),
            jnp.sin(2 * sum_NxH),
            jnp.abs(sum_NxH),
            sum_NxH**2,
            (sum_NxH > 0).astype(sum_NxH.dtype),
        ]
    )
    chosen_H = jax.random.randint(function_key, (NODES,), 0, len(functions))
    is_chosen_FxH = chosen_H[None] == jnp.arange(len(functions))[:, None]
    value_NxH = (functions * is_chosen_FxH[:, None]).sum(axis=0)
    size_H = size * jnp.exp(jax.random.uniform(size_key, (NODES,), minval=-1.5, maxval=0.0))
    noise_NxH = size_H[None] * jax.random.normal(noise_key, z_NxH.shape)
    return _standardised(_standardised(value_NxH) + noise_NxH)


def _draw_columns(nodes_NxM: Array, targets_NxT: Array, columns: int, key: Array) -> Array:
    """Some nodes as columns [rows, columns], categorical and skewed ones among them."""
    keys = jax.random.split(key, 7)
    order_key, strength_key, number_key, kind_key, level_key, code_key, shuffle_key = keys
    correlation_M = jnp.abs(targets_NxT.T @ nodes_NxM / len(nodes_NxM)).max(axis=0)
    strength = PREFERENCE * jax.random.uniform(strength_key)
    # The largest of these sums are a draw without replacement, by exp(strength * correlation).
    sum_M = strength * correlation_M + jax.random.gumbel(order_key, correlation_M.shape)
    x_NxC = nodes_NxM[:, jax.lax.top_k(sum_M, columns)[1]]
    x_NxC = x_NxC[:, jax.random.permutation(shuffle_key, columns)]
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


def _draw_classes(targets_NxT: Array, classes: int, key: Array) -> Array:
    """The random row that is nearest in the space of the targets, int32[rows]."""
    number_key, size_key, row_key = jax.random.split(key, 3)
    number = jax.random.randint(number_key, (), 2, classes + 1)
    dimensions = jax.random.randint(size_key, (), 1, TARGETS + 1)
    targets_NxT = jnp.where(jnp.arange(TARGETS)[None] < dimensions, targets_NxT, 0)
    centers_CxT = jax.random.choice(row_key, targets_NxT, (classes,), replace=False)
    distance_NxC = ((targets_NxT[:, None] - centers_CxT[None]) ** 2).sum(axis=2)
    # The names are those below `number`, and the centers are in a random order already.
    is_used_1xC = jnp.arange(classes)[None] < number
    return jnp.where(is_used_1xC, distance_NxC, jnp.inf).argmin(axis=1).astype(jnp.int32)
