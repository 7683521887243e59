"""Kernels between the rows of a table, and the Gaussian process that they define."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metajax.types import Array

CLIP = 4.0
"""Largest size of a standardised cell."""

WINDOWS = (0.03, 0.12, 0.5)
"""Deviations of the windows over ranks in which two cells are alike."""

FORMS = len(WINDOWS) + 2
"""Ways in which two cells are alike: a window each, equality, and their product."""

DISTANCES = 2
"""Ways in which two cells are apart: the distance of their ranks, and that they are not equal."""

AWAY = 0.5
"""Square of the distance of a missing cell from the middle of the ranks."""

LEAST_NOISE = 2e-3
"""Smallest variance of the noise, as a share of the mean variance of the rows."""


class Cells(NamedTuple):
    """The labelled cells of a table.

    Attributes:
        values: [n, columns], NaN where a cell is missing or its row does not count.
        mean: [columns].
        deviation: [columns].
        varies: bool[columns], whether two cells of the column differ.
        counts: bool[n], the rows that count.
    """

    values: Array
    mean: Array
    deviation: Array
    varies: Array
    counts: Array


class Seen(NamedTuple):
    """What the kernel knows of the cells of rows, all [columns, rows].

    Attributes:
        cell: as they are.
        value: standardised, 0 where a cell is missing.
        rank: the share of the labelled cells of the column below, where equal ones count half.
        present: bool, whether the cell is there and its column varies.
    """

    cell: Array
    value: Array
    rank: Array
    present: Array


class Kernel(NamedTuple):
    """Logarithms of the weights of a kernel, for each target.

    k(a, b) = Σ_c Σ_f w_cf form_f(a_c, b_c) + v₁ exp(-Σ_c Σ_d w_cd distance_d(a_c, b_c)) + v₂, and
    the variance of the noise is v₃ and LEAST_NOISE times the mean variance of the rows.

    Attributes:
        of_columns: log w, [targets, columns, FORMS + DISTANCES].
        of_table: log v, [targets, 3].
    """

    of_columns: Array
    of_table: Array


class Solved(NamedTuple):
    """A Gaussian process that has read the labelled rows.

    Attributes:
        joint: [targets, n, n], v₁ exp(-distance) of the labelled rows.
        noise: [targets], the variance of the noise.
        inverse: [targets, n, n], the inverse of the covariance of the labelled targets.
        alpha: [targets, n], the inverse times the targets.
    """

    joint: Array
    noise: Array
    inverse: Array
    alpha: Array


def cells_of(x: Array, counts_N: Array) -> Cells:
    """The labelled cells of a table x [n, columns], of which the rows that count are read."""
    statistics = statistics_of(x, counts_N)
    is_read = counts_N[:, None] & jnp.isfinite(x)
    return Cells(jnp.where(is_read, x, jnp.nan), *statistics, counts_N)


def statistics_of(x: Array, counts_N: Array) -> tuple[Array, Array, Array]:
    """Mean and deviation of the finite cells of each column [columns], and whether it varies."""
    present_NxC = jnp.isfinite(x) & counts_N[:, None]
    divisor_C = jnp.maximum(present_NxC.sum(axis=0), 1)
    clear_NxC = jnp.where(present_NxC, x, 0)
    mean_C = clear_NxC.sum(axis=0) / divisor_C
    square_NxC = jnp.where(present_NxC, (clear_NxC - mean_C[None]) ** 2, 0)
    variance_C = square_NxC.sum(axis=0) / divisor_C
    # The deviation of a constant column is its rounding, and not 0.
    varies_C = variance_C > (8 * jnp.finfo(x.dtype).eps * mean_C) ** 2
    deviation_C = jnp.where(varies_C, jnp.sqrt(jnp.where(varies_C, variance_C, 1)), 1)
    return mean_C, deviation_C, varies_C


def seen(x_MxC: Array, cells: Cells) -> Seen:
    """What the kernel knows of rows x."""
    present_MxC = jnp.isfinite(x_MxC) & cells.varies[None]
    centred_MxC = jnp.where(present_MxC, x_MxC - cells.mean[None], 0)
    value_MxC = jnp.clip(centred_MxC / cells.deviation[None], -CLIP, CLIP)
    return Seen(x_MxC.T, value_MxC.T, _ranks(x_MxC, cells.values).T, present_MxC.T)


def likeness(one: Seen, other: Seen) -> tuple[Array, Array]:
    """How alike the cells of two rows of a column are, and how far apart they are.

    Args:
        one: of a single column, [m].
        other: of the same column, [n].

    A missing cell is a value of its own, in the middle of the ranks and AWAY from all of them, so
    that the kernel is positive definite. It has no likeness by itself.

    Returns:
        [FORMS, m, n], 0 where a cell is missing; [DISTANCES, m, n].
    """
    both = (one.present[:, None] & other.present[None])[None]
    is_one_missing = one.present[:, None] != other.present[None]
    middle = lambda of: jnp.where(of.present, of.rank, 0.5)
    gap = middle(one)[:, None] - middle(other)[None]
    is_equal = one.cell[:, None] == other.cell[None]
    forms = [jnp.exp(-0.5 * (gap / deviation) ** 2) for deviation in WINDOWS]
    forms += [is_equal.astype(gap.dtype), one.value[:, None] * other.value[None]]
    # The mean of the square of the gap of two random ranks is 1/6.
    of_ranks = 6 * gap**2 + AWAY * is_one_missing
    is_other = is_one_missing | (both[0] & ~is_equal)
    distances = jnp.stack([of_ranks, is_other.astype(gap.dtype)])
    return jnp.where(both, jnp.stack(forms), 0.0), distances


def covariance_of(kernel: Kernel, one: Seen, other: Seen) -> tuple[Array, Array]:
    """The part v₁ exp(-distance), and the whole kernel, both [targets, m, n].

    Column after column, so that the memory does not grow with their number.
    """

    def add(sums: tuple[Array, Array], column: tuple[Seen, Seen, Array]) -> tuple[Any, None]:
        forms, distances = likeness(column[0], column[1])
        weight_TxF, weight_TxD = jnp.split(column[2], [FORMS], axis=1)
        single = sums[0] + jnp.einsum("tf,fmn->tmn", weight_TxF, forms)
        return (single, sums[1] + jnp.einsum("td,dmn->tmn", weight_TxD, distances)), None

    weights_CxTxP = jnp.exp(kernel.of_columns).swapaxes(0, 1)
    shape = (len(kernel.of_table), one.cell.shape[1], other.cell.shape[1])
    zeros = jnp.zeros(shape, weights_CxTxP.dtype)
    (single, far), _ = jax.lax.scan(add, (zeros, zeros), (one, other, weights_CxTxP))
    of_joint, constant = jnp.exp(kernel.of_table[:, :2]).T[:, :, None, None]
    joint = of_joint * jnp.exp(-far)
    return joint, single + joint + constant


def variance_of(kernel: Kernel, one: Seen) -> Array:
    """The covariance of every row with itself, [targets, m]."""
    weights = jnp.exp(kernel.of_columns)
    of_same, of_product = weights[..., : FORMS - 1].sum(axis=2), weights[..., FORMS - 1]
    single = of_same @ one.present.astype(weights.dtype) + of_product @ one.value**2
    of_joint, constant = jnp.exp(kernel.of_table[:, :2]).T[:, :, None]
    return single + of_joint + constant


def solve(kernel: Kernel, labelled: Seen, known_TxN: Array, counts_N: Array) -> Solved:
    """The Gaussian process after the targets of the labelled rows, which are 0 in the mean."""
    joint, covariance = covariance_of(kernel, labelled, labelled)
    both_1xNxN = (counts_N[:, None] & counts_N[None])[None]
    covariance = jnp.where(both_1xNxN, covariance, 0.0)
    mean_variance = jnp.trace(covariance, axis1=1, axis2=2) / jnp.maximum(counts_N.sum(), 1)
    noise = jnp.exp(kernel.of_table[:, 2]) + LEAST_NOISE * mean_variance
    unit_1xNxN = jnp.eye(len(counts_N), dtype=covariance.dtype)[None]
    # A row that does not count is independent of all others.
    own = jnp.where(counts_N[None], noise[:, None], 1.0)
    factor = jnp.linalg.cholesky(covariance + unit_1xNxN * own[:, :, None])
    half = jax.scipy.linalg.solve_triangular(
        factor, jnp.broadcast_to(unit_1xNxN, factor.shape), lower=True
    )
    inverse = jnp.einsum("tkm,tkn->tmn", half, half)
    alpha = jnp.einsum("tmn,tn->tm", inverse, known_TxN)
    return Solved(jnp.where(both_1xNxN, joint, 0.0), noise, inverse, alpha)


def slopes_of(kernel: Kernel, labelled: Seen, solved: Solved, counts_N: Array) -> Kernel:
    """Derivatives of the log evidence of the targets by every logarithm of a weight.

    ∂ log p(t) / ∂ log w = w/2 · ⟨α αᵀ - K⁻¹, ∂K / ∂w⟩ with α = K⁻¹ t. The second part of the noise
    is held constant.
    """
    slope = 0.5 * (solved.alpha[:, :, None] * solved.alpha[:, None] - solved.inverse)
    slope = jnp.where((counts_N[:, None] & counts_N[None])[None], slope, 0.0)
    of_joint = slope * solved.joint

    def of_column(column: Seen) -> Array:
        forms, distances = likeness(column, column)
        of_forms = jnp.einsum("tmn,fmn->tf", slope, forms)
        of_distances = -jnp.einsum("tmn,dmn->td", of_joint, distances)
        return jnp.concatenate([of_forms, of_distances], axis=1)

    of_weights = jax.lax.map(of_column, labelled).swapaxes(0, 1)
    of_columns = of_weights * jnp.exp(kernel.of_columns)
    _, constant, noise = jnp.exp(kernel.of_table).T
    of_table = [of_joint.sum(axis=(1, 2)), constant * slope.sum(axis=(1, 2))]
    of_table += [noise * jnp.trace(slope, axis1=1, axis2=2)]
    return Kernel(of_columns, jnp.stack(of_table, axis=-1))


def left_out(solved: Solved, known_TxN: Array) -> tuple[Array, Array]:
    """Mean and variance of every labelled target given the others, [targets, n]."""
    precision = jnp.diagonal(solved.inverse, axis1=1, axis2=2)
    return known_TxN - solved.alpha / precision, 1 / precision


def posterior(
    kernel: Kernel, solved: Solved, queries: Seen, labelled: Seen, counts_N: Array
) -> tuple[Array, Array]:
    """Mean and variance of the targets of rows, [targets, m]."""
    _, with_labelled = covariance_of(kernel, queries, labelled)
    with_labelled *= counts_N[None, None]
    mean = jnp.einsum("tmn,tn->tm", with_labelled, solved.alpha)
    explained = (jnp.einsum("tmn,tnk->tmk", with_labelled, solved.inverse) * with_labelled).sum(2)
    variance = variance_of(kernel, queries) + solved.noise[:, None] - explained
    return mean, jnp.maximum(variance, 1e-4)


def _ranks(x_MxC: Array, cells_NxC: Array) -> Array:
    """Share of a column's labelled cells below each cell, where equal ones count half, [m, c]."""
    number_C = jnp.isfinite(cells_NxC).sum(axis=0)

    def below(side: str) -> Array:
        search = functools.partial(jnp.searchsorted, side=side)
        return jax.vmap(search, in_axes=1, out_axes=1)(jnp.sort(cells_NxC, axis=0), x_MxC)

    both_MxC = (below("left") + below("right")).astype(x_MxC.dtype)
    return both_MxC / (2 * jnp.maximum(number_C, 1))[None]
