import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest

import metajax as mj

matplotlib.use("Agg")
import matplotlib.pyplot as plt


@pytest.fixture
def axes():
    figure, axes = plt.subplots()
    yield axes
    plt.close(figure)


def words(axes):
    return [text.get_text() for text in axes.texts]


def make_task(shape=(8, 8, 1)):
    """Three ways, one shot and two queries."""
    support = mj.Batch(jnp.zeros((3, *shape)), jnp.arange(3))
    query = mj.Batch(jnp.zeros((6, *shape)), jnp.repeat(jnp.arange(3), 2))
    return mj.Task(support, query)


def test_a_task_has_frames_of_right_and_wrong_answers(axes):
    mj.plots.task(axes, make_task(), jnp.array([0, 0, 1, 2, 2, 2]), title="letters")
    assert len(axes.images) == 9
    colours = [matplotlib.colors.to_hex(patch.get_edgecolor()) for patch in axes.patches]
    assert colours.count(mj.plots.RIGHT) == 5
    assert colours.count(mj.plots.WRONG) == 1
    red = [text.get_text() for text in axes.texts if text.get_color() == mj.plots.WRONG]
    assert red == ["3"], "the answer beside a wrong query"
    assert {"1", "2", "3", "support", "query"} <= set(words(axes))
    assert axes.get_title() == "letters"


@pytest.mark.parametrize(
    ("task", "predictions"), [(make_task(), 1), (make_task((8, 8, 2)), 6), (make_task((8,)), 6)]
)
def test_tasks_of_something_else_are_refused(axes, task, predictions):
    with pytest.raises(ValueError, match="a prediction for each query"):
        mj.plots.task(axes, task, jnp.zeros(predictions, jnp.int32))


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_that_has_no_row_is_refused(axes, label):
    task = make_task()
    task = task._replace(query=task.query._replace(y=task.query.y.at[0].set(label)))
    with pytest.raises(ValueError, match="from 0 to the largest of the support set, 2"):
        mj.plots.task(axes, task, jnp.zeros(6, jnp.int32))


def test_curves_have_bands(axes):
    lines = {"one": ([0, 1], [0.0, 1.0], [0.1, 0.1]), "other": ([0, 1], [1.0, 1.0], None)}
    mj.plots.curves(axes, lines, xlabel="steps", ylabel="accuracy, %", title="learning")
    assert [line.get_label() for line in axes.lines] == ["one", "other"]
    assert [line.get_marker() for line in axes.lines] == ["o", "o"]
    assert len(axes.collections) == 1
    assert axes.get_xlabel() == "steps"
    assert axes.get_ylabel() == "accuracy, %"
    assert axes.get_title() == "learning"


def test_accuracies_have_every_row_of_every_setting(axes):
    rows = {"image": (0.5, 0.1), "learned": (0.75, 0.05)}
    mj.plots.accuracies(axes, {"1 shot": rows, "5 shots": rows}, title="weights")
    assert [label.get_text() for label in axes.get_yticklabels()] == ["image", "learned"]
    points = [container[0].get_xdata().tolist() for container in axes.containers]
    assert points == [[50, 75], [50, 75]]
    vertical = [line for line in axes.lines if list(line.get_xdata()) == [75, 75]]
    assert len(vertical) == 2, "through what is learned, in each setting"
    assert axes.get_title() == "weights"


def test_intervals_stay_within_what_is_possible(axes):
    rows = {"a": (99.0, 3.0), "b": (1.0, 3.0)}
    measured = {"all": rows, "one": {"b": (50.0, 1.0)}}
    mj.plots.dot_plot(axes, measured, xlabel="accuracy, %", reference=20.0, limits=(0, 100))
    (bars,) = axes.containers[0].lines[2]
    ends = [segment[:, 0].tolist() for segment in bars.get_segments()]
    assert ends == [[96, 100], [0, 4]]
    assert axes.containers[1].lines[0].get_ydata()[0] > 1, "in the row of b, below the other"
    assert [20, 20] in [list(line.get_xdata()) for line in axes.lines]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["all", "one"]


def test_accuracies_have_a_line_of_chance(axes):
    mj.plots.accuracies(axes, {"1 shot": {"image": (0.5, 0.1)}}, chance=0.2)
    assert [20, 20] in [list(line.get_xdata()) for line in axes.lines]
    assert "chance" in axes.get_xlabel()


def test_many_points_have_a_band_and_few_have_bars(axes):
    many = (range(20), range(20), [1] * 20)
    few = (range(3), range(3), [1] * 3)
    mj.plots.curves(axes, {"many": many, "few": few}, xlabel="x", ylabel="y")
    assert [line.get_marker() for line in axes.lines] == ["None", "o"]
    assert len(axes.containers) == 1


def test_the_style_is_one_of_matplotlib():
    with plt.rc_context(dict(mj.plots.STYLE)):
        figure, axes = plt.subplots()
        assert not axes.spines["top"].get_visible()
    plt.close(figure)


def sound(scale):
    """A wave, as float or as stored integers."""
    wave = np.tile(np.sin(np.arange(40.0)), (12, 1))
    return jnp.asarray(
        wave if scale is None else wave * scale, "float32" if scale is None else "int16"
    )


def test_a_contact_sheet_shows_every_kind(axes):
    stroke = jnp.array([[-1, 0, 0, 1], [1, 0, 0.5, 0], [0, -1, 0.6, 1], [0, 1, 1, 0]], jnp.float32)
    value = {
        "image": jnp.full((12, 6, 6, 3), 255, jnp.uint8),
        "ids": jnp.ones((12, 9), jnp.int32),
        "sound": mj.Series(sound(None)[..., None], jnp.full(12, 30)),
        "stroke": jnp.tile(stroke, (12, 1, 1)),
    }
    x = mj.data.as_modalities(value, {"ids": jnp.arange(12) % 4 > 0})
    labels = jnp.repeat(jnp.arange(4), 3)
    source = mj.data.dataset(x, labels, names=["a", "b", "c", "d"], scale={"image": 255})
    mj.plots.contact_sheet(axes, source, classes=2, examples=2, title="look")
    assert len(axes.images) == 2 * 2 * 2
    assert len(axes.lines) == 2 * 2
    assert [name for name in "abcd" if name in words(axes)] == ["a", "d"], "evenly spread"
    assert words(axes).count("–") == 1, "absent"
    assert words(axes).count("int32[9]") == 3
    assert {"image", "ids", "sound", "stroke"} <= set(words(axes))
    assert len(axes.lines[0].get_xdata()) == 30, "the valid part of a series"
    drawn = axes.images[2].get_array()  # the stroke, whose ink is dark
    assert drawn.min() < 0.5
    assert drawn.max() == 1
    assert drawn[28, 14] < 0.5 < drawn[14, 14]
    assert axes.get_title() == "look"


def test_a_contact_sheet_of_one_modality(axes):
    x = jnp.zeros((5, 8, 8, 1), jnp.uint8)
    source = mj.data.dataset(x, jnp.array([0, 0, 0, 0, 1]), scale=255)
    mj.plots.contact_sheet(axes, source, examples=3)
    assert len(axes.images) == 3 + 1
    assert "0" in words(axes)


def test_a_contact_sheet_shows_the_last_image_of_a_video(axes):
    video = jnp.zeros((2, 5, 8, 8, 1)).at[:, -1].set(1.0)
    mj.plots.contact_sheet(axes, mj.data.dataset(video, jnp.arange(2)), classes=1)
    assert len(axes.images) == 1
    assert axes.images[0].get_array().max() == 0, "ink is dark"


@pytest.mark.parametrize("scale", [None, 51])
def test_a_contact_sheet_shows_images_as_they_are_drawn_for_learning(axes, scale):
    """Without a declared scale, values above 1 are white."""
    x = jnp.full((2, 4, 4, 3), 10, jnp.uint8)
    source = mj.data.dataset(x, jnp.arange(2), scale=scale)
    mj.plots.contact_sheet(axes, source, classes=1)
    np.testing.assert_allclose(axes.images[0].get_array(), 1 if scale is None else 10 / 51)


@pytest.mark.parametrize(("stored_scale", "scale"), [(None, None), (32767, 32768), (32767, None)])
def test_a_contact_sheet_shows_integers_as_curves_where_a_scale_is_declared(
    axes, stored_scale, scale
):
    source = mj.data.dataset(sound(stored_scale), jnp.repeat(jnp.arange(4), 3), scale=scale)
    mj.plots.contact_sheet(axes, source, classes=1, examples=2)
    is_index = stored_scale is not None and scale is None
    assert len(axes.lines) == (0 if is_index else 2)
    assert words(axes).count("int16[40]") == (2 if is_index else 0)


def test_a_contact_sheet_writes_what_it_cannot_draw(axes):
    x = {"many channels": jnp.zeros((2, 5, 9)), "scalar": jnp.zeros(2)}
    mj.plots.contact_sheet(axes, mj.data.dataset(x, jnp.arange(2)), classes=1)
    assert len(axes.images) == len(axes.lines) == 0
    assert any("[5, 9]" in word for word in words(axes))


@pytest.mark.parametrize("sizes", [{"classes": 0}, {"examples": 0}, {"examples": 1.5}])
def test_a_contact_sheet_of_nothing_is_refused(axes, sizes):
    source = mj.data.dataset(jnp.zeros((2, 3)), jnp.arange(2))
    with pytest.raises(ValueError, match=rf"{next(iter(sizes))} must be a whole number"):
        mj.plots.contact_sheet(axes, source, **sizes)


def test_a_reliability_diagram_has_a_point_for_each_bin_with_answers(axes):
    found = mj.diagnostics.reliability(
        jnp.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4]]), jnp.array([0, 1, 0]), bins=10
    )
    mj.plots.reliability_diagram(axes, {"digits": found}, title="Digits")
    (points,) = axes.collections
    np.testing.assert_allclose(points.get_offsets(), [[0.6, 1.0], [0.9, 0.5]], rtol=1e-6)
    sizes = points.get_sizes() - 4
    np.testing.assert_allclose(sizes[1] / sizes[0], 2, rtol=1e-6)
    assert axes.get_legend().get_texts()[0].get_text() == f"digits (error {float(found.error):.3f})"
