"""CIFAR-100 as few-shot data sets, by TensorFlow Datasets."""

from __future__ import annotations

import dataclasses
import os

from metajax._checked import checked
from metajax._checks import check_names
from metajax.data.datasets import Dataset
from metajax.data.read.tensorflow_sets import tfds
from metajax.data.sets.published_splits import cifar_fs_split, fc100_split
from metajax.data.splits import Split

_CREDIT = (
    "CIFAR-100, no licence stated. Cite Krizhevsky 2009, "
    "cs.toronto.edu/~kriz/learning-features-2009-TR.pdf, and "
)


@checked
def cifar_fs(
    part: str, *, data_dir: str | os.PathLike | None = None, download: bool = True
) -> Dataset:
    """CIFAR-FS: 64, 16 or 20 classes of CIFAR-100, uint8[32, 32, 3], 600 of each.

    Drawn images are float32 in [0, 1]. CIFAR-100 is downloaded and prepared by `tfds`, once.
    Licence: the origin states none.

    Args:
        part: "train", "validation" or "test", as `cifar_fs_split` has them.
        data_dir: as in `tfds`.
        download: as in `tfds`.

    Raises:
        ValueError: an unknown part.
        ImportError, FileNotFoundError, ConnectionError, OSError: as `tfds`.

    Source: Bertinetto, Henriques, Torr and Vedaldi 2019, arXiv 1805.08136; Krizhevsky 2009,
    cs.toronto.edu/~kriz/learning-features-2009-TR.pdf.
    """
    credit = _CREDIT + "for CIFAR-FS Bertinetto et al. 2019, arXiv 1805.08136."
    return _read_part(cifar_fs_split(), part, data_dir, download, credit)


@checked
def fc100(
    part: str, *, data_dir: str | os.PathLike | None = None, download: bool = True
) -> Dataset:
    """FC100: 60, 20 or 20 classes of CIFAR-100, uint8[32, 32, 3], split by superclass.

    Drawn images are float32 in [0, 1]. CIFAR-100 is downloaded and prepared by `tfds`, once.
    Licence: the origin states none.

    Args:
        part: "train", "validation" or "test", as `fc100_split` has them.
        data_dir: as in `tfds`.
        download: as in `tfds`.

    Raises:
        ValueError: an unknown part.
        ImportError, FileNotFoundError, ConnectionError, OSError: as `tfds`.

    Source: Oreshkin, Rodríguez López and Lacoste 2018, arXiv 1805.10123; Krizhevsky 2009,
    cs.toronto.edu/~kriz/learning-features-2009-TR.pdf.
    """
    credit = _CREDIT + "for FC100 Oreshkin et al. 2018, arXiv 1805.10123."
    return _read_part(fc100_split(), part, data_dir, download, credit)


def _read_part(
    split: Split, part: str, data_dir: str | os.PathLike | None, download: bool, credit: str
) -> Dataset:
    """The classes of one part, from CIFAR-100's own training and test examples together."""
    check_names([part], split.parts, "the parts")
    source = tfds(
        "cifar100",
        split="train+test",
        keep=split.parts[part],
        data_dir=data_dir,
        download=download,
    )
    return dataclasses.replace(source, credit=credit)
