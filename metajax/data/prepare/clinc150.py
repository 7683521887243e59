"""CLINC150: utterances and their intents."""

from __future__ import annotations

import gzip
import pathlib
from typing import BinaryIO

from metajax.data.read.downloads import DataFile, Origin


def _write(paths: list[pathlib.Path], file: BinaryIO) -> None:
    """The file of the origin, compressed."""
    file.write(gzip.compress(paths[0].read_bytes(), mtime=0))


CLINC150 = DataFile(
    "clinc150.json.gz",
    (
        Origin(
            "clinc150-data_full.json",
            "https://raw.githubusercontent.com/clinc/oos-eval/"
            "828f8093932c8fe6ca7936c3d2e52903b1c523de/data/data_full.json",
            "36923c3705a59e08fe9c3883d8bc2dd966ef93e22cb78ac41171782a698d56e0",
        ),
    ),
    _write,
    "CLINC150, CC BY 3.0. Cite Larson et al. 2019, aclanthology.org/D19-1131.",
)
