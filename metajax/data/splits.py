"""Disjoint parts of the classes of a data set."""

from __future__ import annotations

import numpy as np

from metajax.data.arrays import Dataset, select


def split_classes(source: Dataset, sizes: tuple[int, ...], *, seed: int = 0) -> tuple[Dataset, ...]:
    """Parts of the given numbers of classes, drawn without replacement; (1100, 100, 423) is usual for Omniglot.

    Args:
        source: what to split.
        sizes: classes in each part, 1 or more.
        seed: of the draw.

    Raises:
        ValueError: a size below 1, or sizes that sum to more than there are classes.
    """
    if min(sizes, default=0) < 1 or sum(sizes) > source.classes:
        raise ValueError(f"{sizes=} must be 1 or more and sum to at most the {source.classes} classes.")
    part = np.full(source.classes, -1)
    part[np.random.default_rng(seed).permutation(source.classes)[: sum(sizes)]] = np.repeat(range(len(sizes)), sizes)
    return tuple(select(source, (part == number).tolist()) for number in range(len(sizes)))
