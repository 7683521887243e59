"""Data files that are downloaded from their origin and prepared, once."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

from metajax.data.whole_files import open_whole


class Origin(NamedTuple):
    """A file on the network.

    Attributes:
        name: of the downloaded file.
        url: where it is, at one commit or of one version.
        sha256: of its bytes. None for archives that the host makes on request, whose bytes may
            change; `DataFile.write` checks what is inside.
    """

    name: str
    url: str
    sha256: str | None = None


class DataFile(NamedTuple):
    """A file that is made of downloads.

    Attributes:
        name: such as "omniglot.npz".
        origins: the downloads.
        write: (paths of the downloads, open file) -> None. It makes the content. It is a ValueError
            if the downloads, or what is made of them, are not what they are known to be.
        credit: licence and citation of the data.
    """

    name: str
    origins: tuple[Origin, ...]
    write: Callable[[list[pathlib.Path], BinaryIO], None]
    credit: str = ""


def cache_folder() -> pathlib.Path:
    """The user's cache folder: of data files, and of what is made from fonts.

    Raises:
        ImportError: platformdirs is missing.
    """
    try:
        import platformdirs
    except ImportError as error:
        raise ImportError(
            "The user's cache folder needs platformdirs: pip install 'metajax[data]'."
        ) from error
    return platformdirs.user_cache_path("metajax")


def prepare_data_file(data_file: DataFile, folder: pathlib.Path) -> pathlib.Path:
    """Downloads what a data file is made of, and writes it, one process at a time.

    Downloads are kept in `folder / "downloads"`, where they may also be put by hand.

    Args:
        data_file: what to make.
        folder: where to put it.

    Returns:
        The path of the file, which is whole.

    Raises:
        ConnectionError: a download failed.
        ValueError: a download is damaged.
        OSError: the folder cannot be written.
        ImportError: pooch or Pillow is missing.
    """
    path = folder / data_file.name
    with _lock(path):
        if path.is_file():  # made by another process, while this one waited
            return path
        raw = [_download(origin, data_file, folder) for origin in data_file.origins]
        try:
            with open_whole(path) as file:
                data_file.write(raw, file)
        except ValueError as error:
            for origin, download in zip(data_file.origins, raw, strict=True):
                if origin.sha256 is None:  # the others are known to be right
                    download.unlink(missing_ok=True)
            raise ValueError(
                f"{data_file.name} could not be made of {[file.name for file in raw]}: {error}"
            ) from error
    return path


def _download(origin: Origin, data_file: DataFile, folder: pathlib.Path) -> pathlib.Path:
    """The path of a download, which has the right checksum where one is known."""
    try:
        import pooch
        import requests
    except ImportError as error:
        raise ImportError(
            f"{data_file.name} must be downloaded, which needs pooch: pip install 'metajax[data]'."
        ) from error
    downloads = folder / "downloads"
    fetcher = pooch.create(
        downloads,
        base_url="",
        registry={origin.name: origin.sha256},
        urls={origin.name: origin.url},
    )
    try:
        fetcher.fetch(origin.name)
    except requests.RequestException as error:
        raise ConnectionError(_offline_text(data_file, folder, error)) from error
    except ValueError as error:
        raise ValueError(
            f"What came from {origin.url} is damaged or another file ({error}). Try again; nothing "
            "of it was kept."
        ) from error
    return downloads / origin.name


def _offline_text(data_file: DataFile, folder: pathlib.Path, error: Exception) -> str:
    """What to do by hand where there is no network."""
    downloads = folder / "downloads"
    missing = [
        f"{origin.url} as {downloads / origin.name}"
        for origin in data_file.origins
        if not (downloads / origin.name).is_file()
    ]
    return (
        f"{data_file.name} is not in {_folder_text()}, nor in {folder}, and its origin cannot be "
        f"reached. By hand, fetch {', and '.join(missing)}, then call again; or "
        f"copy {data_file.name} from a machine that has it into {folder}. ({error})"
    )


def _folder_text() -> str:
    """The folder that METAJAX_DATA names, for an error message."""
    folder = os.environ.get("METAJAX_DATA")
    return f"{folder}, which METAJAX_DATA names" if folder else "a folder that METAJAX_DATA names"


def _lock(path: pathlib.Path) -> Any:
    """A lock beside the file that is to be made, acquired."""
    try:
        import filelock
    except ImportError as error:
        raise ImportError(
            f"{path.name} must be made, which needs filelock: pip install 'metajax[data]'."
        ) from error
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return filelock.FileLock(path.with_name(f".{path.name}.lock")).acquire()
    except OSError as error:
        raise OSError(
            f"{path.parent} cannot be written ({error}); make {path.name} on another machine, and "
            "let METAJAX_DATA name the folder that has it."
        ) from error
