"""Files of arrays in the folder that the environment variable METAJAX_DATA names."""

from __future__ import annotations

import os
import pathlib
import zipfile
from collections.abc import Sequence

import numpy as np

MOST_BYTES = 2**32
"""Size that a file of arrays may unpack to, unless another one is given: 4 GiB."""


def data_file_path(name: str) -> pathlib.Path:
    """The path of a file in the data folder.

    Raises:
        FileNotFoundError: METAJAX_DATA is not set, or its folder does not have the file.
    """
    folder = os.environ.get("METAJAX_DATA")
    if not folder:
        raise FileNotFoundError(
            f"To read {name}, set the environment variable METAJAX_DATA to the folder that has it."
        )
    path = pathlib.Path(folder) / name
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist; METAJAX_DATA must name a folder that has {name}."
        )
    return path


def read_data_file(
    name: str, arrays: tuple[str, ...], *, most_bytes: int = MOST_BYTES
) -> dict[str, np.ndarray]:
    """Some arrays of a `.npz` file in the data folder, by name.

    Args:
        name: of the file.
        arrays: names of the arrays to read.
        most_bytes: size that the file may unpack to.

    Raises:
        FileNotFoundError: METAJAX_DATA is not set, or its folder does not have the file.
        ValueError: the file is damaged, lacks one of the arrays, or unpacks to too many bytes.
    """
    path = data_file_path(name)
    try:
        return read_archive(path, most_bytes, arrays)
    except Exception as error:  # zipfile, zlib, struct or NumPy may be the first to fail
        raise ValueError(
            f"{path} is damaged ({error}); it must have the arrays {arrays}. Make it again."
        ) from error


def read_archive(
    path: pathlib.Path, most_bytes: int, arrays: Sequence[str] | None = None
) -> dict[str, np.ndarray]:
    """Arrays of a `.npz` file, after a look at the size that it unpacks to.

    Args:
        path: the file.
        most_bytes: size that the whole file may unpack to.
        arrays: names of the arrays to read; None reads all.

    Raises:
        ValueError: not a `.npz` file, or one that unpacks to more bytes.
        Exception: whatever zipfile, zlib, struct or NumPy raise for a damaged file.
    """
    with path.open("rb") as file:  # given a path, np.load leaves a damaged file open
        with zipfile.ZipFile(file) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > most_bytes:
            raise ValueError(
                f"it unpacks to {size} bytes, and most_bytes is {most_bytes}; give a larger "
                "most_bytes if you know where the file is from"
            )
        file.seek(0)
        with np.load(file, allow_pickle=False) as stored:
            return {name: stored[name] for name in (stored.files if arrays is None else arrays)}
