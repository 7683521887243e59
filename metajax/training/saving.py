"""What was learned, in one file: the arrays of a pytree by their names, without pickle."""

from __future__ import annotations

import json
import os
from typing import Any, BinaryIO

import jax
import jax.numpy as jnp
import numpy as np

from metajax._checked import checked
from metajax.data.whole_files import open_whole
from metajax.training.leaves import check_same_leaves, leaf_type, leaf_types, placed_like
from metajax.types import PyTree

FORMAT = 1
"""The format that `save` writes. `load` reads this one and all before it."""

HEADER = "metajax"
"""The entry of a file that says what the others are. The name of a leaf begins with . or [."""


@checked
def save(path: str | os.PathLike[str], params: PyTree) -> None:
    """Writes what was learned to one file, which `load` reads in another process or version.

    The file is an `.npz` of NumPy: an array for each leaf, under its name, such as
    ".fast['head']['kernel']", and a header with the format, names, shapes and dtypes. Another
    process sees all of the new file, or what was there before.

    Args:
        path: of the file, which is overwritten.
        params: `Params`, or any other pytree of arrays. Code is not saved: `load` needs a net that
            was made by the same code.

    Raises:
        ValueError: a leaf that is not an array or number, such as a random key, or an array of
            NumPy whose values JAX has no dtype for, such as large int64 without jax_enable_x64.
        OSError: the file cannot be written.

    >>> import pathlib, tempfile
    >>> from metajax.types import Params
    >>> params = Params(fast={"head": jnp.ones(2)}, slow={})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(pathlib.Path(folder) / "params.npz", params)
    ...     load(pathlib.Path(folder) / "params.npz", like=params).fast["head"].tolist()
    [1.0, 1.0]
    """
    types = leaf_types(params)
    arrays = {}
    for name, leaf in zip(types, jax.tree.leaves(params), strict=True):
        dtype = jnp.result_type(leaf)
        if jnp.issubdtype(dtype, jax.dtypes.extended):
            raise ValueError(
                f"{name} is a random key, which has no array to save; save "
                "jax.random.key_data(key), or leave it out."
            )
        arrays[name] = _plain(_on_host(name, leaf, dtype))
    header = {"format": FORMAT, "leaves": types}
    with open_whole(path) as file:
        np.savez(file, allow_pickle=False, **{HEADER: np.array(json.dumps(header))}, **arrays)
        file.flush()
        os.fsync(file.fileno())


@checked
def load(path: str | os.PathLike[str], like: PyTree) -> PyTree:
    """Reads what `save` wrote.

    Args:
        path: of the file.
        like: what the result looks like: `Params` of the same net, or any other pytree. The names,
            shapes and dtypes of its leaves are compared with those in the file, and their values
            are not used. Arrays that are on certain devices get what is loaded on the same ones.

    Returns:
        A pytree like `like` with the saved values.

    Raises:
        ValueError: names that are only in the file or only in `like`, or leaves of another shape or
            dtype; a damaged file, one that `save` did not write, or one of a later version.
        OSError: no file, or one that cannot be read.
    """
    saved, values = read_leaves(path)
    check_same_leaves(saved, leaf_types(like), f"{path} does not fit `like`")
    return placed_like(like, [values[name] for name in leaf_types(like)])


def read_leaves(
    path: str | os.PathLike[str],
) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """What is in a file of `save`: {name: "dtype[shape]"} and {name: value} of the leaves.

    Raises:
        ValueError: a damaged file, one that `save` did not write, or one of a later version.
        OSError: no file, or one that cannot be read.
    """
    with open(path, "rb") as file:
        try:
            return _read(file)
        except _LaterFormatError as error:
            raise ValueError(f"{path} {error}") from None
        except Exception as error:  # zipfile, NumPy and JSON have many
            raise ValueError(
                f"{path} is damaged, or not a file of metajax.save: {error or type(error).__name__}"
            ) from error


class _LaterFormatError(ValueError):
    """A file of a later version."""


def _read(file: BinaryIO) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """{name: "dtype[shape]"} and {name: value} of the leaves in a file."""
    entries = np.load(file, allow_pickle=False)
    header = json.loads(str(entries[HEADER]))
    if header["format"] > FORMAT:
        raise _LaterFormatError(
            f"has the format {header['format']}, and this version of metajax reads up to {FORMAT}; "
            "install a later version."
        )
    types: dict[str, str] = header["leaves"]
    values = {name: _typed(entries[name], text) for name, text in types.items()}
    for name, value in values.items():
        if leaf_type(value) != types[name]:
            raise ValueError(f"{name} is {leaf_type(value)} and not {types[name]}")
    return types, values


def _on_host(name: str, leaf: Any, dtype: Any) -> np.ndarray:
    """The leaf as an array of the dtype that JAX has for it, which `load` gives back.

    Raises:
        ValueError: an array of NumPy with values that this dtype does not have.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        array = np.asarray(leaf, dtype)
    if isinstance(leaf, np.ndarray | np.generic) and leaf.dtype != dtype:
        is_same = (array == leaf) | ((array != array) & (leaf != leaf))  # NaN is no change
        if not is_same.all():
            raise ValueError(
                f"{name} is {leaf.dtype} of NumPy, and as {dtype}, which JAX has for it, some of "
                f"its values would change. Save np.asarray(x, {str(dtype)!r}) if they may, or call "
                "jax.config.update('jax_enable_x64', True) here and where it is loaded."
            )
    return array


def _plain(array: np.ndarray) -> np.ndarray:
    """The same bytes as a type that NumPy writes: it has no bfloat16."""
    is_of_numpy = array.dtype.isbuiltin == 1
    return array if is_of_numpy else array.view(f"u{array.dtype.itemsize}")


def _typed(array: np.ndarray, text: str) -> np.ndarray:
    """The array that `_plain` was given, whose "dtype[shape]" is the text."""
    dtype = jnp.dtype(text.partition("[")[0])
    return array if dtype.isbuiltin == 1 else array.view(dtype)
