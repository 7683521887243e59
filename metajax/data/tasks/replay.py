"""A fixed set of tasks, kept in a small file that refers to rows of the data set."""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metajax._checked import checked
from metajax._checks import shapes
from metajax._tree import keep_rows
from metajax.data.datasets import Dataset
from metajax.data.tasks.drawing import at_step, take_examples, take_info
from metajax.data.tasks.few_shot import meta_batch
from metajax.data.tasks.fingerprints import fingerprint
from metajax.data.tasks.row_numbers import draw_numbers, picked_rows
from metajax.data.tasks.task_files import Record, read_record, task_arrays, write_record
from metajax.types import Array, Batch, PyTree, Sample, Task

_REFUSED = (
    "Only tasks whose x are rows of the data set can be recorded, and the x of these tasks are "
    "changed. Record tasks as they are drawn, and change what load_tasks returns; for turned "
    "images, draw from rotated(dataset)."
)


@checked
def save_tasks(
    path: str | os.PathLike,
    sample: Sample[Task],
    dataset: Dataset | PyTree,
    key: Array,
    *,
    tasks: int = 600,
) -> None:
    """Writes which tasks are drawn, so that they can be published with results.

    `load_tasks(path, dataset)` then returns `meta_batch(sample, tasks)(dataset, key)`. The draws of
    a key may change from one version of JAX to the next; a file does not change. It holds row
    numbers, labels and weights, a hash of the data set, the key and the versions: some kilobytes
    for a hundred tasks. It is an ordinary .npz file: `json.loads(str(numpy.load(path)["about"]))`
    describes where it is from.

    To record rows, the sampler is given a data set of the same classes whose examples are their row
    numbers. Tasks that need no data set are stored as they are.

    Args:
        path: of a new file.
        sample: sampler (dataset, key) -> Task, such as `episodes`, `varied_episodes`,
            `semi_supervised` or `continual`.
        dataset: what to draw from. Anything but a `Dataset`, such as (), is for samplers that
            generate tasks.
        key: key of the draw.
        tasks: how many tasks.

    Raises:
        FileExistsError: there is such a file; a fixed set of tasks is never overwritten.
        ValueError: tasks below 1; what the sampler raises; a sampler that draws no `Task` or
            changes x, a context or labels of more than one array; several data sets.

    >>> import tempfile
    >>> from metajax.data.datasets import dataset
    >>> from metajax.data.tasks.few_shot import episodes
    >>> source = dataset(np.arange(12.0)[:, None], np.repeat(np.arange(3), 4))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = f"{folder}/test.npz"
    ...     save_tasks(path, episodes(2, 1, 3), source, jax.random.key(0), tasks=100)
    ...     load_tasks(path, source).query.x.shape
    (100, 6, 1)
    """
    path = pathlib.Path(path)
    if path.exists():
        raise FileExistsError(
            f"{path} exists, and a fixed set of tasks is not overwritten; choose another name."
        )
    _check_source(dataset)
    sample_all = meta_batch(sample, tasks)
    drawn = jax.eval_shape(at_step(sample, None), dataset, key)
    if not isinstance(drawn, Task):
        raise ValueError(f"The sampler must draw a Task, got {type(drawn).__name__}.")
    if isinstance(dataset, Dataset):
        record = _record_rows(sample_all, dataset, key)
        first_key = jax.random.split(key, tasks)[0]
        # `partial` makes a new function: of the same one JAX would run what it compiled before.
        draw = jax.jit(functools.partial(at_step(sample, None)))
        _check_first(record, dataset, draw(dataset, first_key))
    else:
        record = task_arrays(sample_all(dataset, key))
    about = {
        "key": [str(jax.random.key_impl(key)), np.asarray(jax.random.key_data(key)).tolist()],
        "versions": {name: importlib.metadata.version(name) for name in ("metajax", "jax")},
        **_identity(dataset),
    }
    write_record(path, record, about)


@checked
def load_tasks(
    path: str | os.PathLike, dataset: Dataset | PyTree, *, most_bytes: int = 2**28
) -> Task:
    """Reads the tasks of a file of `save_tasks`, as `evaluate` takes them.

    Args:
        path: the file.
        dataset: the data set that they were drawn from, all of it in the same order; () if they
            were generated. Its scale may be another one.
        most_bytes: size that the file may unpack to.

    Returns:
        The tasks, along the leading axis of every leaf.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, not a file of `save_tasks` or unpacks to too many bytes;
            it has rows, labels or weights out of range; the data set is another one; or the numbers
            need `jax_enable_x64`, which is off.
    """
    record, about = read_record(pathlib.Path(path), most_bytes)
    given = _identity(dataset)
    if given["data"] != about.get("data"):
        raise ValueError(f"{path} needs {_describe(about)}, got {_describe(given)}.")
    _check_record(pathlib.Path(path), record, dataset)
    return _replay(record, dataset if isinstance(dataset, Dataset) else ())


def _check_record(path: pathlib.Path, record: Record, dataset: Dataset | PyTree) -> None:
    """Checks the numbers of a file that anyone may have made."""
    needed = "row" if isinstance(dataset, Dataset) else "x"
    for name in ("support", "query"):
        first, y = record.get(f"{name}.{needed}"), record.get(f"{name}.y")
        if first is None or y is None or first.shape[:2] != y.shape[:2] or first.ndim < 2:
            raise ValueError(
                f"{path} is damaged: {name}.{needed} and {name}.y must have one row for each "
                "example of each task."
            )
        weight = record.get(f"{name}.weight")
        if weight is not None:
            _check_range(path, f"{name}.weight", weight, 0, np.inf)
        if not isinstance(dataset, Dataset):
            continue
        _check_range(path, f"{name}.row", first, -1, len(dataset.y) - 1)
        if np.issubdtype(y.dtype, np.integer):
            _check_range(path, f"{name}.y", y, -1, dataset.classes - 1)  # -1 is no label
        if (info := record.get(f"{name}.info")) is not None:
            _check_range(path, f"{name}.info", info, 0, dataset.classes)


def _check_range(
    path: pathlib.Path, name: str, values: np.ndarray, least: float, most: float
) -> None:
    if values.size and not (least <= values.min() and values.max() <= most):
        raise ValueError(
            f"{path} is damaged: {name} must be from {least} to {most}, got {values.min()} to "
            f"{values.max()}."
        )


def _check_source(dataset: Dataset | PyTree) -> None:
    """Checks that tasks are drawn from one data set, or from none."""
    if isinstance(dataset, Dataset):
        return
    parts = jax.tree.leaves(dataset, is_leaf=lambda part: isinstance(part, Dataset))
    if any(isinstance(part, Dataset) for part in parts):
        raise ValueError(
            f"Tasks of several data sets cannot be recorded, got {type(dataset).__name__}; save "
            f"those of each."
        )


def _record_rows(sample_all: Sample[Task], dataset: Dataset, key: Array) -> Record:
    """The record of tasks that are drawn from a data set."""
    class_numbers = jnp.arange(1, 1 + dataset.classes, dtype=jnp.int32)
    info = class_numbers if jax.tree.leaves(dataset.info) else ()
    try:
        draw = jax.jit(functools.partial(draw_numbers, sample_all))
        drawn = draw(dataclasses.replace(dataset, info=info), key)
    except Exception as error:  # it draws from the data set itself, so it changes x
        raise ValueError(_REFUSED) from error
    record, backwards = (task_arrays(tasks) for tasks in drawn)
    for name in ("support", "query"):
        numbers = record.pop(f"{name}.x"), backwards[f"{name}.x"]
        rows = picked_rows(*numbers, len(dataset.y))
        if rows is None:
            raise ValueError(_REFUSED)
        record[f"{name}.row"] = rows
    return record


def _check_first(record: Record, dataset: Dataset, first: Task) -> None:
    """Checks that the first task of a record is the task that is drawn."""
    replayed = _replay({name: array[:1] for name, array in record.items()}, dataset)
    replayed = jax.tree.map(lambda leaf: leaf[0], replayed)
    if shapes(first) != shapes(replayed):
        raise ValueError(_REFUSED)
    pairs = zip(jax.tree.leaves(first), jax.tree.leaves(replayed), strict=True)
    if not all(np.array_equal(one, other) for one, other in pairs):
        raise ValueError(_REFUSED)


@jax.jit
def _replay(record: Record, dataset: Dataset | PyTree) -> Task:
    """The tasks of a record, along the leading axis."""
    support = _replay_batch(record, "support", dataset)
    query = _replay_batch(record, "query", dataset)
    return Task(support, query, record.get("context", ()))


def _replay_batch(record: Record, name: str, dataset: Dataset | PyTree) -> Batch:
    """The support or query set of a record."""
    fields: dict[str, PyTree] = {
        field: record[f"{name}.{field}"] for field in Batch._fields if f"{name}.{field}" in record
    }
    if isinstance(dataset, Dataset):
        fields["x"] = _examples(dataset, jnp.asarray(record[f"{name}.row"]))
        if "info" in fields:
            classes = fields["info"] - 1
            info = take_info(dataset, jnp.maximum(classes, 0))
            fields["info"] = keep_rows(classes >= 0, info)
    return Batch(**fields)


def _examples(dataset: Dataset, rows: Array) -> PyTree:
    """The examples in these rows, int[...], and zeros for row -1."""
    flat = rows.reshape(-1)
    x = take_examples(dataset, jnp.maximum(flat, 0))
    x = keep_rows(flat >= 0, x)
    return jax.tree.map(lambda leaf: leaf.reshape(rows.shape + leaf.shape[1:]), x)


def _identity(dataset: Dataset | PyTree) -> dict[str, Any]:
    """What a file states about its data set."""
    if not isinstance(dataset, Dataset):
        return {"data": None}
    return {"data": fingerprint(dataset), "classes": dataset.classes, "examples": len(dataset.y)}


def _describe(about: dict[str, Any]) -> str:
    """The data set of a file in words, for errors."""
    if about.get("data") is None:
        return "no data set, ()"
    return (
        f"the data set of {about['classes']} classes and {about['examples']} examples with "
        f"fingerprint {about['data']:.12}"
    )
