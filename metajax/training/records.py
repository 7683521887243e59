"""Records of a run: plain numbers, one dict for every few steps."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from metajax.outer.evaluation import Summary
from metajax.outer.outer_loops import Info

Record = dict[str, Any]


def mean_info(infos: Sequence[Info]) -> Record:
    """Means over the steps of some calls, and the sum of the skipped tasks.

    A step that kept no task has no loss, and is left out of the means.

    Args:
        infos: one for each call, leaves [steps, ...] on the host.
    """
    means = jax.tree.map(_mean_of_kept, *infos)
    skipped = sum(int(info.skipped.sum()) for info in infos)
    return {"loss": means.loss, "grad_norm": means.grad_norm, "skipped": skipped, **means.metrics}


def evaluation_record(summaries: Mapping[str, Summary]) -> Record:
    """{"evaluate/<name>": mean, "evaluate/<name>/interval": half its width} for each summary."""
    record = {}
    for name, summary in summaries.items():
        record[f"evaluate/{name}"] = np.asarray(summary.mean).tolist()
        record[f"evaluate/{name}/interval"] = np.asarray(summary.interval).tolist()
    return record


def append_record(path: str | pathlib.Path, record: Record) -> None:
    """Appends the record to a file of JSON lines."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def _mean_of_kept(*leaves: np.ndarray) -> Any:
    """The mean over all steps of all leaves [steps, ...] that are not NaN; NaN if none is."""
    values_Sx = np.concatenate(leaves)
    kept_S = ~np.isnan(values_Sx.reshape(len(values_Sx), -1)).all(axis=1)
    values_Sx = values_Sx[kept_S] if kept_S.any() else values_Sx
    return values_Sx.mean(axis=0).tolist()
