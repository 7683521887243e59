"""What `fit` hands on: records to a function that may end the run, and the best state."""

import contextlib
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import assert_close

import metajax as mj
from metajax.training import loops

KEY = jax.random.key(0)
TARGETS = jax.random.normal(jax.random.key(1), (8, 3))


def distance(params, target, key):
    return ((params.slow - target) ** 2).sum(), {}


OUTER = mj.outer_loop(distance, optax.sgd(0.1))
START = OUTER.init(mj.Params({}, jnp.full(3, 3.0)))


def sample(targets, key):
    return jax.random.choice(key, targets, (4,))


def run(steps, **options):
    options = {"progress": False, "every": 2, **options}
    return mj.training.fit(OUTER, START, sample, TARGETS, KEY, steps=steps, **options)


def test_each_record_is_handed_on_after_it_is_logged(tmp_path):
    log = tmp_path / "log"
    got = []

    def on_record(record):
        assert json.loads(log.read_text().splitlines()[-1]) == record
        got.append(dict(record))
        record.clear()  # it is a copy
        return len(got)  # only True ends the run

    _, records = run(5, log=log, on_record=on_record)
    assert got == records
    assert [record["step"] for record in got] == [2, 4, 5]


@pytest.mark.parametrize("yes", [True, np.True_])
def test_true_ends_the_run_early(yes, tmp_path):
    folder = tmp_path / "run"
    stop_at = lambda last: lambda record: yes if record["step"] == last else False
    state, records = run(100, on_record=stop_at(4), checkpoint=folder)
    assert int(state.step) == records[-1]["step"] == 4
    resumed, _ = run(6, checkpoint=folder)
    assert_close(resumed, run(6)[0], 0)


def test_an_error_in_on_record_loses_nothing(tmp_path):
    options = {"log": tmp_path / "log", "checkpoint": tmp_path / "run"}

    def fail(record):
        raise OSError("the tracker is offline")

    with pytest.raises(OSError, match="the tracker is offline"):
        run(6, on_record=fail, **options)
    got = []
    resumed, _ = run(6, on_record=got.append, **options)
    assert [record["step"] for record in got] == [4, 6]
    assert_close(resumed, run(6)[0], 0)
    steps = [json.loads(line)["step"] for line in options["log"].read_text().splitlines()]
    assert steps == [2, 4, 6]


def test_a_record_that_was_not_logged_is_handed_on_when_the_run_goes_on(tmp_path):
    options = {"log": tmp_path / "log", "checkpoint": tmp_path / "run"}

    def fail(params, key):
        if not isinstance(key, jax.core.Tracer):
            raise OSError("killed between checkpoint and log")
        return {}

    with pytest.raises(OSError, match="killed"):
        run(4, evaluate=fail, **options)
    got = []
    run(4, on_record=got.append, **options)
    assert [record["step"] for record in got] == [2, 4]


def test_a_run_ends_with_a_record_whenever_a_signal_comes(monkeypatch):
    """The event is looked at before the first call, then after each; the signal comes at a look."""
    for look in range(1, 7):
        answers = [number >= look for number in range(100)]
        event = types.SimpleNamespace(is_set=lambda: answers.pop(0))
        monkeypatch.setattr(loops, "interruptible", lambda: contextlib.nullcontext(event))
        state, records = run(100, every=10)
        assert len(records) == 1 and records[0]["step"] == int(state.step), look


BEST = 6


def near_the_best_step(record):
    """A score that is highest at one step."""
    return -abs(record["step"] - BEST)


def test_the_best_state_is_returned():
    best, records = run(10, keep_best=near_the_best_step)
    assert int(best.step) == BEST
    assert_close(best, run(BEST)[0], 0)
    assert records[-1]["step"] == 10


def test_the_best_state_is_chosen_by_what_evaluate_finds():
    """The weights pass the point that is evaluated on their way to the targets."""
    passed = run(4)[0].params.slow
    evaluate = lambda params, key: mj.evaluate(distance, params, passed[None], key)
    lowest = lambda record: -record["evaluate/loss"]
    best, records = run(10, evaluate=evaluate, keep_best=lowest)
    assert int(best.step) == 4
    assert min(record["evaluate/loss"] for record in records) == records[1]["evaluate/loss"] == 0


@pytest.mark.parametrize("killed_at", [2, 6, 8])
@pytest.mark.parametrize("logged", [True, False])
def test_the_best_state_survives_a_run_that_is_killed(killed_at, logged, tmp_path):
    """The run is cut off after its checkpoint and before anything else of the record."""
    options = {"checkpoint": tmp_path / "run", "keep_best": near_the_best_step}
    if logged:
        options["log"] = tmp_path / "log"

    def kill(params, key):
        kill.calls += not isinstance(key, jax.core.Tracer)
        if kill.calls == killed_at // 2:
            raise OSError("killed")
        return {}

    kill.calls = 0
    with pytest.raises(OSError, match="killed"):
        run(10, evaluate=kill, **options)
    best, records = run(10, **options)
    assert records[0]["step"] == killed_at + 2
    assert_close(best, run(BEST)[0], 0)
    finished, records = run(10, **options)
    assert records == []
    assert_close(finished, best, 0)
    further, _ = run(12, **options)
    assert int(further.step) == BEST
    last, _ = run(12, checkpoint=tmp_path / "run")  # the checkpoints have the last state
    assert_close(last, run(12)[0], 0)


def test_of_equal_scores_the_first_is_kept_and_nan_is_never_the_best(tmp_path):
    third = 1 / 3  # it has no exact value in float32
    best, _ = run(4, keep_best=lambda record: third, checkpoint=tmp_path / "run")
    assert int(best.step) == 2
    best, _ = run(8, keep_best=lambda record: third, checkpoint=tmp_path / "run")
    assert int(best.step) == 2
    nan_first = lambda record: jnp.nan if record["step"] < 4 else 0.0
    assert int(run(6, keep_best=nan_first)[0].step) == 4
    with pytest.warns(UserWarning, match="keep_best gave nan for the last record"):
        assert int(run(6, keep_best=lambda record: jnp.nan)[0].step) == 6


def test_a_run_goes_on_with_another_score(tmp_path):
    """What is compared is the score that the record of the best state has now."""
    options = {"checkpoint": tmp_path / "run"}
    high = lambda record: 1000 - record["loss"]
    best, records = run(6, keep_best=high, **options)
    low = lambda record: -record["loss"]
    further, more = run(12, keep_best=low, **options)
    scores = {record["step"]: low(record) for record in records + more}
    assert int(further.step) == max(scores, key=scores.get) > int(best.step)
    # The best state so far is kept where it is still the best one.
    again, _ = run(14, keep_best=lambda record: float(record["step"] == further.step), **options)
    assert int(again.step) == int(further.step)
    # A score that the best state does not have: what comes after is better.
    of_new = lambda record: jnp.nan if record["step"] <= 14 else 0.0
    assert int(run(18, keep_best=of_new, **options)[0].step) == 16


def test_the_best_state_of_a_run_that_was_removed_is_not_taken(tmp_path):
    folder = tmp_path / "run"
    run(6, keep_best=near_the_best_step, checkpoint=folder)
    for step in (4, 6):
        (folder / str(step)).rename(tmp_path / str(step))
    best, _ = run(4, keep_best=near_the_best_step, checkpoint=folder)
    assert int(best.step) == 4


@pytest.mark.parametrize("score", [None, "0.5", [0.1, 0.2]])
def test_a_score_that_is_no_number_is_refused_after_the_state_is_saved(score, tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(ValueError, match="keep_best must return one number for a record, got"):
        run(4, keep_best=lambda record: score, checkpoint=folder)
    assert int(run(2, checkpoint=folder)[0].step) == 2
