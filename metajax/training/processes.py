"""Several processes that train together: what they must agree on, and which of them writes."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from metajax.training.records import Record
from metajax.types import Array, PyTree


class Processes:
    """The processes of a run. All of them call the same methods in the same order.

    Args:
        mesh: of all devices of all processes; None trains in this process alone.

    Attributes:
        number: how many there are.
        is_first: whether this one writes logs and draws the bar.

    Raises:
        ValueError: a mesh without devices of some process.
    """

    def __init__(self, mesh: Mesh | None):
        self.number = 1 if mesh is None else jax.process_count()
        self.is_first = self.number == 1 or jax.process_index() == 0
        if mesh is None:
            return
        missing = set(range(self.number)) - {device.process_index for device in mesh.devices.flat}
        if missing:
            raise ValueError(
                f"The mesh has no device of the processes {sorted(missing)}; make it of all of "
                "jax.devices()."
            )

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in one of them."""
        return bool(self._of_all(np.array(flag)).any())

    def same_times(self, record: Record) -> Record:
        """The record with the times of the first of them, which makes it the same in all."""
        names = ("seconds", "tasks_per_second")
        words = np.array([record[name] for name in names]).view(np.uint32)  # JAX may lack float64
        times = self._of_all(words)[0].view(np.float64).tolist()
        return {**record, **dict(zip(names, times, strict=True))}

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """What is done inside, in one of them or in all, fails in all of them or in none.

        Raises:
            RuntimeError: it failed in another process. Where it failed, its own error.
        """
        error: Exception | None = None
        try:
            yield
        except Exception as raised:
            error = raised
        failed = np.flatnonzero(self._of_all(np.array(error is not None)))
        if error is not None:
            raise error
        if len(failed):
            raise RuntimeError(
                f"The processes {failed.tolist()} have failed, and this one ends with them. "
                "Their own output has the error."
            )

    def check_same(self, arguments: Any, state: PyTree, key: Array, dataset: PyTree) -> None:
        """Checks that all of them have the same of what they give to `fit`.

        Args:
            arguments: numbers and the like, as Python writes them.
            state: where the run starts.
            key: of the run.
            dataset: what is drawn from.

        Raises:
            ValueError: what differs, and in which processes.
        """
        if self.number == 1:
            return
        versions = [importlib.metadata.version(name) for name in ("metajax", "jax", "jaxlib")]
        self._check_same_texts(
            {
                "the versions of metajax and JAX": str(versions),
                "the arguments of fit": repr(arguments),
                "the state": digest_of(state),
                "the key": digest_of(key),
                "the data set": digest_of(dataset),
            }
        )

    def check_same_program(self, lowered: Any) -> None:
        """Checks that all of them are about to compile the same.

        Args:
            lowered: what `lower` of a compiled function returns.

        Raises:
            ValueError: in which processes it differs.
        """
        if self.number > 1:
            text = re.sub("0x[0-9a-f]+", "", lowered.as_text())  # addresses of functions
            self._check_same_texts({"the program of a step": text})

    def check_same_steps(self, folder: Any, steps: Sequence[int]) -> None:
        """Checks that all of them see the same checkpoints, given by their steps.

        Raises:
            ValueError: some see others.
        """
        if self.number > 1:
            self._check_same_texts({f"the checkpoints in {folder}": str(list(steps))})

    def _check_same_texts(self, texts: Mapping[str, str]) -> None:
        """Checks that all of them have the same {what a text says: text}."""
        digests = [hashlib.sha256(text.encode()).digest() for text in texts.values()]
        table = self._of_all(np.frombuffer(b"".join(digests), np.uint8).reshape(len(texts), -1))
        differs = (table != table[0]).any(axis=-1)  # [processes, texts]
        found = [
            f"{name} (in the processes {np.flatnonzero(column).tolist()})"
            for name, column in zip(texts, differs.T, strict=True)
            if column.any()
        ]
        if found:
            raise ValueError(
                f"These differ from process 0: {'; '.join(found)}. Start all processes with the "
                "same code, packages, arguments, seeds and data."
            )

    def _of_all(self, values: np.ndarray) -> np.ndarray:
        """The values of each process, [processes, ...]."""
        if self.number == 1:
            return values[None]
        return np.asarray(multihost_utils.process_allgather(values)).reshape(-1, *values.shape)


def digest_of(tree: PyTree) -> str:
    """A digest of the shapes, dtypes and values of all arrays of a tree."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        host = on_host(leaf)
        about = f"{jax.tree_util.keystr(path)}{host.dtype}{host.shape}"
        digest.update(about.encode())
        digest.update(np.ascontiguousarray(host).tobytes())
    return digest.hexdigest()


def on_host(leaf: Any) -> np.ndarray:
    """The values of an array, also of parts that other processes have, or those of a random key.

    All processes call it.
    """
    if jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    is_elsewhere = isinstance(leaf, jax.Array) and not (
        leaf.is_fully_addressable or leaf.is_fully_replicated
    )
    return np.asarray(multihost_utils.process_allgather(leaf, tiled=True) if is_elsewhere else leaf)
