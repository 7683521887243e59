"""Benchmarks run, at a tiny size, and what they time has the right gradient; no second is looked at."""

import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

FOLDER = pathlib.Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(FOLDER))

import growth  # noqa: E402
import harness  # noqa: E402
import jax_maml  # noqa: E402
import workloads  # noqa: E402


def sinusoid_gradient(workload):
    """W1 written out without the library: a loop over tasks and one over steps."""

    def loss(weights, x, y):
        for layer in ("layers/0", "layers/1"):
            x = jax.nn.relu(x @ weights[f"{layer}/kernel"] + weights[f"{layer}/bias"][None])
        return ((x @ weights["head/kernel"] + weights["head/bias"][None] - y) ** 2).mean()

    def after(weights, task):
        adapted = weights
        for _ in range(workload.steps):
            slopes = jax.grad(loss)(adapted, *(part[task] for part in workload.data["support"]))
            adapted = jax.tree.map(
                lambda leaf, slope: leaf - workload.inner_rate * slope, adapted, slopes
            )
        return loss(adapted, *(part[task] for part in workload.data["query"]))

    return jax.jit(
        jax.grad(lambda w: sum(after(w, task) for task in range(workload.tasks)) / workload.tasks)
    )(workload.weights)


NO_CLASSES = {
    "bilevel", "devices", "differentiate", "episodes", "feed", "growth", "memory", "missing", "peers-w1", "peers-w2",
    "peers-w2-32-tasks", "sinusoid", "subsets", "task_modes",
}  # fmt: skip
"""Results that are of no split of classes: of time, of functions, or of classes that training has seen."""


@pytest.mark.parametrize(
    "path", sorted((FOLDER / "results").glob("*.json")), ids=lambda path: path.stem
)
def test_a_result_of_classes_says_of_which_split(path):
    report = json.loads(path.read_text())
    digests = jax.tree.leaves([report.get("digest", []), report.get("digests", [])])
    assert all(re.fullmatch("[0-9a-f]{12}", digest) for digest in digests)
    assert bool(digests) != (path.stem in NO_CLASSES)


@pytest.mark.parametrize("name", ["W1", "W2"])
def test_what_is_timed_has_the_gradient_of_plain_jax(name):
    workload = workloads.TINY[name]()
    step, gradient, cost = jax_maml.build(workload)
    assert step()[0].step == 1
    assert cost.keys() == {"trace_seconds", "compile_seconds", "temporary_bytes"}
    expected = (
        sinusoid_gradient(workload)
        if name == "W1"
        else jax_maml.build(workload, lower="native")[1]()
    )
    assert {name: leaf.shape for name, leaf in expected.items()} == {
        n: w.shape for n, w in workload.weights.items()
    }
    assert harness.difference(gradient(), expected) < 1e-4
    assert all(np.abs(leaf).max() > 0 for leaf in expected.values())


def test_the_comparison_says_what_is_missing_and_goes_on(tmp_path):
    command = [
        sys.executable,
        "peers.py",
        "--tiny",
        "--workloads",
        "W1",
        "W9",
        "--peers",
        "l2l",
        "--out",
        tmp_path,
    ]
    done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "There is no workload 'W9'" in done.stdout
    assert "There is no peer 'l2l'" in done.stdout
    report = json.loads((tmp_path / "peers-w1.json").read_text())
    assert report.keys() >= {"commit", "versions", "device", "threads", "seed", "rows"}
    cores = len(os.sched_getaffinity(0))
    fused = ["metajax, `fit(fuse=10)`"] * (workloads.TINY["W1"]().steps_a_turn == 10)
    divided = [f"metajax, {cores} devices"] * (workloads.TINY["W1"]().tasks % cores == 0)
    assert [row["implementation"] for row in report["rows"]] == [
        "metajax",
        "metajax, `mixed_mode()`",
        *fused,
        *divided,
    ]
    assert all(row["workload"] == "W1" and row["gradient_error"] < 1e-12 for row in report["rows"])
    assert all(row["ratio"] is None for row in report["rows"])  # there is no peer


def run(script, folder, *options, report=None):
    command = [sys.executable, f"{script}.py", "--tiny", "--out", folder, *options]
    done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads((folder / f"{report or script}.json").read_text())
    assert report.keys() >= {"commit", "versions", "device", "threads", "seed"}
    return report


def test_devices_and_processes_compute_their_own_tasks_and_agree(tmp_path):
    rows = run(
        "devices", tmp_path, "--workloads", "W1", "W9", "--devices", "1", "2", "--processes", "2"
    )["rows"]
    assert [row["tasks_on_a_device"] for row in rows] == [8, 4, 4]
    assert [row["processes"] for row in rows] == [1, 1, 2]
    assert all(row["gradient_error"] < 1e-12 for row in rows)
    assert all(row["rounding"] < 1e-3 for row in rows)


def test_strategies_agree_and_mixed_mode_takes_less_memory(tmp_path):
    rows = {row["implementation"]: row for row in run("memory", tmp_path, "--repeats", "1")["rows"]}
    assert all(row["gradient_error"] < 1e-5 for row in rows.values())
    assert 3 * rows["`mixed_mode()`"]["temporary_bytes"] < rows["`unroll()`"]["temporary_bytes"]
    assert (tmp_path / "memory.png").exists()


def test_growth_and_episodes_are_measured_and_drawn(tmp_path):
    axes = ["tasks", "sequence length"]
    report = run("growth", tmp_path, "--repeats", "1", "--axes", *axes)
    assert [*report["fits"]] == axes and {row["workload"] for row in report["rows"]} == set(axes)
    assert (tmp_path / "growth.png").exists()
    report = run("episodes", tmp_path, "--repeats", "1")
    assert {"`np.take`", "`episodes(scale=False)`"} <= {
        row["implementation"] for row in report["rows"]
    }


def test_tasks_are_fed(tmp_path):
    report = run("feed", tmp_path)
    assert len(report["held_bytes"]) == 10 and {
        row["implementation"] for row in report["rows"]
    } == {
        "resident",
        "grain",
    }


def test_alphabets_are_learned(tmp_path, packs):
    report = run("alphabets", tmp_path)
    assert all(len(row["alphabets"]) == 20 and row["accuracy"] > 5 for row in report["rows"])
    assert (tmp_path / "alphabets.png").exists()


def test_the_run_for_a_gpu_runs_here(tmp_path):
    rows = run("gpu", tmp_path, "--repeats", "1", report="device-cpu")["rows"]
    assert {row["workload"] for row in rows} == {"W1", "W2, 32 tasks", "W3, large"}
    assert all(row["gradient_error"] < 1e-4 for row in rows)
    assert len(rows) == 6


def test_a_line_is_fitted_to_what_grows_as_a_line():
    rows = [{"number": n, "seconds": 2 + 3 * n} for n in (1, 2, 4)]
    assert growth.fit("tasks", rows) == pytest.approx({"a": 2, "b": 3, "residual": 0}, abs=1e-9)
    rows = [{"number": n, "seconds": 5 * n**2} for n in (1, 2, 4)]
    assert growth.fit("width", rows) == pytest.approx({"a": 5, "b": 2, "residual": 0}, abs=1e-9)


@pytest.mark.parametrize("lower", ["native", "patches", "two passes"])
def test_every_lowering_of_a_convolution_has_the_same_gradient(lower):
    workload = workloads.TINY["W2"]()
    ours, other = (jax_maml.build(workload, lower=how)[1]() for how in (None, lower))
    assert harness.difference(other, ours) < 1e-4


def test_a_median_has_an_interval():
    row = harness.median(np.arange(101.0).tolist())
    assert row["seconds"] == 50
    assert row["interval"][0] < 50 < row["interval"][1]
    assert harness.median([3.0, 1.0, 2.0]) == {"seconds": 2.0, "interval": [1.0, 3.0], "repeats": 3}
