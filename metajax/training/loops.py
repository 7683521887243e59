"""The training loop: it compiles outer steps, records how they go, and writes checkpoints."""

from __future__ import annotations

import contextlib
import math
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from metajax._checks import check_count, check_counts
from metajax.data.read.streams import Stream
from metajax.outer.evaluation import Summary
from metajax.outer.outer_loops import Info, OuterLoop
from metajax.training.checkpoints import open_checkpoints
from metajax.training.interrupts import interruptible
from metajax.training.progress_bars import open_bar
from metajax.training.records import Record, append_record, evaluation_record, mean_info
from metajax.training.sources import Source, sampler_source, stream_source
from metajax.training.steps import compiled_steps
from metajax.types import Array, Params, PyTree, Sample

Evaluate = Callable[[Params, Array], Mapping[str, Summary]]


def fit(
    outer: OuterLoop,
    state: Any,
    sample: Sample[PyTree] | Stream,
    dataset: PyTree,
    key: Array,
    *,
    steps: int,
    seconds: float | None = None,
    fuse: int = 1,
    evaluate: Evaluate | None = None,
    every: int = 1000,
    log: str | pathlib.Path | None = None,
    checkpoint: str | pathlib.Path | None = None,
    progress: bool = True,
) -> tuple[Any, list[Record]]:
    """Trains until `state.step` is `steps`, and records how it goes.

    Step n draws its tasks with the first and learns with the second key of
    split(fold_in(key, n)). So a run that was cut off and goes on from its checkpoint ends with
    the same weights, bit for bit. Ctrl-C ends the run after the current call, with what was
    learned so far; a second Ctrl-C stops at once. `scan` takes the same steps as a pure function.

    Args:
        outer: what is learned, and how: an `outer_loop`, `persistent` or `bilevel`.
        state: `outer.init(...)`, or the state where an earlier run ended. It stays usable.
        sample: (dataset, key) -> tasks, such as `data.meta_batch(data.episodes(...), tasks=32)`.
            If it takes a keyword `step`, it is given the number of the outer step, int32. Or a
            `data.stream` of tasks, which are read on the host while the device computes.
        dataset: what `sample` draws from. It is an argument of the compiled function, never a
            constant in it. () for a stream.
        key: key of the whole run.
        steps: number of the last outer step, counted from the first step of the first run.
        seconds: training time after which the run ends early, without compilation and
            evaluation. None is no limit.
        fuse: outer steps in one compiled call. Set it to 10 or more where a step takes a few
            milliseconds, so that it does not wait for Python. It must divide `every`.
        evaluate: (params, key) -> {name: Summary}, called for every record.
        every: steps between two records. The end of the run has a record, too.
        log: file that the records are appended to, as JSON lines.
        checkpoint: folder that the state is written to with every record. If it has a state, the
            run goes on from there.
        progress: whether to draw a progress bar, which needs tqdm. Without tqdm there is none.

    Returns:
        (the last state, the records). A record has "step"; "seconds" of training in this call;
        and since the record before, "tasks_per_second", the number of "skipped" tasks, and the
        means of "loss", "grad_norm" and every metric. For each summary of `evaluate` it has
        "evaluate/<name>" and "evaluate/<name>/interval".

    Raises:
        ValueError: steps is below 0, fuse or every below 1, or fuse does not divide every; a
            stream with fuse or shard.

    >>> import optax
    >>> from metajax.outer import outer_loop
    >>> task_loss = lambda params, target, key: ((params.slow - target) ** 2, {})
    >>> outer = outer_loop(task_loss, optax.sgd(0.25))
    >>> state, targets = outer.init(Params({}, jnp.zeros(()))), jnp.array([1.0, 3.0])
    >>> sample = lambda targets, key: targets
    >>> key = jax.random.key(0)
    >>> state, records = fit(outer, state, sample, targets, key, steps=30, progress=False)
    >>> round(state.params.slow.item(), 3), records[0]["step"]
    (2.0, 30)
    """
    _check_sizes(steps, fuse, every)
    source = _make_source(sample, dataset, key, fuse)
    most_seconds = math.inf if seconds is None else seconds
    state = jax.tree.map(jnp.copy, state)  # the compiled steps overwrite what they are given
    records: list[Record] = []
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(open_checkpoints(checkpoint))
        state = checkpoints.restore(state)
        interrupted = stack.enter_context(interruptible())
        done = int(state.step)
        bar = stack.enter_context(open_bar(done, steps, progress))
        take_steps = _timed_steps(outer, source, key, done)
        period = _Period(source.tasks)
        ended = lambda: done >= steps or interrupted.is_set() or period.seconds >= most_seconds
        while not ended():
            number = min(fuse, every - done % every, steps - done)
            state, info, took = take_steps(state, number)
            done += number
            period.add(info, took)
            bar.advance(number, mean_info([info]), number * source.tasks / took)
            if done % every == 0 or ended():
                checkpoints.save(done, state)  # before anything that may fail
                record = {"step": done, **period.record()}
                if evaluate is not None:
                    evaluate_key = jax.random.fold_in(jax.random.fold_in(key, done), 2)
                    record |= evaluation_record(evaluate(state.params, evaluate_key))
                records.append(record)
                if log is not None:
                    append_record(log, record)
    return state, records


def _check_sizes(steps: int, fuse: int, every: int) -> None:
    """Checks the whole numbers among the arguments of `fit`."""
    check_count("steps", steps, least=0)
    check_counts(fuse=fuse, every=every)
    if every % fuse:
        raise ValueError(f"{fuse=} must divide {every=}, so that records fall between two calls.")


def _make_source(sample: Sample[PyTree] | Stream, dataset: PyTree, key: Array, fuse: int) -> Source:
    if isinstance(sample, Stream):
        return stream_source(sample, key, fuse)
    return sampler_source(sample, dataset, key)


def _timed_steps(
    outer: OuterLoop, source: Source, key: Array, first: int
) -> Callable[[Any, int], tuple[Any, Info, float]]:
    """(state, number of steps) -> (state, info on the host, seconds without compilation)."""
    program = compiled_steps(outer, source.draw)
    reads = source.reads(first)

    def take_steps(state: Any, number: int) -> tuple[Any, Info, float]:
        start = time.perf_counter()
        read = next(reads)
        waited = time.perf_counter() - start
        run = program(number, state, key, read)
        start = time.perf_counter()
        state, info = run(state, key, read)
        info = jax.device_get(info)
        return state, info, waited + time.perf_counter() - start

    return take_steps


class _Period:
    """What happened since the last record, and the seconds since the start of the run."""

    def __init__(self, tasks: int):
        self.tasks = tasks
        self.seconds = 0.0
        self.seconds_before = 0.0
        self.infos: list[Info] = []

    def add(self, info: Info, seconds: float) -> None:
        self.infos.append(info)
        self.seconds += seconds

    def record(self) -> Record:
        """The record of this period. The next period starts here."""
        steps = sum(len(info.loss) for info in self.infos)
        speed = steps * self.tasks / (self.seconds - self.seconds_before)
        means = mean_info(self.infos)
        self.infos = []
        self.seconds_before = self.seconds
        return {"seconds": self.seconds, "tasks_per_second": speed, **means}
