"""The transformer for tables with the weights that are part of this package."""

from __future__ import annotations

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from metajax._checked import checked
from metajax.nets.table_transformers import TableTransformer
from metajax.types import Size

WEIGHTS = pathlib.Path(__file__).parent / "weights"


@checked
def trained_tables(classes: Size | None) -> TableTransformer:
    """A `TableTransformer` with trained weights, which reads real tables at once.

    It learned from tables of `data.structural_tables` alone, by `benchmarks/train_tables.py`, in
    46 minutes for classes and 41 for numbers, on one core each. In that training the kernel took
    two missing cells for different ones. It now takes them for equal, which keeps it positive
    definite. The weights have 0.2 MB each, and the licence of this package, Apache-2.0.
    `estimators.TableClassifier` and `estimators.TableRegressor` use them behind the interface of
    scikit-learn.

    Args:
        classes: number of classes, any; None predicts a number.

    >>> from metajax import algorithms
    >>> learner = algorithms.in_context(trained_tables(classes=3))
    """
    net = TableTransformer(classes, rngs=nnx.Rngs(0))
    name = "table_numbers" if classes is None else "table_classes"
    with np.load(WEIGHTS / f"{name}.npz", allow_pickle=False) as saved:
        arrays = dict(saved)
    weights = nnx.to_pure_dict(nnx.state(net, nnx.Param))
    saved_of = lambda path: arrays[jax.tree_util.keystr(path, simple=True, separator="/")]
    nnx.update(net, jax.tree.map_with_path(lambda path, _: _floats(saved_of(path)), weights))
    return net


def _floats(bits: np.ndarray) -> np.ndarray:
    """float32 of bfloat16 that NumPy keeps as uint16."""
    return bits.view(jnp.bfloat16).astype(np.float32)
