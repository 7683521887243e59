"""Sequences of tasks, for continual learning."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn_tasks import KEY, draw_list

import metajax as mj
from metajax.data.tasks.sequences import continual


def rows(**options):
    """Eight classes of ten examples; an example is the number of its row."""
    x = np.arange(80, dtype=np.int32)[:, None]
    return mj.data.dataset(x, np.arange(80) // 10, **options)


@pytest.mark.parametrize("local", [False, True])
def test_no_class_comes_twice(local):
    sample = continual(2, 3, 2, 3, local=local)
    for sequence in draw_list(sample, 50, rows(info=np.arange(8.0))):
        support, query = sequence.support, sequence.query
        assert support.x.shape == (3, 4, 1) and query.x.shape == (3, 6, 1)
        owner = support.x[..., 0] // 10
        assert len(set(owner.reshape(-1).tolist())) == 6
        np.testing.assert_array_equal(query.x[..., 0] // 10, np.repeat(owner[:, ::2], 3, axis=1))
        seen = [*support.x.reshape(-1), *query.x.reshape(-1)]
        assert len(set(seen)) == len(seen)
        labels = np.arange(6).reshape(3, 2) % (2 if local else 6)
        np.testing.assert_array_equal(support.y, np.repeat(labels, 2, axis=1))
        np.testing.assert_array_equal(query.y, np.repeat(labels, 3, axis=1))
        assert support.y.dtype == np.int32
        for now in range(3):  # the side information of a class is in the row of its label
            np.testing.assert_array_equal(support.info[now][support.y[now]], owner[now])
        assert support.info.shape == ((3, 2) if local else (3, 6))


def test_a_sequence_is_learned_in_a_scan():
    """Class means that grow: at the end, one head separates all classes."""
    x = np.repeat(10 * np.eye(6), 5, axis=0) + np.random.default_rng(0).normal(size=(30, 6))
    sequence = continual(2, 3, 2, 3)(mj.data.dataset(x, np.arange(30) // 5), KEY)

    def learn(sums, task):
        return sums + jax.nn.one_hot(task.support.y, 6).T @ task.support.x, None

    means = jax.lax.scan(learn, jnp.zeros((6, 6)), sequence)[0]
    seen = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), sequence.query)
    np.testing.assert_array_equal((seen.x @ means.T).argmax(axis=1), seen.y)


def test_sequences_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="tasks must be a whole number, 1 or more, got 0"):
        continual(2, 0, 1, 1)
    with pytest.raises(ValueError, match="shots must be a whole number, 1 or more, got 0"):
        continual(2, 2, 0, 1)
    with pytest.raises(
        ValueError, match="ways=3 in each of tasks=3 must not exceed the number of classes, 8"
    ):
        continual(3, 3, 1, 1)(rows(), KEY)
    with pytest.raises(
        ValueError, match="shots=6, queries=5 together must not exceed the 10 examples"
    ):
        continual(2, 2, 6, 5)(rows(), KEY)
