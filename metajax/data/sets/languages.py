"""Phrases in many languages: dates, quantities and number words, of `babel` (Unicode's CLDR) and `num2words`.

A class is one language and one kind of phrase, "de/date", and every example is a pair of strings: a source that is the
same for all languages, and how the language says it.

    de/date    2021-03-14   14. März 2021
    de/unit    3 h          3 Stunden
    de/number  42           zweiundvierzig

These are formats and words of a table, not sentences: a small piece of translation, but of real and many languages.
"""

from __future__ import annotations

import datetime
import unicodedata
import zlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax.data.datasets import Dataset, dataset, select
from metajax.types import Array, Batch, Sample, Task

END, FIRST = 1, 2  # the id that ends a target, and that of the first character; 0 is padding

SOURCE, TARGET = 10, 32  # lengths; what does not fit is left out

UNITS = {
    "km": "length-kilometer", "m": "length-meter", "cm": "length-centimeter", "kg": "mass-kilogram",
    "L": "volume-liter", "s": "duration-second", "min": "duration-minute", "h": "duration-hour",
    "d": "duration-day", "wk": "duration-week", "mo": "duration-month", "y": "duration-year",
}  # fmt: skip

Phrase = tuple[str, str, tuple[int, int]]
"""Source, target, and the two things that it names: a month, a unit, the tens and the ones of a number."""


class Phrases(NamedTuple):
    """Pairs of strings in many languages.

    Attributes:
        data: a class is "language/kind"; x = {"source": int32[n, 10], "target": int32[n, 32], "words": int32[n, 2]}.
            Ids are characters, 0 is padding, a target ends with 1. A class has 72 pairs.
        characters: that of id i is `characters[i - 2]`, the same for all languages, sources and targets.
        merged: codes of languages left out because another says every date alike: nb, nn and no are one language.
    """

    data: Dataset
    characters: str
    merged: tuple[str, ...]


class LanguageSplit(NamedTuple):
    """Three data sets without a language in common; `dropped` classes have a character that `train` has not."""

    train: Dataset
    validation: Dataset
    test: Dataset
    dropped: tuple[str, ...]


def phrases(*, seed: int = 0) -> Phrases:
    """Dates, units and numbers from 21 to 99, in every language of `babel` that names its months in Latin letters.

    Locales of one language (de_DE, de_AT, de_CH) are one, and so are languages that say every date alike. A language
    written in several scripts counts by the one that `babel` takes when none is named. Letters with marks are two
    characters (NFD: ä is a and ¨), so that languages share nearly all of their characters. 72 pairs of each kind:

    - 12 months, each with 6 days (1 to 28) and years (1900 to 2099);
    - 8 units, each with 9 of the numbers from 1 to 20: the first eight that `babel` has long names for, if it has;
    - the numbers from 21 to 99 without round ones, where `num2words` speaks the language.

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
    codes = sorted({Locale.parse(name).language for name in localedata.locale_identifiers()})
    classes: dict[str, list[Phrase]] = {}
    merged, seen = [], set()
    for code in sorted(
        codes, key=lambda code: (len(code), code)
    ):  # of languages alike the best known code stays
        generator = np.random.default_rng([seed, zlib.crc32(code.encode())])
        dates = _dates(code, generator)
        if not _usable(dates):
            continue
        months = tuple(target for _, target, _ in _dates(code, np.random.default_rng(0)))
        if months in seen:
            merged.append(code)
            continue
        seen.add(months)
        kinds = {"date": dates, "unit": _units(code, generator), "number": _numbers(code)}
        classes |= {f"{code}/{kind}": found for kind, found in kinds.items() if _usable(found)}
    return Phrases(*_encode(classes), tuple(merged))


def split_languages(source: Phrases, *, fold: int = 0, seed: int = 0) -> LanguageSplit:
    """Parts with five, one and two of every eight languages; languages with the same kinds of phrases are dealt evenly.

    A class of a later part with a character that no training class has is dropped, for no net can have learned to
    write it.

    Args:
        source: what to split.
        fold: 0 to 3: each language is in the test part of one of the four, unless it is dropped.
        seed: of the order in which languages are dealt.

    Raises:
        ValueError: another fold.
    """
    if fold not in range(4):
        raise ValueError(f"{fold=} must be 0, 1, 2 or 3.")
    kinds: dict[str, str] = {}
    for name in source.data.names:
        language, _, kind = name.partition("/")
        kinds[language] = kinds.get(language, "") + kind
    languages = np.random.default_rng(seed).permutation(list(kinds))
    order = sorted(languages, key=lambda language: kinds[language])
    dealt = {
        language: (0, 0, 0, 0, 0, 1, 2, 2)[(place + 2 * fold) % 8]
        for place, language in enumerate(order)
    }
    part = np.array([dealt[name.partition("/")[0]] for name in source.data.names])
    parts = [select(source.data, part == number) for number in range(3)]
    known, dropped = np.unique(parts[0].x["target"]), []
    for number in (1, 2):
        strange = ~np.isin(np.asarray(parts[number].x["target"]), known).all(axis=1)
        odd = np.unique(np.asarray(parts[number].y)[strange])
        dropped += [parts[number].names[label] for label in odd]
        parts[number] = select(parts[number], ~np.isin(np.arange(parts[number].classes), odd))
    return LanguageSplit(parts[0], parts[1], parts[2], tuple(dropped))


def translations(shots: int, queries: int, *, pool: int | None = None) -> Sample[Task]:
    """Tasks of one language and one kind, drawn uniformly from the classes: see `translation`."""

    def sample(dataset: Dataset, key: Array) -> Task:
        class_key, task_key = jax.random.split(key)
        label = jax.random.randint(class_key, (), 0, dataset.classes)
        return translation(dataset, label, task_key, shots=shots, queries=queries, pool=pool)

    return sample


def translation(
    dataset: Dataset,
    label: Array | int,
    key: Array,
    *,
    shots: int,
    queries: int,
    pool: int | None = None,
) -> Task:
    """A task of the class `label`: pairs to learn from, drawn uniformly, and other sources to translate.

    No pair says what a month that it does not name is called. So a query asks only for what the support pairs name: a
    month with another day and year, a unit with another number, a number whose tens and whose ones have occurred. It is
    drawn with replacement, for there may be few such; where there is none, it asks for anything.

    Args:
        dataset: of `phrases`.
        label: which class; it becomes the task's `context`.
        key: of the draw.
        shots: support pairs, 0 or more.
        queries: query pairs.
        pool: how many support pairs are drawn and decide what is asked, `shots` where None; the first `shots` of them
            are shown. One pool and key give the same queries for any number of shots, none included.

    Returns:
        A task with x = {"source", "target"}, and y the target too, for a net reads the characters before the one that
        it is to say.

    Raises:
        ValueError: shots below 0, queries below 1, or a pool smaller than `shots`, below 1 or as large as a class.
    """
    size = shots if pool is None else pool
    if shots < 0 or queries < 1 or not max(shots, 1) <= size < dataset.smallest:
        raise ValueError(
            f"Need shots >= 0, queries >= 1 and a pool of at least shots and 1 that leaves some of the "
            f"{dataset.smallest} pairs of a class, got {shots=}, {queries=}, {pool=}."
        )
    row_key, query_key = jax.random.split(key)
    rows = dataset.start[label] + jax.random.permutation(row_key, dataset.smallest)
    words = dataset.x["words"][rows]
    named = (words[:, :, None, None] == words[None, None, :size]).any((2, 3)).all(1)
    rest = jnp.arange(dataset.smallest) >= size
    asked = jnp.where((named & rest).any(), named & rest, rest)
    query = jax.random.categorical(query_key, jnp.where(asked, 0.0, -jnp.inf), shape=(queries,))
    return Task(pairs(dataset, rows[:shots]), pairs(dataset, rows[query]), jnp.asarray(label))


def pairs(dataset: Dataset, rows: Array) -> Batch:
    """These pairs, as a net is trained on them."""
    source, target = dataset.x["source"][rows], dataset.x["target"][rows]
    return Batch(x={"source": source, "target": target}, y=target)


def text(ids: Any, characters: str) -> str:
    """Ids up to the end as a string, in composed letters.

    >>> text([2, 4, 3, 1, 3, 0], "ab¨".replace("¨", chr(0x308)))
    'äb'
    """
    ids = [int(i) for i in ids]
    ids = ids[: ids.index(END)] if END in ids else ids
    return unicodedata.normalize("NFC", "".join(characters[i - FIRST] for i in ids if i >= FIRST))


def _dates(code: str, generator: np.random.Generator) -> list[Phrase]:
    """Six dates of every month."""
    from babel.dates import format_date

    found = []
    for month in range(1, 13):
        days, years = generator.choice(28, 6, replace=False) + 1, generator.integers(1900, 2100, 6)
        for day, year in zip(days, years, strict=True):
            date = datetime.date(int(year), month, int(day))
            found.append((date.isoformat(), format_date(date, "long", code), (month, month)))
    names = {"".join(c for c in target if not c.isdigit()) for _, target, _ in found}
    return found if len(names) >= 12 and not any("M0" in target for _, target, _ in found) else []


def _units(code: str, generator: np.random.Generator) -> list[Phrase]:
    """The first eight units that the language names, each with nine numbers, if it names eight."""
    from babel.units import format_unit

    def say(number: int, unit: str) -> str:
        return format_unit(number, unit, length="long", locale=code)

    named = [
        (index, sign, unit)
        for index, (sign, unit) in enumerate(UNITS.items())
        if unit not in say(7, unit)
    ]
    if len(named) < 8:
        return []
    return [
        (f"{number} {sign}", say(int(number), unit), (index, index))
        for index, sign, unit in named[:8]
        for number in generator.choice(20, 9, replace=False) + 1
    ]


def _numbers(code: str) -> list[Phrase]:
    """Numbers from 21 to 99 with tens and ones, in languages that num2words speaks."""
    from num2words import CONVERTER_CLASSES, num2words

    code = {"nb": "no"}.get(code, code)
    if code not in CONVERTER_CLASSES:
        return []
    return [
        (f"{10 * tens + ones}", num2words(10 * tens + ones, lang=code), (10 * tens, ones))
        for tens in range(2, 10)
        for ones in range(1, 10)
    ]


def _usable(found: Iterable[Phrase]) -> bool:
    """Whether all is in Latin letters and fits."""
    targets = [_plain(target) for _, target, _ in found]
    letters = [c for c in set("".join(targets)) if unicodedata.category(c) in ("Lu", "Ll", "Lo")]
    latin = all("LATIN" in unicodedata.name(c, "") for c in letters)
    return bool(targets) and latin and max(map(len, targets)) < TARGET


def _plain(target: str) -> str:
    """Decomposed letters and plain spaces."""
    return " ".join(unicodedata.normalize("NFD", target).split())


def _encode(classes: dict[str, list[Phrase]]) -> tuple[Dataset, str]:
    """Character ids of all phrases, and the characters."""
    rows = [phrase for found in classes.values() for phrase in found]
    characters = "".join(sorted({c for source, target, _ in rows for c in source + _plain(target)}))
    number = {c: i + FIRST for i, c in enumerate(characters)}
    x = {
        "source": np.zeros((len(rows), SOURCE), np.int32),
        "target": np.zeros((len(rows), TARGET), np.int32),
    }
    for row, (source, target, _) in enumerate(rows):
        x["source"][row, : len(source)] = [number[c] for c in source]
        ids = [number[c] for c in _plain(target)] + [END]
        x["target"][row, : len(ids)] = ids
    x["words"] = np.array([words for _, _, words in rows], np.int32)
    y = np.repeat(np.arange(len(classes)), [len(found) for found in classes.values()])
    return dataset(x, y, names=list(classes)), characters
