"""Checkpoints of a run in a folder: two of them, written and read by orbax.

A checkpoint knows the name, shape and dtype of each leaf of the state, the key of the run, what
the outer optimizer computes, and the record of its step. What is restored is compared with them.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import pathlib
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metajax._checked import checked
from metajax._learnable import needs_value
from metajax.outer.outer_loops import OuterLoop
from metajax.training.leaves import leaf_type, leaf_types, placed_like
from metajax.training.processes import Processes, on_host
from metajax.training.records import Record
from metajax.types import Array, PyTree

KEPT = 2
"""Checkpoints in a folder. If the newest one is damaged, the run goes on from the other."""


class Run(NamedTuple):
    """What a checkpoint says about the run that wrote it.

    Attributes:
        leaves: {name of a leaf of the state: "dtype[shape]"}, in the order of the leaves.
        key: the key of the run, as text.
        optimizer: digest of what the outer optimizer computes; "" where that is not known.
    """

    leaves: dict[str, str]
    key: str
    optimizer: str


def describe_run(outer: OuterLoop, state: Any, key: Array) -> Run:
    """What the checkpoints of this run say about it."""
    return Run(leaf_types(state), _key_text(key), _optimizer_digest(outer, state))


class Checkpoints:
    """The checkpoints of one run. Without a folder, nothing is written or read.

    Args:
        manager: of orbax, or None.
        folder: where they are, or None.
        processes: all of which read and write them together.
    """

    def __init__(self, manager: Any, folder: pathlib.Path | None, processes: Processes):
        self.manager = manager
        self.folder = folder
        self.processes = processes

    def restore(self, state: PyTree, run: Run) -> tuple[PyTree, Record | None]:
        """The newest state in the folder that can be read, and the record of its step.

        A checkpoint that cannot be read is set aside, with a warning that names it.

        Args:
            state: where the run starts if there is no checkpoint.
            run: what the checkpoint must say about its run.

        Raises:
            ValueError: checkpoints of another run, or none that can be read.
        """
        if self.manager is None or self.folder is None:
            return state, None
        steps = sorted(self.manager.all_steps(), reverse=True)
        self.processes.check_same_steps(self.folder, steps)
        for step in steps:
            damage: Exception | None = None
            try:
                leaves, about = self._read(step, state, run)
            except OtherRunError:
                raise
            except Exception as error:  # orbax, tensorstore and JSON have many
                damage = error
            if not self.processes.any(damage is not None):
                return placed_like(state, leaves), about["record"]
            self._set_aside(step, damage or ValueError("another process cannot read it"))
        if list(self.folder.glob("*.damaged")):
            raise ValueError(
                f"No checkpoint in {self.folder} can be read; they were set aside with the ending "
                "'.damaged'. Remove them to start anew."
            )
        return state, None

    def save(self, step: int, state: PyTree, run: Run, record: Record) -> None:
        """Writes a state and its record, and waits until they are on disk."""
        if self.manager is None:
            return
        ocp = _orbax()
        about = {"run": run._asdict(), "jax": jax.__version__, "record": record}
        about["digest"] = _digest(jax.tree.leaves(state))
        arguments = ocp.args.Composite(
            state=ocp.args.StandardSave(jax.tree.leaves(state)), about=ocp.args.JsonSave(about)
        )
        with self.processes.together():
            self.manager.save(step, args=arguments)
            self.manager.wait_until_finished()

    def _read(self, step: int, state: PyTree, run: Run) -> tuple[list[np.ndarray], Any]:
        """The leaves of a checkpoint on the host, and what it says about its run."""
        ocp = _orbax()
        restore = self.manager.restore
        about = restore(step, args=ocp.args.Composite(about=ocp.args.JsonRestore()))["about"]
        _check_same_run(self.folder, about, run)
        wanted = [np.empty(jnp.shape(leaf), leaf.dtype) for leaf in jax.tree.leaves(state)]
        arguments = ocp.args.Composite(state=ocp.args.StandardRestore(wanted))
        leaves = [np.asarray(leaf) for leaf in restore(step, args=arguments)["state"]]
        if _digest(leaves) != about["digest"]:
            raise ValueError("the weights are not those that were written")
        return leaves, about

    def _set_aside(self, step: int, error: Exception) -> None:
        assert self.folder is not None
        damaged = self.folder / str(step)
        aside = self.folder / f"{step}.damaged"
        with self.processes.together():
            if self.processes.is_first:
                shutil.rmtree(aside, ignore_errors=True)
                damaged.rename(aside)
        self.manager.reload()
        reason = str(error).strip().splitlines() or [type(error).__name__]
        warnings.warn(
            f"The checkpoint {damaged} is damaged ({reason[0]}). It was renamed to {aside.name}, "
            "and the one before it is used, if there is one.",
            stacklevel=4,
        )


class OtherRunError(ValueError):
    """The checkpoints in a folder are those of another run."""


def _orbax() -> Any:
    """The module that writes and reads checkpoints. An ImportError says what to install."""
    try:
        import orbax.checkpoint
    except ImportError as error:
        raise ImportError("Checkpoints need orbax: pip install 'metajax[checkpoint]'.") from error
    return orbax.checkpoint


@contextlib.contextmanager
def open_checkpoints(
    folder: str | pathlib.Path | None, processes: Processes
) -> Iterator[Checkpoints]:
    """The checkpoints in this folder, which no other run may use meanwhile. None has none.

    Raises:
        ValueError: a folder that another run uses, or a process that trains alone among several.
        ImportError: without orbax.
    """
    if folder is None:
        yield Checkpoints(None, None, processes)
        return
    ocp = _orbax()
    path = pathlib.Path(folder).absolute()
    if processes.number < jax.process_count():
        raise ValueError(
            f"This process trains alone among {jax.process_count()}, and orbax writes checkpoints "
            "from all of them: give mesh= to train together, or do not call "
            "jax.distributed.initialize()."
        )
    options = ocp.CheckpointManagerOptions(max_to_keep=KEPT, cleanup_tmp_directories=True)
    with contextlib.ExitStack() as stack:
        with processes.together():
            path.mkdir(parents=True, exist_ok=True)
            if processes.is_first:
                stack.enter_context(locked(path))
        manager = stack.enter_context(ocp.CheckpointManager(path, options=options))
        yield Checkpoints(manager, path, processes)


@checked
def restore_by_name(
    folder: str | pathlib.Path, state: PyTree, rename: Mapping[str, str] | None = None
) -> tuple[PyTree, list[str]]:
    """Takes from the newest checkpoint of `fit` every leaf that has the name of one of the state.

    Use it where `fit` refuses a checkpoint because something was renamed, added or taken away.

    Args:
        folder: the `checkpoint` of `fit`.
        state: `outer.init(...)` of the new run.
        rename: {text in a name of the checkpoint: text in its place}, such as
            {"['body']": "['encoder']"}. The names are those that the error of `fit` prints.

    Returns:
        (the state, the names of its leaves that were not in the checkpoint and are as before).

    Raises:
        ValueError: no checkpoint, no leaf with the same name, or one of another shape or dtype; a
            rename that gives two leaves of the checkpoint one name.
        ImportError: without orbax.
    """
    ocp = _orbax()
    with ocp.CheckpointManager(pathlib.Path(folder).absolute()) as manager:
        step = manager.latest_step()
        if step is None:
            raise ValueError(f"There is no checkpoint in {folder}.")
        arguments = ocp.args.Composite(
            state=ocp.args.StandardRestore(), about=ocp.args.JsonRestore()
        )
        restored = manager.restore(step, args=arguments)
    names = _renamed(list(restored["about"]["run"]["leaves"]), rename or {})
    found = dict(zip(names, restored["state"], strict=True))
    expected = leaf_types(state)
    missing = [name for name in expected if name not in found]
    if len(missing) == len(expected):
        raise ValueError(f"The checkpoint has the leaves {names}, the state {list(expected)}.")
    leaves = []
    for name, leaf in zip(expected, jax.tree.leaves(state), strict=True):
        value = found.get(name, leaf)
        if leaf_type(value) != expected[name]:
            raise ValueError(
                f"{name} is {leaf_type(value)} in the checkpoint and {expected[name]} in the "
                "state; rename one of them, or change the shape back."
            )
        leaves.append(np.asarray(value) if name in found else leaf)
    return placed_like(state, leaves), missing


def _renamed(names: list[str], rename: Mapping[str, str]) -> list[str]:
    """The names with other texts in them.

    Raises:
        ValueError: two that become one.
    """
    before: dict[str, str] = {}
    for name in names:
        new = name
        for old_text, new_text in rename.items():
            new = new.replace(old_text, new_text)
        if new in before:
            raise ValueError(
                f"rename={dict(rename)} gives the leaves {before[new]} and {name} of the "
                f"checkpoint the same name, {new}; rename the other one as well, first."
            )
        before[new] = name
    return list(before)


@contextlib.contextmanager
def locked(folder: pathlib.Path) -> Iterator[None]:
    """Holds a lock of the folder, which the system releases when the process ends in any way."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with open(folder / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"Another run writes its checkpoints to {folder}; wait for it, or give this run a "
                "folder of its own."
            ) from None
        except OSError as error:
            warnings.warn(
                f"{folder} cannot be locked ({error}), so that nothing keeps a second run from "
                "writing to it.",
                stacklevel=2,
            )
        yield


def _check_same_run(folder: pathlib.Path | None, about: Any, run: Run) -> None:
    """Compares what a checkpoint says with the run that wants to go on from it."""
    saved = Run(**about["run"])
    differences = []
    for name in saved.leaves.keys() | run.leaves.keys():
        before = saved.leaves.get(name, "missing")
        now = run.leaves.get(name, "missing")
        if before != now:
            differences.append(f"{name} is {before} in the checkpoint and {now} in the state")
    if list(saved.leaves) != list(run.leaves) and not differences:
        differences.append("the leaves are in another order")
    if saved.key != run.key:
        differences.append("the key of the run is another one")
    if about["jax"] == jax.__version__ and saved.optimizer != run.optimizer:
        differences.append("the outer optimizer computes something else")
    if differences:
        raise OtherRunError(
            f"The checkpoint in {folder} is of another run: {'; '.join(sorted(differences))}. Give "
            "another folder, or take over what has the same name with training.restore_by_name."
        )


def _key_text(key: Array) -> str:
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.key_data(key)
    return str(np.asarray(key).tolist())


def _digest(leaves: list[Any]) -> str:
    """A digest of the values of all leaves."""
    digest = hashlib.sha256()
    for leaf in leaves:
        digest.update(np.ascontiguousarray(on_host(leaf)).tobytes())
    return digest.hexdigest()


def _optimizer_digest(outer: OuterLoop, state: Any) -> str:
    """A digest of what the optimizer of an `outer_loop` computes.

    Two optimizers, such as Adam and NAdam, may have states of the same structure.
    """
    if outer.optimizer is None:
        return ""
    update: Any = optax.with_extra_args_support(outer.optimizer).update
    if needs_value(outer.optimizer):
        update = functools.partial(update, value=jnp.ones(()), grad=state.params)
    program = jax.make_jaxpr(update)(state.params, state.optimizer, state.params)
    text = re.sub("0x[0-9a-f]+", "", str(program))  # addresses of functions
    return hashlib.sha256(text.encode()).hexdigest()
