"""Tasks from data that is not on the device: the same as from data that is, wherever one begins to read."""

import functools
import os
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from problems import assert_close

import metajax as mj
from metajax import data
from metajax.data.stream import stream, tasks_of

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (60, 16), dtype=np.uint8)
LABELS = RNG.permutation(np.repeat(np.arange(6), 10))
SAMPLE = data.meta_batch(data.episodes(3, 1, 2), tasks=4)
ROWS = data.dataset(np.arange(60, dtype=np.int32), LABELS)
KEY = jax.random.key(3)


def fetch(numbers):
    return IMAGES[numbers]


def in_memory(step):
    source = data.dataset(IMAGES, LABELS)
    return SAMPLE(source, jax.random.split(jax.random.fold_in(KEY, step))[0])


@pytest.mark.parametrize("workers", [0, 2])
def test_tasks_are_those_of_data_in_memory(workers):
    feed = stream(SAMPLE, ROWS, fetch, workers=workers)
    tasks = tasks_of(feed, KEY, first=5)
    for step in range(5, 12):
        read = next(tasks)
        assert read.query.x.dtype == np.uint8
        assert_close(feed.finish(jax.tree.map(jnp.asarray, read)), in_memory(step), 0)


def test_values_may_stay_as_stored_and_processes_share_the_tasks():
    whole = next(tasks_of(stream(SAMPLE, ROWS, fetch, scale=False), KEY))
    parts = [next(tasks_of(stream(SAMPLE, ROWS, fetch, shard=(number, 2)), KEY)) for number in range(2)]
    joined = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    np.testing.assert_array_equal(joined.query.x, whole.query.x)
    assert parts[0].query.x.shape[0] == 2
    assert stream(SAMPLE, ROWS, fetch, scale=False).finish(whole) is whole


def learner():
    net = mj.nets.MLP(16, (8,), 3, rngs=nnx.Rngs(0))
    apply, params = mj.nets.functional(net, fast=nnx.PathContains("head"))
    write = mj.prototypes(functools.partial(apply, method="embed"), 3)
    outer = mj.outer_loop(mj.episode(write, mj.losses.cross_entropy(apply)), optax.adam(1e-2))
    return outer, outer.init(params)


def fit(sample, dataset, steps, **options):
    outer, state = learner()
    return mj.training.fit(outer, state, sample, dataset, KEY, steps=steps, every=4, progress=False, **options)


def test_training_is_that_of_data_in_memory_and_goes_on_where_it_stopped(tmp_path):
    expected, _ = fit(SAMPLE, data.dataset(IMAGES, LABELS), 8)
    feed = stream(SAMPLE, ROWS, fetch)
    state, records = fit(feed, (), 8)
    assert_close(state, expected, 0)
    assert records[-1]["tasks_per_second"] > 0
    fit(feed, (), 4, checkpoint=tmp_path)
    state, _ = fit(feed, (), 8, checkpoint=tmp_path)
    assert_close(state, expected, 0)
    with pytest.raises(ValueError, match="fuse=2"):
        fit(feed, (), 8, fuse=2)


def train_until_killed(folder):
    """Is killed as it reads the tasks of step 12, in the middle of an epoch, with checkpoints of steps before."""

    def fetch_or_die(numbers):
        if np.array_equal(numbers, deadly):
            os.kill(os.getpid(), signal.SIGKILL)
        return IMAGES[numbers]

    key = jax.random.split(jax.random.fold_in(KEY, 12))[0]
    deadly = np.asarray(SAMPLE(ROWS, key).query.x)
    fit(stream(SAMPLE, ROWS, fetch_or_die, threads=1, ahead=1), (), 16, checkpoint=folder)


def test_a_run_that_was_killed_goes_on_with_the_same_tasks(tmp_path):
    command = [sys.executable, "-c", f"import test_stream as t; t.train_until_killed({str(tmp_path)!r})"]
    killed = subprocess.run(command, cwd=os.path.dirname(__file__), env=os.environ | {"JAX_ENABLE_X64": "1"})
    assert killed.returncode == -signal.SIGKILL
    asked = []

    def listen(numbers):
        asked.append(numbers)
        return IMAGES[numbers]

    state, _ = fit(stream(SAMPLE, ROWS, listen), (), 16, checkpoint=tmp_path)
    assert_close(state, fit(SAMPLE, data.dataset(IMAGES, LABELS), 16)[0], 0)
    first = np.asarray(SAMPLE(ROWS, jax.random.split(KEY)[0]).support.x)
    assert asked and not any(np.array_equal(numbers, first) for numbers in asked), "it did not begin anew"


def test_what_fetch_raises_reaches_the_caller():
    def broken(numbers):
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        next(tasks_of(stream(SAMPLE, ROWS, broken), KEY))


@pytest.mark.parametrize("wrong", [{"threads": 0}, {"ahead": 0}, {"workers": -1}, {"shard": (2, 2)}])
def test_errors_say_what_is_wrong(wrong):
    with pytest.raises(ValueError, match="must be"):
        stream(SAMPLE, ROWS, fetch, **wrong)
