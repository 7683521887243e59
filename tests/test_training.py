import json
import os
import signal
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import assert_close, make_problem, make_tasks

import metajax as mj

KEY = jax.random.key(0)
DATASET = jax.tree.map(lambda leaf: leaf, make_tasks(number=16))


def sample(dataset, key):
    rows = jax.random.randint(key, (4,), 0, 16)
    return jax.tree.map(lambda leaf: leaf[rows], dataset)


def run(steps, state=None, **options):
    problem = make_problem("maml")
    start = problem.outer.init(problem.params) if state is None else state
    return mj.training.fit(
        problem.outer, start, sample, DATASET, KEY, steps=steps, progress=False, **options
    )


def test_fused_steps_are_the_same_steps():
    one, records = run(12, every=6)
    fused, fused_records = run(12, every=6, fuse=3)
    assert_close(one, fused, 1e-10)
    assert [record["step"] for record in records] == [6, 12]
    np.testing.assert_allclose(
        *([record["loss"] for record in some] for some in (records, fused_records))
    )
    assert int(one.step) == 12


def test_it_is_the_loop_that_one_would_write():
    problem = make_problem("maml")
    state = problem.outer.init(problem.params)
    losses = []
    for number in range(3):
        sample_key, step_key = jax.random.split(jax.random.fold_in(KEY, number))
        state, info = problem.outer.step(state, sample(DATASET, sample_key), step_key)
        losses.append(info.loss)
    fitted, records = run(3)
    assert_close(fitted, state, 1e-10)
    np.testing.assert_allclose(records[0]["loss"], np.mean(losses))


def test_the_state_given_stays_usable():
    problem = make_problem("maml")
    state = problem.outer.init(problem.params)
    run(2, state)
    assert np.isfinite(jax.tree.leaves(state.params.fast)[0]).all()


def test_records_are_logged_as_json_lines_and_evaluated(tmp_path):
    problem, log = make_problem("maml"), tmp_path / "log.jsonl"

    def evaluate(params, key):
        return mj.evaluate(problem.task_loss, params, DATASET, key)

    _, records = run(10, every=4, log=log, evaluate=evaluate)
    assert [json.loads(line) for line in log.read_text().splitlines()] == records
    assert [record["step"] for record in records] == [4, 8, 10]
    for name in (
        "loss",
        "accuracy",
        "grad_norm",
        "seconds",
        "tasks_per_second",
        "evaluate/accuracy/interval",
    ):
        assert np.isfinite(records[-1][name])
    assert records[-1]["skipped"] == 0
    assert records[-1]["evaluate/loss"] < records[0]["evaluate/loss"]


def test_a_run_goes_on_from_its_checkpoint_bit_for_bit(tmp_path):
    whole, _ = run(9, every=3)
    run(6, every=3, checkpoint=tmp_path / "run")
    resumed, records = run(9, every=3, checkpoint=tmp_path / "run")
    assert [record["step"] for record in records] == [9]
    assert_close(resumed, whole, 0)
    finished, records = run(9, every=3, checkpoint=tmp_path / "run")
    assert records == []
    assert_close(finished, whole, 0)


def test_ctrl_c_keeps_what_was_learned(tmp_path):
    calls = []

    def interrupt(params, key):
        calls.append(os.kill(os.getpid(), signal.SIGINT))
        return {}

    before = signal.getsignal(signal.SIGINT)
    state, records = run(
        100, every=5, evaluate=interrupt, log=tmp_path / "log", checkpoint=tmp_path / "run"
    )
    assert int(state.step) == 5
    assert len(calls) == len(records) == 1
    assert signal.getsignal(signal.SIGINT) is before
    resumed, _ = run(8, every=8, checkpoint=tmp_path / "run")
    assert_close(resumed, run(8)[0], 0)


def test_metrics_may_be_vectors():
    def task_loss(params, task, key):
        return (params.fast * task).sum(), {"pair": jnp.stack([task.sum(), -task.sum()])}

    outer = mj.outer_loop(task_loss, optax.sgd(0.1))
    state = outer.init(mj.Params(jnp.ones(1), ()))
    evaluate = lambda params, key: mj.evaluate(task_loss, params, jnp.ones((3, 1)), key)
    _, records = mj.training.fit(
        outer, state, lambda dataset, key: jnp.ones((2, 1)), (), KEY, steps=2, evaluate=evaluate
    )
    assert records[0]["pair"] == records[0]["evaluate/pair"] == [1.0, -1.0]


def test_a_budget_of_seconds_ends_it():
    state, records = run(10_000, every=5, seconds=0.0)
    assert int(state.step) == 0
    assert records == []
    state, records = run(1_000_000, every=1_000_000, fuse=5, seconds=0.02)
    assert 0 < int(state.step) < 1_000_000
    assert records[-1]["step"] == int(state.step)
    assert records[-1]["seconds"] >= 0.02


def test_it_runs_outside_the_main_thread():
    done = []
    thread = threading.Thread(target=lambda: done.append(run(2)))
    thread.start()
    thread.join()
    assert int(done[0][0].step) == 2


def test_the_bar_shows_loss_accuracy_and_speed(capsys):
    problem = make_problem("maml")
    mj.training.fit(
        problem.outer, problem.outer.init(problem.params), sample, DATASET, KEY, steps=2
    )
    shown = capsys.readouterr().err
    assert "2/2" in shown
    for name in ("loss=", "accuracy=", "tasks/s="):
        assert name in shown


def test_without_tqdm_there_is_no_bar(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    problem = make_problem("maml")
    mj.training.fit(
        problem.outer, problem.outer.init(problem.params), sample, DATASET, KEY, steps=2
    )
    assert capsys.readouterr().err == ""


def test_skipped_tasks_are_counted():
    problem = make_problem("maml", tasks_at_once=1)
    poisoned = DATASET._replace(
        query=DATASET.query._replace(x=DATASET.query.x.at[::2].set(jnp.nan))
    )
    state, records = mj.training.fit(
        problem.outer,
        problem.outer.init(problem.params),
        sample,
        poisoned,
        KEY,
        steps=8,
        progress=False,
    )
    assert 8 <= records[0]["skipped"] <= 24
    assert np.isfinite(records[0]["loss"])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))


@pytest.mark.parametrize("options", [{"fuse": 0}, {"every": 0}, {"fuse": 2, "every": 3}])
def test_sizes_that_do_not_fit_are_refused(options):
    with pytest.raises(ValueError, match="fuse must divide every"):
        run(4, **options)


def test_import_is_light():
    """What is heavy comes with the first use; the seconds are measured in the benchmarks."""
    heavy = [
        "matplotlib",
        "tensorflow",
        "tensorflow_datasets",
        "torch",
        "sklearn",
        "tqdm",
        "platformdirs",
    ]
    code = f"import sys, metajax; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
