"""Real data sets read from files, in the folder that the environment variable METAJAX_DATA names."""

from __future__ import annotations

import io
import os
import pathlib
import zipfile
from typing import Any

import numpy as np

from metajax._types import Modalities
from metajax.data.arrays import Dataset, dataset
from metajax.data.strokes import resample

_LIFT = 4 * 16, 200  # the pen was lifted where it moved farther, in 1/16 of a pixel of 105, within more milliseconds


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


def omniglot_strokes(*, points: int = 64) -> Dataset:
    """Omniglot as image and pen: 242 characters of 8 of its 50 alphabets, 20 drawings of each.

    x is a `Modalities` of image uint8[28, 28, 1] and stroke float32[points, (x, y, t, start)] as `resample` makes it
    and `draw` shows it, with the pen's own clock; both are always present. Names are "Balinese/character01".

    The pack does not tell where the pen was lifted. It was where it moved more than 4 of 105 pixels in more than 200
    milliseconds: a pen that is down and moves gives a point about every 12. (The clock stops at 65.5 seconds; in the
    20 drawings that last longer the distance decides alone from there on.)

    Reads `omniglot_strokes.npz`: image, stroke uint16[722053, (16 x, 16 y, milliseconds, start)], offset, label, names.

    Args:
        points: of each trajectory; the drawing with the most strokes has 17.

    Raises:
        FileNotFoundError: METAJAX_DATA is not set, or the file is not there.
        ValueError: the file is damaged, or fewer points than a drawing has strokes.

    Source: Lake, Salakhutdinov and Tenenbaum 2015, doi 10.1126/science.aab3050.
    """
    pack = read_pack("omniglot_strokes.npz", ("image", "stroke", "offset", "label", "names"))
    rows = pack["stroke"].astype(np.float64)
    moved, took = np.linalg.norm(np.diff(rows[:, :2], axis=0), axis=1), np.diff(rows[:, 2])
    unknown = rows[1:, 2] == np.iinfo(np.uint16).max
    lifted = (moved > _LIFT[0]) & ((took > _LIFT[1]) | unknown)
    starts = (rows[:, 3] > 0) | np.concatenate([[True], lifted])
    stroke = resample(rows[:, :3], starts, pack["offset"], number=points)
    x = all_present(image=pack["image"][..., None], stroke=stroke)
    return dataset(x, pack["label"], names=pack["names"].tolist())


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
        raise ValueError(f"{split=} is not one of {np.unique(pack['split']).tolist()}; None takes all.")
    rows = np.flatnonzero((pack["split"] == split) | (split is None))
    image = np.stack([_picture(pack["jpeg"], pack["offset"], row, size) for row in rows.tolist()])
    kept, labels = np.unique(pack["fine"][rows], return_inverse=True)
    return dataset(image, labels, names=_grocery_names(pack)[kept].tolist(), info={"iconic": pack["iconic"][kept]})


def grocery_descriptions() -> dict[str, str]:
    """The shop's description of each product of `groceries`, by the name of its class.

    Raises:
        FileNotFoundError: METAJAX_DATA is not set, or the file is not there.
        ValueError: the file is damaged.
    """
    pack = read_pack("grocery.npz", ("fine_name", "coarse_name", "description"))
    return dict(zip(_grocery_names(pack).tolist(), pack["description"].tolist(), strict=True))


def read_pack(name: str, arrays: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The named arrays of a `.npz` in the data folder; its errors say what to do."""
    path = pack_path(name)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as pack:  # np.load leaves a broken file open
            return {array: pack[array] for array in arrays}
    except (zipfile.BadZipFile, KeyError, ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path} is damaged ({error}); it must have the arrays {arrays}. Make it again.") from error


def pack_path(name: str) -> pathlib.Path:
    """Where a file of the data folder is; its errors say what to do."""
    folder = os.environ.get("METAJAX_DATA")
    if not folder:
        raise FileNotFoundError(f"To read {name}, set the environment variable METAJAX_DATA to the folder that has it.")
    path = pathlib.Path(folder) / name
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; METAJAX_DATA must name a folder that has {name}.")
    return path


def all_present(**value: Any) -> Modalities:
    """Modalities of which none is missing in any row."""
    present: dict[str, Any] = {name: np.ones(len(rows), bool) for name, rows in value.items()}
    return Modalities(value, present)


def _grocery_names(pack: dict[str, np.ndarray]) -> np.ndarray:
    return np.char.add(np.char.add(pack["coarse_name"], "/"), pack["fine_name"])


def _picture(jpeg: np.ndarray, offset: np.ndarray, row: int, size: int) -> np.ndarray:
    """The middle square of one picture, uint8[size, size, 3]."""
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ImportError("Photographs need Pillow: pip install 'metajax[data]'.") from error
    try:
        with Image.open(io.BytesIO(jpeg[offset[row] : offset[row + 1]].tobytes())) as picture:
            return np.asarray(ImageOps.fit(picture.convert("RGB"), (size, size)))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"The photograph in row {row} cannot be decoded ({error}); make the pack again.") from error
