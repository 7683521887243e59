"""Omniglot, as images and as pen strokes."""

from __future__ import annotations

import pathlib
import zipfile
from typing import BinaryIO

import numpy as np

from metajax.data.prepare.contents import shrink, write_arrays
from metajax.data.read.downloads import DataFile, Origin

_FOLDER = (
    "https://raw.githubusercontent.com/brendenlake/omniglot/"
    "057f034baf2ecb8530bc5710e5a23584d2a519cc/python/"
)
_CREDIT = (
    "Omniglot, MIT, © 2015 Brenden Lake. Cite Lake, Salakhutdinov and Tenenbaum 2015, "
    "doi 10.1126/science.aab3050."
)
_LATEST = 65535  # milliseconds


def omniglot_arrays(paths: list[pathlib.Path]) -> dict[str, np.ndarray]:
    """Image uint8[pictures, 28, 28], label, names and drawer, sorted by alphabet and character.

    Args:
        paths: zip files of pictures "images_background/Greek/character01/0001_20.png", where 20 is
            who drew it.
    """
    pictures: dict[str, bytes] = {}
    for path in paths:
        pictures |= _members(path, ".png")
    names, label = np.unique([_folder(name) for name in sorted(pictures)], return_inverse=True)
    return {
        "image": np.stack([_image(pictures[name]) for name in sorted(pictures)]),
        "label": label.astype(np.int16),
        "names": names,
        "drawer": _drawers(sorted(pictures)),
    }


def stroke_arrays(paths: list[pathlib.Path]) -> dict[str, np.ndarray]:
    """image, stroke uint16[points, (16 x, 16 y, milliseconds, start)], offset, label, names, ...

    A file that both archives have is taken from the first. y points down, as in the picture. The
    clock stops at 65 535. The start is 1 at the first point of each stroke.

    Args:
        paths: zip files: two with pictures, then two with strokes in text files of the same names.
    """
    pictures = _first_of([_members(path, ".png") for path in paths[:2]])
    texts = _first_of([_members(path, ".txt") for path in paths[2:]])
    strokes = [_stroke(texts[name].decode()) for name in pictures]
    names, label = np.unique([_folder(name) for name in pictures], return_inverse=True)
    return {
        "image": np.stack([_image(content) for content in pictures.values()]),
        "stroke": np.concatenate(strokes),
        "offset": np.cumsum([0, *(len(stroke) for stroke in strokes)]).astype(np.int32),
        "label": label.astype(np.int16),
        "names": names,
        "drawer": _drawers(list(pictures)),
    }


def _members(path: pathlib.Path, suffix: str) -> dict[str, bytes]:
    """{name: content} of the files of a zip file with this ending."""
    with zipfile.ZipFile(path) as archive:
        return {
            name: archive.read(name)
            for name in archive.namelist()
            if name.endswith(suffix) and not name.startswith("__MACOSX")
        }


def _first_of(archives: list[dict[str, bytes]]) -> dict[str, bytes]:
    """{"Greek/character01/0001_20": content}: each archive sorted, without what one before has."""
    found: dict[str, bytes] = {}
    for archive in archives:
        for name in sorted(archive):
            found.setdefault(name.partition("/")[2][: -len(".png")], archive[name])
    return found


def _folder(name: str) -> str:
    """The character that a file is of."""
    return name.rpartition("/")[0]


def _drawers(names: list[str]) -> np.ndarray:
    """Who drew each file "0001_20.png", 1 to 20."""
    return np.array([name.rpartition("_")[2].partition(".")[0] for name in names]).astype(np.int8)


def _image(content: bytes) -> np.ndarray:
    """A drawing with ink = 255, made smaller before it is inverted."""
    return 255 - shrink(content, 28, "L", "BOX")


def _stroke(text: str) -> np.ndarray:
    """The points of one drawing: START, lines of x, y and t, and BREAK after each stroke."""
    points = []
    start = 1
    for line in text.split():
        if line in ("START", "BREAK"):
            start = 1
            continue
        x, y, t = (float(number) for number in line.split(","))
        points.append((round(16 * x), round(-16 * y), min(round(t), _LATEST), start))
        start = 0
    return np.array(points, np.uint16)


def _write_omniglot(paths: list[pathlib.Path], file: BinaryIO) -> None:
    expected = {
        "image": "ac525910e15aa7b47eca1fd2ec94b71482d07b2587280d7dde4ba00066c89537",
        "label": "d7342bff9ca144c944f9ceb34021fd6e93fdc8211840c1d018d6697f53ea47c4",
        "names": "239e7bd4270c67a21bd1f77f2f00af2e8b6ccf900931df2d02df8b023c81ab9a",
        "drawer": "9370ab4910db116dc13db2fb222f1252dee0752ae75c62e2ae4ff461bcc6036b",
    }
    write_arrays(omniglot_arrays(paths), expected, file)


def _write_strokes(paths: list[pathlib.Path], file: BinaryIO) -> None:
    expected = {
        "image": "a914a1af3384ba444a4f6a94ef6594ff3b2f75dc9bdf028c993059f68052ab1b",
        "stroke": "6f60dd08eb1192bae66901c13cb6fe8e51b00350f173a5cc3d94eef44c05f5ed",
        "offset": "78e961755359f5f2f12e1b174890e298cc21bda2d8d7b932fb6cfa733a440add",
        "label": "2e496964083e83990f6614636b1c2dc64a0983cbab8ed735de0f8e5aae3fd2e7",
        "names": "dc6f2fdc92d2ec559cda4a1ea9e3cec0348dc89242adc9fc373dd125567c6cce",
        "drawer": "5dbc70538a73c3c37ed67de316b64c004b8ff61ace7e8a4f71d992d40cbcb7de",
    }
    write_arrays(stroke_arrays(paths), expected, file)


def _origin(name: str, sha256: str) -> Origin:
    return Origin(f"omniglot-{name}", _FOLDER + name, sha256)


OMNIGLOT = DataFile(
    "omniglot.npz",
    (
        _origin(
            "images_background.zip",
            "ad41ab679c8b5d90b271ef46be6987cc81211774a695c29dcc5367b2b26ee640",
        ),
        _origin(
            "images_evaluation.zip",
            "1f61a8f3366785b057fc117d9228e78a16e3d976c8953b2a10fcc74cf0609cee",
        ),
    ),
    _write_omniglot,
    _CREDIT,
)
OMNIGLOT_STROKES = DataFile(
    "omniglot_strokes.npz",
    (
        _origin(
            "images_background_small1.zip",
            "f38eb80f801274ac2b4dff5b24289016bfaba4a7d5bb50deebf27104ad6cb8a4",
        ),
        _origin(
            "images_background_small2.zip",
            "3ccaa407515a8778e5d0861875af38b17e418f301ad5bb3b5a6b65d901a41c7f",
        ),
        _origin(
            "strokes_background_small1.zip",
            "8cb3960fb6cf4ccf5f064ad83169f828c36c36782a0f6e7faacb7ecfae4468a2",
        ),
        _origin(
            "strokes_background_small2.zip",
            "345bf2141efbea062833dbb2828abbc23d9e07825e46f2afdd4daecddfed6e78",
        ),
    ),
    _write_strokes,
    _CREDIT,
)
