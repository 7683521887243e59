"""The parts of the ruler: shots, features and the grid; learned weights are in its own test."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from modal_problems import KEY, NAMES, WAYS, make_tasks, with_x
from problems import assert_close

import metajax as mj
from metajax.modalities import encode_tasks, first_shots
from metajax.modalities.measurement import (
    count_shots,
    grid_accuracies,
    simplex_grid,
)

TASKS = make_tasks(2, 7)
POINTS = jnp.asarray(simplex_grid(2, 2))
accuracies = jax.jit(functools.partial(grid_accuracies, sorted(NAMES), WAYS, POINTS))


def centred(params, x, key=None, *, reference=None):
    """Features minus the mean over the reference rows."""
    centres = {}
    for name, part in x.value.items():
        rows = jnp.ones(len(part)) if reference is None else reference * 1.0
        centres[name] = part - (rows @ part / rows.sum())[None]
    return centres


def padded():
    """The tasks with the first example of each class padded."""
    weight = np.tile([0.0, 1.0, 1.0], (2, WAYS)).astype(np.float32)
    return TASKS._replace(support=TASKS.support._replace(weight=jnp.asarray(weight)))


def test_padded_rows_are_no_shots():
    assert count_shots(TASKS, WAYS) == 3
    assert count_shots(padded(), WAYS) == 2
    assert count_shots(TASKS, WAYS + 1) == 0
    few = jax.vmap(lambda task: first_shots(task, 1, WAYS))(padded())
    np.testing.assert_array_equal(few.support.weight[0], np.tile([0.0, 1.0, 0.0], WAYS))


def test_features_are_normalised_by_the_rows_that_count():
    few = jax.vmap(lambda task: first_shots(task, 1, WAYS))(padded())
    encoded = encode_tasks(centred, mj.Params({}, ()), few, tasks_at_once=1)
    only = with_x(
        lambda x: jax.tree.map(lambda leaf: leaf[:, 1::3], x),
        TASKS.support._replace(y=TASKS.support.y[:, 1::3]),
    )
    expected = jax.vmap(lambda x: centred(None, x))(only.x)["image"]
    made = encoded.support.x.value["image"][:, 1::3]
    np.testing.assert_allclose(made, expected, rtol=1e-12)
    assert encoded.support.reference is None and encoded.support.info == ()
    assert_close(encoded.query.x.present, TASKS.query.x.present, 0)
    with pytest.raises(ValueError, match="x of the batch must be a Modalities"):
        encode_tasks(centred, mj.Params({}, ()), with_x(lambda x: x.value["image"], TASKS))


def test_padded_queries_do_not_count():
    half = (jnp.arange(WAYS * 4) % 2).astype(jnp.float32)
    some = TASKS._replace(query=TASKS.query._replace(weight=half[None].repeat(2, axis=0)))
    query = with_x(lambda x: jax.tree.map(lambda leaf: leaf[:, 1::2], x), TASKS.query)
    only = TASKS._replace(query=query._replace(y=TASKS.query.y[:, 1::2]))
    ours = accuracies(some)
    assert_close(ours, accuracies(only), 1e-12)
    assert ours.shape == (2, len(POINTS))


def test_the_corner_of_the_grid_is_one_modality_alone():
    task = jax.tree.map(lambda leaf: leaf[0], TASKS)
    image = lambda batch: batch._replace(x=batch.x.value["image"])
    adapted = mj.prototypes(mj.nets.identity_encoder, WAYS).adapt(
        mj.Params({}, {}), image(task.support), KEY
    )
    logits = mj.linear_head()(adapted, task.query.x.value["image"])
    corner = POINTS.tolist().index([0.0, 1.0])
    expected = (logits.argmax(axis=1) == task.query.y).mean()
    np.testing.assert_allclose(accuracies(TASKS)[0, corner], expected)


def test_the_grid_sums_to_one_and_has_the_equal_weights():
    for names in (2, 3, 4):
        points = simplex_grid(names, 10)
        np.testing.assert_allclose(points.sum(axis=1), 1)
        assert (points >= 0).all() and (points[-1] == 1 / names).all()
        assert (points == 0).any(axis=0).all()
