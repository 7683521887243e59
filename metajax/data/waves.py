"""Recordings as arrays: resampled to another rate, and cut to where they are heard."""

from __future__ import annotations

import math

import numpy as np
from jax.typing import ArrayLike

from metajax._checked import checked
from metajax._checks import check_positive, shapes
from metajax.types import Size

HIGHEST_RATE = 1_000_000
"""The highest rate in samples per second; the filter of `resample_wave` is as long as a rate."""


@checked
def resample_wave(wave: ArrayLike, old: Size, new: Size) -> np.ndarray:
    """A recording at another rate: the same sound, with more or fewer samples in each second.

    A low-pass filter takes away what lies above half of the lower rate, so that no tone comes back
    as another one.

    Args:
        wave: float[samples].
        old: its rate, in samples per second.
        new: the rate of the result, in samples per second.

    Returns:
        float[⌈samples·new / old⌉] of the same dtype. With `new=old` it is the wave itself.

    Raises:
        ValueError: integers, another rank, or a rate above 1 000 000.

    >>> second = np.sin(2 * np.pi * 440 * np.arange(44100) / 44100)
    >>> resample_wave(second, 44100, 16000).shape
    (16000,)
    """
    from scipy.signal import resample_poly

    wave = _check_wave(wave)
    if not np.issubdtype(wave.dtype, np.floating):
        raise ValueError(f"A wave is resampled as floats, got {shapes(wave)}; divide by 32768.")
    if max(old, new) > HIGHEST_RATE:
        raise ValueError(f"{old=} and {new=} must be at most {HIGHEST_RATE} samples per second.")
    if old == new or not len(wave):
        return wave
    common = math.gcd(old, new)
    return resample_poly(wave, new // common, old // common).astype(wave.dtype)


@checked
def trim_silence(
    wave: ArrayLike, rate: float, *, threshold: float = 30.0, frame: float = 0.010
) -> np.ndarray:
    """A recording without the silence before and after what is heard. Pauses inside it stay.

    The recording is divided into frames, side by side. With E the mean of (x - mean of the wave)²
    over a frame, which a constant offset does not change, the result reaches from the first to the
    last frame with

        10·log₁₀(largest E / E) ≤ threshold

    It begins at the start of a frame, so that at most one frame of silence is left at either end.
    A recording that is silent throughout stays as it is.

    Args:
        wave: [samples], floats or integers.
        rate: samples per second.
        threshold: decibels. A frame that is softer than the loudest by more than this is silent.
            Take less for recordings with noise: at 30 a whisper stays, and at 20 soft consonants
            at the ends of words are lost.
        frame: length of a frame in seconds.

    Returns:
        [samples left], of the same dtype.

    Raises:
        ValueError: another rank, a threshold below 0, or a frame without a sample.

    >>> wave = np.array([0, 0, 0, 0, 5, -5, 4, -4, 0, 0])
    >>> trim_silence(wave, rate=1000, frame=0.002).tolist()
    [5, -5, 4, -4]
    """
    wave = _check_wave(wave)
    check_positive("rate", rate)
    width = round(rate * frame)
    if threshold < 0 or width < 1:
        raise ValueError(
            f"{threshold=} dB must be 0 or more, and {frame=} s have a sample at {rate=} Hz."
        )
    if not len(wave):
        return wave
    power = (wave.astype(np.float64) - wave.mean()) ** 2
    first = np.arange(0, len(wave), width)
    size = np.diff(first, append=len(wave))  # the last frame may be shorter
    energy = np.add.reduceat(power, first) / size
    heard = np.flatnonzero(energy >= energy.max() * 10 ** (-threshold / 10))
    return wave[first[heard[0]] : first[heard[-1]] + width]


def _check_wave(wave: ArrayLike) -> np.ndarray:
    """The wave as an array of NumPy; checks that it is one recording."""
    wave = np.asarray(wave)
    if wave.ndim != 1:
        raise ValueError(
            f"One recording [samples] is taken at a time, got {shapes(wave)}; take the mean of "
            "several channels."
        )
    return wave
