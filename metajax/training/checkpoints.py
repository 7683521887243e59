"""Checkpoints of a state in a folder, written and read by orbax."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any

import jax


class Checkpoints:
    """The last state of a run in a folder. Without a folder, nothing is written or read."""

    def __init__(self, manager: Any):
        self.manager = manager

    def restore(self, state: Any) -> Any:
        """The state in the folder, or the given one where there is none."""
        if self.manager is None or self.manager.latest_step() is None:
            return state
        import orbax.checkpoint as ocp

        leaves, structure = jax.tree.flatten(state)
        arguments = ocp.args.StandardRestore(leaves)
        restored = self.manager.restore(self.manager.latest_step(), args=arguments)
        return jax.tree.unflatten(structure, restored)

    def save(self, step: int, state: Any) -> None:
        """Writes the state in place of the one before, and waits until it is on disk."""
        if self.manager is None:
            return
        import orbax.checkpoint as ocp

        self.manager.save(step, args=ocp.args.StandardSave(jax.tree.leaves(state)))
        self.manager.wait_until_finished()


@contextlib.contextmanager
def open_checkpoints(folder: str | pathlib.Path | None) -> Iterator[Checkpoints]:
    """The checkpoints in this folder. None has no checkpoints."""
    if folder is None:
        yield Checkpoints(None)
        return
    import orbax.checkpoint as ocp

    options = ocp.CheckpointManagerOptions(max_to_keep=1)
    with ocp.CheckpointManager(pathlib.Path(folder).absolute(), options=options) as manager:
        yield Checkpoints(manager)
