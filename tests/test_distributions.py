"""What every distribution of tasks keeps to: nothing leaks, and a key decides all, wherever the task is drawn."""

import hashlib
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
import scipy.stats

import metajax as mj
from metajax import data

NAMES = [f"alphabet{number // 4}/character{number % 4}" for number in range(20)]
EACH = 5
DISTRIBUTIONS = {
    "episodes": data.episodes(3, 1, 2),
    "rotations": data.episodes(9, 1, 2, rotations=True),
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


def letters():
    """Images whose pixels are all 1 + the number of the row, which turning does not change; 0 is padding."""
    x = np.broadcast_to(
        np.arange(1, 1 + EACH * len(NAMES))[:, None, None, None], (EACH * len(NAMES), 2, 2, 1)
    )
    return data.dataset(x.astype(np.int32), np.repeat(np.arange(len(NAMES)), EACH), names=NAMES)


def rows(tasks):
    """Of all examples in these tasks."""
    numbers = np.concatenate(
        [np.asarray(part.x)[..., 0, 0, 0].ravel() for part in (tasks.support, tasks.query)]
    )
    return set((numbers[numbers > 0] - 1).tolist())


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_no_split_leaks_into_another_part(name):
    sample = jax.jit(data.meta_batch(DISTRIBUTIONS[name], 40))
    for seed in range(10):
        groups = name in ("varied, grouped", "grouped", "modes") or seed % 2  # and by classes
        sizes = dict.fromkeys(
            ("train", "test"), 2 if groups else 8
        )  # 8 classes each, so that it compiles once
        split = data.draw_split(NAMES, sizes, seed=seed, group=data.group_of if groups else None)
        seen = {}
        for part, class_names in split.parts.items():
            held = data.select_part(letters(), split, part)
            names = [f"{number // 4}/{number % 4}" for number in range(8)]
            seen[part] = rows(
                sample(data.dataset(held.x, held.y, names=names), jax.random.key(seed))
            )
            assert {NAMES[row // EACH] for row in seen[part]} <= set(class_names)
        assert (
            len(seen["train"]) > 20
            and len(seen["test"]) > 20
            and seen["train"].isdisjoint(seen["test"])
        )


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_a_task_depends_on_the_key_only(name):
    sample, source, keys = DISTRIBUTIONS[name], letters(), jax.random.split(jax.random.key(1), 2)
    mapped = jax.jit(jax.vmap(sample, (None, 0)))(source, keys)
    one = jax.jit(sample)(source, keys[0])
    jax.tree.map(np.testing.assert_array_equal, one, jax.tree.map(lambda leaf: leaf[0], mapped))
    assert not np.array_equal(*mapped.query.x)


def test_an_episode_need_not_be_compiled():
    sample = DISTRIBUTIONS["episodes"]
    compiled = jax.jit(sample)(letters(), jax.random.key(1))
    jax.tree.map(np.testing.assert_array_equal, sample(letters(), jax.random.key(1)), compiled)


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


def digest(tasks):
    return hashlib.sha256(
        b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tasks))
    ).hexdigest()


def on_devices(name):
    """The digest of four tasks, divided among all devices of this process."""
    mesh = jax.make_mesh(
        (jax.device_count(),), ("devices",), axis_types=(jax.sharding.AxisType.Auto,)
    )
    each = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("devices"))
    return digest(
        jax.jit(data.meta_batch(DISTRIBUTIONS[name], 4), out_shardings=each)(
            letters(), jax.random.key(7)
        )
    )


def test_tasks_are_the_same_in_another_process_with_two_devices():
    names = ["rotations", "varied", "grouped"]
    code = f"import test_distributions as t; print(*map(t.on_devices, {names}))"
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "2", "JAX_ENABLE_X64": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=os.path.dirname(__file__),
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        digest(jax.jit(data.meta_batch(DISTRIBUTIONS[name], 4))(letters(), jax.random.key(7)))
        for name in names
    ]
