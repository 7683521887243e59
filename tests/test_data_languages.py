"""Phrases of many languages: known translations, what a task asks for, and that no language is in two parts."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metajax as mj
from metajax.data.sets.languages import (
    END,
    SOURCE,
    TARGET,
    _dates,
    phrases,
    split_languages,
    text,
    translation,
    translations,
)


@pytest.fixture(scope="module")
def corpus():
    return phrases()


def said(corpus, name):
    """{source: target} of a class."""
    rows = np.flatnonzero(np.asarray(corpus.data.y) == corpus.data.names.index(name))
    columns = (np.asarray(corpus.data.x[column])[rows] for column in ("source", "target"))
    return {
        text(source, corpus.characters): text(target, corpus.characters)
        for source, target in zip(*columns, strict=True)
    }


@pytest.mark.parametrize(
    ("name", "source", "form"),
    [
        ("de/date", "-03-", "{d}. März {y}"),
        ("fi/date", "-12-", "{d}. joulukuuta {y}"),
        ("hu/date", "-07-", "{y}. július {d}."),
        ("en/date", "-08-", "August {d}, {y}"),
    ],
)
def test_known_dates(corpus, name, source, form):
    found = {s: t for s, t in said(corpus, name).items() if source in s}
    assert len(found) == 6
    for iso, target in found.items():
        year, _, day = iso.split("-")
        assert target == form.format(y=year, d=int(day))


def test_known_numbers_and_units(corpus):
    assert (
        said(corpus, "de/number")["42"] == "zweiundvierzig"
        and said(corpus, "nb/number")["35"] == "trettifem"
    )
    assert (
        len(said(corpus, "fr/number")) == 72
        and said(corpus, "fr/number")["99"] == "quatre-vingt-dix-neuf"
    )
    german = {
        source: target
        for source, target in said(corpus, "de/unit").items()
        if source.endswith(" h")
    }
    assert len(german) == 9
    assert all(
        target == f"{s[:-2]} {'Stunde' if s == '1 h' else 'Stunden'}"
        for s, target in german.items()
    )
    assert not any(
        "duration-" in target or "length-" in target
        for n in corpus.data.names
        for target in said(corpus, n).values()
        if n.endswith("unit")
    )


def test_arrays_and_languages(corpus):
    data = corpus.data
    source, target = np.asarray(data.x["source"]), np.asarray(data.x["target"])
    assert (
        source.shape[1:] == (SOURCE,)
        and target.shape[1:] == (TARGET,)
        and (np.asarray(data.count) == 72).all()
    )
    assert ((target == END).sum(axis=1) == 1).all() and source.max() < len(
        corpus.characters
    ) + 2 > target.max()
    for row in target[:: len(target) // 50]:
        assert (
            (row[: row.argmin()] > 0).all()
            and (row[row.argmin() :] == 0).all()
            and row[row.argmin() - 1] == END
        )
    languages = {name.partition("/")[0] for name in data.names}
    assert len(languages) > 150 and {"de", "sw"} <= languages
    assert not {"ru", "ar", "zh", "sr", "vi"} & languages, (
        "other scripts, and Vietnamese numbers its months"
    )
    assert not set(corpus.merged) & languages and {"no", "nn"} <= set(corpus.merged), (
        "nb is there for them"
    )
    months = [
        frozenset(
            t.translate(dict.fromkeys(map(ord, "0123456789")))
            for t in said(corpus, f"{code}/date").values()
        )
        for code in languages
    ]
    assert len(set(months)) == len(months), "no two languages say all months alike"


def test_seed_moves_the_days(corpus):
    days = [
        [source for source, _, _ in _dates("de", np.random.default_rng(seed))] for seed in (0, 0, 1)
    ]
    assert days[0] == days[1] != days[2]
    assert set(said(corpus, "de/date")) != set(said(corpus, "fr/date"))


def test_split_has_no_language_twice_and_no_strange_character(corpus):
    split = split_languages(corpus)
    names = [{name.partition("/")[0] for name in part.names} for part in split[:3]]
    assert not names[0] & names[1] | names[0] & names[2] | names[1] & names[2]
    assert sum(part.classes for part in split[:3]) + len(split.dropped) == corpus.data.classes
    known = set(np.unique(split.train.x["target"]))
    assert all(set(np.unique(part.x["target"])) <= known for part in split[1:3])
    assert split.dropped and not set(split.dropped) & {
        name for part in split[:3] for name in part.names
    }
    for kind in ("date", "unit", "number"):
        sizes = [sum(name.endswith(kind) for name in part.names) for part in split[:3]]
        assert sizes[0] > sizes[2] > sizes[1] > 0
    assert split_languages(corpus, seed=1).train.names != split.train.names


def test_folds_test_every_language_once(corpus):
    folds = [split_languages(corpus, fold=fold) for fold in range(4)]
    languages = lambda names: {name.partition("/")[0] for name in names}
    tested = [name for split in folds for name in languages(split.test.names)]
    assert len(tested) == len(set(tested))
    assert set(tested) | languages(name for split in folds for name in split.dropped) == languages(
        corpus.data.names
    )
    with pytest.raises(ValueError, match="fold=4 must be 0, 1, 2 or 3"):
        split_languages(corpus, fold=4)


def test_a_task_asks_for_what_its_pairs_name(corpus):
    draw = jax.jit(mj.data.meta_batch(translations(5, 6), 40))
    tasks = draw(corpus.data, jax.random.key(0))
    assert len(np.unique(tasks.context)) > 20
    words = {
        np.asarray(source).tobytes(): word
        for source, word in zip(
            corpus.data.x["source"], np.asarray(corpus.data.x["words"]), strict=True
        )
    }
    of_kind = np.array([name.partition("/")[2] for name in corpus.data.names])
    for i in range(40):
        support, query = (
            [np.asarray(s).tobytes() for s in batch.x["source"][i]] for batch in tasks[:2]
        )
        assert len(set(support)) == 5 and not set(support) & set(query)
        seen = [{words[s][column] for s in support} for column in (0, 1)]
        shown = [all(words[q][column] in seen[column] for column in (0, 1)) for q in query]
        assert all(shown) or (of_kind[tasks.context[i]] == "number" and not any(shown)), (
            "or anything, if nothing is named"
        )
        assert (tasks.query.y[i] == tasks.query.x["target"][i]).all()
        code = corpus.data.names[int(tasks.context[i])]
        if i < 5:
            pairs = said(corpus, code)
            for source, target in zip(tasks.query.x["source"][i], tasks.query.y[i], strict=True):
                assert pairs[text(source, corpus.characters)] == text(target, corpus.characters)


def test_pool_keeps_the_queries_while_shots_change(corpus):
    label = corpus.data.names.index("de/date")
    make = functools.partial(translation, corpus.data, label, jax.random.key(3), queries=4, pool=5)
    tasks = [make(shots=shots) for shots in (0, 2, 5)]
    assert [len(task.support.y) for task in tasks] == [0, 2, 5]
    assert all((task.query.y == tasks[0].query.y).all() for task in tasks)
    assert (tasks[1].support.y == tasks[2].support.y[:2]).all()


@pytest.mark.parametrize(
    "sizes", [{"shots": -1}, {"queries": 0}, {"pool": 2}, {"shots": 0}, {"shots": 72}]
)
def test_sizes_are_checked(corpus, sizes):
    with pytest.raises(ValueError, match="Need shots >= 0, queries >= 1 and a pool"):
        translations(**{"shots": 3, "queries": 2} | sizes)(corpus.data, jax.random.key(0))


def test_missing_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "babel", None)
    with pytest.raises(ImportError, match=r"pip install 'metajax\[examples\]'"):
        phrases()


def test_text_is_composed_and_ends():
    assert text(jnp.array([3, 2, 4, 1, 3]), "ab\u0308") == "bä"
