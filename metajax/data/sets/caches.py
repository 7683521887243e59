"""Files that keep what was made from the fonts inside matplotlib."""

from __future__ import annotations

import os
import pathlib
import struct
import warnings
import zipfile
import zlib
from typing import Any

import numpy as np

from metajax.data.read.downloads import cache_folder
from metajax.data.whole_files import open_whole

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
    except ImportError as error:
        raise ImportError("Glyphs need matplotlib: pip install 'metajax[examples]'.") from error
    folder = cache_folder() if cache is None else pathlib.Path(cache)
    return folder / f"{kind}-matplotlib{matplotlib.__version__}-{choice}.npz"


def write_cache(path: pathlib.Path, **arrays: Any) -> None:
    """Writes arrays for later calls. Where that fails, it warns: nothing but time is lost."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open_whole(path) as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
    except OSError as error:
        # The text and its place are the same for every file, so that Python shows it once.
        warnings.warn(
            f"{path.parent} cannot be written ({error.strerror}), so that every call draws the "
            "glyphs anew, which takes some seconds; name another folder: cache=...",
            stacklevel=1,
        )
