"""What a data set holds, in a few lines; `plots.contact_sheet` shows it."""

from __future__ import annotations

import collections
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np

from metajax._checked import checked
from metajax.data.datasets import Dataset
from metajax.data.splits import group_of
from metajax.types import Modalities, PyTree


class Leaf(NamedTuple):
    """One array of a data set.

    Attributes:
        name: its path: "x", "image", "audio.value". That of a modality starts with its name.
        shape: of one example, or of one class.
        dtype: as it is stored.
        low: least value, over the examples in which it is present.
        high: greatest value, over the same examples.
        present: share of the examples in which it is present, 0 to 1.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    low: float
    high: float
    present: float = 1.0


class Description(NamedTuple):
    """What `describe` finds. `str` and `print` make lines of it.

    Attributes:
        classes: number of classes.
        examples: number of examples of all classes.
        per_class: number of examples of the smallest, the median and the largest class.
        x: the arrays of the examples.
        info: the arrays of the side information about classes.
        groups: {group: number of its classes}, the largest first. The group of a class stands
            before the last "/" of its name. Empty if no class has one.
        credit: licence and citation of the data, "" where they are not known.
    """

    classes: int
    examples: int
    per_class: tuple[int, float, int]
    x: tuple[Leaf, ...]
    info: tuple[Leaf, ...]
    groups: dict[str, int]
    credit: str = ""

    def __str__(self) -> str:
        least, median, most = self.per_class
        each = f"{least} of each"
        if least != most:
            each = f"{least} to {most} of each, median {median:g}"
        lines = [f"{self.classes} classes, {self.examples} examples: {each}"]
        if self.groups:
            lines.append(_group_line(self.groups))
        lines += [_line(leaf) for leaf in self.x]
        lines += [f"{_line(leaf)}, of each class" for leaf in self.info]
        if self.credit:
            lines.append(self.credit)
        return "\n".join(lines)


@checked
def describe(dataset: Dataset) -> Description:
    """Describes a data set: its classes and groups, shapes and ranges of its arrays, and credit.

    Args:
        dataset: what to describe, with values as they are stored.

    Returns:
        The description, to read or to print.

    >>> from metajax.data.datasets import dataset
    >>> image = np.zeros((6, 28, 28, 1), np.uint8)
    >>> names = ["Greek/alpha", "Greek/beta", "Latin/a"]
    >>> print(describe(dataset(image, np.array([0, 0, 0, 1, 1, 2]), names=names)))
    3 classes, 6 examples: 1 to 3 of each, median 2
    2 groups of classes: Greek 2, Latin 1
    x uint8[28, 28, 1], 0 to 0
    """
    count = np.asarray(dataset.count)
    groups = collections.Counter(group_of(name) for name in dataset.names)
    del groups[""]
    return Description(
        classes=dataset.classes,
        examples=len(dataset.y),
        per_class=(int(count.min()), float(np.median(count)), int(count.max())),
        x=tuple(_leaves(dataset.x, "x")),
        info=tuple(_leaves(dataset.info, "info")),
        groups=dict(groups.most_common()),
        credit=dataset.credit,
    )


def _leaves(tree: PyTree, name: str) -> Iterator[Leaf]:
    """The arrays of a tree, each with its range."""
    if not isinstance(tree, Modalities):
        yield from _leaves_of(tree, name, None)
        return
    for modality, part in tree.value.items():
        yield from _leaves_of(part, modality, np.asarray(tree.present[modality]))


def _leaves_of(tree: PyTree, name: str, present: np.ndarray | None) -> Iterator[Leaf]:
    """The arrays of one modality, over the examples that have it."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        steps = jax.tree_util.keystr(path, simple=True, separator=".")
        values = np.asarray(leaf) if present is None else np.asarray(leaf)[present]
        yield Leaf(
            name=f"{name}.{steps}" if steps else name,
            shape=values.shape[1:],
            dtype=str(values.dtype),
            low=float(values.min()) if values.size else np.nan,
            high=float(values.max()) if values.size else np.nan,
            present=len(values) / len(leaf),
        )


def _group_line(groups: dict[str, int]) -> str:
    """The largest groups in words."""
    shown = [f"{group} {count}" for group, count in list(groups.items())[:4]]
    if len(groups) > 4:
        shown.append("...")
    return f"{len(groups)} groups of classes: {', '.join(shown)}"


def _line(leaf: Leaf) -> str:
    """One array in words."""
    share = "" if leaf.present == 1 else f", present in {leaf.present:.1%}"
    return f"{leaf.name} {leaf.dtype}{list(leaf.shape)}, {leaf.low:.6g} to {leaf.high:.6g}{share}"
