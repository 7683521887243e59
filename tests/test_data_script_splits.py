"""Splits by script: no class, hence no drawing, is in two parts."""

import numpy as np
import pytest
from data_sets import drawn

from metajax.data.datasets import dataset
from metajax.data.sets.script_splits import split_scripts
from metajax.data.splits import select_part


def toy(*names):
    return dataset(np.arange(len(names)), np.arange(len(names)), names=names)


def test_no_drawing_is_in_two_parts():
    pictures, labels, names, _ = drawn()
    split = split_scripts(
        toy(*names),
        train=["Latin"],
        validation=["Armenian", "Georgian"],
        test=["Greek", "Cyrillic"],
    )
    stored = {
        name: {picture.tobytes() for picture in pictures[labels == label]}
        for label, name in enumerate(names)
    }
    parts = [set().union(*(stored[name] for name in part)) for part in split.parts.values()]
    assert len(set().union(*parts)) == sum(len(part) for part in parts)
    scripts = {
        part: [name.partition("/")[0] for name in classes] for part, classes in split.parts.items()
    }
    assert all("Latin" in name for name in scripts["train"])
    assert not any("Latin" in name for name in scripts["validation"] + scripts["test"])
    sizes = [len(classes) for classes in split.parts.values()]
    assert sizes[0] > 600 and sizes[1] > 60 and sizes[2] > 200 and sum(sizes) == len(names)
    assert 50 < len(split.dropped) < 150 and set(split.dropped) <= set(names)


def test_the_first_part_that_has_a_script_takes_the_class():
    source = toy("A/1", "A+B/2", "A+C/3", "B+C/4", "B/5", "C/6", "C+D/7", "A+B+C/8", "D/9")
    split = split_scripts(source, train=["A"], validation=["B"], test=["C"])
    assert split.parts == {
        "train": ("A/1", "A+B/2", "A+C/3", "A+B+C/8"),
        "validation": ("B+C/4", "B/5"),
        "test": ("C/6", "C+D/7"),
    }
    assert split.dropped == ("A+B/2", "A+C/3", "B+C/4", "A+B+C/8")
    assert split.name == "scripts: train A, validation B, test C"
    test = select_part(source, split, "test")
    assert test.x.tolist() == [5, 6] and test.y.tolist() == [0, 1]


def test_without_validation():
    split = split_scripts(toy("A/1", "A+B/2", "B/3"), train=["A"], test=["B"])
    assert split.parts == {"train": ("A/1", "A+B/2"), "test": ("B/3",)}
    assert split.dropped == ("A+B/2",)


@pytest.mark.parametrize(
    ("scripts", "message"),
    [
        ({"train": ["A"], "test": ["B", "A"]}, r"\['A'\] are named more than once"),
        ({"train": ["A", "A"], "test": ["B"]}, r"\['A'\] are named more than once"),
        ({"train": ["A"], "test": ["E", "B"]}, r"Unknown scripts \['E'\].*'A': 2.*'B': 1"),
        ({"train": [], "test": ["B"]}, r"No class is left for train=\[\]"),
        ({"train": ["A"], "test": []}, r"No class is left for test=\[\]"),
        (
            {"train": ["A"], "validation": ["C"], "test": ["B"]},
            r"No class is left for validation=\['C'\]",
        ),
    ],
)
def test_wrong_scripts_are_refused(scripts, message):
    with pytest.raises(ValueError, match=message):
        split_scripts(toy("A/1", "A+C/2", "B/3"), **scripts)
