"""A fixed set of tasks in a file that holds no data, replayed bit for bit by anyone who has the data set."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import pathlib
import zipfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metajax._checks import shapes
from metajax._tree import keep_rows
from metajax.data.datasets import Dataset
from metajax.data.tasks.drawing import _real, info_of, turn
from metajax.data.tasks.few_shot import meta_batch
from metajax.data.tasks.row_numbers import decode, numbered
from metajax.types import Array, Batch, PyTree, Sample, Task

_FORMAT = 1

_REFUSED = (
    "Only tasks whose x is rows of the data set, whole or turned by quarters, can be recorded, and these are made of "
    "them in another way. Record them as they are drawn, and change what load_tasks gives."
)


def save_tasks(
    path: str | os.PathLike,
    sample: Sample[Task],
    dataset: Dataset | PyTree,
    key: Array,
    *,
    tasks: int = 600,
) -> None:
    """Writes down which tasks are drawn: `load_tasks(path, dataset)` is `meta_batch(sample, tasks)(dataset, key)`.

    What a key gives may change from one version of JAX to the next; a file does not. It holds row numbers, quarter
    turns, labels and weights, a hash of the data set, the key and the versions: some kilobytes for a hundred tasks, to
    publish with results. It is an ordinary .npz; `json.loads(str(numpy.load(path)["about"]))` says where it is from.

    To learn which rows a sampler draws, it is given a data set of the same classes whose examples are their own
    numbers, as images of 2 x 2 pixels, which show a turn. Tasks that need no data set are stored themselves.

    Args:
        path: of a new file.
        sample: (dataset, key) -> Task, such as `episodes`, `varied_episodes`, `semi_supervised` or `continual`; within
            `jax.jit`, it is faster.
        dataset: what to draw from; anything but a `Dataset`, such as (), for tasks that are made and not drawn.
        key: of the draw.
        tasks: how many.

    Raises:
        FileExistsError: there is such a file; a fixed set of tasks is never overwritten.
        ValueError: tasks below 1; what the sampler raises; no task, a task that is no picked rows, or one with a
            context or labels of more than one array; several data sets.

    >>> import tempfile
    >>> from metajax.data.datasets import dataset
    >>> from metajax.data.tasks.few_shot import episodes
    >>> source = dataset(np.arange(12.0)[:, None], np.repeat(np.arange(3), 4))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_tasks(f"{folder}/test.npz", episodes(2, 1, 3), source, jax.random.key(0), tasks=100)
    ...     load_tasks(f"{folder}/test.npz", source).query.x.shape
    (100, 6, 1)
    """
    if pathlib.Path(path).exists():
        raise FileExistsError(
            f"{path} exists, and a fixed set of tasks is not overwritten; choose another name."
        )
    if not isinstance(dataset, Dataset) and any(
        isinstance(part, Dataset) for part in _parts(dataset)
    ):
        raise ValueError(
            f"Tasks of several data sets cannot be recorded, got {type(dataset).__name__}; save those of each."
        )
    draw, kind = meta_batch(sample, tasks), jax.eval_shape(sample, dataset, key)
    if not isinstance(kind, Task):
        raise ValueError(f"The sampler must draw a Task, got {type(kind).__name__}.")
    about: dict[str, Any] = {
        "format": _FORMAT,
        "key": [str(jax.random.key_impl(key)), np.asarray(jax.random.key_data(key)).tolist()],
        "versions": {name: importlib.metadata.version(name) for name in ("metajax", "jax")},
        **_data(dataset),
    }
    if isinstance(dataset, Dataset):
        dtypes = ([leaf.dtype for leaf in jax.tree.leaves(x)] for x in (kind.support.x, dataset.x))
        about["scaled"] = next(dtypes) != next(dtypes)
        record = _rows(draw, dataset, key)
        first = sample(dataset, jax.random.split(key, tasks)[0])
        again = _tasks(
            {name: array[:1] for name, array in record.items()}, dataset, about["scaled"]
        )
        if not _equal(first, jax.tree.map(lambda leaf: leaf[0], again)):
            raise ValueError(_REFUSED)
    else:
        record = _arrays(draw(dataset, key))
    about["arrays"] = sorted(record)
    with pathlib.Path(path).open("xb") as file:
        np.savez_compressed(file, allow_pickle=False, about=np.array(json.dumps(about)), **record)


def load_tasks(path: str | os.PathLike, dataset: Dataset | PyTree) -> Task:
    """The tasks of a file of `save_tasks`, along the leading axis of every leaf, as `evaluate` takes them.

    Args:
        path: the file.
        dataset: the data set that they were drawn from, all of it in the same order; () where there was none.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or another one, the data set is not that of the file, or the numbers need
            `jax_enable_x64`, which is off.
    """
    record, about = _read(pathlib.Path(path))
    here = _data(dataset)
    if here["data"] != about["data"]:
        raise ValueError(f"{path} needs {_named(about)}, got {_named(here)}.")
    for name, array in record.items():
        if jnp.asarray(array).dtype != array.dtype:
            raise ValueError(
                f"{path} holds {array.dtype} in {name}; set jax_enable_x64, as it was when it was saved."
            )
    return _tasks(record, dataset, about.get("scaled", False))


def fingerprint(dataset: Dataset) -> str:
    """SHA-256 of the names, labels and values of a data set, in hexadecimal: equal data sets have the same.

    >>> from metajax.data.datasets import dataset
    >>> source = dataset(np.zeros((4, 2), np.uint8), np.arange(4))
    >>> fingerprint(source) == fingerprint(dataset(np.zeros((4, 2), np.uint8), np.arange(4), names="abcd"))
    False
    """
    digest = hashlib.sha256(json.dumps(dataset.names).encode())
    for leaf in map(np.asarray, jax.tree.leaves((dataset.y, dataset.x, dataset.info))):
        digest.update(f"{leaf.dtype}{leaf.shape}".encode())
        digest.update(leaf.tobytes())
    return digest.hexdigest()


def _rows(draw: Sample[Task], dataset: Dataset, key: Array) -> dict[str, np.ndarray]:
    """The record of tasks that are drawn from a data set of numbers."""
    info = (
        jnp.arange(1, 1 + dataset.classes, dtype=jnp.int32) if jax.tree.leaves(dataset.info) else ()
    )
    try:
        tasks = draw(dataclasses.replace(numbered(dataset), info=info), key)
    except (
        Exception
    ) as error:  # the sampler works on the data set itself, so it did more with x than to pick rows
        raise ValueError(_REFUSED) from error
    record = _arrays(tasks)
    for name in ("support", "query"):
        picked = decode(record.pop(f"{name}.x"))
        if picked is None:
            raise ValueError(_REFUSED)
        record[f"{name}.row"], record[f"{name}.turn"] = picked
    return record


def _arrays(tasks: Task) -> dict[str, np.ndarray]:
    """{"support.y": array, ...}, without what is None or ()."""
    parts = {"context": tasks.context}
    for name in ("support", "query"):
        parts |= {
            f"{name}.{field}": value for field, value in getattr(tasks, name)._asdict().items()
        }
    kept = {name: value for name, value in parts.items() if jax.tree.leaves(value)}
    for name, value in kept.items():
        if not isinstance(value, jax.Array):
            raise ValueError(
                f"{name} must be one array to be recorded, got {jax.tree.structure(value)}."
            )
    return {name: np.asarray(value) for name, value in kept.items()}


def _tasks(record: dict[str, np.ndarray], dataset: Dataset | PyTree, scaled: bool) -> Task:
    """The tasks of a record, along the leading axis."""

    def batch(name: str) -> Batch:
        fields = {
            field: jnp.asarray(record[f"{name}.{field}"])
            for field in Batch._fields
            if f"{name}.{field}" in record
        }
        if isinstance(dataset, Dataset):
            fields["x"] = _examples(dataset, record[f"{name}.row"], record[f"{name}.turn"], scaled)
            if "info" in fields:
                number = fields["info"] - 1
                fields["info"] = keep_rows(number >= 0, info_of(dataset, jnp.maximum(number, 0)))
        return Batch(**fields)

    return Task(
        batch("support"),
        batch("query"),
        jnp.asarray(record["context"]) if "context" in record else (),
    )


def _examples(dataset: Dataset, row: np.ndarray, turns: np.ndarray, scaled: bool) -> PyTree:
    """The examples in these rows, zeros for padding."""
    flat = jnp.asarray(row.reshape(-1))
    x = jax.tree.map(lambda leaf: leaf[jnp.maximum(flat, 0)], dataset.x)
    x = turn(x, jnp.asarray(turns.reshape(-1))) if turns.any() else x
    x = keep_rows(flat >= 0, jax.tree.map(_real, x) if scaled else x)
    return jax.tree.map(lambda leaf: leaf.reshape(row.shape + leaf.shape[1:]), x)


def _read(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays of a file, and what it says about itself."""
    with path.open("rb") as file:
        try:
            if not zipfile.is_zipfile(file):
                raise ValueError("it is no .npz")
            file.seek(0)
            with np.load(file, allow_pickle=False) as pack:
                record = {name: pack[name] for name in pack.files}
            about = json.loads(str(record.pop("about")))
            if about["format"] != _FORMAT or about["arrays"] != sorted(record):
                raise ValueError(f"it has format {about['format']} and {sorted(record)}")
        except (
            Exception
        ) as error:  # of zipfile, zlib, NumPy and json, for any of them may meet the damage first
            raise ValueError(
                f"{path} is damaged, or no file of save_tasks: {error}. Save it again."
            ) from error
    return record, about


def _data(dataset: Dataset | PyTree) -> dict[str, Any]:
    if not isinstance(dataset, Dataset):
        return {"data": None}
    return {"data": fingerprint(dataset), "classes": dataset.classes, "examples": len(dataset.y)}


def _parts(tree: PyTree) -> list[Any]:
    return jax.tree.leaves(tree, is_leaf=lambda part: isinstance(part, Dataset))


def _named(about: dict[str, Any]) -> str:
    if about["data"] is None:
        return "no data set, ()"
    return "the data set of {classes} classes and {examples} examples with fingerprint {data:.12}".format(
        **about
    )


def _equal(one: PyTree, other: PyTree) -> bool:
    alike = shapes(one) == shapes(other)
    return alike and all(map(np.array_equal, jax.tree.leaves(one), jax.tree.leaves(other)))
