"""The training loop: the one place that jits, logs and draws a bar."""

from __future__ import annotations

import contextlib
import functools
import itertools
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

from metajax._tree import count_tasks
from metajax.data.read.streams import Stream, tasks_of
from metajax.outer.evaluation import Summary
from metajax.outer.outer_loops import Info, OuterLoop, State
from metajax.types import Array, Params, PyTree


def fit(
    outer: OuterLoop,
    state: State,
    sample: Callable[[Any, Array], PyTree] | Stream,
    dataset: PyTree,
    key: Array,
    *,
    steps: int,
    seconds: float | None = None,
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
        state: `outer.init(params)`, or where an earlier run ended. It stays usable.
        sample: (dataset, key) -> tasks, such as `data.meta_batch(data.episodes(...), tasks=32)`; or a `data.stream` of
            tasks that are read on the host while the device computes.
        dataset: an argument of the compiled function, never a constant in it; () for a stream.
        key: of the whole run.
        steps: outer steps in all, those already taken included.
        seconds: of training after which to end early, compilation and evaluation left out; None for no limit.
        fuse: outer steps in one compiled call, so that small problems are not bound by Python; divides `every`.
        evaluate: (params, key) -> {name: Summary}, called every `every` steps and at the end.
        every: steps between two records.
        log: file to append the records to, as JSON lines.
        checkpoint: folder to keep the state in, written at every record; if it holds a state, the run goes on from it.
        progress: whether to draw a bar; it needs tqdm, and where that is missing there is none.

    Returns:
        The final state and the records: {"step", "seconds" of training in this call, and since the record before
        "tasks_per_second", "skipped" tasks in all, and the means of "loss", "grad_norm" and every metric; then
        "evaluate/<name>" with "evaluate/<name>/interval"}.

    Raises:
        ValueError: steps below 0, fuse or every below 1, fuse that does not divide every, or a stream with fuse or
            shard.
    """
    if min(fuse, every) < 1 or steps < 0 or every % fuse:
        raise ValueError(
            f"{steps=} must be 0 or more, {fuse=} and {every=} 1 or more, and fuse must divide every."
        )
    draw, given, tasks = _source(sample, dataset, key, fuse)

    def one(state: State, key: Array, read: PyTree) -> tuple[State, Info]:
        sample_key, step_key = jax.random.split(jax.random.fold_in(key, state.step))
        return outer.step(state, draw(read, sample_key), step_key)

    def several(state: State, key: Array, read: PyTree, number: int) -> tuple[State, Info]:
        return jax.lax.scan(lambda state, _: one(state, key, read), state, length=number)

    @functools.cache
    def compiled(number: int) -> Any:
        run = jax.jit(functools.partial(several, number=number), donate_argnums=0)
        return run.lower(state, key, read).compile()

    state = jax.tree.map(jnp.copy, state)
    records: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(_checkpoints(checkpoint))
        state = store.restore(state)
        stopped = stack.enter_context(_interruptible())
        done = int(state.step)
        feed = given(done)
        bar = stack.enter_context(_bar(done, steps, progress))
        spent, before, infos = 0.0, 0.0, list[Info]()
        while done < steps and not stopped.is_set() and (seconds is None or spent < seconds):
            number = min(fuse, every - done % every, steps - done)
            start = time.perf_counter()
            read = next(feed)
            waited = time.perf_counter() - start
            run = compiled(number)
            start = time.perf_counter()
            state, info = run(state, key, read)
            info = jax.device_get(info)
            took = waited + time.perf_counter() - start
            spent, done = spent + took, done + number
            infos.append(info)
            bar.advance(number, _means([info]), number * tasks / took)
            out_of_time = seconds is not None and spent >= seconds
            if done % every == 0 or done == steps or stopped.is_set() or out_of_time:
                store.save(done, state)  # first of all: what follows may fail
                speed = sum(len(info.loss) for info in infos) * tasks / (spent - before)
                record = {
                    "step": done,
                    "seconds": spent,
                    "tasks_per_second": speed,
                    **_means(infos),
                }
                if evaluate is not None:
                    record |= _flatten(
                        evaluate(state.params, jax.random.fold_in(jax.random.fold_in(key, done), 2))
                    )
                records.append(record)
                if log is not None:
                    with open(log, "a", encoding="utf-8") as file:
                        file.write(json.dumps(record) + "\n")
                before, infos = spent, []
    return state, records


def _source(
    sample: Callable[[Any, Array], PyTree] | Stream, dataset: PyTree, key: Array, fuse: int
) -> tuple[Callable[[Any, Array], PyTree], Callable[[int], Iterator[Any]], int]:
    """(what a step is given, key) -> tasks; first step -> what the steps are given; and the number of tasks."""
    if not isinstance(sample, Stream):
        return (
            sample,
            lambda first: itertools.repeat(dataset),
            count_tasks(jax.eval_shape(sample, dataset, key)),
        )
    if fuse > 1:
        raise ValueError(f"{fuse=} must be 1 for a stream, whose tasks come step by step.")
    if sample.options["shard"] != (0, 1):
        raise ValueError(
            f"fit trains on all tasks, not on shard={sample.options['shard']}; use `tasks_of` for that."
        )
    return sample.finish, lambda first: tasks_of(sample, key, first=first), sample.tasks


def _means(infos: list[Info]) -> dict[str, Any]:
    """Means over steps that kept a task; of `skipped` the sum."""

    def mean(*leaves: np.ndarray) -> Any:
        values = np.concatenate(leaves)
        kept = values[~np.isnan(values.reshape(len(values), -1)).all(axis=1)]
        return (kept if len(kept) else values).mean(axis=0).tolist()

    means = jax.tree.map(mean, *infos)
    skipped = sum(int(info.skipped.sum()) for info in infos)
    return {"loss": means.loss, "grad_norm": means.grad_norm, "skipped": skipped, **means.metrics}


def _flatten(summaries: dict[str, Summary]) -> dict[str, Any]:
    """{"evaluate/<name>": mean, "evaluate/<name>/interval": half-width}."""
    means = {
        f"evaluate/{name}": np.asarray(summary.mean).tolist() for name, summary in summaries.items()
    }
    return means | {
        f"evaluate/{name}/interval": np.asarray(summary.interval).tolist()
        for name, summary in summaries.items()
    }


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
    """A progress bar with loss, metrics and tasks per second, or nothing."""

    def __init__(self, bar: Any):
        self.bar = bar

    def advance(self, number: int, means: dict[str, Any], tasks_per_second: float) -> None:
        if self.bar is None:
            return
        shown = {
            name: value
            for name, value in means.items()
            if name != "grad_norm" and (name != "skipped" or value)
        }
        numbers = {name: value for name, value in shown.items() if isinstance(value, (int, float))}
        text = {
            name: f"{value:.3g}" for name, value in {**numbers, "tasks/s": tasks_per_second}.items()
        }
        self.bar.set_postfix(text, refresh=False)
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
        restored = self.manager.restore(
            self.manager.latest_step(), args=ocp.args.StandardRestore(leaves)
        )
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
