"""A net that reads a table in context: it writes the kernel of a Gaussian process."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from metajax._checked import checked
from metajax._class_means import weighted_one_hot
from metajax._tree import as_floating, widened
from metajax.nets.attention import Block
from metajax.nets.perceptrons import MLP
from metajax.nets.table_kernels import (
    DISTANCES,
    FORMS,
    WINDOWS,
    Cells,
    Kernel,
    Seen,
    Solved,
    cells_of,
    left_out,
    likeness,
    posterior,
    seen,
    slopes_of,
    solve,
    statistics_of,
)
from metajax.types import Array, Batch, Gaussian, PyTree, Size

OF_TABLE = 3
"""Weights of the kernel that belong to no column."""

FAR = 6.0
"""Largest size of a standardised target that a row knows of itself or of its prediction."""

NEVER = -40.0
"""Logarithm of the weight of a column that does not vary."""

ABSENT = -1e9
"""Logit of a class of which no row was read, unless none was read at all: then all are equal."""


@checked
class TableTransformer(nnx.Module):
    """A net that predicts the target of rows of a table from other rows, without any training.

    1. Columns are tokens. They read how far a change of each weight of a kernel would raise the
       evidence of a Gaussian process on the labelled rows, they read each other, and they write
       the change. This is done `rounds` times: the net is a learned optimizer of the kernel.
    2. The Gaussian process predicts every row; a labelled row is predicted from the others.
    3. Rows are tokens. They know their prediction and its variance, and labelled rows their target,
       too. They read the labelled rows, and correct the prediction.

    The kernel has, for two rows a and b, the ranks r and the standardised cells z of a column c,
    k(a, b) = Σ_c [Σ_s w_cs exp(-(r_ac - r_bc)² / 2s²) + u_c 1(z_ac = z_bc) + p_c z_ac z_bc]
    + v₁ exp(-Σ_c [6 m_c (r_ac - r_bc)² + d_c 1(z_ac ≠ z_bc)]) + v₂, with noise of the variance v₃;
    the windows s are 0.03, 0.12 and 0.5, and the net writes all weights. A missing cell, NaN, has
    no part in the first sum. In the second it is a value of its own, whose square distance from a
    cell of rank r is 6 (r - ½)² + ½ in place of 6 (r_ac - r_bc)².

    A class is predicted as a number is: its target is 1 for rows of the class and 0 for others,
    standardised. The same weights serve every class, so a net knows any number of classes, and the
    order of classes, rows and columns does not matter. Neither do scale and shift of a column. A
    column whose labelled cells are all equal or missing does not count.

    Args:
        classes: number of classes; None predicts a number. The weights do not depend on it.
        width: of the tokens of columns.
        rounds: number of changes of the kernel.
        row_width: of the tokens of rows.
        row_layers: number of blocks in which rows read the labelled rows.
        heads: number of heads of attention; divides both widths.
        least_deviation: of a predicted number, in deviations of the labelled targets.
        rngs: for the weights.

    Source: tables in context are of Hollmann et al. 2023, arXiv 2207.01848; a transformer over
    columns that writes a kernel of Liu et al. 2020, NeurIPS, "Task-agnostic amortized inference of
    Gaussian process hyperparameters"; left-out predictions of Rasmussen and Williams 2006, equation
    5.12. The rounds that read the slopes of the evidence, the kernel and the rows are ours.
    """

    def __init__(
        self,
        classes: Size | None,
        *,
        width: Size = 64,
        rounds: Size = 3,
        row_width: Size = 32,
        row_layers: Size = 2,
        heads: Size = 4,
        least_deviation: float = 0.05,
        rngs: nnx.Rngs,
    ):
        parts = FORMS + DISTANCES
        small = nnx.initializers.normal(0.01)
        self.classes = classes
        self.rounds = rounds
        self.least_deviation = least_deviation
        self.of_column = MLP(2 * parts + 2, (2 * width,), width, rngs=rngs)
        self.of_table = MLP(2 * OF_TABLE + 3, (2 * width,), width, rngs=rngs)
        self.among = Block(width, heads, rngs=rngs)
        self.change_column = nnx.Linear(width, parts, kernel_init=small, rngs=rngs)
        self.change_table = nnx.Linear(width, OF_TABLE, kernel_init=small, rngs=rngs)
        self.first_column = nnx.Param(jnp.full((parts,), -1.0, jnp.float32))
        self.first_table = nnx.Param(jnp.array([-0.5, -2.0, -1.5], jnp.float32))
        self.of_row = nnx.Linear(5, row_width, rngs=rngs)
        self.between = nnx.List([Block(row_width, heads, rngs=rngs) for _ in range(row_layers)])
        self.norm = nnx.LayerNorm(row_width, rngs=rngs)
        self.predictor = MLP(row_width, (row_width,), 2 if classes is None else 1, rngs=rngs)

    def read(self, x: Array, y: Array, weight: Array) -> PyTree:
        """What is kept of labelled rows.

        Args:
            x: [n, columns], NaN where a cell is missing.
            y: int[n] with classes, else float[n, 1]. A row with the label -1 is not read.
            weight: [n]; a row of weight 0 is not read, and all other weights count the same.

        Raises:
            ValueError: x or y of other shapes.
        """
        if jnp.ndim(x) != 2 or (self.classes is None and jnp.shape(y) != (len(x), 1)):
            raise ValueError(
                "x must be [n, columns], and numbers to predict y [n, 1]; got shapes "
                f"{jnp.shape(x)} and {jnp.shape(y)}."
            )
        x = widened(as_floating(x))
        counts_N = weight > 0
        if self.classes is None:
            targets_NxT = widened(as_floating(y))
        else:
            targets_NxT = weighted_one_hot(Batch(x, y), self.classes).astype(x.dtype)
            counts_N &= (targets_NxT != 0).any(axis=1)
        mean_T, deviation_T, _ = statistics_of(targets_NxT, counts_N)
        standard_NxT = (targets_NxT - mean_T[None]) / deviation_T[None]
        known_TxN = (standard_NxT * counts_N[:, None]).T
        cells = cells_of(x, counts_N)
        context = {"cells": cells, "mean": mean_T, "deviation": deviation_T}
        # The unit of a number does not matter; the deviation of a class is its frequency.
        spread_T = jnp.ones_like(deviation_T) if self.classes is None else deviation_T
        context["kernel"], solved = self._write_kernel(known_TxN, cells, spread_T)
        rows_TxNxW = self._rows(*left_out(solved, known_TxN), mean_T, known_TxN)
        between = []
        for block in self.between:
            between.append(rows_TxNxW)
            rows_TxNxW = _read_rows(block, rows_TxNxW, rows_TxNxW, counts_N)
        return {**context, "solved": solved, "between": jnp.stack(between)}

    def predict(self, x: Array, context: PyTree) -> Array | Gaussian:
        """Logits [n, classes], or a `Gaussian` [n, 1], for rows x [n, columns].

        Raises:
            ValueError: another number of columns than that of the labelled rows.
        """
        cells, mean_T, deviation_T = (context[name] for name in ("cells", "mean", "deviation"))
        if jnp.shape(x)[1:] != cells.values.shape[1:]:
            raise ValueError(
                f"The rows to predict must have the {cells.values.shape[1]} columns of the "
                f"labelled rows, got shape {jnp.shape(x)}."
            )
        x = widened(as_floating(x))
        mean_TxM, variance_TxM = posterior(
            context["kernel"],
            context["solved"],
            seen(x, cells),
            seen(cells.values, cells),
            cells.counts,
        )
        rows_TxMxW = self._rows(mean_TxM, variance_TxM, mean_T, None)
        for block, known in zip(self.between, context["between"], strict=True):
            rows_TxMxW = _read_rows(block, rows_TxMxW, known, cells.counts)
        outputs_TxMxO = _of_last_axis(self.predictor, self.norm(rows_TxMxW))
        if self.classes is not None:
            share_TxM = mean_T[:, None] + deviation_T[:, None] * mean_TxM
            logits_MxT = (outputs_TxMxO[..., 0] + _log_share(share_TxM)).T
            is_read_T = mean_T > 0
            return jnp.where(is_read_T[None] | ~is_read_T.any(), logits_MxT, ABSENT)
        corrected_Mx1 = (mean_TxM + outputs_TxMxO[..., 0]).T
        variance_Mx1 = (variance_TxM * jnp.exp(2 * jnp.clip(outputs_TxMxO[..., 1], -4, 4))).T
        return Gaussian(
            mean_T[None] + deviation_T[None] * corrected_Mx1,
            deviation_T[None] ** 2 * (self.least_deviation**2 + variance_Mx1),
        )

    def _write_kernel(
        self, known_TxN: Array, cells: Cells, spread_T: Array
    ) -> tuple[Kernel, Solved]:
        """The kernel after all changes, and the Gaussian process that it defines."""
        targets, columns = len(known_TxN), len(cells.varies)
        labelled = seen(cells.values, cells)
        of_cells, of_sizes, log_columns = _sizes(labelled, cells, spread_T)
        varies_1xCx1 = cells.varies[None, :, None]
        readable = jnp.broadcast_to(jnp.append(cells.varies, True), (targets, columns + 1))
        first = jnp.broadcast_to(
            self.first_column[...] - log_columns, (targets, columns, FORMS + DISTANCES)
        )
        kernel = Kernel(
            jnp.where(varies_1xCx1, first, NEVER),
            jnp.broadcast_to(self.first_table[...], (targets, OF_TABLE)),
        )

        def change(state: tuple[Kernel, Array], _: None) -> tuple[tuple[Kernel, Array], None]:
            kernel, tokens = state
            solved = solve(kernel, labelled, known_TxN, cells.counts)
            slopes = slopes_of(kernel, labelled, solved, cells.counts)
            known = [jnp.arcsinh(slopes.of_columns), kernel.of_columns + log_columns, of_cells]
            of_columns = _of_last_axis(self.of_column, jnp.concatenate(known, axis=-1))
            known = [jnp.arcsinh(slopes.of_table), kernel.of_table, of_sizes]
            of_table = self.of_table(jnp.concatenate(known, axis=-1))
            read = tokens + jnp.concatenate([of_columns, of_table[:, None]], axis=1)
            tokens = self.among(read, readable)
            changed = jnp.clip(kernel.of_columns + self.change_column(tokens[:, :-1]), -12, 4)
            kernel = Kernel(
                jnp.where(varies_1xCx1, changed, NEVER),
                jnp.clip(kernel.of_table + self.change_table(tokens[:, -1]), -8, 3),
            )
            # The types of data and weights may differ, and the state must keep its own.
            return jax.tree.map(
                lambda leaf, old: leaf.astype(old.dtype), (kernel, tokens), state
            ), None

        tokens = jnp.zeros((targets, columns + 1, self.change_table.in_features), first.dtype)
        (kernel, _), _ = jax.lax.scan(change, (kernel, tokens), length=self.rounds)
        return kernel, solve(kernel, labelled, known_TxN, cells.counts)

    def _rows(self, mean: Array, variance: Array, shares_T: Array, known: Array | None) -> Array:
        """Tokens of rows [targets, rows, row width] from predictions [targets, rows]."""
        share = jnp.broadcast_to(shares_T[:, None] if self.classes is not None else 0.0, mean.shape)
        target = jnp.zeros_like(mean) if known is None else known
        numbers = [jnp.clip(mean, -FAR, FAR), jnp.log(variance), jnp.clip(target, -FAR, FAR)]
        numbers += [jnp.full_like(mean, known is not None), jnp.log(jnp.maximum(share, 1e-3))]
        return self.of_row(jnp.stack(numbers, axis=-1))


def _sizes(labelled: Seen, cells: Cells, spread_T: Array) -> tuple[Array, Array, Array]:
    """What a column knows of its cells, what a table knows of its size, and log columns.

    Returns:
        [targets, columns, 2], the share of equal pairs and of cells that are present;
        [targets, 3], of rows, of columns, and the logarithm of the spread;
        [].
    """
    targets, rows = len(spread_T), jnp.maximum(cells.counts.sum(), 1).astype(spread_T.dtype)
    log_columns = jnp.log(jnp.maximum(cells.varies.sum(), 1)).astype(spread_T.dtype)
    equals = lambda column: likeness(column, column)[0][len(WINDOWS)].sum()
    equal_C = jax.lax.map(equals, labelled) / rows**2
    present_C = jnp.isfinite(cells.values).sum(axis=0) / rows
    of_cells = jnp.stack([equal_C, present_C], axis=-1)
    full = lambda number: jnp.full_like(spread_T, number)
    of_sizes = [full(jnp.log(rows) - 4), full(log_columns - 2), jnp.log(spread_T)]
    return (
        jnp.broadcast_to(of_cells[None], (targets, *of_cells.shape)),
        jnp.stack(of_sizes, axis=-1),
        log_columns,
    )


def _of_last_axis(net: MLP, x: Array) -> Array:
    """The net on vectors [..., inputs]."""
    return net(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)


def _log_share(share: Array) -> Array:
    """The logarithm of a share, continued smoothly where the prediction is below 0."""
    return jnp.log(jax.nn.softplus(20 * share) / 20 + 1e-3)


def _read_rows(block: Block, rows: Array, known: Array, counts_N: Array) -> Array:
    """Rows [targets, rows, width] after they have read those of the labelled rows."""
    return block(rows, jnp.broadcast_to(counts_N, (len(known), len(counts_N))), known)
