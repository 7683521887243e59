"""Examples that are in two parts of a data set."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

import metajax as mj
from metajax import data
from metajax.data.leaks import check_leaks

NAMES = [f"alphabet{number % 5}/character{number}" for number in range(20)]
IMAGES = np.arange(5 * 4, dtype=np.uint8).reshape(5, 2, 2, 1)


@functools.cache
def letters():
    """An example is (class, number in it)."""
    x = np.stack(np.meshgrid(np.arange(20), np.arange(4), indexing="ij"), axis=-1)
    return data.dataset(x.reshape(-1, 2).astype(np.int32), np.arange(80) // 4, names=NAMES)


@pytest.mark.parametrize("group", [None, data.group_of])
def test_parts_of_a_split_have_no_example_in_common(group):
    """Tasks that are drawn from them have none either: see test_data_tasks."""
    for seed in range(10):
        split = data.draw_split(NAMES, {"train": 3, "test": 2}, seed=seed, group=group)
        parts = {part: data.select_part(letters(), split, part) for part in split.parts}
        check_leaks(**parts)


def test_examples_in_two_parts_are_found():
    train = data.dataset(IMAGES[[0, 0, 1]], np.array([0, 0, 1]), names=["a", "b"])
    other = data.dataset(IMAGES[3:], np.arange(2))
    check_leaks(train=train, test=other)  # a copy within a part is no leak
    test = data.dataset(IMAGES[[0, 1, 1, 4]], np.array([0, 1, 1, 1]), names=["x", "y"])
    with pytest.raises(
        ValueError, match=r"3 examples are in two parts: .*\"'y' of test = 'b' of train\": 2"
    ) as raised:
        check_leaks(train=train, test=test)
    assert "\"'x' of test = 'a' of train\": 1" in str(raised.value)
    last = data.dataset(IMAGES[4:], np.arange(1))
    with pytest.raises(ValueError, match="1 examples are in two parts"):
        check_leaks(train=train, validation=other, test=last)


def several(present):
    """Two modalities; what is absent is zero."""
    value = {"image": IMAGES, "audio": np.ones((5, 3), np.int16)}
    x = mj.data.as_modalities(value, {"audio": np.full(5, present)})
    return data.dataset(x, np.arange(5), names=[f"class{number}" for number in range(5)])


def test_an_example_is_all_of_its_modalities():
    check_leaks(train=several(True), test=several(False))
    with pytest.raises(ValueError, match="5 examples are in two parts"):
        check_leaks(train=several(True), test=several(True))
    low = data.dataset(jnp.ones((2, 3), jnp.bfloat16), np.arange(2))
    with pytest.raises(ValueError, match="2 examples are in two parts"):
        check_leaks(train=low, test=low)


def test_data_on_disk_is_read_once():
    """Blocks of 256: 600 examples are three of them."""
    image = np.arange(1200, dtype=np.int32).reshape(600, 2)
    asked = []

    def fetch(numbers):
        asked.append(len(numbers))
        return image[numbers]

    rows = data.dataset(np.arange(600, dtype=np.int32), np.arange(600) // 100)
    train = data.select(rows, lambda name: name < "3")
    test = data.select(rows, lambda name: name >= "3")
    check_leaks(train=(train, fetch), test=(test, fetch))
    assert asked == [1, 1, 256, 44, 256, 44]
    with pytest.raises(ValueError, match=r"300 examples are in two parts: .*'0' of all = '0' of t"):
        check_leaks(train=(train, fetch), all=data.dataset(image, np.arange(600) // 100))


def test_what_cannot_be_compared_is_refused():
    small = data.dataset(np.zeros((2, 2, 2, 1), np.uint8), np.arange(2))
    large = data.dataset(np.zeros((2, 4, 4, 1), np.uint8), np.arange(2))
    with pytest.raises(
        ValueError, match=r"same shapes and dtypes can be compared, got .*uint8\[2, 2, 1\]"
    ):
        check_leaks(train=small, test=large)
    rows = data.dataset(np.arange(2, dtype=np.int32), np.arange(2))
    with pytest.raises(ValueError, match=r"if they are row numbers, give \(rows, fetch\) instead"):
        check_leaks(train=rows, test=rows)
