"""Splits of classes: disjoint, reproducible, and saved."""

import hashlib

import numpy as np
import pytest

from metajax.data.datasets import dataset
from metajax.data.splits import (
    Split,
    class_split,
    draw_split,
    group_of,
    select_part,
)

NAMES = [f"alphabet{number % 5}/character{number}" for number in range(23)]


def letters(names=NAMES, each=4):
    """An example is (class, number within the class)."""
    x = np.stack(np.meshgrid(np.arange(len(names)), np.arange(each), indexing="ij"), axis=-1)
    y = np.repeat(np.arange(len(names)), each)
    return dataset(x.reshape(-1, 2).astype(np.int32), y, names=names)


@pytest.mark.parametrize("seed", range(10))
def test_drawn_parts_are_disjoint_and_groups_stay_whole(seed):
    rng = np.random.default_rng(seed)
    sizes = {
        "train": int(rng.integers(1, 12)),
        "validation": int(rng.integers(1, 6)),
        "test": int(rng.integers(1, 6)),
    }
    split = draw_split(NAMES, sizes, seed=seed)
    assert {part: len(names) for part, names in split.parts.items()} == sizes
    drawn = [name for names in split.parts.values() for name in names]
    assert len(set(drawn)) == len(drawn) and set(drawn) <= set(NAMES)
    grouped = draw_split(NAMES, {"train": 2, "test": 2}, seed=seed, group=group_of)
    kinds = {part: {group_of(name) for name in names} for part, names in grouped.parts.items()}
    assert [len(kind) for kind in kinds.values()] == [2, 2] and not kinds["train"] & kinds["test"]
    for part, names in grouped.parts.items():
        assert set(names) == {name for name in NAMES if group_of(name) in kinds[part]}, (
            "whole groups"
        )


def test_the_draw_depends_on_the_seed_alone():
    sizes = {"train": 9, "validation": 3, "test": 7}
    digests = {draw_split(NAMES, sizes, seed=seed).digest for seed in range(8)}
    assert len(digests) == 8
    split = draw_split(NAMES, sizes, seed=3)
    assert split == draw_split(tuple(NAMES), dict(sizes), seed=3)
    order = np.random.default_rng(3).permutation(23)
    first, last = (sorted(order[part].tolist()) for part in (slice(9), slice(12, 19)))
    assert split.parts["train"] == tuple(NAMES[number] for number in first)
    assert split.parts["test"] == tuple(NAMES[number] for number in last)
    assert split.name == "9/3/7 classes, seed 3" and split.dropped == ()
    assert draw_split(NAMES, {"all": 5}, group=group_of).name == "5 groups, seed 0"


def test_a_group_may_be_any_property_of_a_class():
    speaker = dict(zip(NAMES, np.arange(23) % 3, strict=True))
    split = draw_split(NAMES, {"train": 2, "test": 1}, group=speaker.__getitem__)
    train, test = ({speaker[name] for name in split.parts[part]} for part in ("train", "test"))
    assert train.isdisjoint(test)
    assert sum(map(len, split.parts.values())) == 23
    intents = [f"domain{number // 15}/intent{number}" for number in range(150)]
    domains = draw_split(intents, {"train": 7, "test": 3}, group=group_of)
    assert {part: len(names) for part, names in domains.parts.items()} == {"train": 105, "test": 45}


def test_a_split_by_lists_and_predicates():
    train = ["b", "a"]
    split = class_split(
        "mine", {"train": train, "test": lambda name: name > "c"}, ["a", "b", "c", "d", "e"]
    )
    assert split == Split("mine", {"train": ("b", "a"), "test": ("d", "e")})
    assert class_split("mine", {"all": (name for name in train)}).parts["all"] == ("b", "a")


def test_a_split_of_data_sets_has_their_classes():
    drawn = draw_split(NAMES, {"train": 9, "test": 7}, seed=3)
    train, test = (select_part(letters(), drawn, part) for part in ("train", "test"))
    split = class_split("as drawn", {"train": train, "test": test})
    assert split.parts == {"train": train.names, "test": test.names}
    assert split.digest == drawn.digest
    with pytest.raises(ValueError, match="9 classes of 'twice' are listed twice"):
        class_split("twice", {"train": letters(), "test": train})


def test_the_digest_is_that_of_the_classes_in_any_order():
    split = class_split("one", {"train": ["ä", "b"], "test": ["c"]})
    same = class_split("other", {"test": ["c"], "train": ["b", "ä"]})
    assert split.digest == same.digest
    canonical = '{"test": ["c"], "train": ["b", "\\u00e4"]}'
    assert split.digest == hashlib.sha256(canonical.encode()).hexdigest()[:12]
    for other in (
        {"train": ["ä"], "test": ["c"]},
        {"train": ["ä", "b"], "dev": ["c"]},
        {"train": ["c"], "test": ["ä", "b"]},
    ):
        assert class_split("one", other).digest != split.digest


def test_a_part_is_taken_from_a_data_set_with_more_classes():
    split = class_split("mine", {"train": NAMES[:3][::-1], "test": NAMES[10:12]})
    train, test = (select_part(letters(), split, part) for part in ("train", "test"))
    assert train.names == tuple(NAMES[:3]) and test.names == tuple(NAMES[10:12])
    np.testing.assert_array_equal(test.x[:, 0], np.repeat([10, 11], 4))
    np.testing.assert_array_equal(test.y, np.repeat([0, 1], 4))


def test_bad_splits_are_refused():
    with pytest.raises(ValueError, match=r"1 classes of 'mine' are listed twice: \['b'\]"):
        class_split(
            "mine", {"train": ["a", "b"], "test": lambda name: name >= "b"}, ["a", "b", "c"]
        )
    with pytest.raises(ValueError, match="listed twice"):
        class_split("mine", {"train": ["a", "a"]})
    with pytest.raises(ValueError, match=r"Parts \['test'\] of 'mine' have no class"):
        class_split("mine", {"train": ["a"], "test": lambda name: True})
    with pytest.raises(ValueError, match=r"Parts \[\] of 'mine' have no class"):
        class_split("mine", {})
    with pytest.raises(ValueError, match=r"parts must be a dict, .* got {"):
        class_split("mine", {"train": ["a"], "test": "Latin"})
    with pytest.raises(ValueError, match="at most the 23 classes"):
        draw_split(NAMES, {"train": 20, "test": 4})
    with pytest.raises(ValueError, match=r"at most the 5 groups, such as \['alphabet0'"):
        draw_split(NAMES, {"train": 5, "test": 1}, group=group_of)
    with pytest.raises(ValueError, match="must be 1 or more"):
        draw_split(NAMES, {"train": 5, "test": 0})
    with pytest.raises(ValueError, match=r"sizes=\(\) must be 1 or more"):
        draw_split(NAMES, {})
    with pytest.raises(ValueError, match="listed twice"):
        draw_split(["a", "a", "b"], {"train": 2})


def test_parts_that_do_not_fit_the_data_are_refused():
    source = letters()
    split = class_split("mine", {"train": NAMES[:2], "test": ["runes/a", NAMES[5]]})
    with pytest.raises(
        ValueError, match=r"part='dev' is not one of the parts of 'mine', \['train', 'test'\]"
    ):
        select_part(source, split, "dev")
    with pytest.raises(
        ValueError,
        match=r"1 of the 2 classes of part='test' of 'mine' are not in the data set: "
        r"\['runes/a'\]; it has 23",
    ):
        select_part(source, split, "test")
    twice = split._replace(parts={"train": NAMES[:2], "test": NAMES[1:3]})
    with pytest.raises(ValueError, match="listed twice"):
        select_part(source, twice, "train")


def test_dropped_classes_are_not_in_the_digest():
    """They may belong to an earlier part, too: a script split drops them from the later one."""
    split = Split("mine", {"train": ("a",), "test": ("b",)}, dropped=("a", "c"))
    assert split.digest == split._replace(dropped=()).digest
    source = letters(["a", "b", "c", "d"])
    assert select_part(source, split, "train").names == ("a",)
    assert select_part(source, split, "test").names == ("b",)
