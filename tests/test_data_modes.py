"""Task distributions with several modes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn_tasks import KEY, draw

import metajax as mj
from metajax.data.tasks.functions import regressions
from metajax.data.tasks.modes import task_modes


def constant(value, rows=2, context=()):
    def sample(dataset, key):
        batch = mj.Batch(jnp.full((rows, 1), value), jnp.full((rows, 1), value) + dataset)
        return mj.Task(batch, batch, context)

    return sample


def test_the_index_of_the_mode_is_in_the_context_and_its_task_is_drawn():
    modes = {"zero": constant(0.0), "one": constant(1.0), "two": constant(2.0)}
    sample = task_modes(modes, {"two": 6, "zero": 1, "one": 3})
    tasks = draw(sample, 2000, jnp.array(10.0))
    assert tasks.context.dtype == np.int32 and tasks.context.shape == (2000,)
    np.testing.assert_array_equal(tasks.support.x[:, 0, 0], tasks.context)
    np.testing.assert_array_equal(tasks.query.y[:, 1, 0], tasks.context + 10)  # of the data set
    np.testing.assert_allclose(np.bincount(tasks.context) / 2000, [0.1, 0.3, 0.6], atol=0.04)
    equal = draw(task_modes(modes), 2000, jnp.array(0.0)).context
    np.testing.assert_allclose(np.bincount(equal) / 2000, [1 / 3] * 3, atol=0.04)
    alone = draw(task_modes({"one": constant(1.0)}), 20, jnp.array(0.0)).context
    assert (alone == 0).all()


def test_a_mode_draws_what_it_draws_alone():
    """With the second half of the key, which the draw of the mode does not use."""
    families = regressions(3, 4)
    task = task_modes(families)((), KEY)
    alone = families[list(families)[int(task.context)]]((), jax.random.split(KEY)[1])
    np.testing.assert_allclose(task.query.y, alone.query.y, rtol=1e-6)


def test_errors_say_what_to_do():
    modes = {"small": constant(0.0), "large": constant(0.0, rows=3)}
    with pytest.raises(
        ValueError, match=r"must be alike; those of 'large' are .*\[3, 1\].*of 'small'.*\[2, 1\]"
    ):
        task_modes(modes)(0.0, KEY)
    with pytest.raises(ValueError, match=r"of 'own' have a context already, int32\[\]"):
        task_modes({"own": constant(0.0, context=jnp.int32(3))})(0.0, KEY)
    for wrong in (
        {"small": 1},
        {"small": 1, "large": 0},
        {"small": 1, "large": 1, "other": 1},
        {"small": 1, "large": -1},
    ):
        with pytest.raises(
            ValueError, match=r"each of the modes \['small', 'large'\] a positive number"
        ):
            task_modes(modes, wrong)
    with pytest.raises(ValueError, match=r"each of the modes \[\]"):
        task_modes({})
