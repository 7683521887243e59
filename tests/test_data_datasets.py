"""Data sets: sorted by class, checked, scaled as declared, and parts of them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metajax as mj
from metajax import data

COUNTS = [4, 9, 6, 5, 7]


def unequal():
    """Five classes of unequal size, given out of order; an example is (class, number in it)."""
    y = np.repeat(np.arange(5), COUNTS)
    x = np.stack([y, np.concatenate([np.arange(count) for count in COUNTS])], axis=1)
    order = np.random.default_rng(0).permutation(len(y))
    names = [f"group{label % 2}/{label}" for label in range(5)]
    return data.dataset(x[order].astype(np.int32), y[order], names=names)


def test_dataset_is_sorted_by_class_and_keeps_its_dtype():
    source = unequal()
    np.testing.assert_array_equal(source.x[:, 0], source.y)
    np.testing.assert_array_equal(source.count, COUNTS)
    np.testing.assert_array_equal(source.y[source.start], np.arange(5))
    assert source.names[3] == "group1/3" and source.sizes == tuple(COUNTS)
    assert source.classes == 5 and source.smallest == 4
    assert data.dataset(np.zeros((2, 3), np.uint8), [0, 1]).x.dtype == jnp.uint8


def test_select_relabels():
    part = data.select(unequal(), lambda name: name.startswith("group1/"))
    assert part.names == ("group1/1", "group1/3")
    np.testing.assert_array_equal(part.x[:, 0], np.repeat([1, 3], [9, 5]))
    np.testing.assert_array_equal(part.y, np.repeat([0, 1], [9, 5]))


def several(rows=6):
    value = {
        "image": np.full((rows, 4, 4, 1), 255, np.uint8),
        "audio": np.full((rows, 8), 16384, np.int16),
    }
    return value, {"audio": np.arange(rows) % 3 > 0}


def test_the_scale_is_kept_and_can_be_left_out():
    value, present = several()
    x = data.as_modalities(value, present)
    source = data.dataset(x, np.arange(6) // 2, scale={"image": 255, "audio": 32768})
    assert source.scale == (("audio", 32768.0), ("image", 255.0))
    assert data.select(source, [True, False, True]).scale == source.scale
    drawn = data.take_examples(source, np.array([1, 0])).value
    np.testing.assert_array_equal(drawn["image"], np.ones((2, 4, 4, 1)))
    np.testing.assert_array_equal(drawn["audio"][:, 0], [0.5, 0.0])
    assert drawn["image"].dtype == drawn["audio"].dtype == jnp.float32
    stored = data.take_examples(dataclasses.replace(source, scale=None), np.array([1])).value
    assert stored["image"].dtype == jnp.uint8 and stored["audio"].dtype == jnp.int16
    scales = [hash(jax.tree.structure(one)) for one in (source, dataclasses.replace(source))]
    assert scales[0] == scales[1]


@pytest.mark.parametrize("number", [0, -1, float("nan"), float("inf"), True, "255"])
def test_a_scale_is_positive(number):
    with pytest.raises(ValueError, match=r"scale must be .*got"):
        data.dataset(np.zeros((2, 1), np.uint8), [0, 1], scale=number)


def test_a_scale_fits_the_examples():
    value, present = several()
    x = data.as_modalities(value, present)
    with pytest.raises(ValueError, match=r"\['adio'\] are not among the modalities"):
        data.dataset(x, np.arange(6), scale={"adio": 32768})
    with pytest.raises(ValueError, match=r"\['audio', 'image'\], so scale must be \{modality"):
        data.dataset(x, np.arange(6), scale=255)
    with pytest.raises(ValueError, match="but x has none; give one number instead"):
        data.dataset(value["image"], np.arange(6), scale={"image": 255})
    with pytest.raises(ValueError, match=r"scale=255 is declared for x of float64\[2, 1\]; leave"):
        data.dataset(np.zeros((2, 1)), [0, 1], scale=255)
    source = data.dataset(np.zeros((2, 1), np.uint8), [0, 1], scale=255)
    features = dataclasses.replace(source, x=jnp.ones((2, 3), jnp.float32))
    with pytest.raises(ValueError, match=r"declared for x of float32\[1, 3\]"):
        data.take_examples(features, np.array([0]))


def test_several_modalities_go_through_data_sets_and_episodes():
    value, present = several(12)
    value["audio"][::3] = 7  # absent
    x = data.as_modalities(value, present)
    info = {"height": np.array([1.0, 2.0, 3.0]), "icon": np.full((3, 2), 51, np.uint8)}
    source = data.dataset(
        x,
        np.repeat([2, 0, 1], 4),
        names=["a", "b", "c"],
        info=info,
        scale={"image": 255, "audio": 32768},
    )
    assert not np.asarray(source.x.value["audio"])[~np.asarray(source.x.present["audio"])].any()
    chosen = data.select(source, lambda name: name != "b")
    np.testing.assert_array_equal(chosen.info["height"], [1.0, 3.0])
    task = jax.jit(data.episodes(2, 1, 3))(chosen, jax.random.key(1))
    assert (task.support.x.value["image"] == 1).all()
    there = np.asarray(task.query.x.present["audio"])
    np.testing.assert_array_equal(np.asarray(task.query.x.value["audio"])[:, 0], 0.5 * there)
    assert sorted(task.support.info["height"].tolist()) == [1, 3] and task.query.info == ()
    icon = task.support.info["icon"]
    assert icon.dtype == jnp.uint8 and (icon == 51).all(), "side information is never scaled"
    one = jax.jit(data.episodes(1, 1, 1))
    heights = {float(one(source, jax.random.key(s)).support.info["height"][0]) for s in range(20)}
    assert heights == {1.0, 2.0, 3.0}, "of the class that was drawn"
    data.check_task(task, 2)


BAD = {
    "float labels": (np.zeros((2, 1)), np.array([0.0, 1.0]), "Labels must be integers"),
    "labels of two kinds": (
        np.zeros((2, 1)),
        ["a", 1],
        "y must be an array of numbers, or a sequence, each part a string, got",
    ),
    "labels in two columns": (
        np.zeros((2, 1)),
        np.array([["a"], ["b"]]),
        "y must be an array of numbers, or a sequence, each part a string, got <U1",
    ),
    "texts of another length": (np.zeros((3, 1)), ["a", "b"], "same, positive number of rows"),
    "negative labels": (np.zeros((2, 1)), np.array([-1, 0]), "Labels must lie in 0 to"),
    "an empty class": (np.zeros((2, 1)), np.array([0, 2]), r"Classes \[1\] have no example"),
    "lengths that differ": (np.zeros((3, 1)), np.array([0, 1]), "same, positive number of rows"),
    "nothing": (np.zeros((0, 1)), np.array([], int), "same, positive number of rows"),
    "NaN": (np.array([[0.0], [np.nan]]), np.array([0, 1]), r"x is not finite in rows \[1\]"),
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
def test_bad_values_are_refused(case):
    x, y, message = BAD[case]
    with jax.enable_x64(False), pytest.raises(ValueError, match=message):
        data.dataset(x, y)


MISSING = r"x\['price'\] is not finite in rows \[1\]; .*as_modalities\(.* present="


def test_the_error_of_a_missing_value_leads_to_modalities():
    x, labels = {"price": np.array([[0.0], [np.nan]])}, np.array([0, 1])
    with pytest.raises(ValueError, match=MISSING):
        data.dataset(x, labels)
    absent = data.as_modalities(x, present={"price": np.array([True, False])})
    assert np.isfinite(np.asarray(data.dataset(absent, labels).x.value["price"])).all()


LABELS = {
    "a list": ["dog", "cat", "ant", "dog"],
    "an array": np.array(["dog", "cat", "ant", "dog"]),
    "objects": np.array(["dog", "cat", "ant", "dog"], object),
    "texts of numpy": np.array(["dog", "cat", "ant", "dog"], np.dtypes.StringDType()),
}


@pytest.mark.parametrize("kind", LABELS)
def test_texts_as_labels_are_kept_as_sorted_names(kind):
    x = np.array([[2], [1], [0], [2]], np.int32)
    source = data.dataset(x, LABELS[kind])
    assert source.names == ("ant", "cat", "dog")
    assert source.y.tolist() == source.x[:, 0].tolist() == [0, 1, 2, 2]
    assert all(type(name) is str for name in source.names)
    ordered = data.dataset(x, LABELS[kind], names=["dog", "cat", "ant"])
    assert ordered.names == ("dog", "cat", "ant")
    assert ordered.x[:, 0].tolist() == [2, 2, 1, 0] and ordered.y.tolist() == [0, 0, 1, 2]


def test_texts_that_are_not_the_names_are_refused():
    with pytest.raises(ValueError, match=r"Labels must be among names, got \['c'\]; names are \["):
        data.dataset(np.zeros((2, 1)), ["a", "c"], names=["a", "b"])
    with pytest.raises(ValueError, match=r"Classes \[1\] have no example"):
        data.dataset(np.zeros((2, 1)), ["a", "a"], names=["a", "b"])


def test_bad_names_are_refused():
    with pytest.raises(ValueError, match=r"a name of its own, but several are \['a'\]"):
        data.dataset(np.zeros((3, 1)), np.arange(3), names=["a", "b", "a"])
    with pytest.raises(ValueError, match="0 to 1, got 0 to 2"):
        data.dataset(np.zeros((3, 1)), np.arange(3), names=["a", "b"])


def test_bad_choices_of_classes_are_refused():
    source = unequal()
    with pytest.raises(ValueError, match=r"one bool for each of the 5 classes, got int64\[2\]"):
        data.select(source, [0, 1])
    with pytest.raises(ValueError, match=r"one bool for each of the 5 classes, got bool\[1\]"):
        data.select(source, [True])
    with pytest.raises(ValueError, match=r"No class is left of 5, such as \('group0/0'"):
        data.select(source, lambda name: False)


def test_bad_side_information_is_refused():
    with pytest.raises(ValueError, match=r"one row for each of the 3 classes, got float64\[2\]"):
        data.dataset(np.ones((3, 1)), np.arange(3), info=np.ones(2))
    with pytest.raises(ValueError, match=r"info\['a'\] is not finite in rows \[1\]"):
        data.dataset(np.ones((3, 1)), np.arange(3), info={"a": np.array([0, np.nan, 0])})


def test_modalities_are_checked():
    value, present = several()
    present = {"audio": present["audio"][:3], "image": np.ones(6, bool)}
    with pytest.raises(ValueError, match=r"present\['audio'\] must be bool\[6\]"):
        data.dataset(mj.Modalities(value, present), np.arange(6))
