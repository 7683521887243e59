"""Splits of classes in files, to publish with results."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
from typing import Any

from metajax._checked import checked
from metajax.data.splits import Split, class_split
from metajax.data.whole_files import open_whole


@checked
def save_split(split: Split, path: str | os.PathLike[str]) -> None:
    """Writes a split as JSON: its name, digest, parts, dropped classes and a checksum of these.

    Args:
        split: what to write.
        path: of the file, which is overwritten.
    """
    stored = {"name": split.name, "digest": split.digest, "parts": split.parts}
    if split.dropped:
        stored["dropped"] = split.dropped
    stored["checksum"] = _checksum(stored)
    text = json.dumps(stored, indent=1, ensure_ascii=False) + "\n"
    with open_whole(path) as file:
        file.write(text.encode())


@checked
def load_split(path: str | os.PathLike[str]) -> Split:
    """Reads what `save_split` wrote.

    Args:
        path: of the file.

    Returns:
        The split, whose digest is that of the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a split, or anything in it is not what was saved.

    >>> import tempfile
    >>> from metajax.data.splits import class_split
    >>> split = class_split("Latin is new", {"train": ["alpha"], "test": ["b", "a"]})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_split(split, f"{folder}/split.json")
    ...     load_split(f"{folder}/split.json") == split
    True
    """
    try:
        stored = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
        split = _split_of(stored)
        digest, checksum = stored["digest"], stored["checksum"]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is not a split of classes ({error!r}); write it with `save_split`."
        ) from error
    if split.digest != digest:
        raise ValueError(
            f"The classes in {path} have the digest {split.digest}, not {digest} as saved; get "
            f"the file again."
        )
    if _checksum(stored) != checksum:
        raise ValueError(
            f"{path} has the name {split.name!r} and the dropped classes {list(split.dropped)}, "
            "one of which is not as saved; get the file again, or write another with `save_split`."
        )
    return split


def _checksum(stored: dict[str, Any]) -> str:
    """A short hash of everything else in the file."""
    others = {name: value for name, value in stored.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(others, sort_keys=True).encode()).hexdigest()[:12]


def _split_of(stored: Any) -> Split:
    """The split of a JSON object."""
    split = class_split(stored["name"], stored["parts"])
    return split._replace(dropped=tuple(stored.get("dropped", ())))
