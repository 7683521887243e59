"""Audio: the log-mel spectrogram in front of an encoder of series."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from metajax._checked import checked
from metajax.nets.layers import check_scaled
from metajax.nets.sequence import GRU, SequenceTransformer, TemporalConv
from metajax.nets.tokens import FrontEnd, keep_valid, pool_tokens, read_series
from metajax.types import Array, Series


@checked
class Audio(FrontEnd):
    """The log-mel spectrogram of a recording, at mean 0 and variance 1, then an encoder of series.

    Recordings of different lengths come as a `Series` [n, samples, 1]. Only frames that lie wholly
    inside the recording are valid.

    Args:
        sequence: what reads the spectrogram: a `GRU`, `TemporalConv` or `SequenceTransformer`. Its
            `inputs` is the number of mel bands.
        rate: samples per second.
        frame: length of a frame in seconds.
        hop: seconds from the start of one frame to the start of the next.

    Raises:
        ValueError: when called, whatever `log_mel` refuses.

    >>> import jax
    >>> from flax import nnx
    >>> net = Audio(TemporalConv(20, 5, width=8, rngs=nnx.Rngs(0)), rate=8000)
    >>> jax.eval_shape(net, jnp.zeros((2, 4000))).shape
    (2, 5)
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
        self.mels = sequence.inputs
        self.rate = rate
        self.frame = frame
        self.hop = hop

    def series(self, x: Array | Series, reference: Array | None = None) -> Series:
        """The normalised spectrogram.

        Args:
            x: float[n, samples], or a `Series` of value float[n, samples, 1].
            reference: not used; each recording is normalised by itself.

        Returns:
            A series [n, frames, mels].
        """
        wave, heard = read_series(x)
        wave = wave.reshape(wave.shape[:2])
        mel = log_mel(wave, rate=self.rate, mels=self.mels, frame=self.frame, hop=self.hop)
        width, step = _in_samples(self.rate, self.frame, self.hop)
        length = jnp.maximum((heard.sum(1) - width) // step + 1, 0)
        valid = jnp.arange(mel.shape[1])[None] < length[:, None]
        centred = mel - _mean(mel, valid)
        variance = _mean(centred**2, valid)
        return Series(keep_valid(centred / jnp.sqrt(variance + 1e-5), valid), length)


@checked
def log_mel(
    wave: Array, *, rate: float, mels: int = 40, frame: float = 0.025, hop: float = 0.010
) -> Array:
    """The log-mel spectrogram: how loud each band of pitch is in each frame.

    log(Σ_f M[f, m]·|FFT(hann·frame)[f]|² + 10⁻⁶), with the periodic Hann window. Frames lie wholly
    inside the wave and are padded to a power of two for the transform. The bands are triangles that
    are evenly spaced in mel = 2595·log₁₀(1 + f / 700 Hz), from 0 to half the rate, each two
    spacings wide.

    Args:
        wave: float[n, samples], from -1 to 1.
        rate: samples per second.
        mels: number of bands.
        frame: length of a frame in seconds.
        hop: seconds from the start of one frame to the start of the next.

    Returns:
        [n, frames, mels], frames = ⌊(samples - frame) / hop⌋ + 1 with frame and hop in samples.

    Raises:
        ValueError: a wave of integers; a rate, frame or hop without a sample; a frame longer than
            the wave; bands too narrow for the resolution of the transform.

    >>> log_mel(jnp.zeros((2, 8000)), rate=8000).shape
    (2, 98, 40)

    Source: Young et al., The HTK Book, section 5.6.
    """
    check_scaled(wave, "Waves", 32768)
    width, step = _in_samples(rate, frame, hop)
    if width > wave.shape[1]:
        raise ValueError(
            f"A {frame=} of {width} samples is longer than the wave of {wave.shape[1]}; "
            "pad the wave with zeros."
        )
    size = 1 << (width - 1).bit_length()
    bands = _mel_bands(rate, mels, size)
    start = np.arange(0, wave.shape[1] - width + 1, step)
    frames = wave[:, start[:, None] + np.arange(width)[None]]
    hann = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(width) / width)).astype(wave.dtype)
    spectrum = jnp.fft.rfft(frames * hann[None, None], n=size)
    power = spectrum.real**2 + spectrum.imag**2
    return jnp.log(power @ bands.astype(power.dtype) + 1e-6)


def _mean(mel: Array, valid: Array) -> Array:
    """The mean of each spectrogram over valid frames and all bands, [n, 1, 1]."""
    return pool_tokens(mel, valid).mean(-1)[:, None, None]


def _in_samples(rate: float, frame: float, hop: float) -> tuple[int, int]:
    """The lengths of a frame and of a hop in samples."""
    width = round(rate * frame)
    step = round(rate * hop)
    if rate <= 0 or width < 1 or step < 1:
        raise ValueError(
            f"{rate=} Hz, {frame=} s and {hop=} s must be positive and give at least one sample."
        )
    return width, step


def _mel_bands(rate: float, mels: int, size: int) -> np.ndarray:
    """The weight of each frequency of a transform in each band, [size / 2 + 1, mels]."""
    mel = 2595 * np.log10(1 + np.arange(size // 2 + 1) * (rate / size) / 700)
    spacing = mel[-1] / (mels + 1)
    centre = spacing * np.arange(1, mels + 1)
    bands = np.maximum(0, 1 - np.abs(mel[:, None] - centre[None]) / spacing)
    if not bands.any(axis=0).all():
        raise ValueError(
            f"With {mels=} some bands lie between the frequencies of {size} samples; take fewer "
            "bands or a longer frame."
        )
    return bands
