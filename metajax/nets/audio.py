"""Audio: the log-mel spectrogram in front of any encoder of series."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from metajax.nets.attention import clear, pool
from metajax.nets.sequence import GRU, Front, SequenceTransformer, TemporalConv, read
from metajax.types import Array, Series


class Audio(Front):
    """The log-mel spectrogram of a recording at mean 0 and variance 1, then an encoder of series.

    For recordings of different lengths give a `Series` [n, samples, 1]: frames that lie whole in the recording count.

    Args:
        sequence: what reads the spectrogram: a `GRU`, `TemporalConv` or `SequenceTransformer`; its `inputs` is the
            number of mel bands.
        rate: samples a second.
        frame: seconds of a frame.
        hop: seconds from one frame to the next.
    """

    def __init__(
        self,
        sequence: GRU | TemporalConv | SequenceTransformer,
        *,
        rate: float,
        frame: float = 0.025,
        hop: float = 0.010,
    ):
        super().__init__(sequence)
        self.mels, self.rate, self.frame, self.hop = sequence.inputs, rate, frame, hop

    def series(self, x: Array | Series, reference: Array | None = None) -> Series:
        """[n, samples] or a series [n, samples, 1] -> a series [n, frames, mels]."""
        wave, valid = read(x)
        mel = log_mel(
            wave.reshape(wave.shape[:2]),
            rate=self.rate,
            mels=self.mels,
            frame=self.frame,
            hop=self.hop,
        )
        width, step = _samples(self.rate, self.frame, self.hop)
        length = jnp.maximum((valid.sum(1) - width) // step + 1, 0)
        here = jnp.arange(mel.shape[1])[None] < length[:, None]
        centred = mel - pool(mel, here).mean(-1)[:, None, None]
        variance = pool(centred**2, here).mean(-1)[:, None, None]
        return Series(clear(centred / jnp.sqrt(variance + 1e-5), here), length)


def log_mel(
    wave: Array, *, rate: float, mels: int = 40, frame: float = 0.025, hop: float = 0.010
) -> Array:
    """How loud each band of pitch is in each frame: log(Σ_f M[f, m]·|FFT(hann·frame)[f]|² + 10⁻⁶).

    Frames lie whole in the wave and are padded to a power of two for the transform. Bands are triangles, evenly spaced
    in mel = 2595·log₁₀(1 + f / 700 Hz) from 0 to half the rate, each as wide as two steps.

    Args:
        wave: [n, samples], from -1 to 1.
        rate: samples a second.
        mels: number of bands.
        frame: seconds of a frame.
        hop: seconds from one frame to the next.

    Returns:
        [n, frames, mels], frames = ⌊(samples - frame) / hop⌋ + 1, both in samples.

    Raises:
        ValueError: a rate, frame or hop of no sample, a frame longer than the wave, or bands narrower than what the
            transform tells apart.

    Source: Young et al., The HTK Book, section 5.6.

    >>> log_mel(jnp.zeros((2, 8000)), rate=8000).shape
    (2, 98, 40)
    """
    width, step = _samples(rate, frame, hop)
    if width > wave.shape[1]:
        raise ValueError(
            f"A {frame=} of {width} samples is longer than the wave of {wave.shape[1]}; pad it with zeros."
        )
    size = 1 << (width - 1).bit_length()
    bands = _bands(rate, mels, size)
    start = np.arange(0, wave.shape[1] - width + 1, step)
    frames = wave[:, start[:, None] + np.arange(width)[None]]
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(width) / width)).astype(wave.dtype)
    spectrum = jnp.fft.rfft(frames * window[None, None], n=size)
    power = spectrum.real**2 + spectrum.imag**2
    return jnp.log(power @ bands.astype(power.dtype) + 1e-6)


def _samples(rate: float, frame: float, hop: float) -> tuple[int, int]:
    """Samples of a frame and of a hop."""
    width, step = round(rate * frame), round(rate * hop)
    if rate <= 0 or width < 1 or step < 1:
        raise ValueError(
            f"{rate=} Hz, {frame=} s and {hop=} s must be positive and give at least one sample."
        )
    return width, step


def _bands(rate: float, mels: int, size: int) -> np.ndarray:
    """What each of the frequencies of a transform of that size counts in each band, [size / 2 + 1, mels]."""
    mel = 2595 * np.log10(1 + np.arange(size // 2 + 1) * (rate / size) / 700)
    spacing = mel[-1] / (mels + 1)
    centre = spacing * np.arange(1, mels + 1)
    bands = np.maximum(0, 1 - np.abs(mel[:, None] - centre[None]) / spacing)
    if not bands.any(axis=0).all():
        raise ValueError(
            f"Of {mels=} some lie between the frequencies of {size} samples; take fewer or a longer frame."
        )
    return bands
