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
    mj.plots.episode(axes, task, jnp.array([0, 0, 1, 2, 2, 2]), title="letters")
    assert len(axes.images) == 9
    colours = [matplotlib.colors.to_hex(patch.get_edgecolor()) for patch in axes.patches]
    assert colours.count(mj.plots.RIGHT) == 5
    assert colours.count(mj.plots.WRONG) == 1
    assert "3" in [text.get_text() for text in axes.texts if text.get_color() == mj.plots.WRONG]
    with pytest.raises(ValueError, match="a prediction for each query"):
        mj.plots.episode(axes, task, jnp.array([0]))


def test_curves_have_bands(axes):
    lines = {"one": ([0, 1], [0.0, 1.0], [0.1, 0.1]), "other": ([0, 1], [1.0, 1.0], None)}
    mj.plots.curves(axes, lines, xlabel="steps", ylabel="accuracy, %", title="learning")
    assert [line.get_label() for line in axes.lines] == ["one", "other"]
    assert len(axes.collections) == 1
    assert axes.get_ylabel() == "accuracy, %"


def test_a_ruler_has_every_row_of_every_setting(axes):
    rows = {"image": (0.5, 0.1), "learned": (0.75, 0.05)}
    mj.plots.ruler(axes, {"1 shot": rows, "5 shots": rows}, title="worth")
    assert [label.get_text() for label in axes.get_yticklabels()] == ["image", "learned"]
    assert [container[0].get_xdata().tolist() for container in axes.containers] == [[50, 75], [50, 75]]
