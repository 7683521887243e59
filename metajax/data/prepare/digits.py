"""Written digits (MNIST) and spoken digits (Free Spoken Digit Dataset)."""

from __future__ import annotations

import gzip
import io
import pathlib
import wave
from collections.abc import Mapping
from typing import BinaryIO

import numpy as np

from metajax.data.prepare.contents import check_contents, unpack_archive, write_arrays
from metajax.data.read.downloads import DataFile, Origin

_WRITTEN = 10_000
_SPEAKERS = ("george", "jackson", "nicolas", "theo")
_COMMIT = "2b2c7c40d93a401feccf428247dcd2317431fdd6"


def written_arrays(paths: list[pathlib.Path]) -> dict[str, np.ndarray]:
    """Image uint8[10000, 28, 28] and label of the first examples, stably sorted by label.

    Args:
        paths: MNIST's images and labels in IDX format, gzipped.
    """
    images, labels = (gzip.decompress(path.read_bytes()) for path in paths)
    # A header of 16 bytes, the number of images, rows and columns, or of 8 bytes.
    image = np.frombuffer(images, np.uint8, _WRITTEN * 28 * 28, offset=16).reshape(-1, 28, 28)
    label = np.frombuffer(labels, np.uint8, _WRITTEN, offset=8)
    order = np.argsort(label, kind="stable")
    return {"image": image[order], "label": label[order].astype(np.int8)}


def spoken_arrays(files: Mapping[str, bytes]) -> dict[str, np.ndarray]:
    """Wave int16[samples of all], offset, digit and speaker, sorted by file name.

    Args:
        files: {"recordings/7_theo_0.wav": content}, of one channel and 16 bits.
    """
    waves, digits, speakers = [], [], []
    for name in sorted(files):
        digit, speaker, _ = pathlib.PurePosixPath(name).stem.split("_")
        with wave.open(io.BytesIO(files[name])) as recording:
            samples = recording.readframes(recording.getnframes())
        waves.append(np.frombuffer(samples, "<i2").astype(np.int16))
        digits.append(int(digit))
        speakers.append(speaker)
    return {
        "wave": np.concatenate(waves),
        "offset": np.cumsum([0, *(len(samples) for samples in waves)]).astype(np.int32),
        "digit": np.array(digits, np.int8),
        "speaker": np.array(speakers),
    }


def _is_recording(name: str) -> bool:
    """Whether a file is a recording of one of the speakers of v1.0.9 that are used."""
    return name.startswith("recordings/") and name.split("_")[1:2] in [[s] for s in _SPEAKERS]


def _write_written(paths: list[pathlib.Path], file: BinaryIO) -> None:
    expected = {
        "image": "0768d16c5adea568dee18fa5e4e1acb117e9ec2c5d6b1dffe5fc29c1e61c1eca",
        "label": "44e605757823cf79c6557e6d2a7f45c693b286e8cd303ea10339b002801b4916",
    }
    write_arrays(written_arrays(paths), expected, file)


def _write_spoken(paths: list[pathlib.Path], file: BinaryIO) -> None:
    files = unpack_archive(paths[0], _is_recording)
    check_contents(files, "bc150fb317fa0fb816e12c8f8853e57968f716eb4f89bf5ac7aa0a2e49852ff8")
    expected = {
        "wave": "382ed6b06c337302cb5028890cecd392f9d876c10ea2dd2351bf5eb35b215f06",
        "offset": "9494574e31145925c53d93309ef27608a15b77d75dce8db689507842279335f4",
        "digit": "783ded2cd634604d77909249bf721cf46185a8401e95753ab3636fc8edcb816c",
        "speaker": "4aae56fdf9a02cbd248cec7b893494e3de96e946e31df56d98b7141ed7e2df33",
    }
    write_arrays(spoken_arrays(files), expected, file)


MNIST = DataFile(
    "mnist.npz",
    (
        Origin(
            "mnist-train-images-idx3-ubyte.gz",
            "https://storage.googleapis.com/cvdf-datasets/mnist/train-images-idx3-ubyte.gz",
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        ),
        Origin(
            "mnist-train-labels-idx1-ubyte.gz",
            "https://storage.googleapis.com/cvdf-datasets/mnist/train-labels-idx1-ubyte.gz",
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        ),
    ),
    _write_written,
    "MNIST, training digits; no licence stated (Keras: CC BY-SA 3.0, © Yann LeCun and Corinna "
    "Cortes). Cite LeCun, Bottou, Bengio and Haffner 1998, doi 10.1109/5.726791.",
)
FSDD = DataFile(
    "fsdd.npz",
    (
        Origin(
            "fsdd-v1.0.9.tar.gz",
            "https://github.com/Jakobovski/free-spoken-digit-dataset/archive/"
            + _COMMIT
            + ".tar.gz",
        ),
    ),
    _write_spoken,
    "Free Spoken Digit Dataset v1.0.9, CC BY-SA 4.0. Cite Jackson et al. 2016-2018, "
    "github.com/Jakobovski/free-spoken-digit-dataset.",
)
