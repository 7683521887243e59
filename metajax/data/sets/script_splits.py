"""Splits that hold whole scripts out."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence

from metajax._checked import checked
from metajax.data.datasets import Dataset
from metajax.data.splits import Split


@checked
def split_scripts(
    dataset: Dataset, *, train: Sequence[str], validation: Sequence[str] = (), test: Sequence[str]
) -> Split:
    """A split of `glyphs` by script, so that no class, hence no drawing, is in two parts.

    A class may belong to several scripts. It is in the first part that has one of them: train,
    then validation, then test. `Split.dropped` names the classes that a later part lost in this
    way. Classes of scripts that no part has are left out. Without validation scripts there is no
    part "validation".

    Args:
        dataset: whose class names begin with their scripts: "Greek+Latin/...".
        train: names of scripts.
        validation: names of scripts.
        test: names of scripts.

    Raises:
        ValueError: a script named twice, an unknown script, or a part without a class.

    >>> import numpy as np
    >>> from metajax.data.datasets import dataset
    >>> letters = dataset(np.eye(3), np.arange(3), names=["Greek+Latin/O", "Latin/R", "Greek/Π"])
    >>> split = split_scripts(letters, train=["Latin"], test=["Greek"])
    >>> split.parts["train"], split.parts["test"], split.dropped
    (('Greek+Latin/O', 'Latin/R'), ('Greek/Π',), ('Greek+Latin/O',))
    """
    parts = {"train": train, "validation": validation, "test": test}
    scripts_of = {name: set(name.partition("/")[0].split("+")) for name in dataset.names}
    _check_scripts(parts, scripts_of)
    taken: set[str] = set()
    dropped: set[str] = set()
    kept: dict[str, tuple[str, ...]] = {}
    for part, scripts in parts.items():
        if part == "validation" and not scripts:
            continue
        wanted = [name for name, own in scripts_of.items() if not own.isdisjoint(scripts)]
        kept[part] = tuple(name for name in wanted if name not in taken)
        if not kept[part]:
            raise ValueError(
                f"No class is left for {part}={scripts}; "
                "name more scripts, or fewer in earlier parts."
            )
        dropped.update(taken.intersection(wanted))
        taken.update(wanted)
    title = ", ".join(f"{part} {'+'.join(parts[part])}" for part in kept)
    in_order = tuple(name for name in dataset.names if name in dropped)
    return Split(f"scripts: {title}", kept, in_order)


def _check_scripts(parts: Mapping[str, Sequence[str]], scripts_of: Mapping[str, set[str]]) -> None:
    """Checks that each script is known, and named once."""
    named = collections.Counter(script for scripts in parts.values() for script in scripts)
    known = collections.Counter(script for own in scripts_of.values() for script in own)
    if twice := [script for script, times in named.items() if times > 1]:
        raise ValueError(f"Scripts {twice} are named more than once; name each once, in one part.")
    if unknown := [script for script in named if script not in known]:
        raise ValueError(
            f"Unknown scripts {unknown}; there are (with the number of their classes) "
            f"{dict(known.most_common())}."
        )
