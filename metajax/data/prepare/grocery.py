"""The Grocery Store Dataset: photographs, and a description and an icon for each product."""

from __future__ import annotations

import csv
import io
import pathlib
from collections.abc import Mapping
from typing import BinaryIO

import numpy as np

from metajax.data.prepare.contents import check_contents, shrink, unpack_archive, write_arrays
from metajax.data.read.downloads import DataFile, Origin

_COMMIT = "fc80ba90f803d79d0383df52c5a4ac5de99ff6fc"
_SPLITS = ("train", "val", "test")
_SIZE = 64


def grocery_arrays(files: Mapping[str, bytes]) -> dict[str, np.ndarray]:
    """Photographs of 64 x 64 pixels as JPEG files end to end, with labels, splits and products.

    Photographs are squashed, not cropped. They are in the order of train.txt, val.txt and test.txt.

    Args:
        files: {path below the folder "dataset": content}.

    Returns:
        jpeg uint8[bytes], offset, fine, coarse and split of each photograph; fine_name,
        coarse_name, description and iconic uint8[64, 64, 3] of each product.
    """
    photographs = [
        (split, *(cell.strip() for cell in line.split(",")))
        for split in _SPLITS
        for line in files[f"{split}.txt"].decode().splitlines()
    ]
    jpegs = [_as_jpeg(files[path]) for _, path, _, _ in photographs]
    table = io.StringIO(files["classes.csv"].decode(), newline="")
    products = list(csv.reader(table))[1:]
    icons = [files[path.lstrip("/")] for *_, path, _ in products]
    texts = [files[path.lstrip("/")].decode().strip() for *_, path in products]
    return {
        "jpeg": np.frombuffer(b"".join(jpegs), np.uint8),
        "offset": np.cumsum([0, *(len(jpeg) for jpeg in jpegs)]).astype(np.int32),
        "fine": np.array([int(fine) for _, _, fine, _ in photographs], np.int16),
        "coarse": np.array([int(coarse) for _, _, _, coarse in photographs], np.int16),
        "split": np.array([split for split, *_ in photographs]),
        "fine_name": np.array([name for name, *_ in products]),
        "coarse_name": np.array([name for _, _, name, *_ in products]),
        "description": np.array(texts),
        "iconic": np.stack([shrink(icon, _SIZE, "RGB", "LANCZOS") for icon in icons]),
    }


def _as_jpeg(photograph: bytes) -> bytes:
    """A photograph, made small."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(shrink(photograph, _SIZE, "RGB", "LANCZOS")).save(file, "JPEG", quality=88)
    return file.getvalue()


def used_files(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files that the tables name, and the tables."""
    tables = [f"{split}.txt" for split in _SPLITS]
    used = ["classes.csv", *tables]
    for table in tables:
        used += [line.partition(",")[0] for line in files[table].decode().splitlines()]
    products = list(csv.reader(io.StringIO(files["classes.csv"].decode(), newline="")))[1:]
    used += [path.lstrip("/") for product in products for path in product[-2:]]
    return {name: files[name] for name in used}


def _write(paths: list[pathlib.Path], file: BinaryIO) -> None:
    below = unpack_archive(paths[0], lambda name: name.startswith("dataset/"))
    files = {name.removeprefix("dataset/"): content for name, content in below.items()}
    try:
        used = used_files(files)
    except KeyError as error:
        raise ValueError(f"{paths[0].name} lacks the file {error}; try again.") from error
    check_contents(used, "b58313b09476c31339b1c85047fdcdea24ac4cf542e80aca736a7c31bec26bc2")
    # The pixels depend on the JPEG library inside Pillow, by a few grey levels.
    expected = {
        "fine": "bafd0f5e01a1d05602b7cc725e2674736edabfe385bb42d876e64ca17767a8f3",
        "coarse": "beecdae754f155232efcde9e5888a0418c55a6887ae1c22b962055dd1f9c19db",
        "split": "b78c7b9e07e11aca587097f7fc4ae5219889e25362c0077bd1dcc8afb6e0c5f1",
        "fine_name": "26ba8552b3c48805fe59df2e949fa6c20eb3cd8ac1ac6474dabdaebefb388882",
        "coarse_name": "b8e160fe6fd90c63bafe1565e497c7b47e1275c856e79572a99f04803d30cd8e",
        "description": "ff8b9e6eb6457477e0c935ad8f4cb854f5b647ec46dde6aafae03d7ae26d3a55",
    }
    write_arrays(grocery_arrays(used), expected, file)


GROCERY = DataFile(
    "grocery.npz",
    (
        Origin(
            "grocery.tar.gz",
            f"https://github.com/marcusklasson/GroceryStoreDataset/archive/{_COMMIT}.tar.gz",
        ),
    ),
    _write,
    "Grocery Store Dataset, MIT, © 2019 Marcus Klasson; texts and icons are from a shop's site. "
    "Cite Klasson, Zhang and Kjellström 2019, arXiv 1901.00711.",
)
