"""Readers of packs: on small packs made here, and once on the real ones."""

import gzip
import io
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from metajax.data.graphs import composition_graph
from metajax.data.sets.characters import hanzi, hanzi_characters
from metajax.data.sets.digits import paired_digits, spoken_digits, written_digits
from metajax.data.sets.grocery import groceries, grocery_descriptions
from metajax.data.sets.handwriting import omniglot_strokes
from metajax.data.sets.intents import _NAMES, clinc150, clinc150_texts
from metajax.data.texts import train_tokenizer


@pytest.fixture
def pack(tmp_path, monkeypatch):
    """Writes a pack into the data folder."""
    monkeypatch.setenv("METAJAX_DATA", str(tmp_path))
    return lambda name, **arrays: np.savez(tmp_path / name, **arrays)


def test_the_packs_are_read_whole(packs):
    strokes = omniglot_strokes(points=64)
    assert strokes.classes == 242 and (strokes.count == 20).all()
    assert {name.partition("/")[0] for name in strokes.names} >= {"Sanskrit", "Tagalog", "Balinese"}
    points = np.asarray(strokes.x.value["stroke"], np.float64)
    assert 2.5 < points[:, :, 3].sum(axis=1).mean() < 4, "strokes of a character"
    image, (rows, columns) = np.asarray(strokes.x.value["image"])[..., 0], np.mgrid[:28, :28]
    for axis, places in ((0, columns), (1, rows)):  # image and trajectory are of the same drawing
        ink = (image * places).sum((1, 2)) / image.sum((1, 2)) - np.where(
            image > 99, places, 14
        ).mean((1, 2))
        assert np.corrcoef(ink, points[:, :, axis].mean(axis=1))[0, 1] > 0.3
    assert spoken_digits().x.shape == (2000, 6000) and paired_digits(pairs=200).smallest == 200
    photographs = groceries(size=8)
    assert (
        photographs.classes == 81
        and len(photographs.y) == 5421
        and photographs.info["iconic"].shape[0] == 81
    )
    assert set(grocery_descriptions()) == set(photographs.names) and all(
        grocery_descriptions().values()
    )
    characters, table = hanzi(points=33), hanzi_characters()
    assert (
        characters.classes == 94 and characters.smallest >= 20 and len(table["character"]) == 9574
    )
    leaked = {(whole, table["radical"][whole]) for whole in range(9574)}
    names, edges = composition_graph(table["character"], table["decomposition"])
    assert len(leaked & {(whole, names[part]) for whole, part in edges}) > 8000
    names, edges = composition_graph(
        table["character"], table["decomposition"], without=table["radical"]
    )
    assert not leaked & {(whole, names[part]) for whole, part in edges} and len(edges) > 5000
    assert clinc150("train").smallest == 100 and clinc150_texts("test")[1].count("meta/yes") == 30
    assert set(clinc150_texts("oos_test")[1]) == {"oos"}


def test_the_pen_was_lifted_where_it_moved_far_and_late(pack):
    # 10 pixels right, a lift of 60 in 0.5 s, a fast line of 60, a pause of 0.5 s with 2, and the end of the clock
    points = [
        [0, 0, 0, 1],
        [160, 0, 12, 0],
        [160, 960, 512, 0],
        [1120, 960, 524, 0],
        [1120, 992, 1024, 0],
    ]
    late = [[1120, 1040, 65535, 0], [0, 1040, 65535, 0]]
    pack(
        "omniglot_strokes.npz",
        image=np.zeros((1, 28, 28), np.uint8),
        stroke=np.array(points + late, np.uint16),
        offset=[0, 7],
        label=[0],
        names=["A/1"],
    )
    stroke = np.asarray(omniglot_strokes(points=50).x.value["stroke"])[0]
    starts = stroke[stroke[:, 3] == 1][:, :2] * 560 + [560, 520]
    np.testing.assert_allclose(starts, [[0, 0], [160, 960], [0, 1040]], atol=0.1)


@pytest.fixture
def speech(pack):
    """Digit d by "ann" as 3 samples of d + 1, by "bob" as 6 samples from 10 d + 1."""
    waves = [wave for d in range(10) for wave in ([d + 1] * 3, range(10 * d + 1, 10 * d + 7))]
    pack(
        "fsdd.npz",
        wave=np.concatenate(waves).astype(np.int16),
        offset=np.cumsum([0, *map(len, waves)]),
        digit=np.repeat(np.arange(10), 2),
        speaker=["ann", "bob"] * 10,
    )
    rng = np.random.default_rng(0)
    pack(
        "mnist.npz",
        image=rng.integers(0, 255, (40, 28, 28)).astype(np.uint8),
        label=np.arange(40) % 10,
    )


def test_recordings_are_padded_and_cut_at_the_end(speech):
    source = spoken_digits(samples=5)
    assert (
        source.x.dtype == jnp.int16
        and source.names[4] == "four"
        and source.count.tolist() == [2] * 10
    )
    assert source.x[8:10].tolist() == [[5, 5, 5, 0, 0], [41, 42, 43, 44, 45]]
    assert spoken_digits(samples=2, speakers=["ann"]).x.tolist() == [[d + 1] * 2 for d in range(10)]


def test_pairs_share_the_digit_and_nothing_else(speech):
    source, images, waves = (
        paired_digits(pairs=2, samples=6),
        written_digits(),
        spoken_digits(samples=6),
    )
    for digit in range(10):
        rows = slice(2 * digit, 2 * digit + 2)
        for name, single in (("image", images), ("audio", waves)):
            known = {row.tobytes() for row in np.asarray(single.x)[np.asarray(single.y) == digit]}
            mine = {row.tobytes() for row in np.asarray(source.x.value[name])[rows]}
            assert len(mine) == 2 and mine <= known
    again, other = paired_digits(pairs=2, samples=6), paired_digits(pairs=2, samples=6, seed=1)
    assert jax.tree.all(jax.tree.map(np.array_equal, source.x, again.x))
    assert not np.array_equal(source.x.value["image"], other.x.value["image"])
    with pytest.raises(ValueError, match="pairs=3 of each digit must be 1 to 2"):
        paired_digits(pairs=3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"speakers": ["ann", "eve"]},
            r"speakers=\['ann', 'eve'\] must be some of \['ann', 'bob'\]",
        ),
        ({"speakers": []}, r"speakers=\[\]"),
        ({"samples": 0}, "samples=0"),
    ],
)
def test_bad_requests_for_speech_are_refused(speech, arguments, message):
    with pytest.raises(ValueError, match=message):
        spoken_digits(**arguments)


COLOURS = [(200, 30, 30), (30, 200, 30), (30, 30, 200)]


def shop(pack, damaged=None):
    """Three products, a photograph of each in "train" and of the last in "test": a square between black margins."""
    pictures = []
    for colour in [*COLOURS, COLOURS[2]]:
        picture, file = np.zeros((16, 32, 3), np.uint8), io.BytesIO()
        picture[:, 8:24] = colour
        Image.fromarray(picture).save(file, "JPEG", quality=95, subsampling=0)
        pictures.append(np.frombuffer(file.getvalue(), np.uint8))
    if damaged is not None:
        pictures[damaged] = pictures[damaged][:40]
    pack(
        "grocery.npz",
        jpeg=np.concatenate(pictures),
        offset=np.cumsum([0, *map(len, pictures)]),
        fine=np.array([0, 1, 2, 2]),
        split=["train", "train", "train", "test"],
        fine_name=["a", "b", "c"],
        coarse_name=["A", "A", "C"],
        description=["red", "green", "blue"],
        iconic=np.arange(3)[:, None, None, None] * np.ones((1, 64, 64, 3), np.uint8),
    )


def test_photographs_are_cropped_resized_and_named(pack):
    shop(pack)
    source = groceries(size=4)
    assert source.x.shape == (4, 4, 4, 3) and source.x.dtype == jnp.uint8
    np.testing.assert_allclose(source.x.mean((1, 2)), np.array([*COLOURS, COLOURS[2]]), atol=12)
    assert source.names == ("A/a", "A/b", "C/c")
    test = groceries(size=4, split="test")
    assert (
        test.names == ("C/c",)
        and test.info["iconic"].shape == (1, 64, 64, 3)
        and (test.info["iconic"] == 2).all()
    )
    assert grocery_descriptions() == {"A/a": "red", "A/b": "green", "C/c": "blue"}
    with pytest.raises(ValueError, match=r"split='valid' is not one of \['test', 'train'\]"):
        groceries(split="valid")
    with pytest.raises(ValueError, match="size=0"):
        groceries(size=0)


def test_a_damaged_photograph_is_named(pack, monkeypatch):
    shop(pack, damaged=2)
    with pytest.raises(ValueError, match="photograph in row 2 cannot be decoded"):
        groceries()
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r"pip install 'metajax\[data\]'"):
        groceries()


def characters(pack):
    pack(
        "hanzi.npz",
        image=np.arange(4)[:, None, None] * np.ones((1, 32, 32), np.uint8),
        stroke=np.tile([[0, 0, 1], [4, 0, 0], [4, 4, 1]], (4, 1)).astype(np.int16),
        offset=np.arange(5) * 3,
        character=["a", "b", "c", "d"],
        radical=["z", "y", "z", "x"],
        definition=["water", "fire", "", "cold water"],
        decomposition=["⿰bc", "？", "？", "？"],
        pinyin=["", "", "", ""],
    )


def test_a_character_without_definition_lacks_that_modality(pack):
    characters(pack)
    source = hanzi(points=4, smallest=2, length=5)
    assert source.names == ("z",) and source.x.value["image"][:, 0, 0, 0].tolist() == [0, 2]
    assert (
        source.x.present["definition"].tolist() == [True, False] and source.x.present["image"].all()
    )
    assert (
        source.x.value["definition"].dtype == jnp.int32 and source.x.value["definition"][0, 0] > 1
    )
    own = hanzi(points=4, smallest=1, length=9, tokenizer=train_tokenizer(["fire"], size=9))
    assert own.names == ("x", "y", "z") and (own.x.value["definition"][0] == 1).any(), (
        "letters it does not know"
    )
    assert hanzi_characters()["decomposition"][0] == "⿰bc"
    with pytest.raises(ValueError, match="No radical has smallest=3 characters; the largest has 2"):
        hanzi(smallest=3)
    with pytest.raises(ValueError, match="number=1 points are too few"):
        hanzi(points=1, smallest=1)


@pytest.fixture
def intents(pack, tmp_path):
    def write(train):
        rows = [[f"i want {intent.replace('_', ' ')}", intent] for intent in _NAMES]
        content = {
            "train": train or rows,
            "val": rows[::-1],
            "test": rows,
            "oos_test": [["eat", "oos"]],
        }
        with gzip.open(tmp_path / "clinc150.json.gz", "wt") as file:
            json.dump(content, file)

    write(None)
    return write


def test_intents_share_one_vocabulary(intents):
    train, val = clinc150("train", length=20), clinc150("val", length=20)
    assert train.names[:1] == ("banking/account_blocked",) and train.classes == 150
    domains = [name.partition("/")[0] for name in train.names]
    assert {domains.count(domain) for domain in domains} == {15} and len(set(domains)) == 10
    np.testing.assert_array_equal(train.x, val.x)  # sorted by class, the same texts
    own = train_tokenizer(["i want"], size=10)
    assert (np.asarray(clinc150("train", tokenizer=own, length=40).x) == 1).any(), (
        "letters it does not know"
    )
    assert clinc150_texts("oos_test") == (["eat"], ["oos"])


def test_bad_intents_are_refused(intents, tmp_path):
    with pytest.raises(ValueError, match="split='oos_test' must be one of"):
        clinc150("oos_test")
    with pytest.raises(ValueError, match="split='dev' must be one of"):
        clinc150_texts("dev")
    with pytest.raises(ValueError, match=r"is damaged .*oos_val"):
        clinc150_texts("oos_val")
    intents([["", "transfer"]])
    with pytest.raises(ValueError, match=r"Texts \[0\] are empty"):
        clinc150("train")
    intents([["hello", "dance"]])
    with pytest.raises(ValueError, match=r"is damaged \(KeyError\('dance'\)"):
        clinc150_texts("train")
    path = tmp_path / "clinc150.json.gz"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match="is damaged"):
        clinc150_texts("train")
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"clinc150\.json\.gz does not exist"):
        clinc150_texts("train")
