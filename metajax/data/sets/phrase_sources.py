"""Phrases of a language: dates and units of `babel` (Unicode's CLDR), words of `num2words`."""

from __future__ import annotations

import datetime
import unicodedata
from collections.abc import Iterable
from typing import TypeAlias

import numpy as np

TARGET_LENGTH = 32
"""Length of a target in ids, its end included. What does not fit is left out."""

UNITS = {
    "km": "length-kilometer",
    "m": "length-meter",
    "cm": "length-centimeter",
    "kg": "mass-kilogram",
    "L": "volume-liter",
    "s": "duration-second",
    "min": "duration-minute",
    "h": "duration-hour",
    "d": "duration-day",
    "wk": "duration-week",
    "mo": "duration-month",
    "y": "duration-year",
}
"""{sign in a source: unit in `babel`}."""

_NUM2WORDS_CODES = {"nb": "no"}  # where it has another code for a language

Phrase: TypeAlias = tuple[str, str, tuple[int, int]]
"""Source, target, and the two things that it names: a month, a unit, the tens and the ones."""


def dates(code: str, generator: np.random.Generator) -> list[Phrase]:
    """Six dates of every month, or none if `babel` has no names for the months.

    Args:
        code: of the language.
        generator: of the days and years.
    """
    from babel.dates import format_date

    found: list[Phrase] = []
    for month in range(1, 13):
        days = generator.choice(28, 6, replace=False) + 1
        years = generator.integers(1900, 2100, 6)
        for day, year in zip(days, years, strict=True):
            date = datetime.date(int(year), month, int(day))
            found.append((date.isoformat(), format_date(date, "long", code), (month, month)))
    targets = [target for _, target, _ in found]
    without_digits = {"".join(c for c in target if not c.isdigit()) for target in targets}
    unnamed = any("M0" in target for target in targets)  # CLDR's placeholder, as in "M03"
    return found if len(without_digits) >= 12 and not unnamed else []


def units(code: str, generator: np.random.Generator) -> list[Phrase]:
    """The first eight units that a language names, each with nine numbers; none if fewer.

    Args:
        code: of the language.
        generator: of the numbers, from 1 to 20.
    """
    from babel.units import format_unit

    def words(number: int, unit: str) -> str:
        return format_unit(number, unit, length="long", locale=code)

    named = []
    for index, (sign, unit) in enumerate(UNITS.items()):
        if unit not in words(7, unit):  # where babel has no name, it returns the key
            named.append((index, sign, unit))
    if len(named) < 8:
        return []
    found: list[Phrase] = []
    for index, sign, unit in named[:8]:
        for number in generator.choice(20, 9, replace=False) + 1:
            found.append((f"{number} {sign}", words(int(number), unit), (index, index)))
    return found


def number_words(code: str) -> list[Phrase]:
    """Numbers from 21 to 99 with tens and ones, or none if `num2words` lacks the language."""
    from num2words import CONVERTER_CLASSES, num2words

    code = _NUM2WORDS_CODES.get(code, code)
    if code not in CONVERTER_CLASSES:
        return []
    found: list[Phrase] = []
    for tens in range(20, 100, 10):
        for ones in range(1, 10):
            found.append((f"{tens + ones}", num2words(tens + ones, lang=code), (tens, ones)))
    return found


def is_usable(found: Iterable[Phrase]) -> bool:
    """Whether there are phrases, all in Latin letters and short enough."""
    targets = [decompose(target) for _, target, _ in found]
    characters = set("".join(targets))
    letters = [c for c in characters if unicodedata.category(c) in ("Lu", "Ll", "Lo")]
    latin = all("LATIN" in unicodedata.name(c, "") for c in letters)
    return bool(targets) and latin and max(len(target) for target in targets) < TARGET_LENGTH


def decompose(target: str) -> str:
    """The string with letters and marks apart (NFD: ä is a and ¨), and with plain spaces."""
    return " ".join(unicodedata.normalize("NFD", target).split())
