"""Photographs of groceries, on a small file made here."""

import io
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from metajax.data.sets.grocery import groceries, grocery_descriptions

COLOURS = [(200, 30, 30), (30, 200, 30), (30, 30, 200)]


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """Writes three products: a photograph of each in "train" and of the last in "test".

    A photograph is a square of one colour between black margins.
    """
    monkeypatch.setenv("METAJAX_DATA", str(tmp_path))

    def write(damaged=None):
        pictures = []
        for colour in [*COLOURS, COLOURS[2]]:
            picture, file = np.zeros((16, 32, 3), np.uint8), io.BytesIO()
            picture[:, 8:24] = colour
            Image.fromarray(picture).save(file, "JPEG", quality=95, subsampling=0)
            pictures.append(np.frombuffer(file.getvalue(), np.uint8))
        if damaged is not None:
            pictures[damaged] = pictures[damaged][:40]
        np.savez(
            tmp_path / "grocery.npz",
            jpeg=np.concatenate(pictures),
            offset=np.cumsum([0, *(len(picture) for picture in pictures)]),
            fine=np.array([0, 1, 2, 2]),
            split=["train", "train", "train", "test"],
            fine_name=["a", "b", "c"],
            coarse_name=["A", "A", "C"],
            description=["red", "green", "blue"],
            iconic=np.arange(3)[:, None, None, None] * np.full((1, 64, 64, 3), 51, np.uint8),
        )

    return write


def test_photographs_are_cropped_resized_and_named(shop):
    shop()
    source = groceries(size=4)
    assert source.x.shape == (4, 4, 4, 3) and source.x.dtype == jnp.uint8 and source.scale == 255
    mean = np.asarray(source.x).mean((1, 2))
    np.testing.assert_allclose(mean, np.array([*COLOURS, COLOURS[2]]), atol=12)
    assert source.names == ("A/a", "A/b", "C/c")
    assert grocery_descriptions() == {"A/a": "red", "A/b": "green", "C/c": "blue"}


def test_iconic_pictures_are_floats_of_the_classes_that_are_left(shop):
    shop()
    test = groceries(size=4, split="test")
    assert test.names == ("C/c",)
    iconic = np.asarray(test.info["iconic"])
    assert iconic.shape == (1, 64, 64, 3) and iconic.dtype == np.float32
    np.testing.assert_array_equal(iconic, np.float32(102) / np.float32(255))


def test_wrong_requests_are_refused(shop):
    shop()
    with pytest.raises(ValueError, match=r"split='valid' is not one of \['test', 'train'\]"):
        groceries(split="valid")
    with pytest.raises(ValueError, match="size must be a whole number, 1 or more, got 0"):
        groceries(size=0)


def test_a_damaged_photograph_is_named(shop, monkeypatch):
    shop(damaged=2)
    with pytest.raises(ValueError, match="photograph in row 2 cannot be decoded"):
        groceries()
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r"pip install 'metajax\[data\]'"):
        groceries()
