"""What each corruption does, measured on many examples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from corrupted_problems import CORRUPTIONS, INPUTS, RNG, N
from problems import assert_close

from metajax.modalities import corruptions

KEY = jax.random.key(0)
image, audio, text, stroke, series, tabular = CORRUPTIONS.values()


def test_image_noise_and_square():
    grey = jnp.full_like(INPUTS["image"], 0.5)
    y = np.concatenate([image(grey, 0.4, jax.random.key(seed)) for seed in range(40)])
    # A square of side 0.2 * 10 is black. So is noise of deviation 0.2 below -0.5: P = 0.0062.
    np.testing.assert_allclose((y == 0).mean() * 120, 4 + 116 * 0.00621, atol=0.1)
    assert ((y == 0).all(axis=1).sum((1, 2, 3)) >= 4).all()  # at one place in both frames
    inside = y[(y > 0) & (y < 1)]
    # The deviation is that of a normal distribution cut at 2.5.
    np.testing.assert_allclose([inside.mean(), inside.std()], [0.5, 0.2 * 0.9546], atol=0.003)
    with pytest.raises(ValueError, match="uint8"):
        corruptions.image(jnp.zeros((1, 2, 2, 1), jnp.uint8), 0.5, KEY)


def test_audio_has_the_ratio_of_signal_to_noise():
    x = np.asarray(INPUTS["audio"]) * np.arange(1.0, N + 1)[:, None]
    for severity, decibel in ((0.1, 20), (1.0, 0)):
        noise = np.asarray(audio(x, severity, KEY)) - x
        ratio = 10 * np.log10((x**2).mean(1) / (noise**2).mean(1))
        np.testing.assert_allclose(ratio, decibel, atol=1e-6)
    silent = jax.jit(jax.grad(lambda x: audio(x, 0.5, KEY).sum()))(0 * x)
    assert_close(silent, jnp.ones_like(x))


def test_text_drops_and_replaces():
    x = np.tile(np.arange(1, 41)[None], (500, 1))
    x[:, 30:] = 0
    y = np.asarray(text(x, 0.4, KEY))
    lengths = (y > 0).sum(1)
    np.testing.assert_allclose(lengths.mean(), 1 + 29 * 0.8, atol=0.5)
    assert ((y > 0) == (np.arange(40)[None] < lengths[:, None])).all()  # padding is at the end
    assert y.max() == 30  # a token of the texts
    # The first is replaced and never dropped.
    np.testing.assert_allclose((y[:, 0] != 1).mean(), 0.4 * 29 / 30, atol=0.08)
    for severity, least in ((1.0, 1), (0.0, 30)):
        assert (text(x, severity, jax.random.key(1)) > 0).sum(1).min() >= least
    assert not text(0 * x, 1.0, jax.random.key(1)).any()


def test_stroke_jitters_and_skips():
    time = np.linspace(0, 1, 100)
    channels = np.stack([time, 0.5 + 0 * time, time, time > 0.3], axis=-1)
    x = np.tile(channels, (50, 1, 1))
    y = np.asarray(stroke(x, 0.2, KEY))
    np.testing.assert_array_equal(y[..., 2:], x[..., 2:])
    assert ((y[..., :2] >= [0, 0.5]) & (y[..., :2] <= [1, 0.5])).all()  # within the box
    still = ((np.diff(y[..., 0], axis=1) == 0) & (y[:, 1:, 0] > 0) & (y[:, 1:, 0] < 1)).sum(1)
    assert set(still) <= {0, 10}  # a tenth of the points, or none if it is at an edge of the box
    assert np.median(still) == 10
    moved = (y - x)[:, 30:70, 0]
    # The deviation is 0.02, and larger in the lost stretch.
    assert 0.015 < np.median(np.abs(moved)) / 0.6745 < 0.03


def test_series_noise_and_missing_steps():
    x = RNG.normal(size=(40, 300, 2)) * [1.0, 5.0]
    y = np.asarray(series(x, 0.4, KEY))
    repeats = (np.diff(y, axis=1) == 0).all(-1)
    np.testing.assert_allclose(repeats.mean(), 0.2, atol=0.02)
    noise = (y - x)[:, 1:][~repeats]
    np.testing.assert_allclose(noise.std(0), [0.4, 2.0], rtol=0.05)


def test_tabular_takes_the_same_feature_of_other_rows():
    x = np.arange(200.0)[:, None] + 1000 * np.arange(30.0)[None]
    y = np.asarray(tabular(x, 0.3, KEY))
    np.testing.assert_allclose((y != x).mean(), 0.3, atol=0.02)
    assert (y // 1000 == np.arange(30)[None]).all()
    assert (np.asarray(tabular(x, 1.0, KEY)) != x).all()
    np.testing.assert_array_equal(tabular(x[:1], 1.0, KEY), x[:1])
