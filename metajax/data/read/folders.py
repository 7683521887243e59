"""A folder of images as a data set, a class for each subfolder."""

from __future__ import annotations

import os
import pathlib

import jax
import numpy as np

from metajax.data.datasets import Dataset, dataset
from metajax.data.read.pictures import Broken, _pictures
from metajax.types import PyTree

_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}


def image_folder(
    path: str | os.PathLike[str], *, size: int, grey: bool = False, broken: Broken | None = None
) -> Dataset:
    """Images in folders, one for each class, as uint8[size, size, 3]: the middle square of each, resized.

    A class is called by its folder, from `path` on: "Greek/alpha" where alpha is inside Greek. Files that are called
    like no image (by their ending) or begin with a dot do not count. Photographs are turned upright as the camera says;
    what is transparent becomes white.

    Args:
        path: the folder of the folders.
        size: height and width of the images.
        grey: one channel instead of three.
        broken: called with each file that cannot be read as an image and is left out: `lost.append` for a list `lost`.
            None makes the first of them an error.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: no class, a class without an image, images beside the folders, a broken image, or `size` below 1.
        ImportError: Pillow is missing.

    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("cat", "dog"):
    ...         pathlib.Path(folder, name).mkdir()
    ...         Image.new("RGB", (90, 60)).save(pathlib.Path(folder, name, "1.png"))
    ...     pets = image_folder(folder, size=32)
    >>> pets.names, pets.x.shape
    (('cat', 'dog'), (2, 32, 32, 3))
    """
    root = pathlib.Path(path)
    if not root.is_dir():
        raise FileNotFoundError(
            f"{root} is not a folder; it must have a folder of images for each class."
        )
    files: dict[str, list[pathlib.Path]] = {}
    for entry in sorted(root.rglob("*")):
        place = entry.relative_to(root)
        if not any(part.startswith(".") for part in place.parts):
            if entry.is_dir():
                files.setdefault(place.as_posix(), [])
            elif entry.suffix.lower() in _SUFFIXES:
                files.setdefault(place.parent.as_posix(), []).append(entry)
    if stray := files.get("."):
        raise ValueError(
            f"{len(stray)} images lie in {root} itself, such as {stray[0].name}; put each into a class."
        )
    outer = {parent.as_posix() for name in files for parent in pathlib.PurePosixPath(name).parents}
    if bare := [name for name, images in files.items() if not images and name not in outer]:
        raise ValueError(
            f"Folders {bare[:10]} of {root} have no image ({', '.join(sorted(_SUFFIXES))}); remove them."
        )
    if not files:
        raise ValueError(
            f"{root} has no folder in it; it must have a folder of images for each class."
        )
    named = [(name, image) for name, images in files.items() for image in images]
    image, read = _pictures([image for _, image in named], size, grey, broken)
    return _by_name(_spread("image", image, read), [name for name, _ in named], read)


def _spread(column: str, values: np.ndarray, present: np.ndarray) -> np.ndarray:
    """One row for each example, zero where it has none."""
    if values.shape[:1] != (present.sum(),):
        raise ValueError(
            f"Need one row for each of the {present.sum()} texts in {column!r}, got shape {values.shape}."
        )
    result = np.zeros((len(present), *values.shape[1:]), values.dtype)
    result[present] = values
    return result


def _by_name(x: PyTree, of_row: list[str], kept: np.ndarray) -> Dataset:
    """The kept rows as a data set, whose classes are in the order of their names."""
    names, labels = np.unique(of_row, return_inverse=True)
    if lost := np.setdiff1d(labels, labels[kept]).tolist():
        raise ValueError(
            f"No image of the classes {names[lost[:10]].tolist()} can be read; mend or remove them."
        )
    return dataset(jax.tree.map(lambda leaf: leaf[kept], x), labels[kept], names=names.tolist())
