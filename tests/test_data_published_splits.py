"""Published splits: their sizes, and that other lists agree."""

import numpy as np
import pytest

from metajax.data.datasets import dataset
from metajax.data.leaks import check_leaks
from metajax.data.sets.published_splits import (
    CIFAR100,
    OMNIGLOT_ALPHABETS,
    cifar_fs_split,
    fc100_split,
    mini_imagenet_split,
    omniglot_split,
)
from metajax.data.splits import draw_split, group_of, select_part

CIFAR_FS_TRAIN = """
    apple aquarium_fish bear bee bottle bowl boy bridge bus can castle caterpillar chair clock
    cloud cockroach couch cup dinosaur dolphin elephant forest girl hamster house kangaroo
    keyboard lawn_mower lion lizard lobster mountain mouse mushroom oak_tree orange orchid
    palm_tree pear pine_tree plate porcupine possum rabbit raccoon ray road seal shrew skunk
    skyscraper snake spider squirrel streetcar sunflower tank tiger train trout tulip turtle
    willow_tree wolf
"""
FC100_TRAIN = """
    apple aquarium_fish bed bicycle bottle bowl bridge bus can castle chair clock cloud couch
    crocodile cup dinosaur flatfish forest house keyboard lamp lawn_mower lizard maple_tree
    motorcycle mountain mushroom oak_tree orange orchid palm_tree pear pickup_truck pine_tree
    plain plate poppy ray road rocket rose sea shark skyscraper snake streetcar sunflower
    sweet_pepper table tank telephone television tractor train trout tulip turtle wardrobe
    willow_tree
"""
FC100_TEST = """
    baby beaver bee beetle boy butterfly caterpillar cockroach dolphin fox girl man otter
    porcupine possum raccoon seal skunk whale woman
"""


def sizes(split):
    return {part: len(names) for part, names in split.parts.items()}


def every(split):
    return {name for names in split.parts.values() for name in names}


def test_cifar_100_has_twenty_superclasses_of_five():
    assert [len(names.split()) for names in CIFAR100.values()] == [5] * 20
    assert len({name for names in CIFAR100.values() for name in names.split()}) == 100


def test_cifar_fs():
    split = cifar_fs_split()
    assert sizes(split) == {"train": 64, "validation": 16, "test": 20}
    assert set(split.parts["train"]) == set(CIFAR_FS_TRAIN.split())
    assert every(split) == every(fc100_split()), "both are all of CIFAR-100"
    kinds = {name: kind for kind, names in CIFAR100.items() for name in names.split()}
    of_part = {part: {kinds[name] for name in names} for part, names in split.parts.items()}
    assert of_part["train"] & of_part["test"]


def test_fc100_holds_superclasses_out():
    split = fc100_split()
    assert sizes(split) == {"train": 60, "validation": 20, "test": 20}
    assert set(split.parts["train"]) == set(FC100_TRAIN.split())
    assert set(split.parts["test"]) == set(FC100_TEST.split())
    kinds = {name: kind for kind, names in CIFAR100.items() for name in names.split()}
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
    x = np.arange(200, dtype=np.uint8)[:, None]
    source = dataset(x, np.repeat(np.arange(100), 2), names=names)
    split = cifar_fs_split()
    parts = {part: select_part(source, split, part) for part in split.parts}
    assert [part.classes for part in parts.values()] == [64, 16, 20]
    check_leaks(**parts)
    message = "16 of the 16 classes of part='validation' of 'mini-ImageNet' are not"
    with pytest.raises(ValueError, match=message):
        select_part(source, mini_imagenet_split(), "validation")


def test_omniglot_by_alphabet():
    folders = {
        "images_background": OMNIGLOT_ALPHABETS["train"].split()[:6],
        "images_evaluation": OMNIGLOT_ALPHABETS["test"].split()[:4],
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
    assert [len(set(known.split())) for known in OMNIGLOT_ALPHABETS.values()] == [30, 20]
    inner = draw_split(split.parts["train"], {"train": 4, "validation": 2}, group=group_of)
    assert sizes(inner) == {"train": 12, "validation": 6}
    assert every(inner) == set(split.parts["train"])


def test_names_that_are_not_omniglot_are_refused():
    greek = "images_background/Greek/character01"
    message = r"have an alphabet of Omniglot .*but \['Elvish/alpha'\] do not"
    with pytest.raises(ValueError, match=message):
        omniglot_split([greek, "Elvish/alpha"])
    message = r"Parts \['test'\] of 'Omniglot, by alphabet' have no class"
    with pytest.raises(ValueError, match=message):
        omniglot_split([greek])
