"""Files of arrays: in the folder that METAJAX_DATA names, in the cache, or downloaded."""

from __future__ import annotations

import os
import pathlib
import zipfile
from collections.abc import Sequence

import numpy as np

from metajax.data.read.downloads import DataFile, cache_folder, prepare_data_file

MOST_BYTES = 2**32
"""Size that a file of arrays may unpack to, unless another one is given: 4 GiB."""


def data_file_path(data_file: DataFile) -> pathlib.Path:
    """The path of a data file: in the folder that METAJAX_DATA names, or in the cache folder.

    What neither has is downloaded and prepared in the cache folder.

    Raises:
        FileNotFoundError: METAJAX_DATA names no folder.
        ConnectionError, ValueError, OSError, ImportError: as `prepare_data_file`.
    """
    folder = os.environ.get("METAJAX_DATA")
    if folder and not pathlib.Path(folder).is_dir():
        raise FileNotFoundError(
            f"METAJAX_DATA names {folder}, which is not a folder; name one that has data files, or "
            "unset it to have them downloaded."
        )
    if folder and (pathlib.Path(folder) / data_file.name).is_file():
        return pathlib.Path(folder) / data_file.name
    path = cache_folder() / data_file.name
    if path.is_file():
        return path
    return prepare_data_file(data_file, path.parent)


def read_data_file(
    data_file: DataFile, arrays: tuple[str, ...], *, most_bytes: int = MOST_BYTES
) -> dict[str, np.ndarray]:
    """Some arrays of a data file, by name.

    Args:
        data_file: a `.npz` file.
        arrays: names of the arrays to read.
        most_bytes: size that the file may unpack to.

    Raises:
        FileNotFoundError, ConnectionError, OSError, ImportError: as `data_file_path`.
        ValueError: the file is damaged, lacks one of the arrays, or unpacks to too many bytes.
    """
    path = data_file_path(data_file)
    try:
        return read_archive(path, most_bytes, arrays)
    except Exception as error:  # zipfile, zlib, struct or NumPy may be the first to fail
        raise ValueError(
            f"{path} is damaged ({error}); it must have the arrays {arrays}. Remove it, and it is "
            "made again."
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
