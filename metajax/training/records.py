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


_START = b'{"step": '
"""What the line of a record begins with."""


class Log:
    """A file of JSON lines that the records of one run are appended to. None writes nothing.

    Raises:
        OSError: a file that cannot be written, before the run starts.
        ValueError: a file with a line that is not a record.
    """

    def __init__(self, path: str | pathlib.Path | None):
        self.path = None if path is None else pathlib.Path(path)
        self.found: list[tuple[Record, int]] = []
        if self.path is None:
            return
        with open(self.path, "ab"):
            pass
        self.found = _read_records(self.path)

    def go_on(self, step: int, record: Record | None) -> bool:
        """Makes ready for the records after this step: cuts off a torn line and later records.

        There are later records if a damaged checkpoint was set aside, and they come again.

        Args:
            step: where the run starts.
            record: of this step, without evaluation; None if the run starts without a checkpoint.

        Returns:
            Whether the record of this step is missing.

        Raises:
            ValueError: the records are those of another run.
        """
        if self.path is None:
            return False
        kept = [one for one in self.found if one[0]["step"] <= step]
        later = self.found[len(kept) :]
        has_step = bool(kept) and kept[-1][0]["step"] == step
        if record is not None and has_step:
            is_other_run = not _is_part_of(record, kept[-1][0])
        else:
            is_other_run = bool(later)
        if is_other_run:
            raise ValueError(
                f"{self.path} has records of another run, up to step {self.found[-1][0]['step']}, "
                f"and this run starts at step {step}. Give this run a log of its own, or remove "
                "the file."
            )
        end = kept[-1][1] if kept else 0
        if self.path.stat().st_size > end:
            os.truncate(self.path, end)
        return record is not None and not has_step

    def append(self, record: Record) -> None:
        """Appends a record. A number that is not finite, which JSON does not have, is null."""
        if self.path is None:
            return
        ordered = {"step": record["step"], **record}  # a torn line shows what it was
        line = json.dumps(_finite(ordered), allow_nan=False) + "\n"
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())


def _read_records(path: pathlib.Path) -> list[tuple[Record, int]]:
    """The records of a log, and the place in the file where the line of each ends.

    A last line that a process which was killed did not write whole is left out.
    """
    found: list[tuple[Record, int]] = []
    end = 0
    before = -1
    with path.open("rb") as file:
        lines = file.readlines()
    for number, line in enumerate(lines, start=1):
        end += len(line)
        if not line.endswith(b"\n") and line[: len(_START)] == _START[: len(line)]:
            break
        try:
            record = _parse_record(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"Line {number} of {path} is not a record of fit ({error}). Give this run a log "
                "of its own, or remove the line."
            ) from error
        if record["step"] <= before:
            raise ValueError(
                f"Line {number} of {path} is of step {record['step']}, after one of step "
                f"{before}: several runs have written to it. Give each run a log of its own."
            )
        before = record["step"]
        found.append((record, end))
    return found


def _parse_record(line: bytes) -> Record:
    """The record in a line.

    Raises:
        ValueError: not strict JSON, or not an object with a whole number "step".
    """

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    record = json.loads(line, parse_constant=refuse)
    if not isinstance(record, dict) or type(record.get("step")) is not int:
        raise ValueError('it has no whole number "step"')
    return record


def _is_part_of(record: Record, logged: Record) -> bool:
    """Whether a logged record has all entries of a record. Its seconds tell runs apart."""
    return all(logged.get(name) == value for name, value in _finite(record).items())


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
