"""Make Me a Hanzi: pictures, strokes and meanings of Chinese characters."""

from __future__ import annotations

import itertools
import json
import pathlib
from typing import BinaryIO

import numpy as np

from metajax.data.prepare.contents import write_arrays
from metajax.data.read.downloads import DataFile, Origin

_FOLDER = (
    "https://raw.githubusercontent.com/skishore/makemeahanzi/"
    "618dbab8a8ddefb958763c8b4afbaa741a4460de/"
)
_TOP = 900  # y of the upper edge of a character, which is 1024 wide and high
_CANVAS = 128
_SIZE = 32
_PIECES = {"M": 1, "L": 1, "Q": 4, "C": 5}
"""Straight pieces that stand for a part of an outline."""


def hanzi_arrays(paths: list[pathlib.Path]) -> dict[str, np.ndarray]:
    """Image uint8[characters, 32, 32], stroke int16[points, (x, y, start)], offset, and texts.

    Args:
        paths: dictionary.txt and graphics.txt, with a JSON object for each character in a line.
    """
    words = [json.loads(line) for line in paths[0].read_text("utf-8").splitlines()]
    graphics = [json.loads(line) for line in paths[1].read_text("utf-8").splitlines()]
    drawn = {entry["character"]: entry for entry in graphics}
    entries = [drawn[word["character"]] for word in words]
    strokes = [_trajectory(entry["medians"]) for entry in entries]
    return {
        "image": np.stack([_picture(entry["strokes"]) for entry in entries]),
        "stroke": np.concatenate(strokes),
        "offset": np.cumsum([0, *(len(stroke) for stroke in strokes)]).astype(np.int32),
        "character": np.array([word["character"] for word in words]),
        "radical": np.array([word["radical"] for word in words]),
        "definition": np.array([word.get("definition", "") for word in words]),
        "decomposition": np.array([word["decomposition"] for word in words]),
        "pinyin": np.array([",".join(word["pinyin"]) for word in words]),
    }


def _trajectory(medians: list[list[list[float]]]) -> np.ndarray:
    """The middle of each stroke, int16[points, (x, y, start)] with y downward."""
    points = [
        (int(x), int(_TOP - y), int(number == 0))
        for median in medians
        for number, (x, y) in enumerate(median)
    ]
    return np.array(points, np.int16)


def _picture(outlines: list[str]) -> np.ndarray:
    """The strokes filled, uint8[32, 32] with ink = 255."""
    try:
        from PIL import Image, ImageDraw
    except ImportError as error:
        raise ImportError("Pictures need Pillow: pip install 'metajax[data]'.") from error
    canvas = Image.new("L", (_CANVAS, _CANVAS))
    for outline in outlines:
        ImageDraw.Draw(canvas).polygon(_corners(outline), fill=255)
    return np.asarray(canvas.resize((_SIZE, _SIZE), Image.Resampling.BOX))


def _corners(outline: str) -> list[tuple[int, int]]:
    """The corners of an SVG path of absolute commands M, L, Q, C and Z, on the canvas."""
    shrink = 1024 // _CANVAS
    return [(int(x / shrink), int((_TOP - y) / shrink)) for x, y in _points(outline)]


def _points(outline: str) -> list[np.ndarray]:
    """The points of a path; a curve is cut into straight pieces."""
    points: list[np.ndarray] = []
    words = outline.split()
    while words:
        command = words.pop(0)
        if command == "Z":
            continue
        degree = {"M": 1, "L": 1, "Q": 2, "C": 3}[command]
        numbers = np.array(words[: 2 * degree], float).reshape(degree, 2)
        del words[: 2 * degree]
        start = points[-1:] or [numbers[0]]
        control = [*start, *numbers]
        pieces = _PIECES[command]
        points += [_on_curve(control, step / pieces) for step in range(1, pieces + 1)]
    return points


def _on_curve(control: list[np.ndarray], t: float) -> np.ndarray:
    """The point of a Bézier curve at t, 0 to 1, by de Casteljau's rule."""
    while len(control) > 1:
        control = [(1 - t) * a + t * b for a, b in itertools.pairwise(control)]
    return control[0]


def _write(paths: list[pathlib.Path], file: BinaryIO) -> None:
    expected = {
        "image": "fe72e88cd932975bfd423d0afd58c7df5ddd916bf5744b338966be7fec65eb8f",
        "stroke": "b7a9e1b757e36a78cb3b08b2c62f3340326624daa6af3d6df26a5515fefcf585",
        "offset": "0df86516c56001f956bca064e66e2ec734fd83aef1c3d1005264c64602638ebf",
        "character": "809ede4e6ea2e20af5c4f5ed71a7af80ec51e1a0e72d33dd9976a7faf2808bc6",
        "radical": "d07cb44774c7b78eece09c36297e3d6dd500f09ea5ad262a1c02a21b8909ab11",
        "definition": "7cc17b0c7ce1b917341130dcefdd9df1231bf633322ca97ac4e488b35d269ea3",
        "decomposition": "6f6d21389847017bff9d1251efe3777c798978bbed3dd842f95c8dea96928cc3",
        "pinyin": "e25a8c57a6bf2636a507ae8bd3019d09b48f7d4753ee6affd8d331b4b4cfa9fa",
    }
    write_arrays(hanzi_arrays(paths), expected, file)


HANZI = DataFile(
    "hanzi.npz",
    (
        Origin(
            "hanzi-dictionary.txt",
            _FOLDER + "dictionary.txt",
            "744bb05d5b0742e9ee35c37791f94d56a173349b3367569e7ca11e510364d203",
        ),
        Origin(
            "hanzi-graphics.txt",
            _FOLDER + "graphics.txt",
            "a28c478b5178e98f67f510b2d52fde08a69dc664654ef43498253b9b764d46ee",
        ),
    ),
    _write,
    "Make Me a Hanzi, Arphic Public License (pictures, strokes) and LGPL 3 or later (texts). Cite "
    "Shaunak Kishore, github.com/skishore/makemeahanzi.",
)
