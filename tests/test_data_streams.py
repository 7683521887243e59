"""Tasks from data on disk are those of data in memory, wherever reading starts."""

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
from metajax.data.read.streams import stream, tasks_of

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (60, 16), dtype=np.uint8)
SQUARES = IMAGES.reshape(60, 4, 4, 1)
LABELS = RNG.permutation(np.repeat(np.arange(6), 10))
SAMPLE = data.meta_batch(data.episodes(3, 1, 2), tasks=4)
ROWS = data.dataset(np.arange(60, dtype=np.int32), LABELS)
KEY = jax.random.key(3)
KEY_0 = jax.random.fold_in(KEY, 0)  # of step 0


def fetch(numbers):
    return IMAGES[numbers]


def fetch_squares(numbers):
    return SQUARES[numbers]


def default_integers(dataset, key):
    """A sampler whose integers are of 64 bits in this suite, and of 32 in a new process."""
    rows = jax.random.randint(key, (4, 3), 0, len(dataset.y))
    return mj.Batch(x=dataset.x[rows], y=dataset.y[rows])


def harder_later(dataset, key, *, step):
    """A sampler that draws from more and more rows."""
    rows = jax.random.randint(key, (4, 3), 0, 5 * (step + 1), jnp.int32)
    return mj.Batch(x=data.take_examples(dataset, rows), y=dataset.y[rows])


@pytest.mark.parametrize(("workers", "sample"), [(0, SAMPLE), (2, default_integers)])
def test_tasks_are_those_of_data_in_memory(workers, sample):
    feed = stream(sample, ROWS, fetch, scale=255, workers=workers)
    source = data.dataset(IMAGES, LABELS, scale=255)
    drawn = jax.jit(sample)
    tasks = tasks_of(feed, KEY, first=5)
    for step in range(5, 12):
        read = next(tasks)
        assert jax.tree.leaves(read)[0].dtype == np.uint8
        expected = drawn(source, jax.random.split(jax.random.fold_in(KEY, step))[0])
        if sample is default_integers:  # it takes values as they are stored
            expected = expected._replace(x=expected.x.astype(np.float32) / 255)
        assert_close(feed.finish(jax.tree.map(jnp.asarray, read), KEY), expected, 0)


def test_a_sampler_is_given_the_step():
    tasks = tasks_of(stream(harder_later, ROWS, fetch), KEY, first=1)
    for step in (1, 2, 3):
        key = jax.random.split(jax.random.fold_in(KEY, step))[0]
        expected = harder_later(ROWS, key, step=jnp.int32(step))
        read = next(tasks)
        np.testing.assert_array_equal(read.x, IMAGES[np.asarray(expected.x)])
        np.testing.assert_array_equal(read.y, expected.y)


def test_values_may_stay_as_stored_and_processes_share_the_tasks():
    feed = stream(SAMPLE, ROWS, fetch)
    whole = next(tasks_of(feed, KEY))
    parts = [
        next(tasks_of(stream(SAMPLE, ROWS, fetch, shard=(number, 2)), KEY)) for number in range(2)
    ]
    joined = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    np.testing.assert_array_equal(joined.query.x, whole.query.x)
    assert parts[0].query.x.shape[0] == 2
    assert feed.finish(whole, KEY).query.x.dtype == np.uint8
    assert_close(feed.finish(whole, KEY), whole, 0)


SAMPLERS = {
    "rotated": data.episodes(9, 1, 2),
    "varied": data.varied_episodes((2, 4), 12, 2),
    "semi-supervised and rotated": data.semi_supervised(2, 1, 1, unlabelled=2, distractors=7),
    "noisy": data.noisy_labels(data.episodes(3, 2, 2), 0.5),
    "continual": data.continual(2, 2, 1, 1),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_padding_and_turns_are_those_of_data_in_memory(name):
    sample = data.meta_batch(SAMPLERS[name], 3)
    source = data.dataset(SQUARES, LABELS, scale=255)
    asked = []

    def listen(numbers):
        asked.append(numbers)
        return SQUARES[numbers]

    rows, read_rows = ROWS, listen
    if "rotated" in name:
        source = data.rotated(source)
        rows, read_rows = data.rotated(ROWS, fetch=listen)
    feed = stream(sample, rows, read_rows, scale=255)
    expected = jax.jit(sample)(source, jax.random.split(KEY_0)[0])
    read = jax.tree.map(jnp.asarray, next(tasks_of(feed, KEY)))
    assert_close(feed.finish(read, KEY_0), expected, 0)
    assert all(((numbers >= 0) & (numbers < 60)).all() for numbers in asked)
    if name == "varied":
        sizes = [numbers.size for numbers in asked]
        assert expected.support.weight.sum() in sizes, "padding is not read"


def test_modalities_are_streamed_and_padded():
    there = np.arange(60) % 3 > 0
    value = {"image": IMAGES, "half": IMAGES[:, :8].astype(np.int16)}
    scale = {"image": 255, "half": 32768}
    source = data.dataset(data.as_modalities(value, {"half": there}), LABELS, scale=scale)
    stored = data.as_modalities(value | {"half": value["half"] * there[:, None]}, {"half": there})
    stored = jax.tree.map(np.asarray, stored)
    sample = data.meta_batch(data.varied_episodes((2, 4), 12, 2), 3)
    read_rows = lambda numbers: jax.tree.map(lambda leaf: leaf[numbers], stored)
    feed = stream(sample, ROWS, read_rows, scale=scale)
    expected = jax.jit(sample)(source, jax.random.split(KEY_0)[0])
    read = jax.tree.map(jnp.asarray, next(tasks_of(feed, KEY)))
    assert_close(feed.finish(read, KEY_0), expected, 0)


@functools.cache
def learner():
    net = mj.nets.MLP(16, (8,), 3, rngs=nnx.Rngs(0))
    apply, params = mj.nets.functional(net, fast=nnx.PathContains("head"))
    write = mj.prototypes(functools.partial(apply, method="embed"), 3)
    outer = mj.outer_loop(mj.query_loss(write, mj.losses.cross_entropy(apply)), optax.sgd(0.1))
    return outer, outer.init(params)


def fit(sample, dataset, steps, **options):
    outer, state = learner()
    return mj.training.fit(
        outer, state, sample, dataset, KEY, steps=steps, every=4, progress=False, **options
    )


def test_training_is_that_of_data_in_memory_and_goes_on_where_it_stopped(tmp_path):
    expected, _ = fit(SAMPLE, data.dataset(IMAGES, LABELS, scale=255), 8)
    feed = stream(SAMPLE, ROWS, fetch, scale=255)
    state, records = fit(feed, (), 8)
    assert_close(state, expected, 1e-6)  # two programs, which round differently
    assert records[-1]["tasks_per_second"] > 0
    fit(feed, (), 4, checkpoint=tmp_path)
    resumed, _ = fit(feed, (), 8, checkpoint=tmp_path)
    assert_close(resumed, state, 0)
    with pytest.raises(ValueError, match="fuse=2"):
        fit(feed, (), 8, fuse=2)


def train_until_killed(folder):
    """Is killed as it reads the tasks of step 12, after checkpoints of earlier steps."""

    def fetch_or_die(numbers):
        if np.array_equal(numbers, deadly):
            os.kill(os.getpid(), signal.SIGKILL)
        return IMAGES[numbers]

    key = jax.random.split(jax.random.fold_in(KEY, 12))[0]
    deadly = np.asarray(SAMPLE(ROWS, key).query.x)
    feed = stream(SAMPLE, ROWS, fetch_or_die, scale=255, threads=1, ahead=1)
    fit(feed, (), 16, checkpoint=folder)


def test_a_run_that_was_killed_goes_on_with_the_same_tasks(tmp_path):
    command = [
        sys.executable,
        "-c",
        f"import test_data_streams as t; t.train_until_killed({str(tmp_path)!r})",
    ]
    killed = subprocess.run(
        command, cwd=os.path.dirname(__file__), env=os.environ | {"JAX_ENABLE_X64": "1"}
    )
    assert killed.returncode == -signal.SIGKILL
    asked = []

    def listen(numbers):
        asked.append(numbers)
        return IMAGES[numbers]

    state, _ = fit(stream(SAMPLE, ROWS, listen, scale=255), (), 16, checkpoint=tmp_path)
    expected, _ = fit(stream(SAMPLE, ROWS, fetch, scale=255), (), 16)
    assert_close(state, expected, 0)
    first = np.asarray(SAMPLE(ROWS, jax.random.split(KEY_0)[0]).support.x)
    assert asked and not any(np.array_equal(numbers, first) for numbers in asked), (
        "it did not start again from step 0"
    )


def test_tasks_are_augmented_on_the_device():
    flip = lambda drawn: data.augmented(drawn, data.flip())
    feed = stream(SAMPLE, ROWS, fetch_squares, augment=flip, scale=255)
    read = next(tasks_of(feed, KEY))
    plain = feed._replace(augment=None).finish(read, KEY).query.x
    first = feed.finish(read, KEY).query.x
    np.testing.assert_array_equal(first, feed.finish(read, KEY).query.x)
    same, mirrored = (np.all(first == x, axis=(2, 3, 4)) for x in (plain, plain[:, :, :, ::-1]))
    assert (same | mirrored).all() and same.any() and mirrored.any()
    assert not np.array_equal(first, feed.finish(read, KEY_0).query.x)
    halves = []
    for number in range(2):
        part = jax.tree.map(lambda leaf, n=number: np.split(leaf, 2)[n], read)
        halves.append(feed._replace(shard=(number, 2)).finish(part, KEY).query.x)
    np.testing.assert_array_equal(np.concatenate(halves), first)


def test_fit_augments_each_step_anew():
    mix = lambda drawn: data.mixup(drawn, 1.0)
    feed = stream(SAMPLE, ROWS, fetch, augment=mix, scale=255)
    trained, _ = fit(feed, (), 3)
    outer, state = learner()

    @jax.jit
    def step(state, read, draw_key, key):
        return outer.step(state, feed.finish(read, draw_key), key)[0]

    tasks = tasks_of(feed, KEY)
    for number in range(3):
        state = step(state, next(tasks), *jax.random.split(jax.random.fold_in(KEY, number)))
    assert_close(state, trained, 1e-6)
    plain, _ = fit(stream(SAMPLE, ROWS, fetch, scale=255), (), 3)
    apart = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), plain.params, trained.params)
    assert max(jax.tree.leaves(apart)) > 1e-4


@pytest.mark.parametrize("workers", [0, 1])
def test_integers_are_as_wide_as_those_of_whoever_asks(workers):
    with jax.enable_x64(False):
        expected = default_integers(ROWS, jax.random.split(KEY_0)[0]).x
        feed = stream(default_integers, ROWS, fetch, workers=workers)
        np.testing.assert_array_equal(next(tasks_of(feed, KEY)).x, IMAGES[np.asarray(expected)])


CHANGES = {
    "crop": data.crop(2),
    "flip": data.flip(),
    "add": lambda x, key: x + 1,
    "invert": lambda x, key: 255 - x,
    "halve": lambda x, key: x * 0.5,
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_sampler_that_changes_examples_is_refused(name):
    sample = data.meta_batch(data.augmented(data.episodes(3, 1, 2), CHANGES[name]), 4)

    def read():
        next(tasks_of(stream(sample, ROWS, fetch), KEY))

    with pytest.raises(Exception, match="Change examples in augment="):
        read()


def test_a_sampler_that_reads_other_axes_is_told_what_to_do():
    def first_column(dataset, key):
        batch = data.batches(4)(dataset, key)
        return batch._replace(x=batch.x[:, 0])

    with pytest.raises(IndexError, match="Change examples in augment="):
        stream(first_column, ROWS, fetch)


def test_what_fetch_raises_reaches_the_caller():
    def broken(numbers):
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        next(tasks_of(stream(SAMPLE, ROWS, broken), KEY))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"threads": 0}, "threads must be a whole number, 1 or more, got 0"),
        ({"ahead": 0}, "ahead must be a whole number, 1 or more, got 0"),
        ({"workers": -1}, "workers must be a whole number, 0 or more, got -1"),
        ({"shard": (2, 2)}, r"shard=\(2, 2\) must be \(index, count\)"),
        ({"shard": (0, 3)}, "The 4 tasks of a step are not divisible by the 3"),
        ({"scale": 0}, "scale must be positive"),
    ],
)
def test_bad_options_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        stream(SAMPLE, ROWS, fetch, **wrong)


def test_what_cannot_be_streamed_is_refused():
    with pytest.raises(
        ValueError, match=r"must be their numbers, int32\[examples\], got uint8\[60, 16\]"
    ):
        stream(SAMPLE, data.dataset(IMAGES, LABELS), fetch)
    with pytest.raises(ValueError, match="ways=7 must not exceed the number of classes, 6"):
        stream(data.meta_batch(data.episodes(7, 1, 2), 4), ROWS, fetch)
    with pytest.raises(ValueError, match=r"fit trains on all tasks, not on shard=\(0, 2\)"):
        fit(stream(SAMPLE, ROWS, fetch, shard=(0, 2)), (), 1)
    turned = stream(SAMPLE, *data.rotated(ROWS, fetch=fetch))
    with pytest.raises(ValueError, match=r"Rotations need square images .*\[4, 3, 16\]"):
        next(tasks_of(turned, KEY))
    named = stream(SAMPLE, ROWS, fetch, scale={"image": 255})
    with pytest.raises(ValueError, match="but x has none; give one number instead"):
        named.finish(next(tasks_of(named, KEY)), KEY)


def test_streams_need_the_cpu(monkeypatch):
    def without(backend):
        raise RuntimeError(f"Unknown backend {backend}")

    feed = stream(SAMPLE, ROWS, fetch)
    monkeypatch.setattr(jax, "local_devices", without)
    with pytest.raises(RuntimeError, match="JAX_PLATFORMS=cuda,cpu"):
        tasks_of(feed, KEY)
