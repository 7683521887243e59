"""The ruler on tasks whose modalities have noise of their own, which the support set shows."""

import jax.numpy as jnp
import numpy as np
import pytest
from modal_problems import KEY, NAMES, WAYS, make_tasks, with_x

import metajax as mj
from metajax.modalities import Ruler, first_crossing, ruler, ruler_table
from metajax.nets import identity_encoder

EMPTY = mj.Params({}, ())


@pytest.fixture(scope="module")
def measured():
    validation, test = make_tasks(200, 4, width=8), make_tasks(200, 5, width=8)
    rulers = ruler(
        identity_encoder, EMPTY, validation, test, KEY, ways=WAYS, shots=[2], grid=4, steps=150
    )
    assert list(rulers) == [2]
    return rulers[2], test


def test_the_ruler_finds_what_there_is_to_learn(measured):
    ours, _ = measured
    assert list(ours.accuracy) == [*NAMES, "equal", "static", "learned", "chosen", "oracle"]
    assert ours.best_single in NAMES and sum(ours.static.values()) == pytest.approx(1)
    against = ours.against("learned", "static")
    assert against.mean > against.interval, "the noise of a task shows in its support set"
    assert (ours.accuracy["oracle"].per_task >= ours.accuracy["static"].per_task).all()
    np.testing.assert_allclose(sum(ours.learned.values()), 1, rtol=1e-5)
    assert np.ptp(ours.learned["image"]) > 0.1, "they differ between tasks"
    assert 0.3 < ours.gap_closed() < 1
    assert ours.shots_equivalent() >= 2 and list(ours.curve) == [1, 2, 3]
    assert ours.curve[2].mean == ours.accuracy[ours.best_single].mean


def test_a_single_modality_is_prototypes_of_the_first_shots(measured):
    ours, test = measured
    image = lambda batch: batch._replace(x=batch.x.value["image"])
    weight = jnp.broadcast_to((jnp.arange(WAYS * 3) % 3 < 2)[None] * 1.0, test.support.y.shape)
    tasks = mj.Task(image(test.support)._replace(weight=weight), image(test.query))
    plain = mj.query_loss(
        mj.prototypes(identity_encoder, WAYS), mj.losses.cross_entropy(mj.linear_head())
    )
    expected = mj.evaluate(plain, EMPTY, tasks, KEY)["accuracy"].per_task
    np.testing.assert_allclose(ours.accuracy["image"].per_task, expected, rtol=1e-6)


def test_the_table_has_a_line_for_each_row(measured):
    heading, *lines = ruler_table(measured[0]).splitlines()
    assert heading.startswith("2 shots") and heading.endswith(measured[0].best_single)
    assert [line.split()[0] for line in lines] == list(measured[0].accuracy)


def test_where_a_curve_first_reaches_a_target():
    curve = {4: 0.6, 1: 0.5, 2: 0.7}
    assert first_crossing(curve, 0.5) == 1
    assert first_crossing(curve, 0.65) == pytest.approx(1.75)
    assert first_crossing(curve, 0.4) == 0
    assert first_crossing(curve, 0.8) == np.inf
    with pytest.raises(ValueError, match="at least one point"):
        first_crossing({}, 0.5)


def test_no_gap_to_close():
    row = mj.summarize(jnp.array([0.5, 0.7]))
    rows = dict.fromkeys(("image", "audio", "equal", "static", "learned", "oracle"), row)
    assert np.isnan(Ruler(rows, "image", {}, {}, 1, {1: row}).gap_closed())


def test_errors_say_what_to_do():
    tasks = make_tasks(2, 0)

    def run(test, validation=tasks, **options):
        return ruler(identity_encoder, EMPTY, validation, test, KEY, **{"ways": WAYS, **options})

    with pytest.raises(ValueError, match=r"shots=\[1, 4\] must be 1 to the 3"):
        run(tasks, shots=[1, 4])
    with pytest.raises(ValueError, match=r"shots=\[\] must be"):
        run(tasks, shots=[])
    with pytest.raises(ValueError, match="grid must be"):
        run(tasks, grid=0)
    with pytest.raises(ValueError, match="steps must be"):
        run(tasks, steps=0)
    with pytest.raises(ValueError, match="Modalities of two or more"):
        run(with_x(lambda x: x.value["image"], tasks))
    with pytest.raises(ValueError, match="must be 1 to the 0 and 0 shots"):
        run(tasks, ways=WAYS + 1, shots=[1])  # a class that no task has

    def rename(x):
        return mj.Modalities(*({"audio": tree["audio"], "equal": tree["image"]} for tree in x))

    renamed = with_x(rename, tasks)
    with pytest.raises(ValueError, match="none called"):
        run(renamed, renamed)
    with pytest.raises(ValueError, match="the same modalities"):
        run(renamed)
