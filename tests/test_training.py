import functools
import json
import math
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
from test_differentiate_strategies import ridge_loss, ridge_problem

import metajax as mj

KEY = jax.random.key(0)
ROWS = 16
TARGETS = jax.random.normal(jax.random.key(1), (ROWS, 3))


def sample(dataset, key):
    """Four of the tasks in a data set of tasks."""
    rows = jax.random.randint(key, (4,), 0, ROWS)
    return jax.tree.map(lambda leaf: leaf[rows], dataset)


def distance(params, target, key):
    """A task loss that compiles fast."""
    square = ((params.slow - target) ** 2).sum()
    return square, {"accuracy": jnp.exp(-square)}


OUTER = mj.outer_loop(distance, optax.adam(0.1))
START = OUTER.init(mj.Params({}, jnp.ones(3)))


def run(steps, state=START, **options):
    options = {"progress": False, **options}
    return mj.training.fit(OUTER, state, sample, TARGETS, KEY, steps=steps, **options)


@functools.cache
def maml():
    """MAML on classification tasks, and the data set that its tasks are drawn from."""
    return make_problem("maml"), make_tasks(number=ROWS)


@functools.cache
def fit_maml(fuse):
    problem, dataset = maml()
    return mj.training.fit(
        problem.outer, problem.state, sample, dataset, KEY, steps=6, fuse=fuse, every=6,
        progress=False,
    )  # fmt: skip


def test_fit_is_the_loop_that_one_would_write():
    problem, dataset = maml()
    state, losses, draw = problem.state, [], jax.jit(sample)
    for number in range(6):
        sample_key, step_key = jax.random.split(jax.random.fold_in(KEY, number))
        state, info = problem.step(state, draw(dataset, sample_key), step_key)
        losses.append(info.loss)
    fitted, records = fit_maml(fuse=1)
    assert int(fitted.step) == 6
    assert_close(fitted, state, 1e-10)
    np.testing.assert_allclose(records[0]["loss"], np.mean(losses))


@pytest.mark.parametrize("fuse", [1, 3])
def test_fit_and_scan_take_the_same_steps(fuse):
    problem, dataset = maml()
    train = jax.jit(functools.partial(mj.training.scan, problem.outer, sample=sample, steps=6))
    state, info = train(problem.state, dataset=dataset, key=KEY)
    fitted, records = fit_maml(fuse)
    assert_close(fitted, state, 1e-12)
    assert info.loss.shape == info.skipped.shape == info.metrics["accuracy"].shape == (6,)
    np.testing.assert_allclose(records[0]["loss"], info.loss.mean())
    np.testing.assert_allclose(records[0]["accuracy"], info.metrics["accuracy"].mean())


def test_scan_trains_several_seeds_at_once():
    def train(key):
        state = OUTER.init(mj.Params({}, jax.random.normal(key, (3,))))
        return mj.training.scan(OUTER, state, sample, TARGETS, key, steps=20)

    keys = jax.random.split(KEY, 3)
    states, infos = jax.jit(jax.vmap(train))(keys)
    assert states.step.tolist() == [20, 20, 20]
    assert infos.loss.shape == (3, 20)
    assert (infos.loss[:, -1] < infos.loss[:, 0]).all()
    alone = jax.jit(train)(keys[1])
    assert_close(jax.tree.map(lambda leaf: leaf[1], (states, infos)), alone)


def test_a_sampler_is_given_the_step():
    """Each step has one target, so its loss tells which one it was."""
    outer = mj.outer_loop(distance, optax.sgd(0.0))
    state = outer.init(mj.Params({}, jnp.ones(3)))
    in_order = lambda dataset, key, step: dataset[step][None]
    expected = ((1 - TARGETS[:5]) ** 2).sum(axis=1)
    _, info = mj.training.scan(outer, state, in_order, TARGETS, KEY, steps=5)
    np.testing.assert_allclose(info.loss, expected)
    _, records = mj.training.fit(
        outer, state, in_order, TARGETS, KEY, steps=5, every=1, progress=False
    )
    np.testing.assert_allclose([record["loss"] for record in records], expected)


def persistent_problem():
    params, task = ridge_problem()
    rule = mj.Rule(lambda params, key: jnp.array(-3.0), lambda rule: optax.sgd(jnp.exp(rule)))
    outer = mj.persistent(
        rule, ridge_loss, optax.adam(0.1), horizon=4, truncation=2, pairs=3, std=0.1
    )
    tasks = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf, 3 * leaf]), task)
    return outer, params._replace(rule=rule.init(params, KEY)), tasks


def bilevel_problem():
    params, task = ridge_problem()
    adaptation = mj.inner_loop(ridge_loss, optax.sgd(0.1), steps=2)
    tasks = jax.tree.map(lambda leaf: leaf[None], task)
    return mj.bilevel(adaptation, ridge_loss, optax.adam(0.1)), params, tasks


@pytest.mark.parametrize("make", [persistent_problem, bilevel_problem])
def test_every_outer_loop_can_be_fitted_resumed_and_scanned(make, tmp_path):
    outer, params, tasks = make()
    state = outer.init(params, tasks, KEY)
    same = lambda dataset, key: dataset
    fit = functools.partial(
        mj.training.fit, outer, state, same, tasks, KEY, fuse=2, every=2, progress=False,
        checkpoint=tmp_path / "run",
    )  # fmt: skip
    fit(steps=2)
    fitted, records = fit(steps=4)
    assert [record["step"] for record in records] == [4]
    assert np.isfinite(records[0]["loss"])
    train = jax.jit(lambda state: mj.training.scan(outer, state, same, tasks, KEY, steps=2))
    half_way, _ = train(state)
    scanned, info = train(half_way)
    assert_close(fitted, scanned, 1e-12)
    assert info.skipped.tolist() == [0, 0]
    moved = jax.tree.map(lambda old, new: bool((old != new).all()), state.params, scanned.params)
    assert any(jax.tree.leaves(moved))


def test_the_given_state_stays_usable():
    run(2)
    np.testing.assert_array_equal(START.params.slow, np.ones(3))


def test_records_are_logged_as_json_lines_and_evaluated(tmp_path):
    evaluated = []

    def evaluate(params, key):
        if not isinstance(key, jax.core.Tracer):  # it is traced once, before the first step
            evaluated.append(key)
        return mj.evaluate(distance, params, TARGETS, key)

    log = tmp_path / "log.jsonl"
    _, records = run(10, every=4, log=log, evaluate=evaluate)
    assert [json.loads(line) for line in log.read_text().splitlines()] == records
    assert [record["step"] for record in records] == [4, 8, 10]
    assert len(np.unique([jax.random.key_data(key) for key in evaluated], axis=0)) == 3
    for name in ("loss", "accuracy", "grad_norm", "seconds", "tasks_per_second"):
        assert np.isfinite(records[-1][name])
    assert records[-1]["skipped"] == 0
    assert records[-1]["evaluate/loss"] < records[0]["evaluate/loss"]
    assert records[-1]["evaluate/accuracy/interval"] > 0


def test_a_run_goes_on_from_its_checkpoint_bit_for_bit(tmp_path):
    whole, _ = run(9, every=3)
    run(6, every=3, checkpoint=tmp_path / "run")
    resumed, records = run(9, every=3, checkpoint=tmp_path / "run")
    assert [record["step"] for record in records] == [9]
    assert_close(resumed, whole, 0)
    finished, records = run(9, every=3, checkpoint=tmp_path / "run")
    assert records == []
    assert_close(finished, whole, 0)


@pytest.fixture
def heard_signals():
    """Signals as a terminal gives them: a process in the background may be told to ignore some."""
    as_usual = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGHUP: signal.SIG_DFL,
    }
    before = {number: signal.signal(number, handler) for number, handler in as_usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("heard_signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_keeps_what_was_learned(number, tmp_path):
    calls = []

    def interrupt(params, key):
        if not isinstance(key, jax.core.Tracer):
            calls.append(os.kill(os.getpid(), number))
        return {}

    before = signal.getsignal(number)
    log, folder = tmp_path / "log", tmp_path / "run"
    state, records = run(100, every=5, evaluate=interrupt, log=log, checkpoint=folder)
    assert int(state.step) == 5
    assert len(calls) == len(records) == 1
    assert signal.getsignal(number) is before
    resumed, _ = run(8, every=8, checkpoint=folder)
    assert_close(resumed, run(8)[0], 0)


def test_a_signal_that_is_ignored_stays_ignored():
    """As SIGHUP is under nohup."""

    def hang_up(params, key):
        if not isinstance(key, jax.core.Tracer):
            os.kill(os.getpid(), signal.SIGHUP)
        return {}

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        state, _ = run(10, every=5, evaluate=hang_up)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert int(state.step) == 10


@pytest.mark.usefixtures("heard_signals")
def test_a_second_ctrl_c_stops_at_once():
    def interrupt_twice(params, key):
        if not isinstance(key, jax.core.Tracer):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        return {}

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run(100, every=5, evaluate=interrupt_twice)
    assert signal.getsignal(signal.SIGINT) is before


def test_metrics_may_be_vectors():
    def task_loss(params, task, key):
        return (params.fast * task).sum(), {"pair": jnp.stack([task.sum(), -task.sum()])}

    outer = mj.outer_loop(task_loss, optax.sgd(0.1))
    state = outer.init(mj.Params(jnp.ones(1), ()))
    evaluate = lambda params, key: mj.evaluate(task_loss, params, jnp.ones((3, 1)), key)
    draw = lambda dataset, key: jnp.ones((2, 1))
    _, records = mj.training.fit(outer, state, draw, (), KEY, steps=2, evaluate=evaluate)
    assert records[0]["pair"] == records[0]["evaluate/pair"] == [1.0, -1.0]


def test_a_budget_of_seconds_ends_it():
    state, records = run(10_000, every=5, seconds=1e-9)
    assert int(state.step) == records[0]["step"] == 1
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
    run(2, progress=True)
    shown = capsys.readouterr().err
    assert "2/2" in shown
    for name in ("loss=", "accuracy=", "tasks/s="):
        assert name in shown
    assert "grad_norm" not in shown
    assert "skipped" not in shown


def test_without_tqdm_there_is_no_bar(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    run(2, progress=True)
    assert capsys.readouterr().err == ""


def test_skipped_tasks_are_counted():
    outer = mj.outer_loop(distance, optax.adam(0.1), tasks_at_once=1)
    poisoned = TARGETS.at[::2].set(jnp.nan)
    state, records = mj.training.fit(
        outer, START, sample, poisoned, KEY, steps=8, fuse=8, every=8, progress=False
    )
    assert 8 <= records[0]["skipped"] <= 24
    assert np.isfinite(records[0]["loss"])
    assert np.isfinite(state.params.slow).all()


def test_steps_that_kept_no_task_have_no_loss(capsys):
    nothing = lambda dataset, key: dataset[:4] * jnp.nan
    _, records = mj.training.fit(OUTER, START, nothing, TARGETS, KEY, steps=2)
    assert records[0]["skipped"] == 8
    assert np.isnan(records[0]["loss"])
    assert "skipped=4" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"steps": -1}, "steps must be a whole number, 0 or more, got -1"),
        ({"steps": 4, "fuse": 0}, "fuse must be a whole number, 1 or more, got 0"),
        ({"steps": 4, "every": 0}, "every must be a whole number, 1 or more, got 0"),
        ({"steps": 4, "fuse": 2, "every": 3}, "fuse=2 must divide every=3"),
        ({"steps": math.inf}, "steps must be a whole number,.* got inf"),
        (
            {"steps": 4, "seconds": math.nan},
            "seconds must be a finite real number or None, got nan",
        ),
        ({"steps": 4, "empty_records": 0}, "empty_records must be a whole number, 1 or more"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(options, error):
    with pytest.raises(ValueError, match=error):
        run(**options)


def test_scan_refuses_a_stream_and_steps_that_are_no_number():
    with pytest.raises(ValueError, match=r"steps must be a whole number,.* got 2\.5"):
        mj.training.scan(OUTER, START, sample, TARGETS, KEY, steps=2.5)
    rows = mj.data.dataset(np.arange(12, dtype=np.int32), np.repeat(np.arange(3), 4))
    draw = mj.data.meta_batch(mj.data.episodes(ways=2, shots=1, queries=1), tasks=2)
    stream = mj.data.stream(draw, rows, lambda numbers: numbers)
    with pytest.raises(
        ValueError, match=r"(?s)sample must be a function .* got a Stream.*A stream is for `fit`"
    ):
        mj.training.scan(OUTER, START, stream, (), KEY, steps=2)


def test_fit_refuses_fused_or_sharded_streams():
    rows = mj.data.dataset(np.arange(12, dtype=np.int32), np.repeat(np.arange(3), 4))
    draw = mj.data.meta_batch(mj.data.episodes(ways=2, shots=1, queries=1), tasks=2)
    stream = functools.partial(mj.data.stream, draw, rows, lambda numbers: numbers)
    with pytest.raises(ValueError, match="fuse=2 must be 1 for a stream"):
        mj.training.fit(OUTER, START, stream(), (), KEY, steps=2, fuse=2)
    with pytest.raises(ValueError, match=r"fit trains on all tasks, not on shard=\(1, 2\)"):
        mj.training.fit(OUTER, START, stream(shard=(1, 2)), (), KEY, steps=2)


def test_import_is_light():
    """Heavy libraries are imported at the first use; the benchmarks measure the seconds."""
    heavy = [
        "matplotlib",
        "orbax",
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
