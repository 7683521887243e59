"""Digits, written and spoken."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from metajax._checked import checked
from metajax.data.datasets import Dataset, dataset
from metajax.data.prepare.digits import FSDD, MNIST
from metajax.data.read.data_files import read_data_file
from metajax.data.read.rows import all_present
from metajax.types import Size

_NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


@checked
def written_digits() -> Dataset:
    """The first 10 000 *training* digits of MNIST, uint8[28, 28, 1], ink = 255, "zero" to "nine".

    Drawn images are float32 in [0, 1]. They are about a thousand of each digit, in the order in
    which MNIST has them. They are not MNIST's test set: what is trained on MNIST has seen them.

    Reads `mnist.npz`, which is found or downloaded as `omniglot` says: image uint8[10000, 28, 28],
    label int[10000]. The origin states no licence; Keras names CC BY-SA 3.0, © Yann LeCun and
    Corinna Cortes.

    Raises:
        FileNotFoundError: METAJAX_DATA names no folder.
        ConnectionError: the file is not at hand, and its origin cannot be reached.
        ValueError: the file is damaged.

    Source: LeCun, Bottou, Bengio and Haffner 1998, doi 10.1109/5.726791.
    """
    stored = read_data_file(MNIST, ("image", "label"))
    image = stored["image"][..., None]
    return dataset(image, stored["label"], names=_NAMES, scale=255, credit=MNIST.credit)


@checked
def spoken_digits(*, samples: Size = 6000, speakers: Sequence[str] | None = None) -> Dataset:
    """Spoken digits as int16[samples] at 8 kHz, "zero" to "nine": 50 of each by each of 4 speakers.

    A shorter recording is followed by zeros, a longer one loses its end. At 6 000 samples (0.75
    seconds) 30 of 2 000 do, and one of them loses more than 1/20 of its energy. Drawn waves are
    float32 in [-1, 1).

    Reads `fsdd.npz`, which is found or downloaded as `omniglot` says: wave int16[all], offset
    int[2001], digit, speaker. Licence: CC BY-SA 4.0.

    Args:
        samples: length of each wave.
        speakers: whose recordings to take, such as ["george", "theo"]. None takes all.

    Raises:
        FileNotFoundError: METAJAX_DATA names no folder.
        ConnectionError: the file is not at hand, and its origin cannot be reached.
        ValueError: the file is damaged, an unknown speaker, no speaker, or `samples` below 1.

    Source: Jackson et al. 2016-2018, the Free Spoken Digit Dataset v1.0.9,
    github.com/Jakobovski/free-spoken-digit-dataset.
    """
    stored = read_data_file(FSDD, ("wave", "offset", "digit", "speaker"))
    known = np.unique(stored["speaker"]).tolist()
    chosen = known if speakers is None else list(speakers)
    if not chosen or not set(chosen) <= set(known):
        raise ValueError(f"{speakers=} must be some of {known}; None takes all.")
    rows = np.flatnonzero(np.isin(stored["speaker"], chosen))
    first = stored["offset"][rows]
    length = np.minimum(np.diff(stored["offset"])[rows], samples)
    place = np.arange(samples)
    valid = place < length[:, None]
    # Places after the end of a recording read its first sample, which is then overwritten.
    wave = stored["wave"][first[:, None] + np.where(valid, place, 0)]
    wave = np.where(valid, wave, 0).astype(np.int16)
    return dataset(wave, stored["digit"][rows], names=_NAMES, scale=32768, credit=FSDD.credit)


@checked
def paired_digits(*, pairs: int = 200, samples: int = 6000, seed: int = 0) -> Dataset:
    """Random pairs of a written and a spoken digit of the same value.

    The images are MNIST's training digits, as in `written_digits`.

    x is a `Modalities` of image and audio, which are always present. No image and no recording is
    in two pairs, so that a class has at most 200.

    Args:
        pairs: number of pairs of each digit.
        samples: length of the audio, as in `spoken_digits`.
        seed: of the pairing.

    Raises:
        FileNotFoundError: METAJAX_DATA names no folder.
        ConnectionError: the file is not at hand, and its origin cannot be reached.
        ValueError: a damaged file, or `pairs` below 1 or more than there are recordings or images.
    """
    image = written_digits()
    audio = spoken_digits(samples=samples)
    most = min(image.smallest, audio.smallest)
    if not 1 <= pairs <= most:
        raise ValueError(
            f"{pairs=} of each digit must be 1 to {most}, "
            "the images or recordings of the rarest digit."
        )
    rng = np.random.default_rng(seed)
    value = {
        "image": np.asarray(image.x)[_draw_rows(image, pairs, rng)],
        "audio": np.asarray(audio.x)[_draw_rows(audio, pairs, rng)],
    }
    y = np.repeat(np.arange(10), pairs)
    scale = {"image": 255, "audio": 32768}
    credit = f"{MNIST.credit}\n{FSDD.credit}"
    return dataset(all_present(value, len(y)), y, names=_NAMES, scale=scale, credit=credit)


def _draw_rows(source: Dataset, number: int, rng: np.random.Generator) -> np.ndarray:
    """Rows int[classes * number], drawn without replacement, sorted by class."""
    starts = np.asarray(source.start)
    counts = np.asarray(source.count)
    drawn = [
        start + rng.permutation(count)[:number] for start, count in zip(starts, counts, strict=True)
    ]
    return np.concatenate(drawn)
