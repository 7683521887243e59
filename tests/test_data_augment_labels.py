"""Tasks whose classes are renumbered at random."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn_tasks import KEY, draw

import metajax as mj
from metajax import data
from metajax.data.augment.labels import permuted_labels

LABEL = jnp.arange(3, dtype=jnp.int32)
SUPPORT = mj.Batch(
    jnp.arange(6.0)[:, None], jnp.repeat(LABEL, 2), info={"number": jnp.array([10, 20, 30])}
)
TASK = mj.Task(SUPPORT, mj.Batch(jnp.arange(9.0)[:, None], jnp.repeat(LABEL, 3)))


def fixed(dataset, key):
    """A sampler of always the same task."""
    return TASK


def test_labels_are_permuted_alike_in_both_sets_and_in_info():
    tasks = draw(permuted_labels(fixed, 3), 600)
    for part in ("support", "query"):
        x = getattr(TASK, part).x
        np.testing.assert_array_equal(getattr(tasks, part).x, np.broadcast_to(x, (600, *x.shape)))
    assert tasks.support.y.dtype == tasks.query.y.dtype == np.int32
    new = tasks.support.y[:, ::2]  # of each old class
    assert (np.sort(new, axis=1) == np.arange(3)).all()
    np.testing.assert_array_equal(tasks.support.y, np.repeat(new, 2, axis=1))
    np.testing.assert_array_equal(tasks.query.y, np.repeat(new, 3, axis=1))
    numbers = np.take_along_axis(tasks.support.info["number"], new, axis=1)
    np.testing.assert_array_equal(numbers, np.broadcast_to([10, 20, 30], (600, 3)))
    orders = np.unique(new, axis=0, return_counts=True)[1]
    assert len(orders) == 6
    assert ((orders - 100) ** 2 / 100).sum() < 20.5  # 99.9 % of χ² with 5 degrees of freedom


def test_what_has_no_such_labels_is_refused():
    for ways in (0, True):
        with pytest.raises(ValueError, match=f"ways must be a whole number.* got {ways}"):
            permuted_labels(fixed, ways)
    with pytest.raises(
        ValueError, match=r"one row for each of the 4 ways, got \{'number': 'int64\[3\]'\}"
    ):
        permuted_labels(fixed, 4)((), KEY)
    batch = lambda dataset, key: SUPPORT
    with pytest.raises(ValueError, match="within a Task, got Batch"):
        permuted_labels(batch, 3)((), KEY)
    with pytest.raises(ValueError, match=r"int\[examples\], got float32\[5, 1\]"):
        permuted_labels(data.sinusoids(5, 5), 3)((), KEY)
    floats = lambda dataset, key: TASK._replace(query=TASK.query._replace(y=jnp.ones(9)))
    with pytest.raises(ValueError, match=r"int\[examples\], got float64\[9\]"):
        permuted_labels(floats, 3)((), jax.random.key(1))


def test_rows_without_a_label_stay_without_one():
    y = jnp.array([0, -1, 2, 7, 1])
    batch = mj.Batch(jnp.zeros((5, 1)), y, weight=jnp.array([1.0, 1.0, 1.0, 0.0, 1.0]))
    task = permuted_labels(lambda dataset, key: mj.Task(batch, batch), 3)((), KEY)
    assert sorted(np.asarray(task.support.y)[[0, 2, 4]].tolist()) == [0, 1, 2]
    for part in task.support, task.query:
        np.testing.assert_array_equal(np.asarray(part.y)[[1, 3]], [-1, 7])  # 7 is padding


def test_labels_that_are_no_classes_are_refused_or_stay():
    wrong = mj.Task(SUPPORT._replace(y=SUPPORT.y + 1), TASK.query)
    sample = permuted_labels(lambda task, key: task, 3)
    with pytest.raises(ValueError, match=r"integers from -1 to 2, .* got \[3\]"):
        sample(wrong, KEY)
    compiled = jax.jit(sample)(wrong, KEY)
    np.testing.assert_array_equal(compiled.support.y == 3, wrong.support.y == 3)
