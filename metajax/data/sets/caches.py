"""Files that keep what was made from the fonts inside matplotlib."""

from __future__ import annotations

import os
import pathlib
import struct
import zipfile
import zlib
from typing import Any

import numpy as np

UNREADABLE = (
    OSError,
    EOFError,
    LookupError,
    RuntimeError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)
"""The errors that reading a damaged file raises."""


def cache_path(kind: str, choice: str, cache: str | os.PathLike[str] | None) -> pathlib.Path:
    """The path of a file that depends on the fonts of the installed matplotlib.

    Args:
        kind: what the file holds, and the version of its format.
        choice: the arguments that its content depends on.
        cache: the folder. None is the user's cache folder.

    Raises:
        ImportError: matplotlib or platformdirs is missing.
    """
    try:
        import matplotlib
        import platformdirs
    except ImportError as error:
        raise ImportError(
            "Glyphs need matplotlib and platformdirs: pip install 'metajax[examples]'."
        ) from error
    folder = platformdirs.user_cache_path("metajax") if cache is None else pathlib.Path(cache)
    return folder / f"{kind}-matplotlib{matplotlib.__version__}-{choice}.npz"


def write_cache(path: pathlib.Path, **arrays: Any) -> None:
    """Writes a file in one step: another process sees all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    with partial.open("wb") as file:
        np.savez_compressed(file, **arrays)
    os.replace(partial, path)
