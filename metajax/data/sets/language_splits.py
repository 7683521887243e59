"""Splits that hold whole languages out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from metajax._checked import checked
from metajax.data.sets.languages import Phrases
from metajax.data.splits import Split

# The parts that every eight languages are dealt to, in this order.
_DEAL = ("train",) * 5 + ("validation",) + ("test",) * 2
_FOLDS = 4


@checked
def split_languages(phrases: Phrases, *, fold: int = 0, seed: int = 0) -> Split:
    """A split of phrases by language: of every eight, five train, one validates and two test.

    Languages with the same kinds of phrases are dealt evenly. A class of a later part with a
    character that no training class has is left out and named in `Split.dropped`, because no net
    can have learned to write that character.

    Args:
        phrases: what to split; `select_part(phrases.data, split, "train")` gives the data.
        fold: 0 to 3. Each language is in the test part of one of the four, unless it is dropped.
        seed: of the order in which languages are dealt.

    Raises:
        ValueError: another fold, or too few languages for three parts.
    """
    if fold not in range(_FOLDS):
        raise ValueError(f"{fold=} must be 0, 1, 2 or 3.")
    data = phrases.data
    part_of = _deal(data.names, fold, seed)
    dealt = {name: part_of[_language(name)] for name in data.names}
    strange = _strange_classes(phrases, [dealt[name] == "train" for name in data.names])
    parts: dict[str, tuple[str, ...]] = {}
    dropped: list[str] = []
    for part in ("train", "validation", "test"):
        names = [name for name in data.names if dealt[name] == part]
        parts[part] = tuple(name for name in names if name not in strange)
        dropped += [name for name in names if name in strange]
    if empty := [part for part, names in parts.items() if not names]:
        raise ValueError(f"No class is left for {empty}: {len(part_of)} languages are too few.")
    return Split(f"languages, fold {fold}, seed {seed}", parts, tuple(dropped))


def _language(name: str) -> str:
    """The language of a class "language/kind"."""
    return name.partition("/")[0]


def _deal(names: Sequence[str], fold: int, seed: int) -> dict[str, str]:
    """The part of each language. Those with the same kinds of phrases are dealt one by one."""
    kinds: dict[str, str] = {}
    for name in names:
        language, _, kind = name.partition("/")
        kinds[language] = kinds.get(language, "") + kind
    shuffled = np.random.default_rng(seed).permutation(list(kinds)).tolist()
    order = sorted(shuffled, key=lambda language: kinds[language])
    return {
        language: _DEAL[(place + 2 * fold) % len(_DEAL)] for place, language in enumerate(order)
    }


def _strange_classes(phrases: Phrases, in_train: Sequence[bool]) -> set[str]:
    """Names of the classes with a character that no training class has."""
    target = np.asarray(phrases.data.x["target"])
    label = np.asarray(phrases.data.y)
    known = np.unique(target[np.array(in_train)[label]])
    strange_rows = ~np.isin(target, known).all(axis=1)
    return {phrases.data.names[index] for index in np.unique(label[strange_rows])}
