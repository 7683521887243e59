"""Tasks of a step, drawn and read in a thread or process of its own."""

from __future__ import annotations

import functools
import multiprocessing
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax.data.datasets import Dataset
from metajax.data.tasks.drawing import at_step
from metajax.data.tasks.row_numbers import draw_numbers, picked_rows
from metajax.data.values import check_values
from metajax.types import Array, Batch, PyTree, Sample

REFUSED = (
    "The sampler of a stream may pick rows and pad. Change examples in augment=, such as "
    "`augment=lambda drawn: augmented(drawn, flip())`, and turn images with "
    "`rotated(rows, fetch=fetch)`."
)
"""The error of a stream whose sampler changes examples."""


class RowReader(NamedTuple):
    """Draws and reads the tasks of a step. It holds no array of JAX, so that it can be pickled.

    Attributes:
        sample: sampler (rows, key) -> tasks.
        rows: data set whose x are row numbers, on the host.
        fetch: row numbers int[...] -> x of these rows, on the host.
        shard: (index, count): which part of the tasks is read.
        key_data: the data of the key of the run.
        key_kind: the name of its implementation.
        is_x64: whether integers and floats are of 64 bits.
    """

    sample: Sample[PyTree]
    rows: Dataset
    fetch: Callable[[np.ndarray], PyTree]
    shard: tuple[int, int]
    key_data: np.ndarray
    key_kind: str
    is_x64: bool

    def read(self, step: int) -> PyTree:
        """The tasks of a step as they are stored: this shard's part.

        Raises:
            ValueError: a sampler that changes examples.
        """
        if multiprocessing.parent_process() is not None:
            jax.config.update("jax_platforms", "cpu")  # the accelerator is the parent's
        with jax.enable_x64(self.is_x64), jax.default_device(jax.local_devices(backend="cpu")[0]):
            drawn = _draw(self.sample, self.rows, self.key_data, self.key_kind, step)
            drawn = jax.device_get(drawn)
        index, count = self.shard
        forwards, backwards = jax.tree.map(lambda leaf: np.split(leaf, count)[index], drawn)

        def read(one: Any, other: Any) -> Any:
            return one._replace(x=self._rows(one.x, other.x)) if isinstance(one, Batch) else one

        return jax.tree.map(read, forwards, backwards, is_leaf=lambda part: isinstance(part, Batch))

    def _rows(self, forwards: np.ndarray, backwards: np.ndarray) -> PyTree:
        """The examples of drawn row numbers, and zeros for padding."""
        rows = picked_rows(forwards, backwards, len(self.rows.y))
        if rows is None:
            raise ValueError(REFUSED)
        numbers = self.rows.x[rows]
        is_valid = rows >= 0
        is_whole = is_valid.all()
        fetched = self.fetch(numbers if is_whole else numbers[is_valid])
        with jax.enable_x64(self.is_x64):
            _check_width(fetched)
        if is_whole:
            return fetched
        return jax.tree.map(functools.partial(_spread, is_valid), fetched)


def row_reader(
    sample: Sample[PyTree],
    rows: Dataset,
    fetch: Callable[[np.ndarray], PyTree],
    shard: tuple[int, int],
    key: Array,
) -> RowReader:
    """The reader of a run with this key."""
    return RowReader(
        sample=functools.partial(sample),  # a new object for each run, which `_draw` compiles anew
        rows=jax.device_get(rows),
        fetch=fetch,
        shard=shard,
        key_data=np.asarray(jax.random.key_data(key)),
        key_kind=str(jax.random.key_impl(key)),
        # `with jax.enable_x64` holds in the thread of the caller only, not in those of grain.
        is_x64=jax.dtypes.canonicalize_dtype(np.int64) == np.int64,
    )


@functools.partial(jax.jit, static_argnums=(0, 3))
def _draw(
    sample: Sample[PyTree], rows: Dataset, key_data: Array, key_kind: str, step: int
) -> tuple[PyTree, PyTree]:
    """The row numbers of the tasks of a step, drawn as `fit` draws tasks."""
    now = jnp.asarray(step, jnp.int32)
    key = jax.random.fold_in(jax.random.wrap_key_data(key_data, impl=key_kind), now)
    return draw_numbers(at_step(sample, now), rows, jax.random.split(key)[0])


def _check_width(fetched: PyTree) -> None:
    """Checks arrays of more bits than JAX gives them, such as int64; others are not looked at.

    Raises:
        ValueError: values that would change.
    """
    for leaf in jax.tree.leaves(fetched):
        is_array = isinstance(leaf, np.ndarray)
        if is_array and jax.dtypes.canonicalize_dtype(leaf.dtype) != leaf.dtype:
            check_values("What fetch returns", leaf)


def _spread(is_valid: np.ndarray, leaf: np.ndarray) -> np.ndarray:
    """Zeros, with the rows of the leaf where the mask is True."""
    whole = np.zeros(is_valid.shape + leaf.shape[1:], leaf.dtype)
    whole[is_valid] = leaf
    return whole
