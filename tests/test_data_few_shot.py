"""Classification tasks and batches."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn_tasks import KEY, draw_list

import metajax as mj
from metajax import data

COUNTS = [4, 9, 6, 5, 7]


@functools.cache
def unequal():
    """Five classes of unequal size; an example is (class, number in it)."""
    y = np.repeat(np.arange(5), COUNTS)
    x = np.stack([y, np.concatenate([np.arange(count) for count in COUNTS])], axis=1)
    return data.dataset(x.astype(np.int32), y)


@functools.cache
def images(classes=6, each=5):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (classes * each, 4, 4, 1)).astype(np.uint8)
    return data.dataset(image, np.arange(classes * each) % classes, scale=255)


def test_episodes_of_unequal_classes():
    tasks = draw_list(data.episodes(ways=3, shots=1, queries=3), 200, unequal())
    for task in tasks:
        np.testing.assert_array_equal(task.support.y, np.arange(3))
        np.testing.assert_array_equal(task.query.y, np.repeat(np.arange(3), 3))
        rows = np.concatenate([task.support.x, task.query.x])
        assert len(np.unique(rows, axis=0)) == len(rows)  # without replacement
        assert (rows[:, 1] < np.array(COUNTS)[rows[:, 0]]).all()
        classes = task.support.x[:, 0]
        assert len(set(classes.tolist())) == 3
        np.testing.assert_array_equal(task.query.x[:, 0], np.repeat(classes, 3))
    seen = np.unique(np.concatenate([task.query.x for task in tasks]), axis=0)
    assert len(seen) == sum(COUNTS)
    classes = np.stack([task.support.x[:, 0] for task in tasks])
    for way in range(3):  # any class may have any label
        assert (np.bincount(classes[:, way], minlength=5) > 15).all()


def test_values_are_scaled_as_declared():
    sample = jax.jit(data.episodes(2, 1, 2))
    stored = sample(dataclasses.replace(images(), scale=None), KEY)
    scaled = sample(images(), KEY)
    assert stored.query.x.dtype == jnp.uint8 and scaled.query.x.dtype == jnp.float32
    np.testing.assert_array_equal(stored.query.x.astype(jnp.float32) / 255, scaled.query.x)


def test_batches_have_global_labels():
    source = images()
    batch = jax.jit(data.batches(64))(source, KEY)
    assert batch.x.dtype == jnp.float32 and int(batch.y.max()) < 6
    pictures = np.asarray(source.x)
    for x, y in zip(np.rint(255 * np.asarray(batch.x)), np.asarray(batch.y), strict=True):
        same = (pictures == x[None]).all(axis=(1, 2, 3))
        np.testing.assert_array_equal(np.asarray(source.y)[same], y)
    assert len(np.unique(batch.y)) == 6


def at_step(dataset, key, *, step):
    """A sampler whose tasks are harder the later they are drawn; step None is evaluation."""
    size = 100.0 if step is None else step
    batch = mj.Batch(size * jax.random.uniform(key, (2, 1)), jnp.arange(2))
    return mj.Task(batch, batch, jnp.asarray(size, jnp.float32))


WRAPPERS = {
    "meta_batch": lambda sample: data.meta_batch(sample, 3),
    "noisy_labels": lambda sample: data.noisy_labels(sample, 0.5),
    "permuted_labels": lambda sample: data.permuted_labels(sample, 2),
    "augmented": lambda sample: data.augmented(sample, lambda x, key: 2 * x),
    "mixup": lambda sample: data.mixup(sample, 1.0),
    "task_modes": lambda sample: data.task_modes(
        {"a": lambda dataset, key, step=None: sample(dataset, key, step=step)._replace(context=())}
    ),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_the_step_is_handed_on_to_a_sampler_that_takes_it(name):
    sample = WRAPPERS[name](at_step)
    early, late = (sample((), KEY, step=jnp.float32(step)) for step in (1, 7))
    np.testing.assert_allclose(7 * early.query.x, late.query.x, rtol=1e-6)
    np.testing.assert_allclose(100 * early.query.x, sample((), KEY).query.x, rtol=1e-6)


def test_a_sampler_without_step_stays_without_it():
    plain = lambda dataset, key: at_step(dataset, key, step=None)
    for name, wrap in WRAPPERS.items():
        if name != "task_modes":
            with pytest.raises(TypeError, match="step"):
                wrap(plain)((), KEY, step=1)


def test_episodes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="ways=6 must not exceed the number of classes, 5"):
        data.episodes(6, 1, 1)(unequal(), KEY)
    with pytest.raises(
        ValueError, match="shots=2, queries=3 together must not exceed the 4 examples"
    ):
        data.episodes(2, 2, 3)(unequal(), KEY)
    with pytest.raises(  # also where the data set is an argument
        ValueError, match=r"shots=2, queries=3 .*: 4\}; ask for fewer, or use .*dataset.count >= 5"
    ):
        jax.jit(data.episodes(2, 2, 3))(unequal(), KEY)


@pytest.mark.parametrize("wrong", [0, True, 1.5])
def test_sizes_are_whole_numbers(wrong):
    message = f"must be a whole number.* got {wrong}"
    for sizes in ((wrong, 1, 1), (2, wrong, 1), (2, 1, wrong)):
        with pytest.raises(ValueError, match=message):
            data.episodes(*sizes)
    with pytest.raises(ValueError, match=message):
        data.batches(wrong)
    with pytest.raises(ValueError, match="tasks " + message):
        data.meta_batch(data.batches(1), wrong)


def test_sizes_may_be_those_of_numpy():
    sample = data.episodes(np.int64(2), np.int32(1), np.uint8(1))
    assert jax.eval_shape(sample, unequal(), KEY).support.y.shape == (2,)


def test_check_task_checks_values():
    task = data.episodes(2, 1, 2)(images(), KEY)
    support, query = task.support, task.query
    data.check_task(task, ways=2)
    with pytest.raises(ValueError, match="support set must be integers in 0 to 0"):
        data.check_task(task, ways=1)
    for y, got in ((jnp.array([0.0, 1.0]), r"float64\[2\]"), (support.y[None], r"int32\[1, 2\]")):
        with pytest.raises(ValueError, match=rf"support set must be int\[examples\], got {got}"):
            data.check_task(task._replace(support=support._replace(y=y)), ways=2)
    with pytest.raises(ValueError, match=r"x of the query set is not finite in rows \[0\]"):
        data.check_task(task._replace(query=query._replace(x=query.x.at[0].set(jnp.nan))), ways=2)
    with pytest.raises(ValueError, match="must have the same shape"):
        data.check_task(task._replace(query=query._replace(x=query.x[:, :2])), ways=2)
    with pytest.raises(ValueError, match="4 rows of x and 2 labels"):
        data.check_task(task._replace(query=query._replace(y=query.y[:2])), ways=2)
    with pytest.raises(ValueError, match="ways must be a whole number"):
        data.check_task(task, ways=2.0)


def test_check_task_ignores_absent_values():
    value = {"a": jnp.array([[jnp.nan], [1.0]])}
    batch = mj.Batch(data.as_modalities(value, {"a": jnp.array([False, True])}), jnp.arange(2))
    data.check_task(mj.Task(batch, batch), ways=2)
    here = batch._replace(x=data.as_modalities(value))
    with pytest.raises(ValueError, match=r"x.*a.* support set is not finite .*as_modalities"):
        data.check_task(mj.Task(here, batch), ways=2)
