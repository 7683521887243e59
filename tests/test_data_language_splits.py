"""Splits by language: no language is in two parts, and no part has a character that is unknown."""

import numpy as np
import pytest
from data_sets import corpus

from metajax.data.datasets import select
from metajax.data.sets.language_splits import split_languages
from metajax.data.splits import select_part


def languages_of(names):
    return {name.partition("/")[0] for name in names}


def test_no_language_is_in_two_parts():
    split = split_languages(corpus())
    assert list(split.parts) == ["train", "validation", "test"]
    train, validation, test = (languages_of(names) for names in split.parts.values())
    assert not (train & validation or train & test or validation & test)
    names = [*split.dropped, *(name for part in split.parts.values() for name in part)]
    assert len(names) == len(set(names)) and set(names) == set(corpus().data.names)
    for kind in ("date", "unit", "number"):
        sizes = [sum(name.endswith(kind) for name in part) for part in split.parts.values()]
        assert sizes[0] > sizes[2] > sizes[1] > 0
    assert split_languages(corpus(), seed=1).parts["train"] != split.parts["train"]


def test_later_parts_have_no_character_that_training_lacks():
    split = split_languages(corpus())
    used = {
        part: set(np.unique(select_part(corpus().data, split, part).x["target"]))
        for part in split.parts
    }
    assert used["validation"] <= used["train"] and used["test"] <= used["train"]
    assert split.dropped
    for name in split.dropped:
        dropped = select(corpus().data, lambda other, name=name: other == name)
        assert not set(np.unique(dropped.x["target"])) <= used["train"]


def test_folds_test_every_language_once():
    folds = [split_languages(corpus(), fold=fold) for fold in range(4)]
    tested = [name for split in folds for name in languages_of(split.parts["test"])]
    assert len(tested) == len(set(tested))
    dropped = languages_of(name for split in folds for name in split.dropped)
    assert set(tested) | dropped == languages_of(corpus().data.names)
    assert len({split.name for split in folds}) == 4
    with pytest.raises(ValueError, match="fold=4 must be 0, 1, 2 or 3"):
        split_languages(corpus(), fold=4)


def test_too_few_languages_are_refused():
    few = select(corpus().data, lambda name: name in ("de/date", "fr/date"))
    with pytest.raises(ValueError, match=r"No class is left for \['validation', 'test'\]: 2 lang"):
        split_languages(corpus()._replace(data=few))
