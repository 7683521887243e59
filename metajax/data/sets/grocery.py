"""Photographs of groceries, with a description and an icon for each product."""

from __future__ import annotations

import numpy as np

from metajax._checked import checked
from metajax.data.datasets import Dataset, dataset
from metajax.data.prepare.grocery import GROCERY
from metajax.data.read.data_files import read_data_file
from metajax.data.read.pictures import decode_picture
from metajax.types import Size


@checked
def groceries(*, size: Size = 32, split: str | None = None) -> Dataset:
    """Shop photographs uint8[size, size, 3] of 81 products in 43 coarse classes.

    A class has a name such as "Apple/Golden-Delicious". The middle square of each photograph is
    resized. Drawn images are float32 in [0, 1]. `info` has the iconic picture of each product,
    {"iconic": float32[classes, 64, 64, 3]} in [0, 1]; its description in words is in
    `grocery_descriptions`.

    Only 12 coarse classes have two products or more. Colour separates most products: look at tasks
    within a coarse class, too.

    Reads `grocery.npz`, which is found or downloaded (120 MB) as `omniglot` says: jpeg
    uint8[bytes], offset, fine, split, fine_name, coarse_name, iconic. The photographs in it are 64
    x 64, squashed. Licence: MIT, © 2019 Marcus Klasson; texts and icons are from a shop's site.

    Args:
        size: height and width of the images.
        split: "train", "val" or "test", None for all. Classes without a photograph in it are left
            out: "val" has 60.

    Raises:
        FileNotFoundError: METAJAX_DATA names no folder.
        ConnectionError: the file is not at hand, and its origin cannot be reached.
        ValueError: the file is damaged, a photograph that cannot be decoded, an unknown split, or a
            size below 1.
        ImportError: Pillow is missing.

    Source: Klasson, Zhang and Kjellström 2019, arXiv 1901.00711.
    """
    arrays = ("jpeg", "offset", "fine", "split", "fine_name", "coarse_name", "iconic")
    stored = read_data_file(GROCERY, arrays)
    if split is not None and split not in stored["split"]:
        known = np.unique(stored["split"]).tolist()
        raise ValueError(f"{split=} is not one of {known}; None takes all.")
    rows = np.flatnonzero((stored["split"] == split) | (split is None))
    images = [_photograph(stored, row, size) for row in rows.tolist()]
    kept, labels = np.unique(stored["fine"][rows], return_inverse=True)
    return dataset(
        np.stack(images),
        labels,
        names=_class_names(stored)[kept].tolist(),
        info={"iconic": stored["iconic"][kept].astype(np.float32) / 255},
        scale=255,
        credit=GROCERY.credit,
    )


@checked
def grocery_descriptions() -> dict[str, str]:
    """The shop's description of each product of `groceries`, by the name of its class.

    Raises:
        FileNotFoundError: METAJAX_DATA names no folder.
        ConnectionError: the file is not at hand, and its origin cannot be reached.
        ValueError: the file is damaged.
    """
    stored = read_data_file(GROCERY, ("fine_name", "coarse_name", "description"))
    names = _class_names(stored).tolist()
    return dict(zip(names, stored["description"].tolist(), strict=True))


def _photograph(stored: dict[str, np.ndarray], row: int, size: int) -> np.ndarray:
    """The middle square of one photograph, uint8[size, size, 3]."""
    first, last = stored["offset"][row], stored["offset"][row + 1]
    try:
        return decode_picture(stored["jpeg"][first:last].tobytes(), 3, size=size)
    except ValueError as error:
        raise ValueError(
            f"The photograph in row {row} cannot be decoded ({error}); make the data file again."
        ) from error


def _class_names(stored: dict[str, np.ndarray]) -> np.ndarray:
    """The name of each class, "coarse/fine"."""
    return np.char.add(np.char.add(stored["coarse_name"], "/"), stored["fine_name"])
