"""Phrases of many languages: known translations, arrays, and which languages there are."""

import sys

import jax.numpy as jnp
import numpy as np
import pytest
from data_sets import corpus

from metajax.data.sets.languages import END, SOURCE_LENGTH, phrase_text, phrases
from metajax.data.sets.phrase_sources import TARGET_LENGTH, dates

DIGITS = dict.fromkeys(map(ord, "0123456789"))


def translations_of(name):
    """{source: target} of a class."""
    found = corpus()
    rows = np.asarray(found.data.y) == found.data.names.index(name)
    sources = np.asarray(found.data.x["source"])[rows]
    targets = np.asarray(found.data.x["target"])[rows]
    return {
        phrase_text(source, found.characters): phrase_text(target, found.characters)
        for source, target in zip(sources, targets, strict=True)
    }


@pytest.mark.parametrize(
    ("name", "month", "form"),
    [
        ("de/date", "-03-", "{d}. März {y}"),
        ("fi/date", "-12-", "{d}. joulukuuta {y}"),
        ("hu/date", "-07-", "{y}. július {d}."),
        ("en/date", "-08-", "August {d}, {y}"),
    ],
)
def test_known_dates(name, month, form):
    found = {source: t for source, t in translations_of(name).items() if month in source}
    assert len(found) == 6
    for source, target in found.items():
        year, _, day = source.split("-")
        assert target == form.format(y=year, d=int(day))


def test_known_numbers():
    assert translations_of("de/number")["42"] == "zweiundvierzig"
    assert translations_of("nb/number")["35"] == "trettifem"
    french = translations_of("fr/number")
    assert len(french) == 72 and french["99"] == "quatre-vingt-dix-neuf"


def test_known_units():
    german = translations_of("de/unit")
    hours = {source: target for source, target in german.items() if source.endswith(" h")}
    assert len(hours) == 9
    for source, target in hours.items():
        word = "Stunde" if source == "1 h" else "Stunden"
        assert target == f"{source[:-2]} {word}"
    targets = np.asarray(corpus().data.x["target"])
    texts = [phrase_text(target, corpus().characters) for target in targets]
    assert not any("duration-" in text or "length-" in text for text in texts)


def test_arrays():
    data, characters, _ = corpus()
    source, target = np.asarray(data.x["source"]), np.asarray(data.x["target"])
    assert source.shape[1:] == (SOURCE_LENGTH,) and target.shape[1:] == (TARGET_LENGTH,)
    assert set(data.sizes) == {72} and data.scale is None
    assert ((target == END).sum(axis=1) == 1).all()
    assert source.max() < len(characters) + 2 > target.max()
    for row in target[:: len(target) // 50]:
        length = (row > 0).sum()
        assert (row[:length] > 0).all(), "padding is at the end"
        assert row[length - 1] == END


def test_languages():
    data, _, merged = corpus()
    languages = {name.partition("/")[0] for name in data.names}
    assert len(languages) > 150 and {"de", "sw"} <= languages
    other_scripts = {"ru", "ar", "zh", "sr"}
    numbered_months = {"vi"}
    assert not (other_scripts | numbered_months) & languages
    assert {"no", "nn"} <= set(merged), "nb is there for them"
    assert not set(merged) & languages
    months = set()
    for code in languages:
        targets = translations_of(f"{code}/date").values()
        months.add(frozenset(target.translate(DIGITS) for target in targets))
    assert len(months) == len(languages), "no two languages write all months alike"


def test_the_seed_changes_the_days():
    days = []
    for seed in (0, 0, 1):
        days.append([source for source, _, _ in dates("de", np.random.default_rng(seed))])
    assert days[0] == days[1] != days[2]
    assert set(translations_of("de/date")) != set(translations_of("fr/date"))


def test_missing_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "babel", None)
    with pytest.raises(ImportError, match=r"pip install 'metajax\[examples\]'"):
        phrases()


def test_text_is_composed_and_ends():
    assert phrase_text(jnp.array([3, 2, 4, 1, 3]), "ab\u0308") == "bä"
    assert phrase_text([2, 3], "ab") == "ab", "a source has no end"
