"""Records of a run: plain numbers, one dict for every few steps."""

from __future__ import annotations

import json
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from metajax.outer.evaluation import Summary
from metajax.outer.outer_loops import Info

Record = dict[str, Any]


RESERVED = ("step", "seconds", "tasks_per_second", "loss", "grad_norm", "skipped", "message")
"""The names in a record that a metric cannot have."""

NOTHING_KEPT = (
    "No task was kept: the loss or the gradient of every task was not finite, so nothing was "
    "learned. Likely causes are a learning rate that is too large, inside or outside; labels that "
    "are not classes; inputs that are not finite; an optimizer whose derivative is not finite; or "
    "a tolerance of implicit() that its solver does not reach."
)


def mean_info(infos: Sequence[Info]) -> Record:
    """Means over the steps of some calls, and the sum of the skipped tasks.

    A step that kept no task has no loss, and is left out of the means.

    Args:
        infos: one for each call, leaves [steps, ...] on the host.
    """
    means = jax.tree.map(_mean_of_kept, *infos)
    skipped = sum(int(info.skipped.sum()) for info in infos)
    record = {"loss": means.loss, "grad_norm": means.grad_norm, "skipped": skipped}
    kept_nothing = all(np.isnan(info.loss).all() for info in infos)
    message = {"message": NOTHING_KEPT} if kept_nothing else {}
    return {**record, **means.metrics, **message}


def evaluation_record(summaries: Mapping[str, Summary]) -> Record:
    """{"evaluate/<name>": mean, "evaluate/<name>/interval": half its width} for each summary."""
    record = {}
    for name, summary in summaries.items():
        record[f"evaluate/{name}"] = np.asarray(summary.mean).tolist()
        record[f"evaluate/{name}/interval"] = np.asarray(summary.interval).tolist()
    return record


class Log:
    """A file of JSON lines that the records of a run are appended to. None writes nothing.

    Raises:
        OSError: a file that cannot be written, before the run starts.
    """

    def __init__(self, path: str | pathlib.Path | None):
        self.path = None if path is None else pathlib.Path(path)
        if self.path is None:
            return
        with open(self.path, "ab"):
            pass
        _drop_torn_line(self.path)

    def append(self, record: Record) -> None:
        """Appends a record. A number that is not finite, which JSON does not have, is null."""
        if self.path is None:
            return
        line = json.dumps(_finite(record), allow_nan=False) + "\n"
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def has_step(self, step: int) -> bool:
        """Whether there is a record of this step. Without a file there is nothing to add."""
        if self.path is None:
            return True
        lines = self.path.read_text(encoding="utf-8").splitlines()
        return any(json.loads(line).get("step") == step for line in lines)


def _drop_torn_line(path: pathlib.Path) -> None:
    """Cuts off a last line that a process which was killed did not write whole."""
    text = path.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    if whole != text:
        os.truncate(path, len(whole))


def _finite(value: Any) -> Any:
    """The value with None in place of numbers that are not finite."""
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _mean_of_kept(*leaves: np.ndarray) -> Any:
    """The mean over all steps of all leaves [steps, ...] that are not NaN; NaN if none is."""
    values_Sx = np.concatenate(leaves)
    kept_S = ~np.isnan(values_Sx.reshape(len(values_Sx), -1)).all(axis=1)
    values_Sx = values_Sx[kept_S] if kept_S.any() else values_Sx
    return values_Sx.mean(axis=0).tolist()
