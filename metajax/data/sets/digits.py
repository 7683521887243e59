"""Digits, written and spoken."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from metajax.data.datasets import Dataset, dataset
from metajax.data.read.data_files import all_present, read_pack

_NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def written_digits() -> Dataset:
    """MNIST's 10 000 test digits as uint8 images [28, 28, 1], ink = 255, named "zero" to "nine".

    Reads `mnist.npz`: image uint8[10000, 28, 28], label int[10000].

    Raises:
        FileNotFoundError: METAJAX_DATA is not set, or the file is not there.
        ValueError: the file is damaged.

    Source: LeCun, Bottou, Bengio and Haffner 1998, doi 10.1109/5.726791.
    """
    pack = read_pack("mnist.npz", ("image", "label"))
    return dataset(pack["image"][..., None], pack["label"], names=_NAMES)


def spoken_digits(*, samples: int = 6000, speakers: Sequence[str] | None = None) -> Dataset:
    """Spoken digits as int16[samples] at 8 kHz, 50 of each digit from each of 4 speakers, named "zero" to "nine".

    A recording that is shorter is followed by zeros, one that is longer loses its end: at 6 000 samples (0.75 seconds)
    that is 30 of 2 000, one of which loses more than 1/20 of its energy.

    Reads `fsdd.npz`: wave int16[all], offset int[2001], digit, speaker.

    Args:
        samples: length of each wave.
        speakers: whose recordings to take, such as ["george", "theo"]; None takes all.

    Raises:
        FileNotFoundError: METAJAX_DATA is not set, or the file is not there.
        ValueError: the file is damaged, an unknown speaker, none, or `samples` below 1.

    Source: the Free Spoken Digit Dataset, github.com/Jakobovski/free-spoken-digit-dataset.
    """
    if samples < 1:
        raise ValueError(f"{samples=} must be 1 or more.")
    pack = read_pack("fsdd.npz", ("wave", "offset", "digit", "speaker"))
    known = np.unique(pack["speaker"]).tolist()
    chosen = known if speakers is None else list(speakers)
    if not chosen or not set(chosen) <= set(known):
        raise ValueError(f"{speakers=} must be some of {known}; None takes all.")
    rows = np.flatnonzero(np.isin(pack["speaker"], chosen))
    first, length = pack["offset"][rows], np.minimum(np.diff(pack["offset"])[rows], samples)
    place = np.arange(samples)
    # Places past the end of a recording read its first sample, and are then overwritten.
    wave = pack["wave"][first[:, None] + np.where(place < length[:, None], place, 0)]
    return dataset(
        np.where(place < length[:, None], wave, 0).astype(np.int16),
        pack["digit"][rows],
        names=_NAMES,
    )


def paired_digits(*, pairs: int = 200, samples: int = 6000, seed: int = 0) -> Dataset:
    """Pairs of a written and a spoken digit of the same value, by chance: x is a `Modalities` of image and audio.

    No image and no recording is in two pairs, so that a class has at most 200; both modalities are always present.

    Args:
        pairs: of each digit.
        samples: length of the audio, as in `spoken_digits`.
        seed: of the pairing.

    Raises:
        FileNotFoundError: METAJAX_DATA is not set, or a file is not there.
        ValueError: a damaged file, `pairs` below 1 or more than there are recordings or images.
    """
    image, audio = written_digits(), spoken_digits(samples=samples)
    most = min(image.smallest, audio.smallest)
    if not 1 <= pairs <= most:
        raise ValueError(
            f"{pairs=} of each digit must be 1 to {most}, the images or recordings of the rarest digit."
        )
    rng = np.random.default_rng(seed)

    def rows(source: Dataset) -> np.ndarray:
        """[10 * pairs], sorted by class."""
        starts, counts = np.asarray(source.start), np.asarray(source.count)
        return np.concatenate(
            [s + rng.permutation(c)[:pairs] for s, c in zip(starts, counts, strict=True)]
        )

    x = all_present(image=np.asarray(image.x)[rows(image)], audio=np.asarray(audio.x)[rows(audio)])
    return dataset(x, np.repeat(np.arange(10), pairs), names=_NAMES)
