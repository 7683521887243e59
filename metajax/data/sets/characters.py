"""Chinese characters: picture, pen strokes, meaning, and what each is composed of."""

from __future__ import annotations

from typing import Any

import numpy as np

from metajax._checked import checked
from metajax.data.datasets import Dataset, dataset
from metajax.data.prepare.hanzi import HANZI
from metajax.data.read.data_files import read_data_file
from metajax.data.read.rows import fill_gaps
from metajax.data.strokes import resample
from metajax.data.texts import tokenize, train_tokenizer
from metajax.types import Modalities

_COLUMNS = ("character", "radical", "definition", "decomposition", "pinyin")


@checked
def hanzi(
    *, points: int = 64, smallest: int = 20, tokenizer: Any = None, length: int = 48
) -> Dataset:
    """Chinese characters by radical. A class has the name of its radical, such as "氵".

    x is a `Modalities` of three views of a character:

    - image: uint8[32, 32, 1], ink = 255; its scale is 255.
    - stroke: float32[points, (x, y, t, start)] along the middle of the brush in the order of
      writing, as `resample` makes it. There is no clock.
    - definition: int32[length], the English meaning in tokens. 58 of the 9 574 characters have no
      definition; there it is absent.

    Reads `hanzi.npz`, which is found or downloaded as `omniglot` says: image, stroke int16[all,
    (x, y, start)], offset, radical, definition. Licences: Arphic Public License (pictures and
    strokes) and LGPL 3 or later (texts).

    Args:
        points: number of points of each trajectory; the character with the most strokes has 33.
        smallest: number of characters that a radical must have; 94 radicals have 20 or more.
        tokenizer: by default 2 000 pieces learned from all definitions.
        length: of a definition in tokens; the default tokenizer needs 42.

    Raises:
        FileNotFoundError: METAJAX_DATA names no folder.
        ConnectionError: the file is not at hand, and its origin cannot be reached.
        ValueError: the file is damaged, no radical is left, fewer points than strokes, or a longer
            definition.
        ImportError: tokenizers is missing.

    Source: Shaunak Kishore, Make Me a Hanzi, github.com/skishore/makemeahanzi.
    """
    stored = read_data_file(HANZI, ("image", "stroke", "offset", "radical", "definition"))
    radicals, labels, count = np.unique(stored["radical"], return_inverse=True, return_counts=True)
    if count.max() < smallest:
        raise ValueError(f"No radical has {smallest=} characters; the largest has {count.max()}.")
    kept = (count >= smallest)[labels]
    stroke = resample(
        stored["stroke"][:, :2], stored["stroke"][:, 2] > 0, stored["offset"], number=points
    )
    tokens, defined = _definitions(stored["definition"], tokenizer, length)
    value = {"image": stored["image"][..., None], "stroke": stroke, "definition": tokens}
    value = {name: rows[kept] for name, rows in value.items()}
    everywhere = np.ones(kept.sum(), bool)
    present: dict[str, Any] = {
        "image": everywhere,
        "stroke": everywhere,
        "definition": defined[kept],
    }
    _, labels = np.unique(labels[kept], return_inverse=True)
    names = radicals[count >= smallest].tolist()
    x = Modalities(value, present)
    return dataset(x, labels, names=names, scale={"image": 255}, credit=HANZI.credit)


@checked
def hanzi_characters() -> dict[str, list[str]]:
    """The table of all 9 574 characters, as lists of strings; "" where something is unknown.

    The columns are character, radical, definition, decomposition and pinyin. The decomposition is
    an ideographic description sequence such as "⿰氵工" (left, right), for `composition_graph`.

    Raises:
        FileNotFoundError: METAJAX_DATA names no folder.
        ConnectionError: the file is not at hand, and its origin cannot be reached.
        ValueError: the file is damaged.
    """
    columns = read_data_file(HANZI, _COLUMNS)
    return {name: column.tolist() for name, column in columns.items()}


@checked
def hanzi_pictures() -> np.ndarray:
    """The pictures of all 9 574 characters, uint8[9574, 32, 32, 1] with ink = 255.

    They are in the order of the table of `hanzi_characters`.

    Raises:
        FileNotFoundError: METAJAX_DATA names no folder.
        ConnectionError: the file is not at hand, and its origin cannot be reached.
        ValueError: the file is damaged.
    """
    return read_data_file(HANZI, ("image",))["image"][..., None]


def _definitions(
    definitions: np.ndarray, tokenizer: Any, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Token ids int32[characters, length], and bool[characters] which have a definition."""
    defined = definitions != ""
    texts = definitions[defined].tolist()
    tokenizer = tokenizer or train_tokenizer(texts, size=2000)
    tokens = tokenize(tokenizer, texts, length=length)
    return fill_gaps("definition", tokens, defined), defined
