"""Images to complete, pixel by pixel."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from drawn_tasks import KEY, draw_list

from metajax import data
from metajax.data.tasks.pixels import image_completion


@functools.cache
def pictures():
    """Four images of 5 by 6, in which no value comes twice."""
    image = np.random.default_rng(0).permutation(4 * 5 * 6 * 3).reshape(4, 5, 6, 3)
    return data.dataset(image.astype(np.float32), np.array([0, 0, 0, 1]))


def test_completion_shows_pixels_where_they_are():
    image = np.asarray(pictures().x)
    numbers, places = [], []
    for task in draw_list(image_completion(7, 9), 400, pictures()):
        assert task.support.x.dtype == np.float32 and task.support.y.shape == (7, 3)
        x = np.concatenate([task.support.x, task.query.x])
        y = np.concatenate([task.support.y, task.query.y])
        row = np.rint((x[:, 0] + 1) / 2 * 4).astype(int)
        column = np.rint((x[:, 1] + 1) / 2 * 5).astype(int)
        same = (image[:, row[0], column[0]] == y[:1]).all(axis=1)
        number = same.argmax()
        np.testing.assert_array_equal(image[number, row, column], y)
        exact = np.stack([2 * row / 4 - 1, 2 * column / 5 - 1], axis=1)
        np.testing.assert_allclose(x, exact, atol=1e-6)
        assert len({*zip(row, column, strict=True)}) == 16, "without replacement, in both sets"
        numbers.append(number)
        places.append(row[0] * 6 + column[0])
    assert scipy.stats.chisquare(np.bincount(numbers, minlength=4)).pvalue > 1e-3
    assert scipy.stats.chisquare(np.bincount(places, minlength=30)).pvalue > 1e-3


def test_completion_may_ask_for_all_of_the_image():
    image = np.repeat(np.array([255, 85], np.uint8), 12).reshape(2, 3, 4, 1)
    source = data.dataset(image, np.arange(2), scale=255)
    task = image_completion(5)(source, KEY)
    corners = [[-1, -1], [-1, 1], [1, -1], [1, 1]]
    np.testing.assert_array_equal(np.asarray(task.query.x)[[0, 3, 8, 11]], corners)
    assert task.query.y.shape == (12, 1) and task.query.y.dtype == jnp.float32
    assert float(task.query.y[0, 0]) in (1.0, np.float32(1 / 3))


def test_what_is_no_image_is_refused():
    with pytest.raises(ValueError, match="pixels must be a whole number"):
        image_completion(0)
    with pytest.raises(ValueError, match="queries must be a whole number"):
        image_completion(1, 0)
    with pytest.raises(ValueError, match="pixels=20 and queries=11 must not exceed the 30 pixels"):
        image_completion(20, 11)(pictures(), KEY)
    with pytest.raises(ValueError, match="pixels=31 and queries=None must not exceed the 30"):
        image_completion(31)(pictures(), KEY)
    with pytest.raises(ValueError, match=r"Completion needs images .* got \(4, 2\)"):
        image_completion(1)(data.dataset(np.zeros((4, 2)), np.arange(4)), KEY)
    several = data.as_modalities({"a": np.zeros((4, 2))})
    with pytest.raises(ValueError, match="Completion needs images"):
        image_completion(1)(data.dataset(several, np.arange(4)), KEY)
