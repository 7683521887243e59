"""How rows are drawn from a data set."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn_tasks import KEY

from metajax import data
from metajax.data.tasks.drawing import draw_distinct, swap_places, take_info


@pytest.mark.parametrize(("number", "total"), [(3, 4), (4, 4), (1, 9)])
def test_draws_are_uniform_and_without_replacement(number, total):
    bits = jax.random.bits(KEY, (20_000, number), jnp.uint32)
    drawn = np.asarray(jax.jit(jax.vmap(draw_distinct, (0, None)))(bits, total))
    assert all(len(set(row)) == number for row in drawn[:500].tolist())
    orders, counts = np.unique(drawn, axis=0, return_counts=True)
    arrangements = np.prod(np.arange(total - number + 1, total + 1))
    assert len(orders) == arrangements
    expected = len(drawn) / arrangements
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert chi_square < arrangements + 4 * np.sqrt(2 * arrangements)


def test_swaps_are_those_of_a_list():
    places, targets = np.arange(5), np.array([3, 3, 7, 4, 7])
    content = list(range(8))
    expected = []
    for place, target in zip(places, targets, strict=True):
        content[place], content[target] = content[target], content[place]
        expected.append(content[place])
    drawn = swap_places(jnp.asarray(places, jnp.int32), jnp.asarray(targets, jnp.int32))
    np.testing.assert_array_equal(drawn, expected)


def test_examples_are_scaled_and_side_information_is_not():
    image = np.array([[0], [51], [255]], np.uint8)
    source = data.dataset(image, np.arange(3), info=image, scale=255)
    examples = data.take_examples(source, jnp.array([2, 0]))
    assert examples.dtype == jnp.float32
    np.testing.assert_array_equal(examples, [[1.0], [0.0]])
    info = take_info(source, jnp.array([1]))
    assert info.dtype == jnp.uint8 and info.tolist() == [[51]]
