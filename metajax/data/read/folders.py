"""A folder of images as a data set, with a class for each subfolder."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator

from metajax._checked import checked
from metajax.data.datasets import Dataset
from metajax.data.read.pictures import MOST_PIXELS, BrokenFile, read_pictures
from metajax.data.read.rows import fill_gaps, kept_dataset

_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}


@checked
def image_folder(
    path: str | os.PathLike[str],
    *,
    size: int,
    grey: bool = False,
    resample: str = "bicubic",
    invert: bool = False,
    broken: BrokenFile | None = None,
    most_pixels: int = MOST_PIXELS,
) -> Dataset:
    """Images in folders, one folder for each class, as uint8[size, size, 3].

    The middle square of each image is resized. Photographs are turned upright as their camera noted
    it, and transparent places become white.

    Values stay as they are, so that paper is 255 and ink 0. `omniglot` has them inverted, in one
    channel and resized by averages: `image_folder(path, size=28, grey=True, resample="box",
    invert=True)` makes the same pictures of the origin's files; the default differs by up to 67
    grey levels.

    The name of a class is its folder, relative to `path`: "Greek/alpha" where alpha is inside
    Greek. Files without the ending of an image, and names that begin with a dot, are ignored.
    Symbolic links to files and folders are followed, wherever they lead. The data set declares
    `scale=255`: drawn images are float32 in [0, 1].

    Args:
        path: the folder that has the folders of the classes.
        size: height and width of the images.
        grey: one channel instead of three.
        resample: "bicubic", or "box", the average of the pixels that become one.
        invert: 255 - value, after resizing, so that ink on paper becomes 255 on 0.
        broken: called with each file that cannot be read as an image, which is then left out. To
            collect them in a list `lost`, give `lost.append`. None makes the first one an error.
        most_pixels: the largest width times height of a file, since a small file may hold a huge
            image.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: no class, a class without an image, images beside the folders of the classes, a
            link to a folder that it is in, a broken image, another `resample`, or a size below 1.
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
    class_names, paths = files_of_classes(pathlib.Path(path), _SUFFIXES, "image")
    images, read = read_pictures(paths, size, grey, broken, most_pixels, resample, invert)
    return kept_dataset(fill_gaps("image", images, read), class_names, read, scale=255)


def files_of_classes(
    root: pathlib.Path, suffixes: set[str], what: str
) -> tuple[list[str], list[pathlib.Path]]:
    """The files in the folders of classes, in the order of their paths.

    Links are followed. Names that begin with a dot, and files with other endings, are ignored.

    Args:
        root: the folder that has the folders of the classes.
        suffixes: endings of the files in lower case, such as {".png"}.
        what: what a file is called in errors, such as "image".

    Returns:
        (the class of each file by name, the files). A class is named by its folder, relative to
        the root.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: no class, a class without a file, files beside the folders of the classes, or a
            link to a folder that it is in.
    """
    if not root.is_dir():
        raise FileNotFoundError(
            f"{root} is not a folder; it must have a folder of {what}s for each class."
        )
    found: dict[str, list[pathlib.Path]] = {}  # of all folders; "." is the root itself
    for entry in sorted(_walk(root, ())):
        place = entry.relative_to(root)
        if entry.is_dir():
            found.setdefault(place.as_posix(), [])
        elif entry.suffix.lower() in suffixes:
            found.setdefault(place.parent.as_posix(), []).append(entry)
    _check_classes(root, found, suffixes, what)
    class_names = [name for name, files in found.items() for _ in files]
    return class_names, [file for files in found.values() for file in files]


def _walk(folder: pathlib.Path, above: tuple[pathlib.Path, ...]) -> Iterator[pathlib.Path]:
    """All entries below a folder, but hidden ones. Links are followed, unless to a folder above."""
    above = (*above, folder.resolve())
    for entry in folder.iterdir():
        if entry.name.startswith("."):
            continue
        is_folder = entry.is_dir()
        if is_folder and entry.resolve() in above:
            raise ValueError(f"{entry} is a link to a folder that it is in; remove it.")
        yield entry
        if is_folder:
            yield from _walk(entry, above)


def _check_classes(
    root: pathlib.Path, found: dict[str, list[pathlib.Path]], suffixes: set[str], what: str
) -> None:
    """Checks that all files are in folders, and that folders without folders have files."""
    if stray := found.get("."):
        raise ValueError(
            f"{len(stray)} {what}s lie in {root} itself, such as {stray[0].name}; "
            "put each into the folder of a class."
        )
    outer = {parent.as_posix() for name in found for parent in pathlib.PurePosixPath(name).parents}
    empty = [name for name, files in found.items() if not files and name not in outer]
    if empty:
        raise ValueError(
            f"Folders {empty[:10]} of {root} have no {what} ({', '.join(sorted(suffixes))}); "
            "remove them."
        )
    if not found:
        raise ValueError(
            f"{root} has no folder in it; it must have a folder of {what}s for each class."
        )
