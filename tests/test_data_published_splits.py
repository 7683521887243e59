"""Published splits: their sizes, and that they are what other lists say."""

import numpy as np
import pytest

from metajax.data.datasets import dataset
from metajax.data.sets.published_splits import (
    _CIFAR100,
    _OMNIGLOT,
    cifar_fs_split,
    fc100_split,
    mini_imagenet_split,
    omniglot_split,
)
from metajax.data.splits import check_leaks, draw_split, group_of, select_part

CIFAR_FS_TRAIN = (
    "apple aquarium_fish bear bee bottle bowl boy bridge bus can castle caterpillar chair clock cloud cockroach couch "
    "cup dinosaur dolphin elephant forest girl hamster house kangaroo keyboard lawn_mower lion lizard lobster "
    "mountain mouse mushroom oak_tree orange orchid palm_tree pear pine_tree plate porcupine possum rabbit raccoon "
    "ray road seal shrew skunk skyscraper snake spider squirrel streetcar sunflower tank tiger train trout tulip "
    "turtle willow_tree wolf"
)
FC100_TRAIN = (
    "apple aquarium_fish bed bicycle bottle bowl bridge bus can castle chair clock cloud couch crocodile cup dinosaur "
    "flatfish forest house keyboard lamp lawn_mower lizard maple_tree motorcycle mountain mushroom oak_tree orange "
    "orchid palm_tree pear pickup_truck pine_tree plain plate poppy ray road rocket rose sea shark skyscraper snake "
    "streetcar sunflower sweet_pepper table tank telephone television tractor train trout tulip turtle wardrobe "
    "willow_tree"
)
FC100_TEST = (
    "baby beaver bee beetle boy butterfly caterpillar cockroach dolphin fox girl man otter porcupine possum raccoon "
    "seal skunk whale woman"
)


def sizes(split):
    return {part: len(names) for part, names in split.parts.items()}


def every(split):
    return {name for names in split.parts.values() for name in names}


def test_cifar_100_has_twenty_superclasses_of_five():
    assert [len(names.split()) for names in _CIFAR100.values()] == [5] * 20
    assert len({name for names in _CIFAR100.values() for name in names.split()}) == 100


def test_cifar_fs():
    split = cifar_fs_split()
    assert sizes(split) == {"train": 64, "validation": 16, "test": 20}
    assert set(split.parts["train"]) == set(CIFAR_FS_TRAIN.split())
    assert every(split) == every(fc100_split()), "both are all of CIFAR-100"
    kinds = {name: kind for kind, names in _CIFAR100.items() for name in names.split()}
    assert {kinds[name] for name in split.parts["train"]} & {
        kinds[name] for name in split.parts["test"]
    }


def test_fc100_holds_superclasses_out():
    split = fc100_split()
    assert sizes(split) == {"train": 60, "validation": 20, "test": 20}
    assert set(split.parts["train"]) == set(FC100_TRAIN.split()) and set(
        split.parts["test"]
    ) == set(FC100_TEST.split())
    kinds = {name: kind for kind, names in _CIFAR100.items() for name in names.split()}
    of_part = [{kinds[name] for name in names} for names in split.parts.values()]
    assert [len(kind) for kind in of_part] == [12, 4, 4] and len(set.union(*of_part)) == 20


def test_mini_imagenet():
    split = mini_imagenet_split()
    assert sizes(split) == {"train": 64, "validation": 16, "test": 20} and len(every(split)) == 100
    assert all(len(name) == 9 and name[0] == "n" and name[1:].isdigit() for name in every(split))
    assert all(list(names) == sorted(names) for names in split.parts.values())


def test_digests_stay_so_that_results_can_be_compared():
    digests = [split.digest for split in (cifar_fs_split(), fc100_split(), mini_imagenet_split())]
    assert digests == ["56ddf8a2cc83", "7d7be659d5fb", "f42ae2176acd"]


def test_a_published_part_is_taken_from_data():
    names = sorted(every(cifar_fs_split()))
    source = dataset(
        np.arange(200, dtype=np.uint8)[:, None], np.repeat(np.arange(100), 2), names=names
    )
    parts = {
        part: select_part(source, cifar_fs_split(), part)
        for part in ("train", "validation", "test")
    }
    assert [part.classes for part in parts.values()] == [64, 16, 20]
    check_leaks(**parts)
    with pytest.raises(
        ValueError, match="16 of the 16 classes of part='validation' of 'mini-ImageNet' are not"
    ):
        select_part(source, mini_imagenet_split(), "validation")


def test_omniglot_by_alphabet():
    folders = {
        "images_background": _OMNIGLOT["train"].split()[:6],
        "images_evaluation": _OMNIGLOT["test"].split()[:4],
    }
    names = [
        f"{folder}/{a}/character{c}"
        for folder, alphabets in folders.items()
        for a in alphabets
        for c in range(3)
    ]
    split = omniglot_split(names[::-1])
    assert sizes(split) == {"train": 18, "test": 12} and every(split) == set(names)
    assert {name.partition("/")[0] for name in split.parts["test"]} == {"images_evaluation"}
    bare = [name.partition("/")[2] for name in names]
    assert omniglot_split(bare).parts["test"] == tuple(bare[18:])
    assert [len(set(known.split())) for known in _OMNIGLOT.values()] == [30, 20]
    inner = draw_split(split.parts["train"], {"train": 4, "validation": 2}, group=group_of)
    assert sizes(inner) == {"train": 12, "validation": 6} and every(inner) == set(
        split.parts["train"]
    )


def test_names_that_are_not_omniglot_are_refused():
    with pytest.raises(
        ValueError, match=r"have an alphabet of Omniglot .*but \['Elvish/alpha'\] have not"
    ):
        omniglot_split(["images_background/Greek/character01", "Elvish/alpha"])
    with pytest.raises(
        ValueError, match=r"Parts \['test'\] of 'Omniglot, by alphabet' have no class"
    ):
        omniglot_split(["images_background/Greek/character01"])
