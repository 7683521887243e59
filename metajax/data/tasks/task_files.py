"""The file format of `save_tasks`: an .npz of named arrays and a description of their origin."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metajax.data.read.data_files import read_archive
from metajax.data.whole_files import open_whole
from metajax.types import Task

FORMAT = 2
"""Files of another format are refused. Format 1 also recorded quarter turns."""

Record = dict[str, np.ndarray]
"""{"support.y": array, ...}, without what is None or ()."""


def task_arrays(tasks: Task) -> Record:
    """The arrays of tasks by name.

    Raises:
        ValueError: a part of the tasks that is more than one array.
    """
    parts = {"context": tasks.context}
    for name in ("support", "query"):
        for field, value in getattr(tasks, name)._asdict().items():
            parts[f"{name}.{field}"] = value
    record = {}
    for name, value in parts.items():
        if not jax.tree.leaves(value):
            continue
        if not isinstance(value, jax.Array | np.ndarray):
            raise ValueError(
                f"{name} must be one array to be recorded, got {jax.tree.structure(value)}."
            )
        record[name] = np.asarray(value)
    return record


def write_record(path: pathlib.Path, record: Record, about: dict[str, Any]) -> None:
    """Writes a new file with these arrays and their description.

    Raises:
        FileExistsError: there is such a file, perhaps from another process since the tasks were
            drawn.
    """
    about = {"format": FORMAT, **about, "arrays": sorted(record)}
    path.open("xb").close()  # of two processes, one gets the name
    try:
        with open_whole(path) as file:
            text = np.array(json.dumps(about))
            np.savez_compressed(file, allow_pickle=False, about=text, **record)
    except BaseException:
        path.unlink()
        raise


def read_record(path: pathlib.Path, most_bytes: int) -> tuple[Record, dict[str, Any]]:
    """Reads the arrays of a file and their description.

    Args:
        path: the file.
        most_bytes: size that the file may unpack to.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, not a file of `save_tasks` or unpacks to too many bytes, or
            its integers and floats need `jax_enable_x64`, which is off.
    """
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path}.")
    try:
        record = read_archive(path, most_bytes)
        about = json.loads(str(record.pop("about")))
        if about["format"] != FORMAT or about["arrays"] != sorted(record):
            raise ValueError(f"it has format {about['format']} and {sorted(record)}")
    except Exception as error:  # zipfile, zlib, NumPy or json may be the first to fail
        raise ValueError(
            f"{path} is damaged, or not a file of save_tasks: {error}. Save it again."
        ) from error
    for name, array in record.items():
        if jnp.asarray(array).dtype != array.dtype:
            raise ValueError(
                f"{path} holds {array.dtype} in {name}; set jax_enable_x64, as it was when it was "
                f"saved."
            )
    return record, about
