"""What all samplers have in common: nothing leaks, and the key alone decides what is drawn."""

import functools
import hashlib
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import metajax as mj
from metajax import data

NAMES = [f"alphabet{number // 4}/character{number % 4}" for number in range(20)]
PART_NAMES = [f"{number // 4}/{number % 4}" for number in range(8)]
EACH = 5
SAMPLERS = {
    "episodes": data.episodes(3, 1, 2),
    "rotated": data.episodes(9, 1, 2),
    "varied": data.varied_episodes((2, 4), support=9, queries=2),
    "varied, grouped": data.varied_episodes((2, 4), support=9, queries=2, group=data.group_of),
    "grouped": data.grouped_episodes(3, 1, 2),
    "semi-supervised": data.semi_supervised(2, 1, 1, unlabelled=2, distractors=2),
    "noisy": data.noisy_labels(data.episodes(3, 1, 2), 0.5),
    "continual": data.continual(2, 3, 1, 1),
    "modes": data.task_modes(
        {"any": data.episodes(2, 1, 2), "one": data.grouped_episodes(2, 1, 2)}
    ),
    "batches": lambda dataset, key: mj.Task(*2 * [data.batches(20)(dataset, key)]),
}


@functools.cache
def letters():
    """The pixels of an image are all 1 + the number of its row, however it is turned."""
    rows = np.arange(1, 1 + EACH * len(NAMES), dtype=np.int32)
    x = np.broadcast_to(rows[:, None, None, None], (len(rows), 2, 2, 1))
    return data.dataset(x, np.repeat(np.arange(len(NAMES)), EACH), names=NAMES)


def part_of(split, part, name):
    """A part of 8 classes, whose names are always the same, so that it compiles once."""
    chosen = data.select_part(letters(), split, part)
    chosen = data.dataset(chosen.x, chosen.y, names=PART_NAMES)
    return data.rotated(chosen) if name == "rotated" else chosen


def some_part(name):
    split = data.draw_split(NAMES, {"train": 8})
    return part_of(split, "train", name)


@functools.cache
def sample_40(name):
    return jax.jit(data.meta_batch(SAMPLERS[name], 40))


def rows_in(tasks):
    """The rows of all examples in these tasks."""
    x = np.concatenate([np.asarray(part.x).reshape(-1) for part in tasks[:2]])
    return set((x[x > 0] - 1).tolist())


@pytest.mark.parametrize("name", SAMPLERS)
def test_no_part_leaks_into_another(name):
    for seed in range(10):
        groups = name in ("varied, grouped", "grouped", "modes") or seed % 2
        sizes = dict.fromkeys(("train", "test"), 2 if groups else 8)
        split = data.draw_split(NAMES, sizes, seed=seed, group=data.group_of if groups else None)
        seen = {}
        for part, class_names in split.parts.items():
            source = part_of(split, part, name)
            seen[part] = rows_in(sample_40(name)(source, jax.random.key(seed)))
            assert {NAMES[row // EACH] for row in seen[part]} <= set(class_names)
        assert min(len(rows) for rows in seen.values()) > 20
        assert seen["train"].isdisjoint(seen["test"])


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_task_depends_on_the_key_only(name):
    source, key = some_part(name), jax.random.key(1)
    tasks = sample_40(name)(source, key)
    one = jax.jit(SAMPLERS[name])(source, jax.random.split(key, 40)[0])
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[0]), one, tasks)
    assert not np.array_equal(tasks.query.x[0], tasks.query.x[1])


FUNCTIONS = {
    "sinusoids": (data.sinusoids(3, 4), ()),
    "harmonics": (data.harmonics(3, 4), ()),
    "processes": (data.gaussian_processes(3, 4), ()),
    "pixels": (
        data.image_completion(3, 4),
        data.dataset(np.random.default_rng(0).random((4, 5, 6, 3)), np.zeros(4, int)),
    ),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_depends_on_the_key_only(name):
    sample, source = FUNCTIONS[name]
    keys = jax.random.split(jax.random.key(1), 2)
    eager, compiled = sample(source, keys[0]), jax.jit(sample)(source, keys[0])
    mapped = jax.jit(jax.vmap(sample, (None, 0)))(source, keys)
    # Compiled sums and sines differ a little.
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, eager, compiled)
    jax.tree.map(lambda one, both: close(one, both[0]), eager, mapped)
    assert not np.array_equal(*mapped.support.x)


def test_an_episode_need_not_be_compiled():
    source, key = some_part("episodes"), jax.random.key(1)
    compiled = sample_40("episodes")(source, key)
    eager = SAMPLERS["episodes"](source, jax.random.split(key, 40)[0])
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[0]), eager, compiled)


def test_classes_labels_and_rows_are_drawn_uniformly():
    tasks = jax.jit(data.meta_batch(data.episodes(4, 1, 1), 4000))(letters(), jax.random.key(0))
    number = np.asarray(tasks.support.x)[..., 0, 0, 0] - 1  # [tasks, ways]
    assert (np.asarray(tasks.support.y) == np.arange(4)).all()
    for way in range(4):
        assert scipy.stats.chisquare(np.bincount(number[:, way], minlength=100)).pvalue > 1e-3
    pairs = 20 * (number[:, 0] // EACH) + number[:, 1] // EACH
    seen = np.bincount(pairs, minlength=400).reshape(20, 20)
    assert not seen.diagonal().any()
    assert scipy.stats.chisquare(seen[~np.eye(20, dtype=bool)]).pvalue > 1e-3
    other = np.asarray(tasks.query.x)[:, 0, 0, 0, 0] - 1
    assert (other != number[:, 0]).all()
    assert scipy.stats.chisquare(np.bincount((other - number[:, 0]) % EACH)[1:]).pvalue > 1e-3


ON_DEVICES = ("rotated", "varied", "grouped")


def digest(tasks):
    leaves = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tasks)]
    return hashlib.sha256(b"".join(leaves)).hexdigest()


def on_devices(name):
    """The digest of 40 tasks, divided among all devices of this process."""
    mesh = jax.make_mesh(
        (jax.device_count(),), ("devices",), axis_types=(jax.sharding.AxisType.Auto,)
    )
    each = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("devices"))
    sample = jax.jit(data.meta_batch(SAMPLERS[name], 40), out_shardings=each)
    return digest(sample(some_part(name), jax.random.key(7)))


def test_tasks_are_the_same_in_another_process_with_two_devices():
    code = f"import test_data_tasks as t; print(*map(t.on_devices, {ON_DEVICES}))"
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "2", "JAX_ENABLE_X64": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=os.path.dirname(__file__),
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    here = [digest(sample_40(name)(some_part(name), jax.random.key(7))) for name in ON_DEVICES]
    assert done.stdout.split() == here


def test_a_sampler_of_your_own_takes_examples_as_declared():
    source = data.dataset(np.arange(6, dtype=np.uint8)[:, None], np.arange(6) // 3, scale=2)

    def first_rows(dataset, key):
        """One example of each class."""
        x = data.take_examples(dataset, dataset.start)
        batch = mj.Batch(x, jnp.arange(dataset.classes))
        return mj.Task(batch, batch)

    tasks = jax.jit(data.meta_batch(first_rows, 2))(source, jax.random.key(0))
    np.testing.assert_array_equal(tasks.support.x[..., 0], [[0, 1.5]] * 2)
