"""Resampling and trimming of recordings, against truths that need no other library."""

import numpy as np
import pytest

from metajax.data.waves import HIGHEST_RATE, resample_wave, trim_silence


def tone(hertz, rate, seconds=1.0):
    return np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)


def strongest(wave, rate):
    """The frequency in hertz with the most energy."""
    spectrum = np.abs(np.fft.rfft(wave))
    return np.argmax(spectrum) * rate / len(wave)


@pytest.mark.parametrize(("old", "new"), [(44100, 16000), (8000, 16000), (11025, 8000)])
def test_a_tone_keeps_its_frequency_and_its_level(old, new):
    wave = resample_wave(tone(440, old), old, new)
    assert len(wave) == new and strongest(wave, new) == 440
    middle = slice(new // 10, -new // 10)  # the filter sees zeros beyond the ends
    np.testing.assert_allclose(wave[middle], tone(440, new)[middle], atol=2e-3)


def test_a_tone_above_half_of_the_new_rate_is_gone():
    wave = resample_wave(tone(7000, 16000), 16000, 8000)  # as every second sample it is 1000 Hz
    assert strongest(tone(7000, 16000)[::2], 8000) == 1000
    assert np.abs(wave[400:-400]).max() < 0.01


def test_the_length_is_rounded_up_and_the_dtype_stays():
    assert resample_wave(np.ones(3, np.float32), 2, 1).shape == (2,)
    assert resample_wave(np.ones(3, np.float32), 2, 1).dtype == np.float32
    wave = tone(440, 8000)
    np.testing.assert_array_equal(resample_wave(wave, 8000, 8000), wave)
    assert resample_wave(np.zeros(0), 2, 1).shape == (0,)


def test_what_cannot_be_resampled_is_refused():
    with pytest.raises(ValueError, match=r"as floats, got int16\[4\]; divide by 32768"):
        resample_wave(np.ones(4, np.int16), 2, 1)
    with pytest.raises(ValueError, match=r"One recording \[samples\] .* float64\[4, 2\]"):
        resample_wave(np.ones((4, 2)), 2, 1)
    with pytest.raises(ValueError, match=r"old=1000001 .* at most 1000000"):
        resample_wave(np.ones(4), HIGHEST_RATE + 1, 8000)
    with pytest.raises(ValueError, match="new must be a whole number, 1 or more, got 0"):
        resample_wave(np.ones(4), 8000, 0)


RATE = 8000
FRAME = 80  # samples in 10 ms


def with_silence(before, after, seconds=0.5):
    """A tone with so many samples of silence before and after."""
    return np.pad(tone(440, RATE, seconds), (before, after))


def test_silence_is_cut_exactly_where_the_tone_starts_and_ends():
    sound = tone(440, RATE, 0.5)
    trimmed = trim_silence(with_silence(12 * FRAME, 7 * FRAME), RATE)
    np.testing.assert_array_equal(trimmed, sound)
    # Elsewhere the cut is at the next frame outside.
    trimmed = trim_silence(with_silence(12 * FRAME + 30, 7 * FRAME), RATE)
    np.testing.assert_array_equal(trimmed, with_silence(30, 50))
    # The last frame may be shorter than the others.
    np.testing.assert_array_equal(trim_silence(with_silence(0, FRAME + 10), RATE), sound)
    np.testing.assert_array_equal(trim_silence(sound[:-10], RATE), sound[:-10])


def test_the_frame_is_an_argument():
    wave = with_silence(30, 30)
    np.testing.assert_array_equal(trim_silence(wave, RATE), wave)
    np.testing.assert_array_equal(trim_silence(wave, RATE, frame=10 / RATE), wave[30:-30])


def test_a_pause_stays():
    word = tone(440, RATE, 0.1)
    wave = np.concatenate([np.zeros(800), word, np.zeros(1600), word, np.zeros(800)])
    np.testing.assert_array_equal(trim_silence(wave, RATE), wave[800:-800])


def test_the_threshold_is_in_decibels_below_the_loudest_frame():
    loud = tone(400, RATE, 0.1)  # whole periods, so that all of its frames have the same energy
    wave = np.concatenate([10 ** (-25 / 20) * loud, loud, np.zeros(800)])
    assert len(trim_silence(wave, RATE, threshold=24.9)) == 800
    assert len(trim_silence(wave, RATE, threshold=25.1)) == 1600
    assert len(trim_silence(1000 * wave, RATE, threshold=25.1)) == 1600  # relative, not absolute


def test_an_offset_is_not_heard_and_integers_are_taken():
    wave = (8000 * with_silence(1600, 800)).round().astype(np.int16)
    trimmed = trim_silence(wave, RATE)
    assert trimmed.dtype == np.int16
    np.testing.assert_array_equal(trimmed, wave[1600:-800])
    np.testing.assert_array_equal(trim_silence(wave + 3000, RATE), trimmed + 3000)


def test_silence_throughout_stays():
    assert trim_silence(np.zeros(900), RATE).shape == (900,)
    assert trim_silence(np.zeros(0), RATE).shape == (0,)


def test_what_cannot_be_trimmed_is_refused():
    with pytest.raises(ValueError, match=r"threshold=-1 dB must be 0 or more"):
        trim_silence(np.ones(900), RATE, threshold=-1)
    with pytest.raises(ValueError, match=r"frame=1e-05 s have a sample at rate=8000 Hz"):
        trim_silence(np.ones(900), RATE, frame=1e-5)
    with pytest.raises(ValueError, match="rate must be above 0 and finite, got 0"):
        trim_silence(np.ones(900), 0)
    with pytest.raises(ValueError, match=r"take the mean of several channels"):
        trim_silence(np.ones((900, 2)), RATE)
