"""Photographs of groceries, with a description and an icon for each product."""

from __future__ import annotations

import numpy as np

from metajax.data.datasets import Dataset, dataset
from metajax.data.read.data_files import read_pack
from metajax.data.read.pictures import _picture


def groceries(*, size: int = 32, split: str | None = None) -> Dataset:
    """Shop photographs uint8[size, size, 3] of 81 products in 43 coarse classes, named "Apple/Golden-Delicious".

    The middle square of each photograph, resized. `info` has the iconic picture of each product, {"iconic":
    uint8[classes, 64, 64, 3]}; what each is in words is in `grocery_descriptions`. Only 12 coarse classes have two
    products or more. Colour tells most products apart: look at tasks within a coarse class, too.

    Reads `grocery.npz`: jpeg uint8[bytes], offset, fine, split, fine_name, coarse_name, iconic.

    Args:
        size: height and width of the images.
        split: "train", "val" or "test", None for all. Classes without a photograph in it are left out: "val" has 60.

    Raises:
        FileNotFoundError: METAJAX_DATA is not set, or the file is not there.
        ValueError: the file is damaged, a photograph that cannot be decoded, an unknown split, or `size` below 1.
        ImportError: Pillow is missing.

    Source: Klasson, Zhang and Kjellström 2019, arXiv 1901.00711.
    """
    if size < 1:
        raise ValueError(f"{size=} must be 1 or more.")
    arrays = ("jpeg", "offset", "fine", "split", "fine_name", "coarse_name", "iconic")
    pack = read_pack("grocery.npz", arrays)
    if split is not None and split not in pack["split"]:
        raise ValueError(
            f"{split=} is not one of {np.unique(pack['split']).tolist()}; None takes all."
        )
    rows = np.flatnonzero((pack["split"] == split) | (split is None))
    image = np.stack([_picture(pack["jpeg"], pack["offset"], row, size) for row in rows.tolist()])
    kept, labels = np.unique(pack["fine"][rows], return_inverse=True)
    return dataset(
        image,
        labels,
        names=_grocery_names(pack)[kept].tolist(),
        info={"iconic": pack["iconic"][kept]},
    )


def grocery_descriptions() -> dict[str, str]:
    """The shop's description of each product of `groceries`, by the name of its class.

    Raises:
        FileNotFoundError: METAJAX_DATA is not set, or the file is not there.
        ValueError: the file is damaged.
    """
    pack = read_pack("grocery.npz", ("fine_name", "coarse_name", "description"))
    return dict(zip(_grocery_names(pack).tolist(), pack["description"].tolist(), strict=True))


def _grocery_names(pack: dict[str, np.ndarray]) -> np.ndarray:
    return np.char.add(np.char.add(pack["coarse_name"], "/"), pack["fine_name"])
