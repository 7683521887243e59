"""Chinese characters, on a small file made here."""

import jax.numpy as jnp
import numpy as np
import pytest

from metajax.data.sets.characters import hanzi, hanzi_characters, hanzi_pictures
from metajax.data.texts import train_tokenizer


@pytest.fixture
def file(tmp_path, monkeypatch):
    """Four characters; the radical "z" has two, of which one lacks a definition."""
    monkeypatch.setenv("METAJAX_DATA", str(tmp_path))
    np.savez(
        tmp_path / "hanzi.npz",
        image=np.arange(4)[:, None, None] * np.ones((1, 32, 32), np.uint8),
        stroke=np.tile([[0, 0, 1], [4, 0, 0], [4, 4, 1]], (4, 1)).astype(np.int16),
        offset=np.arange(5) * 3,
        character=["a", "b", "c", "d"],
        radical=["z", "y", "z", "x"],
        definition=["water", "fire", "", "cold water"],
        decomposition=["⿰bc", "？", "？", "？"],
        pinyin=["", "", "", ""],
    )


def test_a_character_without_definition_lacks_that_modality(file):
    source = hanzi(points=4, smallest=2, length=5)
    value, present = source.x
    assert source.names == ("z",) and dict(source.scale) == {"image": 255}
    assert value["image"][:, 0, 0, 0].tolist() == [0, 2]
    assert value["stroke"].shape == (2, 4, 4)
    assert present["definition"].tolist() == [True, False]
    assert present["image"].all() and present["stroke"].all()
    definition = np.asarray(value["definition"])
    assert definition.dtype == jnp.int32 and definition[0, 0] > 1 and not definition[1].any()


def test_a_tokenizer_of_ones_own(file):
    tokenizer = train_tokenizer(["fire"], size=9)
    own = hanzi(points=4, smallest=1, length=9, tokenizer=tokenizer)
    assert own.names == ("x", "y", "z")
    assert (own.x.value["definition"][0] == 1).any(), "letters that it does not know"


def test_the_table_and_the_pictures(file):
    assert hanzi_characters()["decomposition"][0] == "⿰bc"
    pictures = hanzi_pictures()
    assert pictures.shape == (4, 32, 32, 1) and pictures[:, 0, 0, 0].tolist() == [0, 1, 2, 3]


def test_wrong_requests_are_refused(file):
    with pytest.raises(ValueError, match="No radical has smallest=3 characters; the largest has 2"):
        hanzi(smallest=3)
    with pytest.raises(ValueError, match="number=1 points are too few"):
        hanzi(points=1, smallest=1)
    with pytest.raises(ValueError, match=r"have more than length=1 tokens"):
        hanzi(points=4, smallest=1, length=1, tokenizer=train_tokenizer(["fire"], size=9))
