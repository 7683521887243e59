"""Task distributions with several modes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metajax as mj
from metajax.data.tasks.functions import regressions
from metajax.data.tasks.modes import task_modes

KEY = jax.random.key(0)
# Of each family: the columns whose combinations its functions are, given c [..., 1].
DESIGN = {
    "sinusoid": lambda x, c: [np.sin(x), np.cos(x)],
    "line": lambda x, c: [x, np.ones_like(x)],
    "quadratic": lambda x, c: [x**2, x, np.ones_like(x)],
    "tanh": lambda x, c: [np.tanh(x - c), np.ones_like(x)],
    "absolute": lambda x, c: [np.abs(x - c), np.ones_like(x)],
}


def draw(sample, number, seed=0):
    return jax.jit(mj.data.meta_batch(sample, number))((), jax.random.key(seed))


@pytest.mark.parametrize("family", DESIGN)
def test_a_family_has_the_functions_and_ranges_of_the_paper(family):
    tasks = draw(regressions(5, 40)[family], 150)
    x, y = (
        np.concatenate([getattr(tasks.support, n), getattr(tasks.query, n)], axis=1)[..., 0]
        for n in "xy"
    )
    assert x.dtype == y.dtype == np.float32 and tasks.support.y.shape == (150, 5, 1)
    assert -5 <= x.min() < -4.9 and 4.9 < x.max() <= 5
    found, curved = [], family in ("tanh", "absolute")
    for one_x, one_y in zip(x.astype(float), y.astype(float), strict=True):
        centre = 0.0
        if curved:  # the c of the grid whose function correlates best with y
            grid = np.linspace(-3, 3, 241)
            column = DESIGN[family](one_x[None], grid[:, None])[0]
            column -= column.mean(axis=1, keepdims=True)
            centre = grid[
                np.abs(column @ (one_y - one_y.mean()) / np.linalg.norm(column, axis=1)).argmax()
            ]
        design = np.stack(DESIGN[family](one_x, centre), axis=1)
        solution = np.linalg.lstsq(design, one_y, rcond=None)[0]
        assert np.abs(design @ solution - one_y).max() < (0.1 if curved else 1e-3)
        found.append(solution)
    first, last = np.array(found)[:, 0], np.array(found)[:, -1]
    if family == "sinusoid":  # a sin(x - c) = a cos c · sin x - a sin c · cos x
        size = np.hypot(first, last)
        assert 0.1 <= size.min() < 0.3 and 4.7 < size.max() <= 5.01 and (last <= 1e-3).all()
    elif family == "quadratic":
        assert 0.0199 < np.abs(first).min() < 0.03 and 0.14 < np.abs(first).max() < 0.1501
        assert 0.3 < (first > 0).mean() < 0.7
    else:
        assert (
            2.8 < np.abs(first).max() < 3.2
            and np.abs(first).min() < 0.15
            and 0.3 < (first > 0).mean() < 0.7
        )
        assert 2.8 < np.abs(last).max() < 3.2


def test_noise_has_its_size_and_leaves_the_functions_alone():
    quiet, noisy = (draw(regressions(5, 50, noise=noise)["tanh"], 100) for noise in (0.0, 0.3))
    np.testing.assert_array_equal(quiet.query.x, noisy.query.x)
    for part in ("support", "query"):
        error = np.asarray(getattr(noisy, part).y - getattr(quiet, part).y)
        assert 0.27 < error.std() < 0.33 and abs(error.mean()) < 0.04


def constant(value, rows=2, context=()):
    def sample(dataset, key):
        batch = mj.Batch(jnp.full((rows, 1), value), jnp.full((rows, 1), value) + dataset)
        return mj.Task(batch, batch, context)

    return sample


def test_the_mode_is_in_the_context_and_its_task_is_drawn():
    modes = {"zero": constant(0.0), "one": constant(1.0), "two": constant(2.0)}
    sample = task_modes(modes, {"two": 6, "zero": 1, "one": 3})
    tasks = jax.jit(mj.data.meta_batch(sample, 2000))(jnp.array(10.0), KEY)
    assert tasks.context.dtype == jnp.int32 and tasks.context.shape == (2000,)
    np.testing.assert_array_equal(tasks.support.x[:, 0, 0], tasks.context)
    np.testing.assert_array_equal(
        tasks.query.y[:, 1, 0], tasks.context + 10
    )  # every mode gets the dataset
    np.testing.assert_allclose(np.bincount(tasks.context) / 2000, [0.1, 0.3, 0.6], atol=0.04)
    equal = draw_context(task_modes(modes))
    np.testing.assert_allclose(np.bincount(equal) / 2000, [1 / 3] * 3, atol=0.04)
    assert (draw_context(task_modes({"one": constant(1.0)})) == 0).all()


def draw_context(sample):
    return np.asarray(jax.jit(mj.data.meta_batch(sample, 2000))(jnp.array(0.0), KEY).context)


def test_a_mode_draws_what_it_draws_alone():
    """With the second half of the key; the draw of a mode says nothing of the draw of a task."""
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
    with pytest.raises(ValueError, match="shots must be a whole number"):
        regressions(0, 1)
    with pytest.raises(ValueError, match="noise=-1"):
        regressions(1, 1, noise=-1)
