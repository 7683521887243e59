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
