"""Reports of a run of `fit`: what happened between two records, and what is recorded of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from metajax.outer.evaluation import Summary
from metajax.outer.outer_loops import Info
from metajax.training.best_states import BestState
from metajax.training.processes import Processes
from metajax.training.records import Log, Record, evaluation_record, mean_info
from metajax.types import Array, Params

Evaluate = Callable[[Params, Array], Mapping[str, Summary]]
OnRecord = Callable[[Record], Any]


class Reporter:
    """Evaluates for the records of a run, keeps them and logs them.

    Args:
        log: file that the records are appended to.
        evaluate: (params, key) -> {name: Summary}, as in `fit`.
        best: keeps the state of the best record.
        on_record: gets each record after it is logged, as in `fit`.
        key: of the run.
        most_empty: the number of records in a row without a task that was kept, at which it stops
            the run. None never stops.
        processes: all of which report, and the first of which logs and calls `on_record`.

    Attributes:
        records: what was reported so far.
        is_stopped: whether `on_record` has asked for the end of the run.
    """

    def __init__(
        self,
        log: Log,
        evaluate: Evaluate | None,
        best: BestState,
        on_record: OnRecord | None,
        key: Array,
        most_empty: int | None,
        processes: Processes,
    ):
        self.processes = processes
        self.log = log
        self.has_log = processes.any(log.path is not None)
        self.evaluate = evaluate
        self.best = best
        self.on_record = on_record
        self.key = key
        self.most_empty = most_empty
        self.empty = 0
        self.records: list[Record] = []
        self.is_stopped = False

    def start(self, state: Any, step: int, found: Record | None, *, is_over: bool) -> None:
        """Makes the log ready, tries `evaluate`, and logs the record found where it is missing.

        Args:
            state: where the run starts.
            step: number of this step.
            found: the record in the checkpoint of this step, without evaluation.
            is_over: whether no step is left, and so nothing to try.

        Raises:
            ValueError: a log of another run.
        """
        with self.processes.together():
            is_unlogged = self.log.go_on(step, found)
        is_unlogged = self.processes.any(is_unlogged)
        if not is_over:
            self._try_evaluation(state.params)
        if found is None:
            return
        self.best.restore(state)
        if is_unlogged or (not self.has_log and self.best.score is not None):
            self._hand_on(state, found, is_new=is_unlogged)

    def report(self, state: Any, record: Record) -> None:
        """Adds the evaluation to a record, keeps it and logs it.

        Raises:
            FloatingPointError: too many records in a row in which no task was kept.
        """
        record = self._hand_on(state, record)
        self.records.append(record)
        self.empty = self.empty + 1 if "message" in record else 0
        if self.most_empty is not None and self.empty >= self.most_empty:
            raise FloatingPointError(f"{record['message']} This was so in {self.empty} records.")

    def _hand_on(self, state: Any, record: Record, *, is_new: bool = True) -> Record:
        """Adds the evaluation to a record, keeps a state that is the best, and logs what is new.

        The best state is written first: the record of a run that ends in between is not logged, so
        that it comes again.
        """
        record = {**record, **self._evaluation(state.params, record["step"])}
        self.best.consider(state, record)
        if not is_new:
            return record
        with self.processes.together():
            self.log.append(record)
            if self.on_record is not None and self.processes.is_first:
                answer = self.on_record(dict(record))
                # What a function returns by chance, such as a number of bytes, is no answer.
                self.is_stopped = isinstance(answer, bool | np.bool_) and bool(answer)
        return record

    def _evaluation(self, params: Params, step: int) -> Record:
        """What `evaluate` adds to the record of this step."""
        if self.evaluate is None:
            return {}
        return evaluation_record(self.evaluate(params, self._key(step)))

    def _try_evaluation(self, params: Params) -> None:
        """Finds an `evaluate` that raises before the first step, and not after many of them."""
        if self.evaluate is None:
            return
        try:
            jax.eval_shape(self.evaluate, params, self._key(0))
        except Exception:
            # It may only be that it looks at values, which abstract arrays do not have.
            self.evaluate(params, self._key(0))

    def _key(self, step: int) -> Array:
        # 0 and 1 would be the two keys of the step, because split(key)[i] is fold_in(key, i).
        return jax.random.fold_in(jax.random.fold_in(self.key, step), 2)


class Period:
    """What happened since the last record, and the seconds since the start of the run."""

    def __init__(self, tasks: int):
        self.tasks = tasks
        self.seconds = 0.0
        self.seconds_before = 0.0
        self.infos: list[Info] = []

    def add(self, info: Info, seconds: float) -> None:
        """Adds what one call did, and the seconds that it took."""
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
