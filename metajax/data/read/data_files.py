"""Files of arrays in the folder that the environment variable METAJAX_DATA names."""

from __future__ import annotations

import os
import pathlib
import zipfile
from typing import Any

import numpy as np

from metajax.types import Modalities


def read_pack(name: str, arrays: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The named arrays of a `.npz` in the data folder; its errors say what to do."""
    path = pack_path(name)
    try:
        with (
            path.open("rb") as file,
            np.load(file, allow_pickle=False) as pack,
        ):  # np.load leaves a broken file open
            return {array: pack[array] for array in arrays}
    except (zipfile.BadZipFile, KeyError, ValueError, EOFError, OSError) as error:
        raise ValueError(
            f"{path} is damaged ({error}); it must have the arrays {arrays}. Make it again."
        ) from error


def pack_path(name: str) -> pathlib.Path:
    """Where a file of the data folder is; its errors say what to do."""
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


def all_present(**value: Any) -> Modalities:
    """Modalities of which none is missing in any row."""
    present: dict[str, Any] = {name: np.ones(len(rows), bool) for name, rows in value.items()}
    return Modalities(value, present)
