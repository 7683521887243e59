"""Files of arrays in the folder that the environment variable METAJAX_DATA names."""

from __future__ import annotations

import os
import pathlib
import zipfile

import numpy as np


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


def read_data_file(name: str, arrays: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Some arrays of a `.npz` file in the data folder, by name.

    Raises:
        FileNotFoundError: METAJAX_DATA is not set, or its folder does not have the file.
        ValueError: the file is damaged, or lacks one of the arrays.
    """
    path = data_file_path(name)
    try:
        # Given a path, np.load leaves a damaged file open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return {array: stored[array] for array in arrays}
    except (zipfile.BadZipFile, KeyError, ValueError, EOFError, OSError) as error:
        raise ValueError(
            f"{path} is damaged ({error}); it must have the arrays {arrays}. Make it again."
        ) from error
