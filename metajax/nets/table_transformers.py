"""A transformer that reads a table in context: labelled rows, and rows to predict."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import nnx

from metajax._checked import checked
from metajax._class_means import weighted_one_hot
from metajax._tree import as_floating, widened
from metajax.nets.attention import Block
from metajax.nets.perceptrons import MLP
from metajax.nets.processes import gaussian_of
from metajax.types import Array, Batch, Gaussian, PyTree, Size

CLIP = 10.0
"""Largest size of a standardised cell."""

WINDOWS = (0.02, 0.08, 0.3)
"""Deviations of the windows over ranks, in which a cell reads the targets of other rows."""

ABSENT = -1e9
"""Logit of a class of which no row was read, unless none was read at all: then all are equal."""


@checked
class TableTransformer(nnx.Module):
    """A net that predicts the target of rows of a table from other rows, without any training.

    1. Every cell is a token. It knows its standardised value, its rank in the column, how many
       labelled rows are near it, and their targets, 2 Σᵢ k(r - rᵢⱼ) tᵢ / (1 + Σᵢ k(r - rᵢⱼ)),
       where k is a Gaussian window over the ranks r of column j, of three deviations. In this step
       a labelled row does not read its own target. It is attention down a column, whose keys are
       the cells.
    2. The tokens of a row read each other, and a token of the row reads them.
    3. The rows read the labelled rows, which know their target.

    A class is predicted as a number is: its target t is 1 for rows of the class and 0 for others,
    standardised. The same weights serve every class, so a net knows any number of classes, and the
    order of classes, rows and columns does not matter. Neither do scale and shift of a column. A
    missing cell is NaN. A column whose labelled cells are all equal or missing does not count.

    Args:
        classes: number of classes; None predicts a number. The weights do not depend on it.
        width: of the tokens of cells.
        layers: number of blocks in which the tokens of a row read each other, the last one for
            the token of the row alone.
        row_width: of the tokens of rows.
        row_layers: number of blocks in which rows read the labelled rows.
        heads: number of heads of attention; divides both widths.
        least_deviation: of a predicted number, in deviations of the labelled targets.
        rngs: for the weights.

    Source: Hollmann et al. 2023, arXiv 2207.01848, for tables in context; Hollmann et al. 2025,
    Nature 637, for tokens of cells; Qu et al. 2025, arXiv 2502.05564, for columns, rows and then
    the context. The windows and the weights that all classes share are ours.
    """

    def __init__(
        self,
        classes: Size | None,
        *,
        width: Size = 32,
        layers: Size = 2,
        row_width: Size = 96,
        row_layers: Size = 4,
        heads: Size = 4,
        least_deviation: float = 0.05,
        rngs: nnx.Rngs,
    ):
        def blocks(number: int, of_width: int) -> nnx.List:
            return nnx.List([Block(of_width, heads, rngs=rngs) for _ in range(number)])

        self.classes = classes
        self.least_deviation = least_deviation
        self.of_cell = MLP(3 + 2 * len(WINDOWS), (2 * width,), width, rngs=rngs)
        self.of_target = nnx.Linear(2, width, rngs=rngs)
        self.across = blocks(layers, width)
        self.widen = nnx.Linear(width, row_width, rngs=rngs)
        self.between = blocks(row_layers, row_width)
        self.norm = nnx.LayerNorm(row_width, rngs=rngs)
        self.predictor = MLP(row_width, (row_width,), 2 if classes is None else 1, rngs=rngs)

    def read(self, x: Array, y: Array, weight: Array) -> PyTree:
        """What is kept of labelled rows.

        Args:
            x: [n, columns], NaN where a cell is missing.
            y: int[n] with classes, else float[n, 1]. A row with the label -1 is not read.
            weight: [n]; a row of weight 0 is not read.
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
        of_target = _statistics(targets_NxT, counts_N)
        known_NxT = _standardised(targets_NxT, of_target) * counts_N[:, None]
        cells_NxC = jnp.where(counts_N[:, None], x, jnp.nan)
        context: dict[str, Any] = {
            "cells": cells_NxC,
            "ranks": _ranks(cells_NxC, cells_NxC),
            "column": _statistics(x, counts_N),
            "target": of_target,
            "known": known_NxT,
            "counts": counts_N,
        }
        rows_TxNxW = self._rows(x, context, known_NxT)
        between = []
        for block in self.between:
            between.append(rows_TxNxW)
            rows_TxNxW = _read_rows(block, rows_TxNxW, rows_TxNxW, counts_N)
        return {**context, "between": jnp.stack(between)}

    def predict(self, x: Array, context: PyTree) -> Array | Gaussian:
        """Logits [n, classes], or a `Gaussian` [n, 1], for rows x [n, columns]."""
        if jnp.shape(x)[1:] != context["cells"].shape[1:]:
            raise ValueError(
                f"The rows to predict must have the {context['cells'].shape[1]} columns of the "
                f"labelled rows, got shape {jnp.shape(x)}."
            )
        rows_TxMxW = self._rows(widened(as_floating(x)), context, None)
        for block, known in zip(self.between, context["between"], strict=True):
            rows_TxMxW = _read_rows(block, rows_TxMxW, known, context["counts"])
        normal = self.norm(rows_TxMxW)
        outputs = self.predictor(normal.reshape(-1, normal.shape[-1])).reshape(
            *normal.shape[:2], -1
        )
        mean, deviation = context["target"]["mean"], context["target"]["deviation"]
        if self.classes is not None:
            # Without any information, the logits are those of the frequencies of the classes.
            logits_MxT = outputs[..., 0].T + jnp.log(jnp.maximum(mean, 1e-6))[None]
            is_read_T = mean > 0
            return jnp.where(is_read_T[None] | ~is_read_T.any(), logits_MxT, ABSENT)
        standard = gaussian_of(outputs[0], self.least_deviation)
        return Gaussian(
            mean[None] + deviation[None] * standard.mean, deviation[None] ** 2 * standard.variance
        )

    def _rows(self, x: Array, context: PyTree, known_NxT: Array | None) -> Array:
        """Tokens of rows before they have read others, [targets, rows, row width].

        `known_NxT` are the targets where x are the labelled rows, and None for rows to predict.
        """
        is_known = known_NxT is not None
        cells_TxMxCxE = self.of_cell(features_of_cells(x, context, is_known))
        if known_NxT is None:
            known_NxT = jnp.zeros((len(x), context["known"].shape[1]), x.dtype)
        pair = jnp.stack([known_NxT.T, jnp.full_like(known_NxT.T, is_known)], axis=-1)
        row_TxMx1xE = self.of_target(pair)[:, :, None]
        tokens = jnp.concatenate([cells_TxMxCxE, row_TxMx1xE], axis=2)
        tokens = tokens.reshape(-1, *tokens.shape[2:])
        readable = jnp.append(context["column"]["varies"], True)
        readable = jnp.broadcast_to(readable, tokens.shape[:2])
        for block in self.across[:-1]:
            tokens = block(tokens, readable)
        row = self.across[-1](tokens[:, -1:], readable, tokens)
        return self.widen(row).reshape(*pair.shape[:2], -1)


def features_of_cells(x_MxC: Array, context: PyTree, is_known: bool) -> Array:
    """What a cell knows, [targets, rows, columns, 3 + 2 for each window]."""
    present_MxC = jnp.isfinite(x_MxC) & context["column"]["varies"][None]
    value_MxC = jnp.clip(_standardised(x_MxC, context["column"]), -CLIP, CLIP)
    rank_MxC = _ranks(x_MxC, context["cells"])
    readable_MxNxC = jnp.isfinite(context["cells"])[None] & present_MxC[:, None]
    if is_known:
        readable_MxNxC &= ~jnp.eye(len(x_MxC), dtype=bool)[..., None]
    gap_MxNxC = rank_MxC[:, None] - context["ranks"][None]
    cleared = (jnp.where(present_MxC, one, 0) for one in (value_MxC, 2 * rank_MxC - 1))
    of_cell, of_target = [*cleared, present_MxC.astype(x_MxC.dtype)], []
    for deviation in WINDOWS:
        share_MxNxC = jnp.exp(-0.5 * (gap_MxNxC / deviation) ** 2)
        share_MxNxC = jnp.where(readable_MxNxC, share_MxNxC, 0)
        mass_MxC = share_MxNxC.sum(axis=1)
        sum_TxMxC = jnp.einsum("mnc,nt->tmc", share_MxNxC, context["known"])
        of_cell.append(jnp.log1p(mass_MxC) / 3)
        of_target.append(2 * sum_TxMxC / (1 + mass_MxC)[None])
    for_all = jnp.broadcast_to(
        jnp.stack(of_cell, axis=-1)[None], (*of_target[0].shape, len(of_cell))
    )
    return jnp.concatenate([for_all, jnp.stack(of_target, axis=-1)], axis=-1)


def _ranks(x_MxC: Array, cells_NxC: Array) -> Array:
    """Share of a column's labelled cells below each cell, where equal ones count half, [m, c]."""
    known_1xNxC = cells_NxC[None]
    below_MxC = (known_1xNxC < x_MxC[:, None]).sum(axis=1)
    equal_MxC = (known_1xNxC == x_MxC[:, None]).sum(axis=1)
    number_C = jnp.isfinite(cells_NxC).sum(axis=0)
    return (below_MxC + equal_MxC / 2) / jnp.maximum(number_C, 1)[None]


def _statistics(x: Array, counts_N: Array) -> dict[str, Array]:
    """Mean and deviation of the finite cells of each column [columns], and which vary."""
    present_NxC = jnp.isfinite(x) & counts_N[:, None]
    divisor_C = jnp.maximum(present_NxC.sum(axis=0), 1)
    clear_NxC = jnp.where(present_NxC, x, 0)
    mean_C = clear_NxC.sum(axis=0) / divisor_C
    square_NxC = jnp.where(present_NxC, (clear_NxC - mean_C[None]) ** 2, 0)
    variance_C = square_NxC.sum(axis=0) / divisor_C
    # The deviation of a constant column is its rounding, and not 0.
    varies_C = variance_C > (8 * jnp.finfo(x.dtype).eps * mean_C) ** 2
    deviation_C = jnp.where(varies_C, jnp.sqrt(jnp.where(varies_C, variance_C, 1)), 1)
    return {"mean": mean_C, "deviation": deviation_C, "varies": varies_C}


def _standardised(x: Array, statistics: dict[str, Array]) -> Array:
    """(x - mean) / deviation of each column."""
    return (x - statistics["mean"][None]) / statistics["deviation"][None]


def _read_rows(block: Block, rows: Array, known: Array, counts_N: Array) -> Array:
    """Rows [targets, rows, width] after they have read those of the labelled rows."""
    return block(rows, jnp.broadcast_to(counts_N, (len(known), len(counts_N))), known)
