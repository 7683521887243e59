"""Phrases in many languages: dates, quantities and number words.

A class is one language and one kind of phrase, "de/date". Every example is a pair of strings: a
source that is the same for all languages, and what it is in that language.

    de/date    2021-03-14   14. März 2021
    de/unit    3 h          3 Stunden
    de/number  42           zweiundvierzig

These are formats and words of a table, not sentences: a small piece of translation, but of real and
many languages.
"""

from __future__ import annotations

import unicodedata
import zlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from metajax._checked import checked
from metajax.data.datasets import Dataset, dataset
from metajax.data.sets.phrase_sources import (
    TARGET_LENGTH,
    Phrase,
    dates,
    decompose,
    is_usable,
    number_words,
    units,
)

SOURCE_LENGTH = 10
"""Length of a source in ids."""

END = 1
"""The id that ends a target; 0 is padding."""

FIRST = 2
"""The id of the first character."""


class Phrases(NamedTuple):
    """Pairs of strings in many languages.

    Attributes:
        data: a class is "language/kind" and has 72 pairs, x = {"source": int32[n, 10], "target":
            int32[n, 32], "words": int32[n, 2]}. Ids are characters, 0 is padding, and a target ends
            with 1. `words` are the two things that a pair names.
        characters: the character of id i is `characters[i - 2]`, the same for all languages,
            sources and targets.
        merged: codes of languages that are left out because another one writes every date alike:
            nb, nn and no are one language.
    """

    data: Dataset
    characters: str
    merged: tuple[str, ...]


@checked
def phrases(*, seed: int = 0) -> Phrases:
    """Dates, units and numbers from 21 to 99, in every language with months in Latin letters.

    The languages are those of `babel`. Locales of one language (de_DE, de_AT, de_CH) are one, and
    so are languages that write every date alike. A language with several scripts counts by the one
    that `babel` takes when none is named. Letters and marks are separate characters (NFD: ä is a
    and ¨), so that languages share nearly all of their characters. There are 72 pairs of each kind:

    - 12 months, each with 6 days (1 to 28) and years (1900 to 2099);
    - 8 units, each with 9 of the numbers from 1 to 20: the first eight for which `babel` has long
      names, if it has eight;
    - the numbers from 21 to 99 without round ones, where `num2words` has the language.

    Args:
        seed: of the days, years and amounts, which differ from language to language.

    Raises:
        ImportError: babel or num2words is missing.
    """
    try:
        from babel import Locale, localedata
    except ImportError as error:
        raise ImportError(
            "Phrases need babel and num2words: pip install 'metajax[examples]'."
        ) from error
    codes = {Locale.parse(name).language for name in localedata.locale_identifiers()}
    classes: dict[str, list[Phrase]] = {}
    merged = []
    seen = set()
    # Of languages that are alike the one with the best known code stays.
    for code in sorted(codes, key=lambda code: (len(code), code)):
        generator = np.random.default_rng([seed, zlib.crc32(code.encode())])
        found_dates = dates(code, generator)
        if not is_usable(found_dates):
            continue
        same_dates = dates(code, np.random.default_rng(0))
        months = tuple(target for _, target, _ in same_dates)
        if months in seen:
            merged.append(code)
            continue
        seen.add(months)
        kinds = {
            "date": found_dates,
            "unit": units(code, generator),
            "number": number_words(code),
        }
        classes |= {f"{code}/{kind}": found for kind, found in kinds.items() if is_usable(found)}
    data, characters = _encode(classes)
    return Phrases(data, characters, tuple(merged))


@checked
def phrase_text(ids: Iterable[Any], characters: str) -> str:
    """Ids up to the end as a string, with letters and marks composed.

    Args:
        ids: int[length] of a source or a target.
        characters: of `Phrases`.

    >>> phrase_text([2, 4, 3, 1, 3, 0], "ab" + chr(0x308))
    'äb'
    """
    numbers = [int(number) for number in ids]
    if END in numbers:
        numbers = numbers[: numbers.index(END)]
    text = "".join(characters[number - FIRST] for number in numbers if number >= FIRST)
    return unicodedata.normalize("NFC", text)


def _encode(classes: dict[str, list[Phrase]]) -> tuple[Dataset, str]:
    """Character ids of all phrases, and the characters."""
    rows = [phrase for found in classes.values() for phrase in found]
    characters = {c for source, target, _ in rows for c in source + decompose(target)}
    in_order = "".join(sorted(characters))
    number = {character: index + FIRST for index, character in enumerate(in_order)}
    sources = np.zeros((len(rows), SOURCE_LENGTH), np.int32)
    targets = np.zeros((len(rows), TARGET_LENGTH), np.int32)
    for row, (source, target, _) in enumerate(rows):
        sources[row, : len(source)] = [number[c] for c in source]
        ids = [number[c] for c in decompose(target)] + [END]
        targets[row, : len(ids)] = ids
    words = np.array([words for _, _, words in rows], np.int32)
    y = np.repeat(np.arange(len(classes)), [len(found) for found in classes.values()])
    x = {"source": sources, "target": targets, "words": words}
    return dataset(x, y, names=list(classes)), in_order
