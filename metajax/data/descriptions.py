"""What a data set holds, in a few lines; `plots.contact_sheet` shows it."""

from __future__ import annotations

import collections
from typing import NamedTuple

import jax
import numpy as np

from metajax.data.datasets import Dataset
from metajax.data.splits import group_of
from metajax.types import Modalities, PyTree


class Leaf(NamedTuple):
    """One array of a data set.

    Attributes:
        name: where it stands: "x", "image", "audio.value"; of a modality, its name comes first.
        shape: of one example, or of one class.
        dtype: as it is stored.
        low: least value, over the examples in which it is present.
        high: greatest value, over the same.
        present: share of the examples in which it is present, 0 to 1.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    low: float
    high: float
    present: float = 1.0


class Description(NamedTuple):
    """What `describe` finds; `str` and `print` make lines of it.

    Attributes:
        classes: how many.
        examples: how many, in all classes.
        per_class: examples of the smallest class, of the median one and of the largest.
        x: the arrays of the examples.
        info: the arrays of what is known of the classes.
        groups: {group: its classes}, the largest first: what stands before the last "/" of names. Empty without.
    """

    classes: int
    examples: int
    per_class: tuple[int, float, int]
    x: tuple[Leaf, ...]
    info: tuple[Leaf, ...]
    groups: dict[str, int]

    def __str__(self) -> str:
        least, median, most = self.per_class
        each = (
            f"{least} of each" if least == most else f"{least} to {most} of each, median {median:g}"
        )
        lines = [f"{self.classes} classes, {self.examples} examples: {each}"]
        if self.groups:
            shown = ", ".join(f"{group} {count}" for group, count in list(self.groups.items())[:4])
            lines += [
                f"{len(self.groups)} groups of classes: {shown}{', ...' if len(self.groups) > 4 else ''}"
            ]
        lines += [_line(leaf) for leaf in self.x]
        return "\n".join(lines + [f"{_line(leaf)}, of each class" for leaf in self.info])


def describe(dataset: Dataset) -> Description:
    """Classes, groups, examples of each class, and the arrays: shapes, dtypes, ranges, and how often they are present.

    >>> from metajax.data.datasets import dataset
    >>> image, names = np.zeros((6, 28, 28, 1), np.uint8), ["Greek/alpha", "Greek/beta", "Latin/a"]
    >>> print(describe(dataset(image, np.array([0, 0, 0, 1, 1, 2]), names=names)))
    3 classes, 6 examples: 1 to 3 of each, median 2
    2 groups of classes: Greek 2, Latin 1
    x uint8[28, 28, 1], 0 to 0
    """
    count = np.asarray(dataset.count)
    groups = collections.Counter(group for group in map(group_of, dataset.names) if group)
    return Description(
        classes=dataset.classes,
        examples=len(dataset.y),
        per_class=(int(count.min()), float(np.median(count)), int(count.max())),
        x=tuple(_leaves(dataset.x, "x")),
        info=tuple(_leaves(dataset.info, "info")),
        groups=dict(groups.most_common()),
    )


def _leaves(tree: PyTree, name: str) -> list[Leaf]:
    """The arrays of a tree, each with its range."""
    value, present = (
        (tree.value, tree.present) if isinstance(tree, Modalities) else ({name: tree}, {})
    )
    found = []
    for kind, part in value.items():
        there = np.asarray(present[kind]) if kind in present else slice(None)
        for path, leaf in jax.tree_util.tree_leaves_with_path(part):
            rows = np.asarray(leaf)[there]
            low, high = (float(rows.min()), float(rows.max())) if rows.size else (np.nan, np.nan)
            full = ".".join(
                [kind, *([jax.tree_util.keystr(path, simple=True, separator=".")] if path else [])]
            )
            found.append(
                Leaf(full, rows.shape[1:], str(rows.dtype), low, high, len(rows) / len(leaf))
            )
    return found


def _line(leaf: Leaf) -> str:
    share = "" if leaf.present == 1 else f", present in {leaf.present:.1%}"
    return f"{leaf.name} {leaf.dtype}{list(leaf.shape)}, {leaf.low:.6g} to {leaf.high:.6g}{share}"
