import jax
import jax.numpy as jnp
import matplotlib
import pytest

import metajax as mj

matplotlib.use("Agg")
import matplotlib.pyplot as plt


@pytest.fixture
def axes():
    figure, axes = plt.subplots()
    yield axes
    plt.close(figure)


def test_an_episode_frames_right_and_wrong_answers(axes):
    source = mj.data.dataset(jnp.zeros((12, 8, 8, 1), jnp.uint8), jnp.arange(12) % 3)
    task = mj.data.episodes(ways=3, shots=1, queries=2)(source, jax.random.key(0))
    mj.plots.task(axes, task, jnp.array([0, 0, 1, 2, 2, 2]), title="letters")
    assert len(axes.images) == 9
    colours = [matplotlib.colors.to_hex(patch.get_edgecolor()) for patch in axes.patches]
    assert colours.count(mj.plots.RIGHT) == 5
    assert colours.count(mj.plots.WRONG) == 1
    assert "3" in [text.get_text() for text in axes.texts if text.get_color() == mj.plots.WRONG]
    with pytest.raises(ValueError, match="a prediction for each query"):
        mj.plots.task(axes, task, jnp.array([0]))


def test_curves_have_bands(axes):
    lines = {"one": ([0, 1], [0.0, 1.0], [0.1, 0.1]), "other": ([0, 1], [1.0, 1.0], None)}
    mj.plots.curves(axes, lines, xlabel="steps", ylabel="accuracy, %", title="learning")
    assert [line.get_label() for line in axes.lines] == ["one", "other"]
    assert len(axes.collections) == 1
    assert axes.get_ylabel() == "accuracy, %"


def test_a_ruler_has_every_row_of_every_setting(axes):
    rows = {"image": (0.5, 0.1), "learned": (0.75, 0.05)}
    mj.plots.accuracies(axes, {"1 shot": rows, "5 shots": rows}, title="worth")
    assert [label.get_text() for label in axes.get_yticklabels()] == ["image", "learned"]
    assert [container[0].get_xdata().tolist() for container in axes.containers] == [
        [50, 75],
        [50, 75],
    ]


def test_a_contact_sheet_shows_every_kind(axes):
    wave = jnp.tile(jnp.sin(jnp.arange(40, dtype=jnp.float32)), (12, 1))
    stroke = jnp.array([[-1, 0, 0, 1], [1, 0, 0.5, 0], [0, -1, 0.6, 1], [0, 1, 1, 0]], jnp.float32)
    value = {
        "image": jnp.full((12, 6, 6, 3), 255, jnp.uint8),
        "ids": jnp.ones((12, 9), jnp.int32),
        "sound": mj.Series(wave[..., None], jnp.full(12, 30)),
        "stroke": jnp.tile(stroke, (12, 1, 1)),
    }
    x = mj.data.as_modalities(value, {"ids": jnp.arange(12) % 4 > 0})
    source = mj.data.dataset(x, jnp.repeat(jnp.arange(4), 3), names=["a", "b", "c", "d"])
    mj.plots.contact_sheet(axes, source, classes=2, examples=2, title="look")
    words = [text.get_text() for text in axes.texts]
    assert len(axes.images) == 2 * 2 * 2 and len(axes.lines) == 2 * 2
    assert [name for name in "abcd" if name in words] == ["a", "d"], "spread over the data set"
    assert (
        words.count("–") == 1
        and words.count("int32[9]") == 3
        and {"image", "sound", "stroke"} <= set(words)
    )
    assert len(axes.lines[0].get_xdata()) == 30, "of a series what is there"
    drawn = axes.images[2].get_array()  # the stroke: its ink is dark
    assert drawn.min() < 0.5 and drawn.max() == 1 and drawn[28, 14] < 0.5 < drawn[14, 14]
    assert axes.get_title() == "look"


def test_a_contact_sheet_of_one_modality(axes):
    source = mj.data.dataset(jnp.zeros((5, 8, 8, 1), jnp.uint8), jnp.array([0, 0, 0, 0, 1]))
    mj.plots.contact_sheet(axes, source, examples=3)
    assert len(axes.images) == 3 + 1 and "0" in [text.get_text() for text in axes.texts]
    mj.plots.contact_sheet(
        axes, mj.data.dataset(jnp.zeros((2, 5, 8, 8, 1)), jnp.arange(2)), classes=1
    )
    assert len(axes.images) == 5, "the last image of a video"
    with pytest.raises(ValueError, match="classes=1 and examples=0 must be 1 or more"):
        mj.plots.contact_sheet(axes, source, classes=1, examples=0)
