"""The best state of a run, which is kept beside its checkpoints."""

from __future__ import annotations

import json
import math
import pathlib
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metajax.training.processes import Processes, on_host
from metajax.training.records import Record
from metajax.training.saving import load, read_leaves, save
from metajax.types import PyTree

Score = Callable[[Record], float]
"""(record) -> how good its state is; more is better."""


class BestState:
    """The state whose record has the highest score. Of equal ones it is the first.

    Args:
        score: of a record. None keeps no state.
        folder: of the checkpoints, where it is written to; or None.
        processes: all of which keep it, and the first of which writes it.
    """

    def __init__(self, score: Score | None, folder: pathlib.Path | None, processes: Processes):
        self.score = score
        self.path = None if folder is None else folder / "best.npz"
        self.processes = processes
        self.highest = -math.inf
        self.state: PyTree = None
        self.latest: float | None = None

    def restore(self, state: PyTree) -> None:
        """Takes what an earlier part of the run kept, if it did.

        Its score is that of its record now, because the run may go on with another score.

        Args:
            state: of the same run.

        Raises:
            ValueError: a damaged file, or a score that is not a number.
        """
        if self.score is None or self.path is None:
            return
        if not self.processes.any(self.path.exists()):
            return
        _, values = read_leaves(self.path)
        record = values.get("['record']", np.zeros(0, np.uint8))  # its length differs
        kept = load(self.path, like={"record": record, "state": state})
        score = _as_number(self.score(_from_text(kept["record"])))
        if score > self.highest:
            self.highest = score
            self.state = kept["state"]

    def consider(self, state: PyTree, record: Record) -> None:
        """Keeps this state if its record is better than all before.

        Raises:
            ValueError: a score that is not a number.
        """
        if self.score is None:
            return
        self.latest = score = _as_number(self.score(dict(record)))
        if not score > self.highest:
            return
        self.highest = score
        self.state = jax.tree.map(jnp.copy, state)
        if self.path is not None:
            whole = jax.tree.map(on_host, state)
            with self.processes.together():
                if self.processes.is_first:
                    save(self.path, {"record": _as_text(record), "state": whole})

    def choose(self, last: PyTree) -> PyTree:
        """The best state, or the last one where none was kept; a warning says why."""
        if self.state is not None:
            return self.state
        if self.latest is not None:
            warnings.warn(
                f"keep_best gave {self.latest} for the last record, and no number above -inf for "
                "any other, so no state is the best; fit returns the last one. Does the score read "
                "an entry of the record that is not finite?",
                stacklevel=4,
            )
        return last


def _as_text(record: Record) -> np.ndarray:
    """A record as JSON in an array of bytes, uint8[length]."""
    return np.frombuffer(json.dumps(record).encode(), np.uint8)


def _from_text(text: Any) -> Record:
    """The record that `_as_text` was given."""
    record: Record = json.loads(bytes(np.asarray(text)))
    return record


def _as_number(score: Any) -> float:
    """The score as a float."""
    value = np.asarray(score)
    if value.ndim or value.dtype.kind in "OSUc":
        raise ValueError(f"keep_best must return one number for a record, got {score!r}.")
    return float(value)
