"""`fit` on several devices and in several processes gives what one device gives."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import mesh_fits
import numpy as np
import optax
import pytest

import metajax as mj
from metajax import Params

SCRIPT = pathlib.Path(__file__).with_name("mesh_fits.py")
STEPS = 20


def start(*arguments):
    """A process that runs the script."""
    environment = {
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir or "",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return subprocess.Popen(
        [sys.executable, SCRIPT, *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_together(folder, *options, count=2, seeds=(0, 0)):
    """Processes that train together."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    same = ("--count", count, "--port", port, "--folder", folder, *options)
    return [
        start("process", "--index", index, "--seed", seeds[index], *same) for index in range(count)
    ]


def finish(processes):
    """Waits for all of them: [(exit status, what it wrote as errors)]."""
    written = [process.communicate(timeout=240)[1] for process in processes]
    return [(process.returncode, text) for process, text in zip(processes, written, strict=True)]


def assert_finished(processes):
    for status, text in finish(processes):
        assert status == 0, text[-3000:]


def logged_steps(folder):
    path = folder / "log.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line)["step"] for line in lines]


def wait_for_step(folder, step, processes):
    """Waits until a record of this step or a later one is logged."""
    for _ in range(3600):
        if logged_steps(folder)[-1:] and logged_steps(folder)[-1] >= step:
            return
        if any(process.poll() is not None for process in processes):
            break
        time.sleep(0.05)
    raise AssertionError([text[-2000:] for _, text in finish(processes)])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The folder of a run of two processes that nothing stops."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert_finished(start_together(folder, "--streams"))
    return folder


def test_any_number_of_devices_gives_what_one_gives():
    process = start("devices")
    printed, errors = process.communicate(timeout=400)
    assert printed.split() == [one.__name__ for one in mesh_fits.COMPARED], errors[-3000:]


def test_two_processes_give_what_one_gives_and_log_once(undisturbed, tmp_path):
    assert logged_steps(undisturbed) == list(range(2, STEPS + 1, 2))
    records = [json.loads((undisturbed / f"records{index}.json").read_text()) for index in (0, 1)]
    assert records[0] == records[1]
    alone = tmp_path / "alone"
    alone.mkdir()
    assert_finished(start_together(alone, count=1))
    expected = np.load(alone / "params0.npy")
    for index in (0, 1):
        found = np.load(undisturbed / f"params{index}.npy")
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_a_run_goes_on_with_another_number_of_processes(undisturbed, tmp_path):
    assert_finished(start_together(tmp_path, "--steps", 10))
    assert_finished(start_together(tmp_path, count=1))
    assert logged_steps(tmp_path) == logged_steps(undisturbed)
    found, expected = (np.load(folder / "params0.npy") for folder in (tmp_path, undisturbed))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_processes_stop_together_and_go_on(undisturbed, tmp_path):
    processes = start_together(tmp_path, "--slow")
    wait_for_step(tmp_path, 4, processes)
    processes[1].send_signal(signal.SIGTERM)
    assert_finished(processes)
    stopped = logged_steps(tmp_path)[-1]
    assert 4 <= stopped < STEPS
    assert_finished(start_together(tmp_path))
    assert set(logged_steps(undisturbed)) <= set(logged_steps(tmp_path))
    for index in (0, 1):
        found, expected = (
            np.load(folder / f"params{index}.npy") for folder in (tmp_path, undisturbed)
        )
        np.testing.assert_array_equal(found, expected)


def test_where_one_process_is_killed_the_other_ends_and_both_go_on(undisturbed, tmp_path):
    processes = start_together(tmp_path, "--slow")
    wait_for_step(tmp_path, 4, processes)
    processes[1].kill()
    (status, text), _ = finish(processes)
    assert status != 0
    assert "heartbeat" in text or "Connection" in text or "peer" in text
    assert_finished(start_together(tmp_path))
    found, expected = (np.load(folder / "params0.npy") for folder in (tmp_path, undisturbed))
    np.testing.assert_array_equal(found, expected)


def test_processes_that_differ_are_refused(tmp_path):
    for status, text in finish(start_together(tmp_path, seeds=(0, 1))):
        assert status != 0
        assert "differ from process 0: the state (in the processes [1])" in text, text[-3000:]


def test_what_one_process_cannot_write_ends_all(tmp_path):
    (first, own), (second, other) = finish(start_together(tmp_path, "--bad_log"))
    assert first != 0 and "IsADirectoryError" in own, own[-3000:]
    assert second != 0 and "The processes [0] have failed" in other, other[-3000:]


def task_loss(params, target, key):
    return (params.slow - target) ** 2, {}


def test_a_mesh_needs_the_axis_and_steps_that_can_be_divided():
    mesh = jax.make_mesh((1,), ("devices",))
    outer = mj.outer_loop(task_loss, optax.sgd(0.1))
    with pytest.raises(ValueError, match=r"axes \('devices',\).*'tasks'"):
        outer.sharded(mesh)
    with pytest.raises(ValueError, match=r"axes \('devices',\).*'tasks'"):
        mj.evaluate(task_loss, Params({}, jnp.zeros(())), jnp.ones(3), jax.random.key(0), mesh=mesh)
    of_own = mj.outer_loop(task_loss, optax.sgd(0.1), axis_name="tasks")
    with pytest.raises(ValueError, match="cannot be divided"):
        of_own.sharded(jax.make_mesh((1,), ("tasks",)))
    rule = mj.learned(optax.sgd, jnp.zeros(()))
    of_pairs = mj.persistent(
        rule, task_loss, optax.sgd(0.1), horizon=2, truncation=1, pairs=3, std=0.1
    )
    two = jax.sharding.AbstractMesh((2,), ("tasks",))
    with pytest.raises(ValueError, match="pairs=3 must be divisible by the 2 devices"):
        of_pairs.step_over(two)
    with pytest.raises(ValueError, match="mesh or axis_name"):
        mj.evaluate(
            task_loss,
            Params({}, jnp.zeros(())),
            jnp.ones(3),
            jax.random.key(0),
            mesh=jax.make_mesh((1,), ("tasks",)),
            axis_name="tasks",
        )
