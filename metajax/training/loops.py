"""The training loop: it compiles outer steps, records how they go, and writes checkpoints."""

from __future__ import annotations

import contextlib
import functools
import math
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from metajax._checked import checked
from metajax._checks import check_state
from metajax.data.read.streams import Stream
from metajax.data.tasks.drawing import at_step
from metajax.outer.evaluation import explain_not_finite
from metajax.outer.meshes import on_mesh, task_mesh
from metajax.outer.outer_loops import Info, OuterLoop
from metajax.outer.task_losses import with_step
from metajax.training.best_states import BestState, Score
from metajax.training.checkpoints import describe_run, open_checkpoints
from metajax.training.interrupts import interruptible
from metajax.training.processes import Processes
from metajax.training.progress_bars import ProgressBar, open_bar
from metajax.training.records import Log, Record, mean_info
from metajax.training.reports import Evaluate, OnRecord, Period, Reporter
from metajax.training.sources import Source, sampler_source, stream_source
from metajax.training.steps import Program
from metajax.types import Array, Count, PyTree, Sample, Size

TRIED = 4
"""Tasks of the first step that are run without compilation where one of them was skipped."""


@checked
def fit(
    outer: OuterLoop,
    state: Any,
    sample: Sample[PyTree] | Stream,
    dataset: PyTree,
    key: Array,
    *,
    steps: Count,
    seconds: float | None = None,
    fuse: Size = 1,
    evaluate: Evaluate | None = None,
    every: Size = 1000,
    log: str | pathlib.Path | None = None,
    checkpoint: str | pathlib.Path | None = None,
    on_record: OnRecord | None = None,
    keep_best: Score | None = None,
    empty_records: Size | None = 3,
    progress: bool = True,
    mesh: Mesh | None = None,
) -> tuple[Any, list[Record]]:
    """Trains until `state.step` is `steps`, and records how it goes.

    Step n uses `sample_key, step_key = split(fold_in(key, n))`. So a run that was cut off and goes
    on from its checkpoint ends with the same weights, bit for bit. Ctrl-C, SIGTERM and SIGHUP end
    the run after the current call, with what was learned so far; a second signal stops at once. One
    that the process ignores, as SIGHUP under nohup, is left alone.
    `scan` takes the same steps as a pure function.

    The steps are compiled at the first call, and a later call with the same `outer`, `sample` and
    shapes runs what was compiled, unless these functions read other values than before.

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
        log: file that the records are appended to, as strict JSON lines: a number that is not
            finite is null. It belongs to one run: where the run goes on from a checkpoint, the
            record of its step must be the logged one, and records after it, which come again, are
            cut off.
        checkpoint: folder that the state is written to with every record, before the record is
            logged. If it has a state, the run goes on from there, and a record that was not logged
            before the process ended is logged then. The two newest states are kept; a damaged one
            is set aside with a warning. Only one run at a time may use a folder.
        on_record: (record) -> anything, called with a copy of each record after it is logged, for
            TensorBoard and the like. If it returns True, the run ends there.
        keep_best: (record) -> how good its state is; more is better. Then the state of the best
            record is returned in place of the last one. It is kept in the folder of the
            checkpoints, too, from which the run itself goes on at its last state. If it goes on
            with another score, the best state so far is scored again; states that were not kept are
            gone. Where every score is NaN, a warning says so, and it is the last state.
        empty_records: the number of records in a row without a task that was kept, after which the
            run stops with an error. None never stops.
        progress: whether to draw a progress bar, which needs tqdm. Without tqdm there is none. It
            counts what ends the run first, steps or seconds. Where nothing can be drawn, as in a
            pipe, it is a line every ten seconds.
        mesh: the tasks of a step are divided over its axis "tasks", as `outer.sharded` does. The
            state is returned on its devices. Where it has the devices of several processes, all of
            them call `fit` with the same arguments, the first one logs, calls `on_record` and draws
            the bar, and they stop together. All must see the folder of the checkpoints.

    Returns:
        (the last state, or the best one; the records). A record has "step"; "seconds" of training
        in this call; and since the record before, "tasks_per_second", the number of "skipped"
        tasks, and the means of "loss", "grad_norm" and every metric. If no task was kept, "message"
        says so. For each summary of `evaluate` it has "evaluate/<name>" and
        "evaluate/<name>/interval".

    Raises:
        ValueError: steps is below 0, fuse or every below 1, or fuse does not divide every; seconds
            that are not positive; a stream with fuse or shard; a metric with the name of another
            entry of a record; tasks of the first call that the task loss refuses, such as for
            labels that are not classes; checkpoints or a log of another run, a folder that another
            run uses, or a log with a line that is not a record; a score that is not a number; a
            mesh without the axis "tasks", or for outer steps that are not divided; processes that
            differ in code, arguments, state or data.
        FloatingPointError: too many records in a row in which no task was kept.
        RuntimeError: another process has failed.
        OSError: a log that cannot be written.
        ImportError: checkpoints without orbax.

    >>> import optax
    >>> from metajax.outer import outer_loop
    >>> from metajax.types import Params
    >>> task_loss = lambda params, target, key: ((params.slow - target) ** 2, {})
    >>> outer = outer_loop(task_loss, optax.sgd(0.25))
    >>> state, targets = outer.init(Params({}, jnp.zeros(()))), jnp.array([1.0, 3.0])
    >>> sample = lambda targets, key: targets
    >>> key = jax.random.key(0)
    >>> state, records = fit(outer, state, sample, targets, key, steps=30, progress=False)
    >>> round(state.params.slow.item(), 3), records[0]["step"]
    (2.0, 30)
    """
    check_state(state)
    _check_numbers(seconds, fuse, every)
    mesh = None if mesh is None else task_mesh(mesh)
    outer = outer if mesh is None else outer.sharded(mesh)
    processes = Processes(mesh)
    source = _make_source(sample, dataset, key, fuse, mesh)
    most_seconds = math.inf if seconds is None else seconds
    # A copy, because the compiled steps overwrite what they are given.
    state = on_mesh(jax.tree.map(jnp.copy, state), mesh, outer.specs)
    run = describe_run(outer, state, key)
    numbers = (steps, seconds, fuse, every, empty_records)
    given = [one is not None for one in (evaluate, keep_best, log, checkpoint)]
    arguments = (numbers, given)
    drawn_from = sample.rows if isinstance(sample, Stream) else dataset
    processes.check_same(arguments, state, key, drawn_from)
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(open_checkpoints(checkpoint, processes))
        state, found = checkpoints.restore(state, run)
        done = int(state.step)
        best = BestState(keep_best, checkpoints.folder, processes)
        with processes.together():
            opened = Log(log if processes.is_first else None)
        reporter = Reporter(opened, evaluate, best, on_record, key, empty_records, processes)
        reporter.start(state, done, found, is_over=done >= steps)
        interrupted = stack.enter_context(interruptible())
        period = Period(source.tasks)
        share = lambda: max(_share(done, steps), _share(period.seconds, most_seconds))
        bar = stack.enter_context(open_bar(done, steps, share(), progress and processes.is_first))
        take_steps = _timed_steps(outer, source, key, done, bar, mesh, processes)
        wants_end = lambda: share() >= 1 or interrupted.is_set() or reporter.is_stopped
        ended = lambda: processes.any(wants_end())
        is_over = ended()
        while not is_over:
            number = min(fuse, every - done % every, steps - done)
            state, info, took = take_steps(state, number)
            done += number
            period.add(info, took)
            speed = number * source.tasks / took
            bar.advance(done, share(), mean_info([info]), speed)
            if done % every == 0 or ended():
                record = processes.same_times({"step": done, **period.record()})
                checkpoints.save(done, state, run, record)  # before anything that may fail
                reporter.report(state, record)
                is_over = ended()  # and only here, so that what was learned is saved
    return best.choose(state), reporter.records


def _check_numbers(seconds: float | None, fuse: int, every: int) -> None:
    """Checks the numbers among the arguments of `fit` as far as their annotations do not."""
    if seconds is not None and not seconds > 0:
        raise ValueError(f"{seconds=} must be positive, or None for no limit.")
    if every % fuse:
        raise ValueError(f"{fuse=} must divide {every=}, so that records fall between two calls.")


def _share(done: float, whole: float) -> float:
    """How much of the whole is done, from 0 to 1."""
    return done / whole if done < whole else 1.0


def _make_source(
    sample: Sample[PyTree] | Stream, dataset: PyTree, key: Array, fuse: int, mesh: Mesh | None
) -> Source:
    if isinstance(sample, Stream):
        return stream_source(sample, key, fuse, mesh)
    return sampler_source(sample, dataset, key, mesh)


def _timed_steps(
    outer: OuterLoop,
    source: Source,
    key: Array,
    first: int,
    bar: ProgressBar,
    mesh: Mesh | None,
    processes: Processes,
) -> Callable[[Any, int], tuple[Any, Info, float]]:
    """(state, number of steps) -> (state, info on the host, seconds without compilation)."""
    program = Program(outer.step, source.sample)
    reads = source.reads(first)
    is_first = True
    key = on_mesh(key, mesh)

    def take_steps(state: Any, number: int) -> tuple[Any, Info, float]:
        nonlocal is_first
        start = time.perf_counter()
        with processes.together():
            read = next(reads)
        waited = time.perf_counter() - start
        if number not in program.ready:
            with bar.compiling():
                program.compile(state, key, read, number, processes)
        params = jax.tree.map(jnp.copy, state.params) if is_first else None
        places = jax.tree.map(lambda leaf: leaf.sharding, state)
        start = time.perf_counter()
        state, info = program.run(state, key, read, number)
        if mesh is not None:
            state = jax.device_put(state, places)  # the compiler may have moved a sharded leaf
        info = jax.device_get(info)
        took = waited + time.perf_counter() - start
        if is_first and info.skipped[0]:
            _explain_skipped(outer, source, params, read, key, first, mesh)
        is_first = False
        return state, info, took

    return take_steps


def _explain_skipped(
    outer: OuterLoop,
    source: Source,
    params: Any,
    read: PyTree,
    key: Array,
    step: int,
    mesh: Mesh | None,
) -> None:
    """Runs tasks of the first step again, without compilation, so that checks of values raise.

    Args:
        outer: whose task loss is run, if it is known.
        source: of the tasks.
        params: before the step.
        read: what the step read.
        key: of the run.
        step: number of the first step.
        mesh: as in `fit`.

    Raises:
        ValueError: values that the task loss refuses.
    """
    if outer.task_loss is None:
        return
    sample_key, step_key = jax.random.split(jax.random.fold_in(key, step))
    # JAX keeps what it compiled for a function; a new one reads the values of now.
    everywhere = None if mesh is None else NamedSharding(mesh, PartitionSpec())
    draw = jax.jit(
        functools.partial(at_step(source.sample, jnp.int32(step))), out_shardings=everywhere
    )
    tasks = draw(read, sample_key)
    task_loss = with_step(outer.task_loss, jnp.int32(step))
    for number in range(min(TRIED, source.tasks)):
        is_bad = jnp.arange(source.tasks) == number
        explain_not_finite(task_loss, params, tasks, step_key, is_bad)
