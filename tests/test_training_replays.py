"""The meta-gradient of a long training, in parts, killed and resumed."""

import itertools
import json
import os
import pathlib
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metajax as mj
from metajax.training import replay_files, replays

KEY = jax.random.key(5)
FEATURES, ROWS = 3, 20


def squares(params, batch, key):
    """A linear model with a learned decay."""
    error = batch.x @ params.fast["w"] - batch.y
    decay = jnp.exp(params.slow["decay"]) * (params.fast["w"] ** 2).sum()
    return (error**2).mean() + decay, {"largest": jnp.abs(error).max()}


def problem():
    rng = np.random.default_rng(0)
    batch = lambda rows: mj.Batch(
        jnp.asarray(rng.normal(size=(rows, FEATURES))), jnp.asarray(rng.normal(size=rows))
    )
    params = mj.Params({"w": jnp.ones(FEATURES)}, {"decay": jnp.asarray(-2.0)})
    return params, batch(ROWS), batch(7)


def training(steps, optimizer=None, **options):
    optimizer = optimizer or optax.adam(0.01, eps_root=1e-8)
    sample = mj.inner.minibatch(5)
    return mj.inner_loop(squares, optimizer, steps=steps, sample=sample, **options)


def expected(adaptation, params, support, query):
    task_loss = mj.query_loss(adaptation, squares)
    value = jax.jit(jax.value_and_grad(task_loss, has_aux=True))
    (result, metrics), gradient = value(params, mj.Task(support, query), KEY)
    return result, metrics, gradient


def assert_same(found, wanted, **tolerance):
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True)
    for one, other in pairs:
        np.testing.assert_allclose(one, other, **tolerance)


@pytest.mark.parametrize(
    ("most_states", "fuse"), [(300, 1), (64, 1), (16, 1), (10, 3), (5, 40), (3, 200), (64, 7)]
)
def test_it_is_the_gradient_of_unroll_over_200_steps(most_states, fuse):
    params, support, query = problem()
    adaptation = training(200)
    found = mj.training.replay(
        adaptation, squares, params, support, query, KEY, most_states=most_states, fuse=fuse
    )
    assert isinstance(found, mj.training.Replayed)
    result = (found.loss, found.metrics, found.gradient)
    assert_same(result, expected(adaptation, params, support, query), rtol=1e-9, atol=1e-13)
    adapted = adaptation.adapt(params, support, jax.random.split(KEY)[0])
    assert_same(found.params, adapted, rtol=1e-12)


def test_a_walk_through_the_rows_goes_on_in_every_segment():
    params, support, query = problem()
    optimizer = optax.sgd(0.02, momentum=0.5)
    adaptation = mj.inner_loop(squares, optimizer, steps=30, sample=mj.inner.in_order(3))
    found = mj.training.replay(
        adaptation, squares, params, support, query, KEY, most_states=5, fuse=4
    )
    result = (found.loss, found.metrics, found.gradient)
    assert_same(result, expected(adaptation, params, support, query), rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("fuse", [1, 4])
def test_streamed_batches_are_those_of_their_steps(fuse):
    params, _support, query = problem()
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(10, ROWS, FEATURES)), rng.normal(size=(10, ROWS))
    asked = []

    def stream(step):
        asked.append(step)
        return mj.Batch(x[step], y[step])

    adaptation = training(10)
    found = mj.training.replay(
        adaptation, squares, params, stream, query, KEY, most_states=6, fuse=fuse
    )
    assert max(asked) == 9

    def by_hand(params):
        optimizer = optax.adam(0.01, eps_root=1e-8)
        adapt_key, query_key = jax.random.split(KEY)
        fast, state = params.fast, optimizer.init(params.fast)
        for step, key in enumerate(jax.random.split(adapt_key, 10)):
            sample_key, loss_key = jax.random.split(key)
            batch = mj.Batch(jnp.asarray(x[step]), jnp.asarray(y[step]))
            batch = mj.inner.minibatch(5)(batch, sample_key)
            value = lambda fast: squares(params._replace(fast=fast), batch, loss_key)[0]
            updates, state = optimizer.update(jax.grad(value)(fast), state, fast)
            fast = optax.apply_updates(fast, updates)
        return squares(params._replace(fast=fast), query, query_key)[0]

    assert_same(found.gradient, jax.jit(jax.grad(by_hand))(params), rtol=1e-9)


def test_learned_rules_and_the_pull_toward_the_start_are_differentiated():
    params, support, query = problem()
    for optimizer, options in (
        (mj.inner.learned_rates(0.05), {}),
        (optax.sgd(0.05, momentum=0.9), {"proximity": 0.5}),
    ):
        adaptation = training(9, optimizer, **options)
        start = adaptation.init(params, KEY)
        found = mj.training.replay(adaptation, squares, start, support, query, KEY, most_states=8)
        wanted = expected(adaptation, start, support, query)
        assert_same((found.loss, found.metrics, found.gradient), wanted, rtol=1e-9, atol=1e-13)


def test_no_steps_give_the_gradient_of_the_query_loss():
    params, support, query = problem()
    found = mj.training.replay(training(0), squares, params, support, query, KEY)
    wanted = jax.grad(lambda params: squares(params, query, KEY)[0])(params)
    assert_same(found.gradient, wanted, rtol=1e-12)


@pytest.mark.parametrize(("segments", "most_states"), [(1, 3), (7, 5), (1000, 12), (1000, 70)])
def test_no_more_states_are_kept_than_allowed(segments, most_states):
    """The states that are alive are counted while a tree of numbers is walked."""
    alive, most, pulled = 0, 0, []

    class Number(int):
        """A state, which is counted."""

        def __new__(cls, value):
            nonlocal alive, most
            alive += 1
            most = max(most, alive)
            return super().__new__(cls, value)

        def __del__(self):
            nonlocal alive
            alive -= 1

    class Training:
        """Counts steps."""

        fuse = 1

        def run(self, segment, state):
            assert state == segment
            return Number(state + 1)

        def pull(self, segment, state, backward):
            assert state == segment
            pulled.append(segment)
            return backward

    branches = replays._branches(segments, most_states)
    places = replays._places(0, segments, branches)
    states = [Number(place) for place in places]
    for low, high in reversed(list(itertools.pairwise(places))):
        states = [state for state in states if state <= low]
        replays._backward(Training(), low, high, states[-1], None, branches)
    assert pulled == list(range(segments))[::-1]
    assert most <= most_states + 1  # one more while a segment runs


SCRIPT = """
import sys
import jax

jax.config.update("jax_enable_x64", True)
sys.path.insert(0, {tests!r})
import test_training_replays as module

module.run_slowly({folder!r})
"""


def run(folder=None):
    params, support, query = problem()
    return mj.training.replay(
        training(60), squares, params, support, query, KEY, most_states=12, folder=folder
    )


def run_slowly(folder):
    """Runs it, and says after each file how many there are."""
    write = replay_files.ReplayFiles.write

    def told(self, name, tree):
        write(self, name, tree)
        print(name, flush=True)

    replay_files.ReplayFiles.write = told
    run(folder)


@pytest.mark.parametrize("last", ["state-20", "backward-40"])
def test_where_it_is_killed_it_goes_on_bit_for_bit(last, tmp_path, monkeypatch):
    whole = run()
    script = SCRIPT.format(tests=str(pathlib.Path(__file__).parent), folder=str(tmp_path))
    command = [sys.executable, "-c", script]
    places = replays._places(0, 60, replays._branches(60, 12))
    kind, _, number = last.partition("-")
    last = f"{kind}-{min(places, key=lambda place: abs(place - int(number)))}"
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.strip() == last:
                os.kill(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "backward-0.npz").exists()
    files = {path.name for path in tmp_path.iterdir()}
    assert f"{last}.npz" in files
    steps = replays.SegmentedTraining.run
    counted = []
    monkeypatch.setattr(
        replays.SegmentedTraining,
        "run",
        lambda self, *rest: counted.append(rest) or steps(self, *rest),
    )
    found = run(tmp_path)
    assert kind == "state" or all(segment < int(number) + 12 for segment, _ in counted)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(one, other)
    taken = []
    monkeypatch.setattr(
        replays.SegmentedTraining, "run", lambda *arguments: taken.append(arguments)
    )
    monkeypatch.setattr(
        replays.SegmentedTraining, "pull", lambda *arguments: taken.append(arguments)
    )
    again = run(tmp_path)  # nothing is computed twice
    assert not taken
    for one, other in zip(jax.tree.leaves(again), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(one, other)


def test_bad_input_has_errors_that_say_what_to_do(tmp_path, monkeypatch):
    params, support, query = problem()
    arguments = (squares, params, support, query, KEY)
    with pytest.raises(ValueError, match="alone and without path"):
        mj.training.replay(training(3, path=True), *arguments)
    with pytest.raises(ValueError, match="alone and without path"):
        mj.training.replay(mj.inner.identity(), *arguments)
    with pytest.raises(ValueError, match="a Batch or a function of the step"):
        mj.training.replay(training(3), squares, params, [support], query, KEY)
    with pytest.raises(ValueError, match=r"most_states=4 is too few for 60 segments, which need 8"):
        mj.training.replay(training(60), *arguments, most_states=4)
    with pytest.raises(ValueError, match=r"diverges between steps \d+ and \d+"):
        mj.training.replay(training(300, optax.sgd(1e6)), *arguments)
    dead = mj.inner_loop(
        lambda params, batch, key: (0 * squares(params, batch, key)[0], {}),
        optax.adam(0.1),
        steps=3,
        differentiate=mj.first_order(),  # it does not look at the optimizer
    )
    with pytest.raises(ValueError, match="not finite: give the optimizer a term"):
        mj.training.replay(dead, *arguments)
    wide = query._replace(y=query.y[:, None])
    with pytest.raises(ValueError, match="Support and query examples must be alike"):
        mj.training.replay(training(3), squares, params, support, wide, KEY)
    rows = lambda step: jax.tree.map(lambda leaf: leaf[: 9 - step], support)
    with pytest.raises(ValueError, match=r"Batches of steps 0 to 2 differ"):
        mj.training.replay(training(3), squares, params, rows, query, KEY, fuse=3)
    run(tmp_path)
    scaled = lambda params, batch, key: (2 * squares(params, batch, key)[0], {})
    few = {"most_states": 12, "folder": tmp_path}
    for other, what in (
        ((training(61), *arguments), "the training"),
        ((training(60, optax.adam(0.02, eps_root=1e-8)), *arguments), "the training"),
        ((training(60), scaled, *arguments[1:]), "the loss of the query set"),
        ((training(60), *arguments[:2], query, *arguments[3:]), "the support set"),
        (
            (training(60), *arguments[:4], jax.random.key(6)),
            "the params, the query set and the key",
        ),
    ):
        with pytest.raises(ValueError, match=f"differs from this one in {what}"):
            mj.training.replay(*other, **few)
    (tmp_path / "backward-0.npz").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"backward-0\.npz is damaged.*delete it, and call again"):
        run(tmp_path)
    (tmp_path / "backward-0.npz").unlink()
    about = tmp_path / "about.json"
    text = about.read_text()
    assert json.loads(text)["the number of states"] == 12
    about.write_text("")
    with pytest.raises(ValueError, match=r"about\.json is damaged"):
        run(tmp_path)
    about.unlink()
    with pytest.raises(ValueError, match="has files of a run, but no about"):
        run(tmp_path)
    about.write_text(text)

    def full(path, tree):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(replay_files, "save", full)
    with pytest.raises(OSError, match="make room, and call again"):
        run(tmp_path)
