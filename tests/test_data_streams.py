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
from metajax.data.read.streams import stream, tasks_of

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (60, 16), dtype=np.uint8)
LABELS = RNG.permutation(np.repeat(np.arange(6), 10))
SAMPLE = data.meta_batch(data.episodes(3, 1, 2), tasks=4)
ROWS = data.dataset(np.arange(60, dtype=np.int32), LABELS)
KEY = jax.random.key(3)
KEY_0 = jax.random.fold_in(KEY, 0)  # of step 0


def fetch(numbers):
    return IMAGES[numbers]


def default_integers(dataset, key):
    """A sampler whose integers are those of `jax_enable_x64`, which this suite sets and a new process does not."""
    rows = jax.random.randint(key, (4, 3), 0, len(dataset.y))
    return mj.Batch(x=dataset.x[rows], y=dataset.y[rows])


@pytest.mark.parametrize(("workers", "sample"), [(0, SAMPLE), (2, default_integers)])
def test_tasks_are_those_of_data_in_memory(workers, sample):
    feed = stream(sample, ROWS, fetch, workers=workers)
    tasks = tasks_of(feed, KEY, first=5)
    for step in range(5, 12):
        read = next(tasks)
        assert jax.tree.leaves(read)[0].dtype == np.uint8
        expected = sample(
            data.dataset(IMAGES, LABELS), jax.random.split(jax.random.fold_in(KEY, step))[0]
        )
        scaled = (
            expected
            if sample is SAMPLE
            else expected._replace(x=expected.x.astype(np.float32) / 255)
        )
        assert_close(feed.finish(jax.tree.map(jnp.asarray, read), KEY), scaled, 0)


def test_values_may_stay_as_stored_and_processes_share_the_tasks():
    whole = next(tasks_of(stream(SAMPLE, ROWS, fetch, scale=False), KEY))
    parts = [
        next(tasks_of(stream(SAMPLE, ROWS, fetch, shard=(number, 2)), KEY)) for number in range(2)
    ]
    joined = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    np.testing.assert_array_equal(joined.query.x, whole.query.x)
    assert parts[0].query.x.shape[0] == 2
    assert stream(SAMPLE, ROWS, fetch, scale=False).finish(whole, KEY) is whole


@pytest.mark.parametrize(
    "sample",
    [
        data.episodes(9, 1, 2, rotations=True),
        data.varied_episodes((2, 4), 12, 2),
        data.semi_supervised(2, 1, 1, unlabelled=2, distractors=1, rotations=True),
        data.noisy_labels(data.episodes(3, 2, 2), 0.5),
        data.continual(2, 2, 1, 1),
    ],
)
def test_padding_and_turns_are_those_of_data_in_memory(sample):
    images, sample, asked = IMAGES.reshape(60, 4, 4, 1), data.meta_batch(sample, 3), []
    feed = stream(sample, ROWS, lambda numbers: (asked.append(numbers), images[numbers])[1])
    expected = sample(data.dataset(images, LABELS), jax.random.split(KEY_0)[0])
    read = jax.tree.map(jnp.asarray, next(tasks_of(feed, KEY)))
    assert_close(feed.finish(read, KEY_0), expected, 0)
    assert all((numbers >= 0).all() for numbers in asked)
    if expected.support.weight is not None and expected.support.reference is None:
        assert expected.support.weight.sum() in [numbers.size for numbers in asked], (
            "what pads is not read"
        )


def test_modalities_are_streamed_and_padded():
    there = np.arange(60) % 3 > 0
    x = data.as_modalities({"image": IMAGES, "half": IMAGES[:, :8]}, {"half": there})
    source = data.dataset(x, LABELS)
    stored = jax.tree.map(
        np.asarray,
        mj.Modalities({"image": IMAGES, "half": IMAGES[:, :8] * there[:, None]}, x.present),
    )
    sample = data.meta_batch(data.varied_episodes((2, 4), 12, 2), 3)
    feed = stream(sample, ROWS, lambda numbers: jax.tree.map(lambda leaf: leaf[numbers], stored))
    expected = sample(source, jax.random.split(KEY_0)[0])
    read = jax.tree.map(jnp.asarray, next(tasks_of(feed, KEY)))
    assert_close(feed.finish(read, KEY_0), expected, 0)


def learner():
    net = mj.nets.MLP(16, (8,), 3, rngs=nnx.Rngs(0))
    apply, params = mj.nets.functional(net, fast=nnx.PathContains("head"))
    write = mj.prototypes(functools.partial(apply, method="embed"), 3)
    outer = mj.outer_loop(mj.query_loss(write, mj.losses.cross_entropy(apply)), optax.adam(1e-2))
    return outer, outer.init(params)


def fit(sample, dataset, steps, **options):
    outer, state = learner()
    return mj.training.fit(
        outer, state, sample, dataset, KEY, steps=steps, every=4, progress=False, **options
    )


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
    command = [
        sys.executable,
        "-c",
        f"import test_stream as t; t.train_until_killed({str(tmp_path)!r})",
    ]
    killed = subprocess.run(
        command, cwd=os.path.dirname(__file__), env=os.environ | {"JAX_ENABLE_X64": "1"}
    )
    assert killed.returncode == -signal.SIGKILL
    asked = []

    def listen(numbers):
        asked.append(numbers)
        return IMAGES[numbers]

    state, _ = fit(stream(SAMPLE, ROWS, listen), (), 16, checkpoint=tmp_path)
    assert_close(state, fit(SAMPLE, data.dataset(IMAGES, LABELS), 16)[0], 0)
    first = np.asarray(SAMPLE(ROWS, jax.random.split(KEY)[0]).support.x)
    assert asked and not any(np.array_equal(numbers, first) for numbers in asked), (
        "it did not begin anew"
    )


def test_tasks_are_augmented_on_the_device():
    images = IMAGES.reshape(60, 4, 4, 1)
    feed = stream(
        SAMPLE,
        ROWS,
        lambda numbers: images[numbers],
        augment=lambda drawn: data.augmented(drawn, data.flip()),
    )
    read = next(tasks_of(feed, KEY))
    plain, first, again = (
        one.finish(read, key).query.x
        for one, key in ((feed._replace(augment=None), KEY), (feed, KEY), (feed, KEY))
    )
    np.testing.assert_array_equal(first, again)
    same, mirrored = (np.all(first == x, axis=(2, 3, 4)) for x in (plain, plain[:, :, :, ::-1]))
    assert (same | mirrored).all() and same.any() and mirrored.any()
    assert not np.array_equal(first, feed.finish(read, KEY_0).query.x)
    halves = [feed._replace(options=feed.options | {"shard": (number, 2)}) for number in range(2)]
    parts = [
        half.finish(jax.tree.map(lambda leaf: np.split(leaf, 2)[number], read), KEY).query.x  # noqa: B023
        for number, half in enumerate(halves)
    ]
    np.testing.assert_array_equal(np.concatenate(parts), first)


def test_fit_augments_each_step_anew():
    feed, (outer, state) = (
        stream(SAMPLE, ROWS, fetch, augment=lambda drawn: data.mixup(drawn, 1.0)),
        learner(),
    )
    trained, _ = fit(feed, (), 3)
    step = jax.jit(
        lambda state, read, draw_key, key: outer.step(state, feed.finish(read, draw_key), key)[0]
    )
    tasks = tasks_of(feed, KEY)
    for number in range(3):
        state = step(state, next(tasks), *jax.random.split(jax.random.fold_in(KEY, number)))
    assert_close(state, trained, 1e-6)
    plain, _ = fit(stream(SAMPLE, ROWS, fetch), (), 3)
    assert (
        max(
            jax.tree.leaves(
                jax.tree.map(lambda a, b: jnp.abs(a - b).max(), plain.params, trained.params)
            )
        )
        > 1e-4
    )


@pytest.mark.parametrize("workers", [0, 1])
def test_integers_are_as_wide_as_those_of_whoever_asks(workers):
    with jax.enable_x64(False):
        expected = default_integers(ROWS, jax.random.split(KEY_0)[0]).x
        feed = stream(default_integers, ROWS, fetch, workers=workers)
        np.testing.assert_array_equal(next(tasks_of(feed, KEY)).x, IMAGES[np.asarray(expected)])


@pytest.mark.parametrize(
    "change", [data.crop(2), data.flip(), lambda x, key: x + 1, lambda x, key: x * 0.5]
)
def test_a_sampler_that_changes_examples_is_refused(change):
    with pytest.raises(ValueError, match="belongs into augment="):
        next(
            tasks_of(
                stream(
                    data.meta_batch(data.augmented(data.episodes(3, 1, 2), change), 4), ROWS, fetch
                ),
                KEY,
            )
        )


def test_what_fetch_raises_reaches_the_caller():
    def broken(numbers):
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        next(tasks_of(stream(SAMPLE, ROWS, broken), KEY))


@pytest.mark.parametrize(
    "wrong", [{"threads": 0}, {"ahead": 0}, {"workers": -1}, {"shard": (2, 2)}]
)
def test_errors_say_what_is_wrong(wrong):
    with pytest.raises(ValueError, match="must be"):
        stream(SAMPLE, ROWS, fetch, **wrong)


def test_errors_of_what_is_streamed(monkeypatch):
    with pytest.raises(
        ValueError, match=r"must be their numbers, int32\[examples\], got uint8\[60, 16\]"
    ):
        stream(SAMPLE, data.dataset(IMAGES, LABELS), fetch)
    with pytest.raises(ValueError, match="ways=7 must not exceed the number of classes, 6"):
        stream(data.meta_batch(data.episodes(7, 1, 2), 4), ROWS, fetch)
    with pytest.raises(ValueError, match=r"The 4 tasks of a step are not divisible by the 3"):
        stream(SAMPLE, ROWS, fetch, shard=(0, 3))
    with pytest.raises(ValueError, match=r"fit trains on all tasks, not on shard=\(0, 2\)"):
        fit(stream(SAMPLE, ROWS, fetch, shard=(0, 2)), (), 1)
    turned = stream(data.meta_batch(data.episodes(3, 1, 2, rotations=True), 2), ROWS, fetch)
    with pytest.raises(ValueError, match=r"Rotations need square images .*\(2, 3, 16\)"):
        next(tasks_of(turned, KEY))

    def without(backend):
        raise RuntimeError(f"Unknown backend {backend}")

    monkeypatch.setattr(jax, "local_devices", without)
    with pytest.raises(RuntimeError, match="JAX_PLATFORMS=cuda,cpu"):
        tasks_of(turned, KEY)
