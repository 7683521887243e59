"""The folder of a replay: what it is a run of, states, and derivatives."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from metajax.data.whole_files import open_whole
from metajax.training.saving import load, save
from metajax.types import PyTree


class ReplayFiles:
    """The folder of a run: what it is a run of, states, and derivatives. None keeps nothing.

    Raises:
        ValueError: the folder has another run.
        OSError: it cannot be written.
    """

    def __init__(self, folder: pathlib.Path | None, about: dict[str, Any]):
        self._folder = folder
        if folder is None:
            return
        path = folder / "about.json"
        if path.exists():
            try:
                found = json.loads(path.read_text())
                differs = [name for name in about if found.get(name) != about[name]]
            except (AttributeError, ValueError) as error:
                raise ValueError(f"{path} is damaged ({error}); delete {folder}.") from error
            if differs:
                raise ValueError(
                    f"{folder} has a run that differs from this one in {' and '.join(differs)}; "
                    "give another folder, or delete it."
                )
            return
        if any(folder.glob("*.npz")):
            raise ValueError(f"{folder} has files of a run, but no about.json; delete it.")
        with _room_for(folder), open_whole(path) as file:
            file.write(json.dumps(about, indent=1).encode())
            file.flush()
            os.fsync(file.fileno())

    def read(self, name: str, like: PyTree) -> PyTree | None:
        """What was written under a name, or None."""
        if self._folder is None or not (path := self._folder / f"{name}.npz").exists():
            return None
        try:
            return load(path, like)
        except ValueError as error:
            raise ValueError(f"{error}; delete it, and call again: it is computed anew.") from error

    def write(self, name: str, tree: PyTree) -> None:
        """Writes a tree of arrays, whole or not at all."""
        if self._folder is not None:
            with _room_for(self._folder):
                save(self._folder / f"{name}.npz", tree)


@contextlib.contextmanager
def _room_for(folder: pathlib.Path) -> Iterator[None]:
    """Says what to do where nothing can be written."""
    try:
        yield
    except OSError as error:
        raise OSError(
            f"{folder} cannot be written ({error}). What was written before is there: make room, "
            "and call again."
        ) from error
