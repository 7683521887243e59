"""Turned images as classes of their own, in memory and on disk."""

import functools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn_tasks import KEY, draw_list

from metajax import data

PICTURES = np.random.default_rng(0).integers(0, 255, (18, 4, 4, 1)).astype(np.uint8)
LABELS = np.arange(18) // 6
NAMES = ["A/0", "A/1", "B/0"]


@functools.cache
def source():
    return data.dataset(PICTURES, LABELS, names=NAMES, info={"n": np.arange(3)}, scale=255)


def fetch(numbers):
    return PICTURES[numbers]


@functools.cache
def on_disk():
    rows = data.dataset(np.arange(18, dtype=np.int32), LABELS, names=NAMES)
    return data.rotated(rows, fetch=fetch)


def turned(label):
    """Images of a class of the rotated data set, by its number."""
    number = label % 3
    return np.rot90(PICTURES[6 * number : 6 * number + 6], label // 3, axes=(1, 2))


def test_each_quarter_turn_is_a_class():
    four = data.rotated(source())
    assert four.names == ("A/0", "A/1", "B/0", *(n + "@90" for n in NAMES),
                          *(n + "@180" for n in NAMES), *(n + "@270" for n in NAMES))  # fmt: skip
    assert four.scale == 255 and four.sizes == (6,) * 12 and four.x.dtype == jnp.uint8
    np.testing.assert_array_equal(four.info["n"], np.tile(np.arange(3), 4))
    for label in range(12):
        np.testing.assert_array_equal(four.x[four.y == label], turned(label))


def classes_of(task, ways, queries):
    """The classes whose images a task consists of, by number."""
    found = []
    for way in range(ways):
        mine = [task.support.x[way], *task.query.x[queries * way : queries * (way + 1)]]
        mine = {np.rint(255 * one).astype(np.uint8).tobytes() for one in mine}
        for label in range(12):
            if mine <= {np.ascontiguousarray(one).tobytes() for one in turned(label)}:
                found.append(label)
    return found


def test_episodes_have_turned_classes():
    task = data.episodes(ways=12, shots=1, queries=5)(data.rotated(source()), KEY)
    task = jax.tree.map(np.asarray, task)
    assert sorted(classes_of(task, 12, 5)) == list(range(12))


def test_turned_classes_are_of_the_same_group():
    for task in draw_list(data.grouped_episodes(4, 1, 2), 30, data.rotated(source())):
        found = classes_of(task, 4, 2)
        assert len(set(found)) == 4 and len({NAMES[label % 3][0] for label in found}) == 1


def test_batches_have_labels_of_turned_classes():
    batch = jax.jit(data.batches(64))(data.rotated(source()), KEY)
    assert len(np.unique(batch.y)) == 12
    for x, y in zip(np.rint(255 * np.asarray(batch.x)), np.asarray(batch.y), strict=True):
        assert (turned(y) == x[None]).all(axis=(1, 2, 3)).any()


def test_more_tasks_fit_into_more_classes():
    four = data.rotated(source())
    task = jax.eval_shape(data.continual(2, 6, 1, 1), four, KEY)
    assert task.support.x.shape == (6, 2, 4, 4, 1)
    sample = data.semi_supervised(5, 1, 1, unlabelled=2, distractors=7)
    task = jax.eval_shape(sample, four, KEY)
    assert task.support.x.shape == (5 + 24, 4, 4, 1) and task.support.x.dtype == jnp.float32
    with pytest.raises(ValueError, match="ways=13 must not exceed the number of classes, 12"):
        data.episodes(13, 1, 1)(four, KEY)


def test_rows_on_disk_are_turned_as_they_are_read():
    rows, read = on_disk()
    four = data.rotated(source())
    assert rows.names == four.names
    numbers = np.asarray(rows.x)
    np.testing.assert_array_equal(read(numbers), four.x)
    read = pickle.loads(pickle.dumps(read))  # as worker processes are given it
    np.testing.assert_array_equal(
        read(numbers[:70].reshape(7, 10)), four.x[:70].reshape(7, 10, 4, 4, 1)
    )
    part = data.select(rows, lambda name: name == "B/0@180")
    np.testing.assert_array_equal(read(np.asarray(part.x)), turned(8))


def test_what_cannot_be_turned_is_refused():
    with pytest.raises(ValueError, match=r"Rotations need square images .*uint8\[18, 4, 2, 1\]"):
        data.rotated(data.dataset(PICTURES[:, :, :2], LABELS))
    with pytest.raises(ValueError, match="Rotations need square images"):
        data.rotated(data.dataset({"a": PICTURES}, LABELS))
    with pytest.raises(ValueError, match="Rotations need square images"):
        data.rotated(data.dataset(np.arange(18), LABELS))
    with pytest.raises(ValueError, match=r"must be their numbers, int\[examples\], got uint8\[18"):
        data.rotated(source(), fetch=fetch)
    rows = data.dataset(np.arange(18, dtype=np.int32), LABELS)
    _, read = data.rotated(rows, fetch=lambda numbers: PICTURES[numbers, :, :3])
    with pytest.raises(ValueError, match=r"Rotations need square images .*uint8\[2, 4, 3, 1\]"):
        read(np.array([1, 2]))
    with pytest.raises(ValueError, match="Row numbers must lie in 0 to 536870911"):
        data.rotated(data.dataset(np.array([0, 2**30], np.int32), [0, 1]), fetch=fetch)
    with pytest.raises(ValueError, match=r"a name of its own, but several are \['a@90'\]"):
        data.rotated(data.dataset(PICTURES, LABELS, names=["a", "a@90", "b"]))
