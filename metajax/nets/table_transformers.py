"""A transformer that reads a table in context: labelled rows, and rows to predict."""

from __future__ import annotations

from typing import Any

import jax
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

ABSENT = -1e9
"""Logit of a class of which no row was read; 0 is added to all where none was read at all."""


@checked
class TableTransformer(nnx.Module):
    """A net that predicts the target of rows of a table from other rows, without any training.

    Every cell is a token, and so is the target of a row. In every layer the tokens of a row read
    each other, and then the tokens of a column read those of the labelled rows. So the order of
    rows and of columns does not matter, and neither do scale and shift of a column: a cell is
    standardised by the labelled rows. A missing cell is NaN. A column in which all labelled rows
    miss their cell does not count.

    Args:
        classes: largest number of classes; None predicts a number.
        width: of the tokens.
        layers: number of layers, each with a block across columns and one down the rows.
        heads: number of heads of attention; divides `width`.
        least_deviation: of a predicted number, in deviations of the labelled targets.
        rngs: for the weights.

    Source: Hollmann et al. 2025, "Accurate predictions on small data with a tabular foundation
    model", Nature 637, for the two directions of attention; Hollmann et al. 2023, arXiv 2207.01848.
    """

    def __init__(
        self,
        classes: int | None,
        *,
        width: Size = 48,
        layers: Size = 4,
        heads: Size = 4,
        least_deviation: float = 0.05,
        rngs: nnx.Rngs,
    ):
        self.classes = classes
        self.least_deviation = least_deviation
        self.of_cell = MLP(2, (width,), width, rngs=rngs)
        self.of_target = nnx.Linear(1 if classes is None else classes, width, rngs=rngs)
        self.unknown = nnx.Param(jax.random.normal(rngs.params(), (width,)))
        self.across = nnx.List([Block(width, heads, rngs=rngs) for _ in range(layers)])
        self.down = nnx.List([Block(width, heads, rngs=rngs) for _ in range(layers)])
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.predictor = MLP(width, (2 * width,), 2 if classes is None else classes, rngs=rngs)

    def read(self, x: Array, y: Array, weight: Array) -> PyTree:
        """What each layer reads of labelled rows.

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
        if self.classes is not None:
            classes_NxT = weighted_one_hot(Batch(x, y), self.classes).astype(x.dtype)
            counts_N &= (classes_NxT != 0).any(axis=1)
        context: dict[str, Any] = {"counts": counts_N, **_statistics(x, counts_N)}
        if self.classes is None:
            y = widened(as_floating(y))
            of_target = _statistics(y, counts_N)
            context["target"] = {name: of_target[name] for name in ("mean", "deviation")}
            read_NxT = (y - of_target["mean"][None]) / of_target["deviation"][None]
        else:
            read_NxT = classes_NxT * counts_N[:, None]
            is_present_T = (read_NxT != 0).any(axis=0)
            context["target"] = is_present_T | ~is_present_T.any()
        tokens = self._tokens(x, self.of_target(read_NxT), context)
        known = []
        for across, down in zip(self.across, self.down, strict=True):
            tokens = across(tokens, _per_row(context["used"], len(x)))
            known.append(tokens)
            tokens = _down(down, tokens, tokens, counts_N)
        return {**context, "known": jnp.stack(known)}

    def predict(self, x: Array, context: PyTree) -> Array | Gaussian:
        """Logits [n, classes], or a `Gaussian` [n, 1], for rows x [n, columns]."""
        if jnp.shape(x)[1:] != context["used"].shape:
            raise ValueError(
                f"The rows to predict must have the {len(context['used'])} columns of the labelled "
                f"rows, got shape {jnp.shape(x)}."
            )
        x = widened(as_floating(x))
        unknown = jnp.broadcast_to(self.unknown[...], (len(x), self.unknown.shape[0]))
        tokens = self._tokens(x, unknown, context)
        for across, down, known in zip(self.across, self.down, context["known"], strict=True):
            tokens = across(tokens, _per_row(context["used"], len(x)))
            tokens = _down(down, tokens, known, context["counts"])
        outputs = self.predictor(self.norm(tokens[:, -1]))
        if self.classes is not None:
            return jnp.where(context["target"][None], outputs, ABSENT)
        mean, variance = gaussian_of(outputs, self.least_deviation)
        shift, scale = context["target"]["mean"], context["target"]["deviation"]
        return Gaussian(shift[None] + scale[None] * mean, scale[None] ** 2 * variance)

    def _tokens(self, x: Array, target_NxE: Array, context: PyTree) -> Array:
        """Tokens of the cells and of the target, [rows, columns + 1, width]."""
        present_NxC = jnp.isfinite(x) & context["used"][None]
        shift_1xC, scale_1xC = context["mean"][None], context["deviation"][None]
        standard_NxC = (jnp.where(present_NxC, x, 0) - shift_1xC) / scale_1xC
        standard_NxC = jnp.where(present_NxC, jnp.clip(standard_NxC, -CLIP, CLIP), 0)
        pairs = jnp.stack([standard_NxC, present_NxC.astype(x.dtype)], axis=-1)
        cells = self.of_cell(pairs.reshape(-1, 2)).reshape(*x.shape, -1)
        return jnp.concatenate([cells, target_NxE[:, None]], axis=1)


def _statistics(x: Array, counts_N: Array) -> dict[str, Array]:
    """Mean and deviation of the cells of each column [columns], and which columns have any."""
    present_NxC = jnp.isfinite(x) & counts_N[:, None]
    number_C = present_NxC.sum(axis=0)
    divisor_C = jnp.maximum(number_C, 1)
    clear_NxC = jnp.where(present_NxC, x, 0)
    mean_C = clear_NxC.sum(axis=0) / divisor_C
    square_NxC = jnp.where(present_NxC, (clear_NxC - mean_C[None]) ** 2, 0)
    variance_C = square_NxC.sum(axis=0) / divisor_C
    # The deviation of a constant column is its rounding, and not 0.
    varies_C = variance_C > (8 * jnp.finfo(x.dtype).eps * mean_C) ** 2
    deviation_C = jnp.where(varies_C, jnp.sqrt(jnp.where(varies_C, variance_C, 1)), 1)
    return {"mean": mean_C, "deviation": deviation_C, "used": number_C > 0}


def _per_row(used_C: Array, rows: int) -> Array:
    """Which tokens of a row may be read, bool[rows, columns + 1]: the target always."""
    return jnp.broadcast_to(jnp.append(used_C, True), (rows, len(used_C) + 1))


def _down(block: Block, tokens: Array, known: Array, counts_N: Array) -> Array:
    """Tokens [rows, columns + 1, width] after they have read those of the labelled rows."""
    valid = jnp.broadcast_to(counts_N, (tokens.shape[1], len(counts_N)))
    return block(tokens.swapaxes(0, 1), valid, known.swapaxes(0, 1)).swapaxes(0, 1)
