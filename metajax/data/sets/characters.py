"""Chinese characters: picture, pen, meaning, and what each is composed of."""

from __future__ import annotations

from typing import Any

import numpy as np

from metajax.data.datasets import Dataset, dataset
from metajax.data.read.data_files import read_pack
from metajax.data.strokes import resample
from metajax.data.texts import tokenize, train_tokenizer
from metajax.types import Modalities

_TABLE = ("character", "radical", "definition", "decomposition", "pinyin")


def hanzi(
    *, points: int = 64, smallest: int = 20, tokenizer: Any = None, length: int = 48
) -> Dataset:
    """Chinese characters by radical; a class is named by it, such as "氵".

    x is a `Modalities` of image uint8[32, 32, 1], ink = 255, of stroke float32[points, (x, y, t, start)] along the
    middle of the brush in the order of writing (`resample`; there is no clock), and of definition int32[length], the
    English meaning in tokens. 58 of the 9 574 characters have no definition: there it is absent.

    Reads `hanzi.npz`: image, stroke int16[all, (x, y, start)], offset, radical, definition.

    Args:
        points: of each trajectory; the character with the most strokes has 33.
        smallest: number of characters that a radical must have; 94 radicals have 20 or more.
        tokenizer: by default 2 000 pieces learned from all definitions.
        length: of a definition in tokens; 42 are needed by the default tokenizer.

    Raises:
        FileNotFoundError: METAJAX_DATA is not set, or the file is not there.
        ValueError: the file is damaged, no radical is left, fewer points than strokes, or a longer definition.
        ImportError: tokenizers is missing.

    Source: github.com/skishore/makemeahanzi.
    """
    pack = read_pack("hanzi.npz", ("image", "stroke", "offset", "radical", "definition"))
    radicals, labels, count = np.unique(pack["radical"], return_inverse=True, return_counts=True)
    if count.max() < smallest:
        raise ValueError(f"No radical has {smallest=} characters; the largest has {count.max()}.")
    stroke = resample(
        pack["stroke"][:, :2], pack["stroke"][:, 2] > 0, pack["offset"], number=points
    )
    defined = pack["definition"] != ""
    texts = pack["definition"][defined].tolist()
    tokens = np.zeros((len(labels), length), np.int32)
    tokens[defined] = tokenize(tokenizer or train_tokenizer(texts, size=2000), texts, length=length)
    kept = (count >= smallest)[labels]
    value: dict[str, Any] = {
        "image": pack["image"][kept, :, :, None],
        "stroke": stroke[kept],
        "definition": tokens[kept],
    }
    present: dict[str, Any] = {
        "image": np.ones(kept.sum(), bool),
        "stroke": np.ones(kept.sum(), bool),
        "definition": defined[kept],
    }
    _, labels = np.unique(labels[kept], return_inverse=True)
    return dataset(Modalities(value, present), labels, names=radicals[count >= smallest].tolist())


def hanzi_characters() -> dict[str, list[str]]:
    """The table of all 9 574 characters: character, radical, definition, decomposition, pinyin; "" where unknown.

    The decomposition is an ideographic description sequence such as "⿰氵工" (left, right), for `composition_graph`.

    Raises:
        FileNotFoundError: METAJAX_DATA is not set, or the file is not there.
        ValueError: the file is damaged.
    """
    return {name: column.tolist() for name, column in read_pack("hanzi.npz", _TABLE).items()}


def hanzi_pictures() -> np.ndarray:
    """The pictures of all 9 574 characters in the order of that table, uint8[9574, 32, 32, 1], ink = 255.

    Raises:
        FileNotFoundError: METAJAX_DATA is not set, or the file is not there.
        ValueError: the file is damaged.
    """
    return read_pack("hanzi.npz", ("image",))["image"][..., None]
