"""Disjoint parts of the classes of a data set: listed, drawn and selected."""

from __future__ import annotations

import collections
import hashlib
import json
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from metajax._checked import checked
from metajax.data.datasets import Dataset, select


class Split(NamedTuple):
    """Which classes belong to which part, by name, so that a result can state its test classes.

    `class_split` and `draw_split` make one and check that no class is in two parts; `select_part`
    takes the classes of a part from a data set.

    Attributes:
        name: the name of the split.
        parts: {part: names of its classes}.
        dropped: names of the classes that a part lost on purpose, for example because they belong
            to an earlier part, too. They do not count in the digest.
    """

    name: str
    parts: dict[str, tuple[str, ...]]
    dropped: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """The first 12 hexadecimal digits of a SHA-256 of the parts, whatever their order."""
        ordered = {part: sorted(names) for part, names in self.parts.items()}
        text = json.dumps(ordered, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def __repr__(self) -> str:
        """One line: the name, the number of classes of each part, and the digest."""
        try:
            sizes = ", ".join(f"{part} {len(names)}" for part, names in self.parts.items())
            return f"Split({self.name!r}; classes: {sizes}; digest {self.digest})"
        except (AttributeError, TypeError):
            return f"Split{tuple.__repr__(self)}"  # a tree of something else


@checked
def class_split(
    name: str,
    parts: Mapping[str, Iterable[str] | Dataset | Callable[[str], bool]],
    names: Sequence[str] = (),
) -> Split:
    """Makes a split from lists of names, data sets or predicates.

    Results should state its `name` and `digest`.

    Args:
        name: the name of the split.
        parts: {part: names of its classes, a data set that has these classes, or a predicate on
            those in `names`}.
        names: the names of all classes, `dataset.names`. Only predicates need it. A class that no
            part wants is left out.

    Returns:
        The checked split.

    Raises:
        ValueError: a class in two parts or twice in one, a part without a class, or no part.

    >>> letters = ["Greek/alpha", "Greek/beta", "Latin/a"]
    >>> is_greek = lambda name: name.startswith("Greek")
    >>> split = class_split("Latin is new", {"train": is_greek, "test": ["Latin/a"]}, letters)
    >>> split.parts["train"], split.digest
    (('Greek/alpha', 'Greek/beta'), '818167411397')
    """
    chosen = {part: _names_of(wanted, names) for part, wanted in parts.items()}
    return _checked(Split(name, chosen))


@checked
def draw_split(
    names: Sequence[str],
    sizes: Mapping[str, int],
    *,
    seed: int = 0,
    group: Callable[[str], Hashable] | None = None,
) -> Split:
    """Draws a split at random: of classes, or of whole groups such as alphabets or speakers.

    For Omniglot {"train": 1100, "validation": 100, "test": 423} is usual.

    Args:
        names: the names of all classes, `dataset.names`.
        sizes: {part: number of classes or of groups in it}, drawn without replacement.
        seed: the seed of the draw.
        group: name of a class -> its group, such as `group_of`. Then `sizes` count groups, and no
            group is in two parts. None draws classes.

    Returns:
        The split, named after its sizes and its seed.

    Raises:
        ValueError: a size below 1, sizes that sum to more than there are, or names that occur
            twice.

    >>> letters = ["Greek/alpha", "Greek/beta", "Latin/a", "Cyrillic/be"]
    >>> draw_split(letters, {"train": 2, "test": 1}, group=group_of).parts
    {'train': ('Greek/alpha', 'Greek/beta', 'Cyrillic/be'), 'test': ('Latin/a',)}
    """
    groups: dict[Hashable, list[str]] = {}
    for name in names:
        key = name if group is None else group(name)
        groups.setdefault(key, []).append(name)
    kind = "classes" if group is None else "groups"
    described = f"{kind}, such as {list(groups)[:3]}"
    part_of = _draw_parts(tuple(sizes.values()), len(groups), seed, described)
    members = list(groups.values())
    parts = {}
    for number, part in enumerate(sizes):
        drawn = np.flatnonzero(part_of == number)
        parts[part] = tuple(name for index in drawn for name in members[index])
    shown = "/".join(str(size) for size in sizes.values())
    return _checked(Split(f"{shown} {kind}, seed {seed}", parts))


@checked
def select_part(source: Dataset, split: Split, part: str) -> Dataset:
    """The classes of one part of a split, in the order in which the data set has them.

    Args:
        source: what to choose from. It may have more classes than the split.
        split: which classes belong to which part.
        part: one of `split.parts`.

    Returns:
        A data set of these classes.

    Raises:
        ValueError: an unknown part, classes of it that the data set lacks, or a split with a class
            in two parts.

    >>> from metajax.data.datasets import dataset
    >>> letters = dataset(np.eye(3), np.arange(3), names=["alpha", "a", "b"])
    >>> split = class_split("Latin is new", {"train": ["alpha"], "test": ["b", "a"]})
    >>> select_part(letters, split, "test").names
    ('a', 'b')
    """
    if part not in split.parts:
        raise ValueError(f"{part=} is not one of the parts of {split.name!r}, {list(split.parts)}.")
    wanted = set(_checked(split).parts[part])
    if missing := sorted(wanted - set(source.names)):
        raise ValueError(
            f"{len(missing)} of the {len(wanted)} classes of {part=} of {split.name!r} are not in "
            f"the data set: {missing[:10]}; it has {source.classes} classes, such as "
            f"{list(source.names[:3])}."
        )
    return select(source, lambda name: name in wanted)


@checked
def group_of(name: str) -> str:
    """The group of a class: what stands before the last "/" of its name, or "".

    >>> group_of("images_background/Greek/character01"), group_of("zero")
    ('images_background/Greek', '')
    """
    return name.rpartition("/")[0]


def _checked(split: Split) -> Split:
    """The same split, after a check.

    Raises:
        ValueError: a class that is listed twice, a part without a class, or no part.
    """
    times: collections.Counter[str] = collections.Counter()
    for names in split.parts.values():
        times.update(names)
    if twice := [name for name, number in times.items() if number > 1]:
        raise ValueError(
            f"{len(twice)} classes of {split.name!r} are listed twice: {twice[:10]}; list each in "
            f"one part."
        )
    empty = [part for part, names in split.parts.items() if not names]
    if empty or not split.parts:
        raise ValueError(
            f"Parts {empty} of {split.name!r} have no class; a split needs a part, and every part "
            f"a class."
        )
    return split


def _names_of(
    wanted: Iterable[str] | Dataset | Callable[[str], bool], names: Sequence[str]
) -> tuple[str, ...]:
    """The names of the classes that a part asks for."""
    if isinstance(wanted, Dataset):
        return wanted.names
    if callable(wanted):
        return tuple(name for name in names if wanted(name))
    return tuple(wanted)


def _draw_parts(sizes: tuple[int, ...], number: int, seed: int, described: str) -> np.ndarray:
    """The index of the part of each class or group, int[number]; -1 where it is in none."""
    if min(sizes, default=0) < 1 or sum(sizes) > number:
        raise ValueError(f"{sizes=} must be 1 or more and sum to at most the {number} {described}.")
    order = np.random.default_rng(seed).permutation(number)
    part_of = np.full(number, -1)
    part_of[order[: sum(sizes)]] = np.repeat(range(len(sizes)), sizes)
    return part_of
