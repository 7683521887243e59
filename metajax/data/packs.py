"""Real data sets read from files, in the folder that the environment variable METAJAX_DATA names."""

from __future__ import annotations

import os
import pathlib
import zipfile

import numpy as np

from metajax.data.arrays import Dataset, dataset


def omniglot() -> Dataset:
    """Omniglot: 1 623 characters of 50 alphabets, each drawn by 20 people, as uint8 images [28, 28, 1], ink = 255.

    Names are "images_background/Alphabet/character01", or "images_evaluation/..." for the 20 alphabets that Lake et al.
    keep for testing. Reads `omniglot.npz` with image uint8[32460, 28, 28], label int[32460] and names [1623]: the
    drawings of github.com/brendenlake/omniglot, made smaller and inverted.

    Raises:
        FileNotFoundError: METAJAX_DATA is not set, or the file is not there.
        ValueError: the file is damaged.

    Source: Lake, Salakhutdinov and Tenenbaum 2015, doi 10.1126/science.aab3050.
    """
    pack = read_pack("omniglot.npz", ("image", "label", "names"))
    return dataset(pack["image"][..., None], pack["label"], names=pack["names"].tolist())


def read_pack(name: str, arrays: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The named arrays of a `.npz` in the data folder; its errors say what to do."""
    folder = os.environ.get("METAJAX_DATA")
    if not folder:
        raise FileNotFoundError(f"To read {name}, set the environment variable METAJAX_DATA to the folder that has it.")
    path = pathlib.Path(folder) / name
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; METAJAX_DATA must name a folder that has {name}.")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as pack:  # np.load leaves a broken file open
            return {array: pack[array] for array in arrays}
    except (zipfile.BadZipFile, KeyError, ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path} is damaged ({error}); it must have the arrays {arrays}. Make it again.") from error
