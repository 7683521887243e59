"""Splits of classes as papers published them, so that results can be compared.

Where every paper draws its own split there is `draw_split`: Omniglot's 1100/100/423 classes, and
CLINC150's domains with `group_of`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from metajax._checked import checked
from metajax.data.splits import Split, class_split, group_of

CIFAR100 = {
    "aquatic_mammals": "beaver dolphin otter seal whale",
    "fish": "aquarium_fish flatfish ray shark trout",
    "flowers": "orchid poppy rose sunflower tulip",
    "food_containers": "bottle bowl can cup plate",
    "fruit_and_vegetables": "apple mushroom orange pear sweet_pepper",
    "household_electrical_devices": "clock keyboard lamp telephone television",
    "household_furniture": "bed chair couch table wardrobe",
    "insects": "bee beetle butterfly caterpillar cockroach",
    "large_carnivores": "bear leopard lion tiger wolf",
    "large_man-made_outdoor_things": "bridge castle house road skyscraper",
    "large_natural_outdoor_scenes": "cloud forest mountain plain sea",
    "large_omnivores_and_herbivores": "camel cattle chimpanzee elephant kangaroo",
    "medium_mammals": "fox porcupine possum raccoon skunk",
    "non-insect_invertebrates": "crab lobster snail spider worm",
    "people": "baby boy girl man woman",
    "reptiles": "crocodile dinosaur lizard snake turtle",
    "small_mammals": "hamster mouse rabbit shrew squirrel",
    "trees": "maple_tree oak_tree palm_tree pine_tree willow_tree",
    "vehicles_1": "bicycle bus motorcycle pickup_truck train",
    "vehicles_2": "lawn_mower rocket streetcar tank tractor",
}
_CIFAR_FS = {
    "validation": """
        beaver beetle butterfly camel cattle crab crocodile flatfish lamp maple_tree
        motorcycle otter sea shark television tractor
    """,
    "test": """
        baby bed bicycle chimpanzee fox leopard man pickup_truck plain poppy rocket rose
        snail sweet_pepper table telephone wardrobe whale woman worm
    """,
}
_FC100 = {
    "validation": """
        large_carnivores large_omnivores_and_herbivores non-insect_invertebrates
        small_mammals
    """,
    "test": "aquatic_mammals insects medium_mammals people",
}
_MINI_IMAGENET = {
    "train": """
        n01532829 n01558993 n01704323 n01749939 n01770081 n01843383 n01910747 n02074367
        n02089867 n02091831 n02101006 n02105505 n02108089 n02108551 n02108915 n02111277
        n02113712 n02120079 n02165456 n02457408 n02606052 n02687172 n02747177 n02795169
        n02823428 n02966193 n03017168 n03047690 n03062245 n03207743 n03220513 n03337140
        n03347037 n03400231 n03476684 n03527444 n03676483 n03838899 n03854065 n03888605
        n03908618 n03924679 n03998194 n04067472 n04243546 n04251144 n04258138 n04275548
        n04296562 n04389033 n04435653 n04443257 n04509417 n04515003 n04596742 n04604644
        n04612504 n06794110 n07584110 n07697537 n07747607 n09246464 n13054560 n13133613
    """,
    "validation": """
        n01855672 n02091244 n02114548 n02138441 n02174001 n02950826 n02971356 n02981792
        n03075370 n03417042 n03535780 n03584254 n03770439 n03773504 n03980874 n09256479
    """,
    "test": """
        n01930112 n01981276 n02099601 n02110063 n02110341 n02116738 n02129165 n02219486
        n02443484 n02871525 n03127925 n03146219 n03272010 n03544143 n03775546 n04146614
        n04149813 n04418357 n04522168 n07613480
    """,
}
OMNIGLOT_ALPHABETS = {
    "train": """
        Alphabet_of_the_Magi Anglo-Saxon_Futhorc Arcadian Armenian Asomtavruli_(Georgian)
        Balinese Bengali Blackfoot_(Canadian_Aboriginal_Syllabics) Braille Burmese_(Myanmar)
        Cyrillic Early_Aramaic Futurama Grantha Greek Gujarati Hebrew
        Inuktitut_(Canadian_Aboriginal_Syllabics) Japanese_(hiragana) Japanese_(katakana)
        Korean Latin Malay_(Jawi_-_Arabic) Mkhedruli_(Georgian) N_Ko
        Ojibwe_(Canadian_Aboriginal_Syllabics) Sanskrit Syriac_(Estrangelo) Tagalog Tifinagh
    """,
    "test": """
        Angelic Atemayar_Qelisayer Atlantean Aurek-Besh Avesta Ge_ez Glagolitic Gurmukhi
        Kannada Keble Malayalam Manipuri Mongolian Old_Church_Slavonic_(Cyrillic) Oriya
        Sylheti Syriac_(Serto) Tengwar Tibetan ULOG
    """,
}


@checked
def cifar_fs_split() -> Split:
    """CIFAR-FS: 64 classes of CIFAR-100 for training, 16 for validation, 20 for testing.

    Names are CIFAR-100's own, such as "aquarium_fish", which TensorFlow Datasets keeps.

    >>> {part: len(names) for part, names in cifar_fs_split().parts.items()}
    {'train': 64, 'validation': 16, 'test': 20}

    Source: Bertinetto, Henriques, Torr and Vedaldi 2019, arXiv 1805.08136; the lists as in
    github.com/tristandeleu/pytorch-meta.
    """
    every_class = sorted(name for names in CIFAR100.values() for name in names.split())
    return class_split("CIFAR-FS", _with_rest(_CIFAR_FS, every_class))


@checked
def fc100_split() -> Split:
    """FC100: CIFAR-100 split by its superclasses: 12 for training, 4 for validation, 4 for testing.

    Each superclass has 5 classes. No class for testing has a superclass of one for training, so
    FC100 is harder than CIFAR-FS.

    >>> {part: len(names) for part, names in fc100_split().parts.items()}
    {'train': 60, 'validation': 20, 'test': 20}

    Source: Oreshkin, Rodríguez López and Lacoste 2018, arXiv 1805.10123; the superclasses as in
    github.com/tristandeleu/pytorch-meta.
    """
    parts = {}
    for part, superclasses in _with_rest(_FC100, list(CIFAR100)).items():
        parts[part] = [name for kind in superclasses for name in CIFAR100[kind].split()]
    return class_split("FC100", parts)


@checked
def mini_imagenet_split() -> Split:
    """mini-ImageNet: 64 classes of ImageNet for training, 16 for validation, 20 for testing.

    Names are WordNet's numbers, such as "n01532829", as in TensorFlow Datasets.

    >>> {part: len(names) for part, names in mini_imagenet_split().parts.items()}
    {'train': 64, 'validation': 16, 'test': 20}

    Source: Ravi and Larochelle 2017, openreview.net/forum?id=rJY0-Kcll; the lists as in
    github.com/open-mmlab/mmfewshot.
    """
    parts = {part: names.split() for part, names in _MINI_IMAGENET.items()}
    return class_split("mini-ImageNet", parts)


@checked
def omniglot_split(names: Sequence[str]) -> Split:
    """Omniglot by alphabet: 964 characters of 30 background alphabets, 659 of 20 for testing.

    Take validation alphabets from the background: `draw_split(split.parts["train"], ...,
    group=group_of)`.

    Args:
        names: of the classes: `omniglot().names`, or those of `tfds("omniglot",
            split="train+test", label=("alphabet", "label"))`. The alphabet stands before the last
            "/".

    Raises:
        ValueError: an alphabet that Omniglot does not have, or alphabets of one part only.

    >>> split = omniglot_split(["Greek/character01", "images_evaluation/Tengwar/character01"])
    >>> split.parts["test"]
    ('images_evaluation/Tengwar/character01',)

    Source: Lake, Salakhutdinov and Tenenbaum 2015, doi 10.1126/science.aab3050.
    """
    part_of = {
        alphabet: part
        for part, alphabets in OMNIGLOT_ALPHABETS.items()
        for alphabet in alphabets.split()
    }
    alphabet_of = {name: group_of(name).rpartition("/")[2] for name in names}
    if strange := [name for name in names if alphabet_of[name] not in part_of]:
        raise ValueError(
            "Names must have an alphabet of Omniglot before the last '/', "
            f"but {strange[:10]} do not."
        )
    parts: dict[str, list[str]] = {part: [] for part in OMNIGLOT_ALPHABETS}
    for name in names:
        parts[part_of[alphabet_of[name]]].append(name)
    return class_split("Omniglot, by alphabet", parts)


def _with_rest(held_out: Mapping[str, str], names: Sequence[str]) -> dict[str, list[str]]:
    """The parts that are held out, after a part "train" with all other names."""
    parts = {part: listed.split() for part, listed in held_out.items()}
    taken = {name for listed in parts.values() for name in listed}
    return {"train": [name for name in names if name not in taken], **parts}
