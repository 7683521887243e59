"""Which rows of a data set a sampler draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn_tasks import KEY, numbered

from metajax import data
from metajax.data.tasks.row_numbers import draw_numbers, picked_rows

SOURCE = numbered([5, 6, 7], scale=2)


def rows_of(sample):
    forwards, backwards = draw_numbers(sample, SOURCE, KEY)
    return picked_rows(forwards.x, backwards.x, 18), forwards


def test_the_rows_are_those_that_are_drawn():
    rows, batch = rows_of(data.batches(20))
    drawn = data.batches(20)(SOURCE, KEY)
    assert rows.dtype == np.int32
    np.testing.assert_array_equal(2 * drawn.x[:, 0], 1 + rows)  # SOURCE has 1 + row, and scale 2
    np.testing.assert_array_equal(batch.y, drawn.y)


def test_padding_is_row_minus_one():
    sample = data.varied_episodes((2, 3), support=9, queries=2)
    forwards, backwards = draw_numbers(sample, SOURCE, jax.random.key(3))
    rows = picked_rows(forwards.support.x, backwards.support.x, 18)
    np.testing.assert_array_equal(rows == -1, forwards.support.weight == 0)
    assert (rows == -1).any() and rows.max() < 18


CHANGES = {
    "moved": lambda x: x + 1,
    "inverted": lambda x: 255 - x,
    "doubled": lambda x: 2 * x,
    "clipped": lambda x: jnp.clip(x, 0, 3),
    "halved": lambda x: x / 2,
    "wider": lambda x: x.astype(jnp.int64),
    "several": lambda x: {"a": x},
    "sums": lambda x: x + x[::-1],
}


@pytest.mark.parametrize("name", CHANGES)
def test_changed_numbers_are_noticed(name):
    def sample(dataset, key):
        batch = data.batches(20)(dataset, key)
        return batch._replace(x=CHANGES[name](batch.x))

    assert rows_of(sample)[0] is None
