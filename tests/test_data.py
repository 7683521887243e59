import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metajax as mj
from metajax import data
from metajax.data.tasks.drawing import draw

KEY = jax.random.key(0)
COUNTS = [4, 9, 6, 5, 7]


def unequal():
    """Five classes of unequal size, given out of order; an example is (class, number within the class)."""
    y = np.repeat(np.arange(5), COUNTS)
    x = np.stack([y, np.concatenate([np.arange(count) for count in COUNTS])], axis=1)
    order = np.random.default_rng(0).permutation(len(y))
    return data.dataset(
        x[order].astype(np.int32), y[order], names=[f"group{c % 2}/{c}" for c in range(5)]
    )


def images(classes=6, each=5):
    rng = np.random.default_rng(0)
    return data.dataset(
        rng.integers(0, 255, (classes * each, 8, 8, 1)).astype(np.uint8),
        np.arange(classes * each) % classes,
    )


def test_dataset_is_sorted_by_class_and_keeps_its_dtype():
    source = unequal()
    np.testing.assert_array_equal(source.x[:, 0], source.y)
    np.testing.assert_array_equal(source.count, COUNTS)
    np.testing.assert_array_equal(source.y[source.start], np.arange(5))
    assert images().x.dtype == jnp.uint8
    assert source.names[3] == "group1/3"


def test_select_relabels():
    part = data.select(unequal(), lambda name: name.startswith("group1/"))
    assert part.names == ("group1/1", "group1/3")
    np.testing.assert_array_equal(part.x[:, 0], np.repeat([1, 3], [9, 5]))
    np.testing.assert_array_equal(part.y, np.repeat([0, 1], [9, 5]))


@pytest.mark.parametrize(("number", "total"), [(3, 4), (4, 4), (1, 9)])
def test_draws_are_uniform_and_without_replacement(number, total):
    bits = jax.random.bits(KEY, (20_000, number), jnp.uint32)
    drawn = np.asarray(jax.jit(jax.vmap(draw, (0, None)))(bits, total))
    assert all(len(set(row)) == number for row in drawn[:500].tolist())
    orders, counts = np.unique(drawn, axis=0, return_counts=True)
    arrangements = np.prod(np.arange(total - number + 1, total + 1))
    assert len(orders) == arrangements
    expected = len(drawn) / arrangements
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert chi_square < arrangements + 4 * np.sqrt(2 * arrangements)


def test_episodes_of_unequal_classes():
    source = unequal()
    sample = data.episodes(ways=3, shots=1, queries=3)
    tasks = jax.jit(data.meta_batch(sample, 200))(source, KEY)
    for number in range(200):
        task = jax.tree.map(lambda leaf: np.asarray(leaf[number]), tasks)  # noqa: B023
        np.testing.assert_array_equal(task.support.y, np.arange(3))
        np.testing.assert_array_equal(task.query.y, np.repeat(np.arange(3), 3))
        rows = np.concatenate([task.support.x, task.query.x])
        assert len(np.unique(rows, axis=0)) == len(rows)  # without replacement
        assert (rows[:, 1] < np.array(COUNTS)[rows[:, 0]]).all()
        classes = task.support.x[:, 0]
        assert len(set(classes.tolist())) == 3
        np.testing.assert_array_equal(task.query.x[:, 0], np.repeat(classes, 3))
    seen = np.unique(np.asarray(tasks.query.x).reshape(-1, 2), axis=0)
    assert len(seen) == sum(COUNTS)
    labels = [np.bincount(np.asarray(tasks.support.x[:, way, 0]), minlength=5) for way in range(3)]
    assert (np.array(labels) > 15).all()  # any class may have any label


def test_rotations_are_new_classes():
    source = images(classes=2)
    task = data.episodes(ways=8, shots=1, queries=4, rotations=True)(source, KEY)
    assert task.support.x.dtype == jnp.float32
    pictures = np.asarray(source.x)
    matches = []
    for way in range(8):
        mine = jnp.concatenate([task.support.x[way : way + 1], task.query.x[4 * way : 4 * way + 4]])
        mine = np.rint(255 * np.asarray(mine)).astype(np.uint8)
        for label in range(2):
            for turns in range(4):
                turned = np.rot90(pictures[np.asarray(source.y) == label], turns, axes=(1, 2))
                same = {row.tobytes() for row in np.ascontiguousarray(turned)} == {
                    row.tobytes() for row in mine
                }
                matches += [(label, turns)] if same else []
    assert sorted(matches) == [(label, turns) for label in range(2) for turns in range(4)]


def test_values_stay_as_they_are_stored_without_scale():
    sizes = {"ways": 2, "shots": 1, "queries": 2, "rotations": True}
    stored, scaled = (data.episodes(**sizes, scale=scale)(images(), KEY) for scale in (False, True))
    assert stored.query.x.dtype == jnp.uint8
    np.testing.assert_array_equal(stored.query.x.astype(jnp.float32) / 255, scaled.query.x)


def test_batches_have_global_labels():
    source = images(classes=3)
    batch = jax.jit(data.batches(64, rotations=True))(source, KEY)
    assert batch.x.dtype == jnp.float32
    pictures = np.asarray(source.x)
    for x, y in zip(np.rint(255 * np.asarray(batch.x)), np.asarray(batch.y), strict=True):
        turned = np.rot90(pictures[np.asarray(source.y) == y % 3], y // 3, axes=(1, 2))
        assert any(np.array_equal(x, picture) for picture in turned)
    plain = data.batches(64)(source, KEY)
    assert int(plain.y.max()) < 3


def test_sinusoids_are_sinusoids():
    task = data.sinusoids(shots=5, queries=50)((), KEY)
    x = np.concatenate([task.support.x, task.query.x])[:, 0]
    y = np.concatenate([task.support.y, task.query.y])[:, 0]
    design = np.stack([np.sin(x), np.cos(x)], axis=1)
    solution, residual, *_ = np.linalg.lstsq(design, y, rcond=None)
    assert residual < 1e-8
    assert 0.1 <= np.hypot(*solution) <= 5.0


def test_class_splits_are_disjoint():
    source = images(classes=6)
    parts = data.split_classes(source, (3, 1, 2), seed=1)
    names = [set(part.names) for part in parts]
    assert [len(part) for part in names] == [3, 1, 2]
    assert set.union(*names) == set(source.names)
    assert data.split_classes(source, (3, 1, 2), seed=1)[0].names == parts[0].names
    assert any(
        data.split_classes(source, (3, 1, 2), seed=seed)[0].names != parts[0].names
        for seed in range(2, 5)
    )


def test_omniglot_is_read_whole(packs):
    source = data.omniglot()
    assert source.x.shape == (32460, 28, 28, 1)
    assert source.x.dtype == jnp.uint8
    assert source.classes == 1623
    assert (source.count == 20).all()
    assert sum(name.startswith("images_evaluation/") for name in source.names) == 659


def test_a_missing_or_damaged_pack_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("METAJAX_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match="set the environment variable METAJAX_DATA"):
        data.omniglot()
    monkeypatch.setenv("METAJAX_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"omniglot\.npz does not exist"):
        data.omniglot()
    path = tmp_path / "omniglot.npz"
    np.savez(path, image=np.zeros((2, 28, 28), np.uint8))
    with pytest.raises(ValueError, match=r"is damaged .*it must have the arrays"):
        data.omniglot()
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="is damaged"):
        data.omniglot()


BAD = {
    "float labels": (np.zeros((2, 1)), np.array([0.0, 1.0]), "Labels must be integers"),
    "negative labels": (np.zeros((2, 1)), np.array([-1, 0]), "Labels must lie in 0 to"),
    "a class without example": (
        np.zeros((2, 1)),
        np.array([0, 2]),
        r"Classes \[1\] have no example",
    ),
    "lengths that differ": (np.zeros((3, 1)), np.array([0, 1]), "same, positive number of rows"),
    "nothing": (np.zeros((0, 1)), np.array([], int), "same, positive number of rows"),
    "NaN": (np.array([[0.0], [np.nan]]), np.array([0, 1]), r"not finite in rows \[1\]"),
    "large integers": (
        np.array([[0, 1], [0, 2**31]]),
        np.array([0, 1]),
        r"x is too large for int32 in rows \[1\]",
    ),
    "large numbers": (
        np.array([1e39, 1.0]),
        np.array([0, 1]),
        r"x is too large for float32 in rows \[0\]; rescale",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_values_are_refused_by_dataset(case):
    x, y, message = BAD[case]
    with jax.enable_x64(False), pytest.raises(ValueError, match=message):
        data.dataset(x, y)


def test_two_classes_of_one_name_are_refused():
    with pytest.raises(ValueError, match=r"names of their own, but several are \['a'\]"):
        data.dataset(np.zeros((3, 1)), np.arange(3), names=["a", "b", "a"])


def test_a_choice_of_classes_is_of_bools():
    with pytest.raises(ValueError, match=r"one bool for each of the 3 classes, got int64\[2\]"):
        data.select(data.dataset(np.zeros((3, 1)), np.arange(3)), [0, 1])


def test_labels_beyond_the_names_are_refused():
    with pytest.raises(ValueError, match="0 to 1, got 0 to 2"):
        data.dataset(np.zeros((3, 1)), np.arange(3), names=["a", "b"])


def test_episodes_that_do_not_fit_are_refused():
    source = unequal()
    with pytest.raises(ValueError, match="ways=6 must not exceed the number of classes, 5"):
        data.episodes(6, 1, 1)(source, KEY)
    with pytest.raises(
        ValueError, match="shots=2, queries=3 must not exceed together the 4 examples"
    ):
        data.episodes(2, 2, 3)(source, KEY)
    with pytest.raises(ValueError, match="ways=21"):
        jax.jit(data.episodes(21, 1, 1, rotations=True))(source, KEY)
    with pytest.raises(ValueError, match="shots must be a whole number, 1 or more, got 0"):
        data.episodes(2, 0, 1)
    with pytest.raises(ValueError, match="Rotations need square images"):
        data.episodes(2, 1, 1, rotations=True)(source, KEY)
    for wrong in (functools.partial(data.batches, 0), functools.partial(data.sinusoids, 0, 1)):
        with pytest.raises(ValueError, match="must be a whole number, 1 or more, got 0"):
            wrong()
    with pytest.raises(ValueError, match="tasks must be a whole number"):
        data.meta_batch(data.batches(1), 0)
    with pytest.raises(ValueError, match=r"No class is left of 5, such as \('group0/0'"):
        data.select(source, lambda name: False)
    with pytest.raises(ValueError, match="one bool for each of the 5 classes"):
        data.select(source, [True])
    with pytest.raises(
        ValueError, match=r"sizes=\(4, 2\) must be 1 or more and sum to at most the 5 classes"
    ):
        data.split_classes(source, (4, 2))


def test_too_small_a_class_is_also_refused_under_jit_where_the_dataset_is_an_argument():
    with pytest.raises(
        ValueError, match=r"shots=2, queries=3 .*: 4\}; ask for fewer, or use .*dataset.count >= 5"
    ):
        jax.jit(data.episodes(2, 2, 3))(unequal(), KEY)


def test_check_task_checks_values():
    task = data.episodes(2, 1, 2)(images(), KEY)
    data.check_task(task, ways=2)
    with pytest.raises(ValueError, match="support set must be integers in 0 to 0"):
        data.check_task(task, ways=1)
    with pytest.raises(ValueError, match="support set must be integers"):
        data.check_task(
            task._replace(support=task.support._replace(y=jnp.array([0.0, 1.0]))), ways=2
        )
    with pytest.raises(ValueError, match="of the query set is not finite"):
        data.check_task(
            task._replace(query=task.query._replace(x=task.query.x.at[0].set(jnp.nan))), ways=2
        )
    with pytest.raises(ValueError, match="must have the same shape"):
        data.check_task(task._replace(query=task.query._replace(x=task.query.x[:, :4])), ways=2)
    with pytest.raises(ValueError, match="4 rows of x and 2 labels"):
        data.check_task(task._replace(query=task.query._replace(y=task.query.y[:2])), ways=2)
    assert mj.Task is type(task)


def several(rows=6):
    value = {
        "image": np.full((rows, 4, 4, 1), 255, np.uint8),
        "audio": np.full((rows, 8), 16384, np.int16),
    }
    return value, {"audio": np.arange(rows) % 3 > 0}


def test_several_modalities_go_through_data_sets_and_episodes():
    value, present = several(12)
    value["audio"][::3] = 7  # absent
    x = mj.data.as_modalities(value, present)
    info = {"height": np.array([1.0, 2.0, 3.0]), "icon": np.full((3, 2), 51, np.uint8)}
    data = mj.data.dataset(x, np.repeat([2, 0, 1], 4), names=["a", "b", "c"], info=info)
    assert np.asarray(data.x.value["audio"])[~np.asarray(data.x.present["audio"])].max() == 0
    chosen = mj.data.select(data, lambda name: name != "b")
    np.testing.assert_array_equal(chosen.info["height"], [1.0, 3.0])
    task = jax.jit(mj.data.episodes(2, 1, 3))(chosen, jax.random.key(1))
    assert (
        task.support.x.value["image"].max() == 1
        and task.support.x.value["audio"].dtype == jnp.float32
    )
    there = np.asarray(task.query.x.present["audio"])
    np.testing.assert_array_equal(np.asarray(task.query.x.value["audio"])[:, 0], 0.5 * there)
    assert sorted(task.support.info["height"].tolist()) == [1, 3] and np.allclose(
        task.support.info["icon"], 0.2
    )
    assert task.query.info == ()
    heights = {
        float(mj.data.episodes(1, 1, 1)(data, jax.random.key(s)).support.info["height"][0])
        for s in range(20)
    }
    assert heights == {1.0, 2.0, 3.0}, "of the class that was drawn"
    mj.data.check_task(task, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value, present: value.clear(), "same number of examples"),
        (lambda value, present: value.update(audio=value["audio"][:3]), "same number of examples"),
        (lambda value, present: present.update(adio=present["audio"]), r"\['adio'\], but .*\['audio', 'image'\]"),
        (lambda value, present: present.update(audio=present["audio"][:3]), r"bool\[6\].*got bool\[3\]"),
        (lambda value, present: present.update(audio=np.ones(6)), r"bool\[6\].*got float64\[6\]"),
    ],
)  # fmt: skip
def test_errors_of_modalities(change, message):
    value, present = several()
    change(value, present)
    with pytest.raises(ValueError, match=message):
        mj.data.as_modalities(value, present)
    with pytest.raises(ValueError, match=message):
        mj.data.dataset(
            mj.Modalities(value, {**dict.fromkeys(value, np.ones(6, bool)), **present}),
            np.arange(6),
        )


def test_errors_of_what_is_known_of_classes():
    with pytest.raises(ValueError, match="one row for each of the 3 classes"):
        mj.data.dataset(np.ones((3, 1)), np.arange(3), info=np.ones(2))
    with pytest.raises(ValueError, match=r"info\['a'\] is not finite in rows \[1\]"):
        mj.data.dataset(np.ones((3, 1)), np.arange(3), info={"a": np.array([0, np.nan, 0])})
