"""Disjoint parts of the classes of a data set: drawn, listed, written down, and checked for examples in common."""

from __future__ import annotations

import collections
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax._checks import shapes
from metajax.data.datasets import Dataset, select
from metajax.types import PyTree

_BLOCK = 256  # examples of a data set on disk that are in memory at once


class Split(NamedTuple):
    """Which classes belong to which part, by name: data, so that a result can say what it was measured on.

    Made by `class_split` and `draw_split`, which let no class into two parts.

    Attributes:
        name: what the split is called.
        parts: {part: names of its classes}.
    """

    name: str
    parts: dict[str, tuple[str, ...]]

    @property
    def digest(self) -> str:
        """The first 12 hexadecimal digits of a SHA-256 of the parts: the same for the same classes in any order."""
        text = json.dumps(
            {part: sorted(names) for part, names in self.parts.items()}, sort_keys=True
        )
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def class_split(
    name: str,
    parts: Mapping[str, Iterable[str] | Dataset | Callable[[str], bool]],
    names: Sequence[str] = (),
) -> Split:
    """A split by names. Results write down its `name` and `digest`.

    Args:
        name: what it is called.
        parts: {part: names of its classes, a data set that has these classes, or a predicate on those in `names`}.
        names: of all classes, `dataset.names`; only predicates need it. A class that no part wants is left out.

    Raises:
        ValueError: a class in two parts or twice in one, a part without a class, or no part.

    >>> letters = ["Greek/alpha", "Greek/beta", "Latin/a"]
    >>> split = class_split("Latin is new", {"train": lambda name: "Greek" in name, "test": ["Latin/a"]}, letters)
    >>> split.parts["train"], split.digest
    (('Greek/alpha', 'Greek/beta'), '818167411397')
    """
    if strings := [part for part, wanted in parts.items() if isinstance(wanted, str)]:
        raise ValueError(
            f"Parts {strings} of {name!r} must be lists of class names or predicates, not one string."
        )
    chosen: dict[str, Iterable[str]] = {}
    for part, wanted in parts.items():
        named = wanted.names if isinstance(wanted, Dataset) else wanted
        chosen[part] = filter(named, names) if callable(named) else named
    return _checked(Split(name, {part: tuple(wanted) for part, wanted in chosen.items()}))


def draw_split(
    names: Sequence[str],
    sizes: Mapping[str, int],
    *,
    seed: int = 0,
    group: Callable[[str], Hashable] | None = None,
) -> Split:
    """A split by chance: of classes, or of whole groups of them, such as alphabets, domains or speakers.

    For Omniglot {"train": 1100, "validation": 100, "test": 423} is usual; these classes are those of `split_classes`
    with the same sizes and seed.

    Args:
        names: of all classes, `dataset.names`.
        sizes: {part: classes in it, or groups}, drawn without replacement.
        seed: of the draw.
        group: a class's name -> its group, such as `group_of`; sizes then count groups, and none is in two parts. None
            draws classes.

    Raises:
        ValueError: a size below 1, sizes that sum to more than there are, or names that occur twice.

    >>> letters = ["Greek/alpha", "Greek/beta", "Latin/a", "Cyrillic/be"]
    >>> draw_split(letters, {"train": 2, "test": 1}, group=group_of).parts
    {'train': ('Greek/alpha', 'Greek/beta', 'Cyrillic/be'), 'test': ('Latin/a',)}
    """
    groups: dict[Hashable, list[str]] = {}
    for name in names:
        groups.setdefault(group(name) if group else name, []).append(name)
    kind = "groups" if group else "classes"
    part = _drawn(tuple(sizes.values()), len(groups), seed, f"{kind}, such as {list(groups)[:3]}")
    listed = list(groups.values())
    parts = {
        name: tuple(member for index in np.flatnonzero(part == number) for member in listed[index])
        for number, name in enumerate(sizes)
    }
    return _checked(Split(f"{'/'.join(map(str, sizes.values()))} {kind}, seed {seed}", parts))


def split_classes(source: Dataset, sizes: tuple[int, ...], *, seed: int = 0) -> tuple[Dataset, ...]:
    """Parts of the given numbers of classes, drawn without replacement; (1100, 100, 423) is usual for Omniglot.

    Args:
        source: what to split.
        sizes: classes in each part, 1 or more.
        seed: of the draw.

    Raises:
        ValueError: a size below 1, or sizes that sum to more than there are classes.
    """
    part = _drawn(tuple(sizes), source.classes, seed, "classes")
    return tuple(select(source, (part == number).tolist()) for number in range(len(sizes)))


def select_part(source: Dataset, split: Split, part: str) -> Dataset:
    """The classes of one part of a split, in the order in which the data set has them.

    Args:
        source: what to choose from; it may have more classes than the split.
        split: which classes belong to which part.
        part: which of `split.parts`.

    Raises:
        ValueError: an unknown part, classes of it that the data set lacks, or a split with a class in two parts.
    """
    if part not in split.parts:
        raise ValueError(f"{part=} is not one of the parts of {split.name!r}, {list(split.parts)}.")
    wanted = set(_checked(split).parts[part])
    if missing := sorted(wanted - set(source.names)):
        raise ValueError(
            f"{len(missing)} of the {len(wanted)} classes of {part=} of {split.name!r} are not in the data set: "
            f"{missing[:10]}; it has {source.classes} classes, such as {list(source.names[:3])}."
        )
    return select(source, wanted.__contains__)


def group_of(name: str) -> str:
    """What a class belongs to: what stands before the last "/" of its name, "" where there is none.

    >>> group_of("images_background/Greek/character01"), group_of("zero")
    ('images_background/Greek', '')
    """
    return name.rpartition("/")[0]


def check_leaks(**parts: Dataset | tuple[Dataset, Callable[[np.ndarray], PyTree]]) -> None:
    """Fails where an example of one part is also in another, equal in every byte, in whatever class.

    Copies within a part are no leak. Call it as `check_leaks(train=train, test=test)`.

    Args:
        **parts: data sets by the name that the error is to call them, with examples of the same shapes and dtypes. For
            what is not in memory a pair (rows, fetch), such as `tfds_rows` gives; all of it is then read once.

    Raises:
        ValueError: an example in two parts; parts whose examples differ in shape or dtype, so that none could be;
            single integers, such as row numbers without what fetches the rows.
    """
    first_of = lambda source: (
        source[1](np.asarray(source[0].x)[:1]) if isinstance(source, tuple) else source.x
    )
    kinds = {
        part: shapes(jax.tree.map(lambda leaf: leaf[0], first_of(source)))
        for part, source in parts.items()
    }
    if len({str(kind) for kind in kinds.values()}) > 1:
        raise ValueError(
            f"Only examples of the same shapes and dtypes can be compared, got {kinds}."
        )
    first: dict[bytes, tuple[str, str]] = {}
    copies: collections.Counter[str] = collections.Counter()
    for part, source in parts.items():
        for x, names in _read(source):
            for example, name in zip(_digests(x), names, strict=True):
                there, other = first.setdefault(example, (part, name))
                if there != part:
                    copies[f"{name!r} of {part} = {other!r} of {there}"] += 1
    if copies:
        raise ValueError(
            f"{copies.total()} examples are in two parts: {dict(copies.most_common(10))}; leave them out of one, or "
            "put these classes into the same part."
        )


def save_split(split: Split, path: str | os.PathLike[str]) -> None:
    """Writes a split as JSON: name, digest and parts."""
    stored = {"name": split.name, "digest": split.digest, "parts": split.parts}
    pathlib.Path(path).write_text(
        json.dumps(stored, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )


def load_split(path: str | os.PathLike[str]) -> Split:
    """Reads what `save_split` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no such file of ours, or one whose parts are not those that were saved.
    """
    try:
        stored = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
        split, digest = class_split(stored["name"], stored["parts"]), stored["digest"]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is not a split of classes ({error!r}); write it by `save_split`."
        ) from error
    if split.digest != digest:
        raise ValueError(
            f"The classes in {path} have the digest {split.digest}, not {digest} as saved; get it anew."
        )
    return split


def _drawn(sizes: tuple[int, ...], number: int, seed: int, kind: str) -> np.ndarray:
    """The part of each of `number` things, int[number], -1 for none."""
    if min(sizes, default=0) < 1 or sum(sizes) > number:
        raise ValueError(f"{sizes=} must be 1 or more and sum to at most the {number} {kind}.")
    part = np.full(number, -1)
    part[np.random.default_rng(seed).permutation(number)[: sum(sizes)]] = np.repeat(
        range(len(sizes)), sizes
    )
    return part


def _checked(split: Split) -> Split:
    """The same split, in which no class is listed twice and no part is empty."""
    times = collections.Counter(name for names in split.parts.values() for name in names)
    if twice := [name for name, count in times.items() if count > 1]:
        raise ValueError(
            f"{len(twice)} classes of {split.name!r} are listed twice: {twice[:10]}; list each in one part."
        )
    empty = [part for part, names in split.parts.items() if not names]
    if empty or not split.parts:
        raise ValueError(
            f"Parts {empty} of {split.name!r} have no class; a split has parts, and each a class."
        )
    return split


def _read(
    source: Dataset | tuple[Dataset, Callable[[np.ndarray], PyTree]],
) -> Iterator[tuple[PyTree, list[str]]]:
    """Examples and the names of their classes, block by block."""
    rows, fetch = source if isinstance(source, tuple) else (source, None)
    names = [rows.names[label] for label in np.asarray(rows.y).tolist()]
    if fetch is None:
        if (
            isinstance(rows.x, jax.Array)
            and rows.x.ndim == 1
            and jnp.issubdtype(rows.x.dtype, jnp.integer)
        ):
            raise ValueError(
                "Examples are single integers; if they are numbers of rows, give (rows, fetch) instead."
            )
        yield rows.x, names
        return
    for first in range(0, len(names), _BLOCK):
        block = slice(first, first + _BLOCK)
        yield fetch(np.asarray(rows.x)[block]), names[block]


def _digests(x: PyTree) -> list[bytes]:
    """Of each row, over all leaves."""
    rows = [
        np.ascontiguousarray(leaf).reshape(len(leaf), -1).view(np.uint8)
        for leaf in jax.tree.leaves(x)
    ]
    return [hashlib.sha256(b"".join(row)).digest() for row in zip(*rows, strict=True)]
