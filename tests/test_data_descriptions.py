"""The description of a data set, against what it was made of."""

import jax
import jax.numpy as jnp
import numpy as np

import metajax as mj
from metajax.data.datasets import dataset, select
from metajax.data.descriptions import Leaf, describe

COUNT = [2, 5, 3, 1]
NAMES = ["Greek/alpha", "Latin/a", "Greek/beta", "one"]


def several():
    """Four classes of an image, which is always present, and a sound, which often is."""
    rng = np.random.default_rng(0)
    y, there = np.repeat(np.arange(4), COUNT), np.arange(11) % 3 > 0
    sound = mj.Series(rng.integers(-900, 900, (11, 6, 1)).astype(np.int16), rng.integers(1, 7, 11))
    image = rng.integers(3, 200, (11, 4, 4, 1)).astype(np.uint8)
    x = mj.data.as_modalities({"image": image, "sound": sound}, {"sound": there})
    icon = {"icon": np.linspace(0, 1, 8).reshape(4, 2).astype(np.float32)}
    return dataset(x, y, names=NAMES, info=icon), image, sound, there


def test_every_number_is_that_of_the_arrays():
    source, image, sound, there = several()
    found = describe(source)
    assert (found.classes, found.examples, found.per_class) == (4, 11, (1, 2.5, 5))
    assert found.groups == {"Greek": 2, "Latin": 1} and list(found.groups) == ["Greek", "Latin"]
    value, length = sound.value[there], sound.length[there]
    assert found.x == (
        Leaf("image", (4, 4, 1), "uint8", image.min(), image.max()),
        Leaf("sound.value", (6, 1), "int16", value.min(), value.max(), there.mean()),
        Leaf(
            "sound.length",
            (),
            str(source.x.value["sound"].length.dtype),
            length.min(),
            length.max(),
            there.mean(),
        ),
    )
    assert value.min() < 0 < value.max(), "or zeros where it is absent would not show"
    assert found.info == (Leaf("info.icon", (2,), "float32", 0.0, 1.0),)


def test_it_is_printed_in_lines():
    source, image, _, there = several()
    lines = str(describe(source)).splitlines()
    assert lines[0] == "4 classes, 11 examples: 1 to 5 of each, median 2.5"
    assert lines[1] == "2 groups of classes: Greek 2, Latin 1"
    assert lines[2] == f"image uint8[4, 4, 1], {image.min()} to {image.max()}"
    assert lines[3].endswith(f", present in {there.mean():.1%}") and lines[3].startswith(
        "sound.value int16[6, 1], "
    )
    assert lines[5] == "info.icon float32[2], 0 to 1, of each class" and len(lines) == 6


def test_plain_arrays_and_many_groups():
    names = [f"group{number % 6}/{number}" for number in range(12)]
    source = dataset(
        {"a": np.eye(12), "b": np.arange(12, dtype=np.int32)}, np.arange(12), names=names
    )
    found = describe(source)
    assert [leaf.name for leaf in found.x] == ["x.a", "x.b"] and found.x[0].shape == (12,)
    assert found.groups == {f"group{number}": 2 for number in range(6)} and found.info == ()
    assert str(found).splitlines()[:2] == [
        "12 classes, 12 examples: 1 of each",
        "6 groups of classes: group0 2, group1 2, group2 2, group3 2, ...",
    ]
    bare = describe(dataset(np.ones((2, 3), np.float32), np.arange(2)))
    assert bare.groups == {} and str(bare).splitlines()[1:] == ["x float32[3], 1 to 1"]


def test_what_is_never_present_has_no_range():
    x = mj.data.as_modalities(
        {"a": np.ones((2, 3)), "b": np.ones((2, 1))}, {"b": np.zeros(2, bool)}
    )
    leaf = describe(dataset(x, np.arange(2))).x[1]
    assert leaf.present == 0 and np.isnan([leaf.low, leaf.high]).all()
    assert "nan to nan, present in 0.0%" in str(describe(dataset(x, np.arange(2))))


def test_of_a_part_and_of_a_small_float():
    source, *_ = several()
    assert describe(select(source, lambda name: name.startswith("Greek/"))).per_class == (2, 2.5, 3)
    low = describe(dataset(jnp.array([[0.5], [1.5]], jnp.bfloat16), np.arange(2))).x[0]
    assert (low.dtype, low.low, low.high) == ("bfloat16", 0.5, 1.5)
    assert all(isinstance(value, (float, int, str, tuple)) for value in jax.tree.leaves(low))
