"""Checks of downloads and of what is made of them."""

from __future__ import annotations

import gzip
import hashlib
import io
import pathlib
import tarfile
import zlib
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import numpy as np

_DAMAGED = (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error)


def unpack_archive(path: pathlib.Path, is_wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """Files of a .tar.gz, {path without the outermost folder: content}.

    Args:
        path: the archive.
        is_wanted: whether a file is to be read, by its path without the outermost folder.

    Raises:
        ValueError: a damaged archive.
    """
    files = {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                name = member.name.partition("/")[2]
                content = archive.extractfile(member) if is_wanted(name) else None
                if content is not None:  # it is None for folders
                    files[name] = content.read()
    except _DAMAGED as error:
        raise ValueError(f"{path.name} is damaged ({error!r}); try again.") from error
    return files


def check_contents(files: Mapping[str, bytes], expected: str) -> None:
    """Checks names and contents of many files by one checksum.

    It is the SHA-256 of the lines "path NUL hexadecimal-SHA-256-of-the-file LF", sorted by path.

    Raises:
        ValueError: another checksum.
    """
    found = hashlib.sha256()
    for name in sorted(files):
        found.update(f"{name}\0{hashlib.sha256(files[name]).hexdigest()}\n".encode())
    if found.hexdigest() != expected:
        raise ValueError(
            f"The {len(files)} files that were downloaded have the checksum {found.hexdigest()} "
            f"instead of {expected}; try again."
        )


def array_checksum(array: np.ndarray) -> str:
    """SHA-256 of an array's bytes, little-endian in C order; of strings, joined by line feeds."""
    if array.dtype.kind == "U":
        return hashlib.sha256("\n".join(array.tolist()).encode()).hexdigest()
    little = array.astype(array.dtype.newbyteorder("<"))
    return hashlib.sha256(np.ascontiguousarray(little).tobytes()).hexdigest()


def write_arrays(
    arrays: Mapping[str, np.ndarray], expected: Mapping[str, str], file: BinaryIO
) -> None:
    """Writes arrays as a .npz file, if they are those that are known.

    Args:
        arrays: {name: array}.
        expected: {name: `array_checksum`}, for some of the arrays or all.
        file: where to write.

    Raises:
        ValueError: an array with another checksum.
    """
    for name, checksum in expected.items():
        if (found := array_checksum(arrays[name])) != checksum:
            raise ValueError(
                f"The array {name!r} has the checksum {found} instead of {checksum}. The downloads "
                "are right, so another version of Pillow or NumPy may compute it differently; "
                "install the versions that `pip install 'metajax[data]'` takes."
            )
    values: dict[str, Any] = dict(arrays)
    np.savez_compressed(file, allow_pickle=False, **values)


def shrink(content: bytes, size: int, mode: str, resample: str) -> np.ndarray:
    """A picture resized to a square, whatever its shape was.

    Args:
        content: of the file.
        size: height and width.
        mode: Pillow's name of the kind of picture, "L" or "RGB".
        resample: Pillow's name of the filter, "BOX" or "LANCZOS".

    Returns:
        uint8[size, size] or uint8[size, size, 3].

    Raises:
        ImportError: Pillow is missing.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("Pictures need Pillow: pip install 'metajax[data]'.") from error
    with Image.open(io.BytesIO(content)) as picture:
        resized = picture.convert(mode).resize((size, size), Image.Resampling[resample])
        return np.asarray(resized)
