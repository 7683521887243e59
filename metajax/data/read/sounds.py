"""A folder of WAV files as a data set, with a class for each subfolder."""

from __future__ import annotations

import io
import os
import pathlib
import struct
import warnings
from typing import Any

import numpy as np

from metajax._checked import checked
from metajax._checks import check_positive
from metajax.data.datasets import Dataset
from metajax.data.read.folders import files_of_classes
from metajax.data.read.pictures import BrokenFile
from metajax.data.read.rows import kept_dataset
from metajax.data.waves import resample_wave, trim_silence
from metajax.types import Series, Size

_SUFFIXES = {".wav", ".wave"}

MOST_BYTES = 2**28
"""The largest size of a file, unless another one is given."""


@checked
def wave_folder(
    path: str | os.PathLike[str],
    *,
    rate: Size,
    seconds: float,
    silence: float | None = None,
    broken: BrokenFile | None = None,
    most_bytes: Size = MOST_BYTES,
    most_seconds: float = 600.0,
) -> Dataset:
    """Recordings in folders, one folder for each class, as a `Series` of int16[samples, 1].

    Each file becomes one channel, the mean of its channels, and is resampled to `rate`. Then
    silence is cut from both ends, where asked, and what is longer than `seconds` loses its end. A
    shorter recording is followed by zeros, which its `length` leaves out.

    Files are WAV of 8 to 64 bits, integers or floats; other formats have to be converted. 16 bits
    of each sample are kept. The data set declares `scale=32768`: drawn waves are float32 in
    [-1, 1), as `nets.Audio` takes them.

    The name of a class is its folder, relative to `path`: "george/zero" where zero is inside
    george. Files without the ending .wav or .wave, and names that begin with a dot, are ignored.
    Symbolic links to files and folders are followed, wherever they lead.

    Args:
        path: the folder that has the folders of the classes.
        rate: samples per second of the result.
        seconds: length of each wave in seconds.
        silence: decibels, the `threshold` of `trim_silence`, such as 30. None cuts no silence:
            recordings of one person may then differ from those of another by how much of it they
            have.
        broken: called with each file that cannot be read as a recording, which is then left out. To
            collect them in a list `lost`, give `lost.append`. None makes the first one an error.
        most_bytes: size of the largest file.
        most_seconds: length of the longest recording before anything is cut, since a small file may
            hold a long one.

    Returns:
        A data set whose x is a `Series` of value int16[examples, rate·seconds, 1].

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: no class, a class without a recording, recordings beside the folders of the
            classes, a link to a folder that it is in, a file that is damaged, too large or too
            long, or `seconds` without a sample.

    >>> import tempfile
    >>> from scipy.io import wavfile
    >>> tone = np.sin(2 * np.pi * 440 * np.arange(22050) / 44100).astype(np.float32)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("no", "yes"):
    ...         pathlib.Path(folder, name).mkdir()
    ...         wavfile.write(pathlib.Path(folder, name, "1.wav"), 44100, tone)
    ...     words = wave_folder(folder, rate=16000, seconds=1)
    >>> words.names, words.x.value.shape, words.x.length.tolist()
    (('no', 'yes'), (2, 16000, 1), [8000, 8000])
    """
    check_positive("seconds", seconds)
    samples = round(rate * seconds)
    if samples < 1:
        raise ValueError(f"{seconds=} must have a sample at {rate=} samples per second.")
    class_names, files = files_of_classes(pathlib.Path(path), _SUFFIXES, "recording")
    value: Any = np.zeros((len(files), samples, 1), np.int16)
    length: Any = np.zeros(len(files), np.int32)
    for row, file in enumerate(files):
        try:
            wave = _read_wave(file, rate, most_bytes, most_seconds)
        except ValueError as error:
            if broken is None:
                raise ValueError(
                    f"{file} cannot be read as a recording ({error}); repair it, "
                    "or leave such files out with broken=."
                ) from error
            broken(file)
            continue
        if silence is not None:
            wave = trim_silence(wave, rate, threshold=silence)
        wave = wave[:samples]
        value[row, : len(wave), 0] = wave
        length[row] = len(wave)
    recordings = Series(value, length)
    return kept_dataset(recordings, class_names, length > 0, scale=32768, what="recording")


def _read_wave(path: pathlib.Path, rate: int, most_bytes: int, most_seconds: float) -> np.ndarray:
    """One channel of a file at a rate, int16[samples].

    Raises:
        ValueError: not a regular file, or one that is damaged, too large or too long. The text says
            why.
    """
    try:
        if not path.is_file():  # reading a pipe would wait for ever
            raise ValueError("it is not a regular file")
        size = path.stat().st_size
        if size > most_bytes:
            raise ValueError(f"it has {size} bytes, and most_bytes is {most_bytes}")
        wave, own_rate = decode_wave(path.read_bytes())
        length = len(wave) / own_rate
        if length > most_seconds:
            raise ValueError(f"it is {length:.1f} s long, and most_seconds is {most_seconds:g}")
        wave = resample_wave(wave, own_rate, rate)
    except OSError as error:
        raise ValueError(str(error)) from error
    return np.clip(np.round(wave * 32768), -32768, 32767).astype(np.int16)


def decode_wave(encoded: bytes) -> tuple[np.ndarray, int]:
    """A WAV file as one channel, the mean of its channels.

    Args:
        encoded: the bytes of the file.

    Returns:
        (float64[samples] from -1 to 1, samples per second). Floats beyond that are clipped.

    Raises:
        ValueError: a file that cannot be decoded, that ends too early, or that has no sample. The
            text says why.
    """
    from scipy.io import wavfile

    try:
        _check_whole(encoded)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", wavfile.WavFileWarning)  # chunks of other programs
            rate, stored = wavfile.read(io.BytesIO(encoded))
    except Exception as error:  # a damaged header raises many kinds
        raise ValueError(str(error) or type(error).__name__) from error
    if not stored.size or rate < 1:
        raise ValueError(f"it has {stored.size} samples at {rate} per second")
    wave = _as_floats(stored)
    if not np.isfinite(wave).all():
        raise ValueError("it has samples that are not finite")
    return wave.clip(-1, 1).reshape(len(wave), -1).mean(axis=1), rate


def _check_whole(encoded: bytes) -> None:
    """Checks that there is data, and that the file does not end before a chunk of it does.

    Source: Microsoft and IBM 1991, Multimedia Programming Interface and Data Specifications 1.0: a
    chunk is a name of 4 bytes, its size in 4 bytes, and so many bytes, padded to an even number.
    """
    if len(encoded) < 12:
        raise ValueError(f"it has {len(encoded)} bytes, too few for a header")
    order = ">" if encoded[:4] == b"RIFX" else "<"
    end = min(8 + struct.unpack_from(f"{order}I", encoded, 4)[0], len(encoded))
    names = set()
    place = 12
    while place + 8 <= end:
        name, size = struct.unpack_from(f"{order}4sI", encoded, place)
        names.add(name)
        place += 8 + size
        if place > len(encoded):
            raise ValueError(f"it ends after {len(encoded)} of {place} bytes")
        place += size % 2
    if b"data" not in names:
        raise ValueError("it has no chunk of data")


def _as_floats(stored: np.ndarray) -> np.ndarray:
    """Samples as float64, integers divided so that they lie in [-1, 1)."""
    if np.issubdtype(stored.dtype, np.floating):
        return stored.astype(np.float64)
    half = 2.0 ** (8 * stored.dtype.itemsize - 1)
    zero = half if np.issubdtype(stored.dtype, np.unsignedinteger) else 0.0
    return (stored.astype(np.float64) - zero) / half
