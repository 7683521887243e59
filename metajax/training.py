"""The training loop: the one place that jits, logs and draws a bar."""

from __future__ import annotations

import contextlib
import json
import pathlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metajax._evaluate import Summary
from metajax._outer_loop import Info, OuterLoop, State, count_tasks
from metajax._types import Array, Params, PyTree


def fit(
    outer: OuterLoop,
    state: State,
    sample: Callable[[Any, Array], PyTree],
    dataset: PyTree,
    key: Array,
    *,
    steps: int,
    fuse: int = 1,
    evaluate: Callable[[Params, Array], dict[str, Summary]] | None = None,
    every: int = 1000,
    log: str | pathlib.Path | None = None,
    checkpoint: str | pathlib.Path | None = None,
    progress: bool = True,
) -> tuple[State, list[dict[str, Any]]]:
    """Takes outer steps until `state.step` is `steps`, and tells how it goes.

    Step n draws its tasks and its keys from `fold_in(key, n)`, so that a run that was cut off and goes on from its
    checkpoint ends with the same weights, bit for bit. Ctrl-C ends it after the current call with what was learned so
    far; a second Ctrl-C stops at once.

    Args:
        outer: what to learn, and how.
        state: `outer.init(params)`, or where an earlier run ended. Its buffers are donated: use the state returned.
        sample: (dataset, key) -> tasks, such as `data.meta_batch(data.episodes(...), tasks=32)`.
        dataset: an argument of the compiled function, never a constant in it.
        key: of the whole run.
        steps: outer steps in all, those already taken included.
        fuse: outer steps in one compiled call, so that small problems are not bound by Python; divides `every`.
        evaluate: (params, key) -> {name: Summary}, called every `every` steps and at the end.
        every: steps between two records.
        log: file to append the records to, as JSON lines.
        checkpoint: folder to keep the state in, written at every record; if it holds a state, the run goes on from it.
        progress: whether to draw a bar; it needs tqdm, and where that is missing there is none.

    Returns:
        The final state and the records: {"step", "seconds", "loss", "grad_norm", "skipped", "tasks_per_second", one
        entry a metric, and "evaluate/<name>" with "evaluate/<name>/interval"}. Means are over the steps since the
        record before.

    Raises:
        ValueError: steps, fuse or every below 1, or fuse that does not divide every.
    """
    if min(fuse, every) < 1 or steps < 0 or every % fuse:
        raise ValueError(f"{steps=} must be 0 or more, {fuse=} and {every=} 1 or more, and fuse must divide every.")

    def one(state: State, key: Array, dataset: PyTree) -> tuple[State, Info]:
        sample_key, step_key = jax.random.split(jax.random.fold_in(key, state.step))
        return outer.step(state, sample(dataset, sample_key), step_key)

    def several(state: State, key: Array, dataset: PyTree, number: int) -> tuple[State, Info]:
        state, infos = jax.lax.scan(lambda state, _: one(state, key, dataset), state, length=number)
        return state, jax.tree.map(lambda leaf: leaf.mean(axis=0), infos)

    run = jax.jit(several, static_argnums=3, donate_argnums=0)
    tasks = count_tasks(jax.eval_shape(sample, dataset, key))
    state = jax.tree.map(jnp.copy, state)
    records: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(_checkpoints(checkpoint))
        state = store.restore(state)
        done = int(state.step)
        stopped = stack.enter_context(_interruptible())
        bar = stack.enter_context(_bar(done, steps, progress))
        since, infos = time.perf_counter(), []
        while done < steps and not stopped.is_set():
            number = min(fuse, every - done % every, steps - done)
            state, info = run(state, key, dataset, number)
            infos.append((number, jax.device_get(info)))
            done += number
            bar.advance(number, infos[-1][1], tasks)
            if done % every == 0 or done == steps or stopped.is_set():
                record = _record(done, infos, time.perf_counter() - since, tasks)
                if evaluate is not None:
                    record |= _flatten(evaluate(state.params, jax.random.fold_in(key, done)))
                records.append(record)
                if log is not None:
                    with open(log, "a", encoding="utf-8") as file:
                        file.write(json.dumps(record) + "\n")
                store.save(done, state)
                since, infos = time.perf_counter(), []
    return state, records


def _record(step: int, infos: list[tuple[int, Info]], seconds: float, tasks: int) -> dict[str, Any]:
    """Means over the steps since the last record; `skipped` is their sum."""
    numbers = [number for number, _ in infos]
    mean = jax.tree.map(lambda *leaves: float(np.average(leaves, weights=numbers)), *(info for _, info in infos))
    total = sum(numbers)
    return {
        "step": step,
        "seconds": seconds,
        "tasks_per_second": total * tasks / seconds,
        "loss": mean.loss,
        "grad_norm": mean.grad_norm,
        "skipped": round(mean.skipped * total),
        **mean.metrics,
    }


def _flatten(summaries: dict[str, Summary]) -> dict[str, float]:
    """{"evaluate/<name>": mean, "evaluate/<name>/interval": half-width}."""
    means = {f"evaluate/{name}": float(summary.mean) for name, summary in summaries.items()}
    return means | {f"evaluate/{name}/interval": float(summary.interval) for name, summary in summaries.items()}


@contextlib.contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets; the second interrupts as usual. Only the main thread can catch it."""
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return

    def stop(number: int, frame: object) -> None:
        stopped.set()
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, before)


class _Bar:
    """A progress bar with loss, metrics and tasks per second."""

    def __init__(self, bar: Any):
        self.bar, self.start, self.tasks = bar, time.perf_counter(), 0

    def advance(self, number: int, info: Info, tasks: int) -> None:
        if self.bar is None:
            return
        self.tasks += number * tasks
        shown = {"loss": info.loss, **info.metrics, "tasks/s": self.tasks / (time.perf_counter() - self.start)}
        if info.skipped:
            shown["skipped"] = info.skipped * number
        self.bar.set_postfix({name: f"{float(value):.3g}" for name, value in shown.items()}, refresh=False)
        self.bar.update(number)


@contextlib.contextmanager
def _bar(done: int, steps: int, progress: bool) -> Iterator[_Bar]:
    """A bar where it is wanted and tqdm is there."""
    try:
        from tqdm.auto import tqdm
    except ImportError:
        progress = False
    if not progress:
        yield _Bar(None)
        return
    with tqdm(total=steps, initial=done, unit="step") as bar:
        yield _Bar(bar)


class _Store:
    """Checkpoints of a state in a folder, through orbax; without a folder it does nothing."""

    def __init__(self, manager: Any):
        self.manager = manager

    def restore(self, state: State) -> State:
        if self.manager is None or self.manager.latest_step() is None:
            return state
        import orbax.checkpoint as ocp

        leaves, structure = jax.tree.flatten(state)
        restored = self.manager.restore(self.manager.latest_step(), args=ocp.args.StandardRestore(leaves))
        return jax.tree.unflatten(structure, restored)

    def save(self, step: int, state: State) -> None:
        if self.manager is not None:
            import orbax.checkpoint as ocp

            self.manager.save(step, args=ocp.args.StandardSave(jax.tree.leaves(state)))
            self.manager.wait_until_finished()


@contextlib.contextmanager
def _checkpoints(folder: str | pathlib.Path | None) -> Iterator[_Store]:
    if folder is None:
        yield _Store(None)
        return
    import orbax.checkpoint as ocp

    options = ocp.CheckpointManagerOptions(max_to_keep=1)
    with ocp.CheckpointManager(pathlib.Path(folder).absolute(), options=options) as manager:
        yield _Store(manager)
