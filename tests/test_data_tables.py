"""A user's own tables, good and bad."""

import numpy as np
import pytest
from PIL import Image

from metajax.data.read.tables import table
from metajax.types import Modalities


@pytest.fixture
def write(tmp_path):
    """Writes a table beside two images, red and green."""
    (tmp_path / "img").mkdir()
    Image.new("RGB", (20, 20), (255, 0, 0)).save(tmp_path / "img" / "red.png")
    Image.new("RGB", (20, 20), (0, 255, 0)).save(tmp_path / "img" / "green.png")

    def lines(*rows, encoding="utf-8"):
        (tmp_path / "table.csv").write_bytes("\n".join(rows).encode(encoding))
        return tmp_path / "table.csv"

    return lines


def count_letters(texts):
    return np.array([[len(text), text.count("e")] for text in texts], np.int32)


def test_a_table_of_numbers(write):
    rows = ["wing,kind,bill", "1.5,wren,2", "3,tit,-4e-1", "", "5,wren,6"]
    source = table(write(*rows, encoding="utf-8-sig"), label="kind", numbers=["bill", "wing"])
    assert source.names == ("tit", "wren") and source.x.dtype == np.float32
    np.testing.assert_array_equal(source.x, np.array([[-0.4, 3], [2, 1.5], [6, 5]], np.float32))
    assert source.y.tolist() == [0, 1, 1] and source.scale is None


def test_a_table_of_images_or_of_texts(write):
    path = write("photo,kind,words", 'img/green.png,b,"a tree, red"', " img/red.png ,a,bee")
    source = table(path, label="kind", images=["photo"], size=3)
    assert source.names == ("a", "b") and source.x.shape == (2, 3, 3, 3)
    np.testing.assert_array_equal(source.x[:, 1, 1], [[255, 0, 0], [0, 255, 0]])
    assert source.scale == 255
    assert table(path, label="kind", images=["photo"], size=3, grey=True).x.shape == (2, 3, 3, 1)
    words = table(path, label="kind", texts={"words": count_letters})
    assert words.x.tolist() == [[3, 2], [11, 3]] and words.x.dtype == np.int32
    assert words.scale is None


def test_a_table_of_several_modalities_with_gaps(write):
    rows = ["photo,kind,words,wing", "img/red.png,b,,1", ",b,tree,2", "img/green.png,a,bee,"]
    source = table(
        write(*rows, ",a,,3"),
        label="kind",
        images=["photo"],
        numbers=["wing"],
        texts={"words": count_letters},
        size=2,
    )
    value, present = source.x
    assert isinstance(source.x, Modalities)
    assert {name: there.tolist() for name, there in present.items()} == {
        # sorted by class: the lines 4, 5, 2, 3
        "photo": [True, False, True, False],
        "numbers": [False, True, True, True],
        "words": [True, False, False, True],
    }
    assert value["numbers"].tolist() == [[0], [3], [1], [2]]
    assert value["words"].tolist() == [[3, 2], [0, 0], [0, 0], [4, 2]]
    black, red, green = [0, 0, 0], [255, 0, 0], [0, 255, 0]
    assert value["photo"][:, 0, 0].tolist() == [green, black, red, black]
    assert dict(source.scale) == {"photo": 255}


def test_columns_of_numbers_that_may_be_empty_alone_are_modalities(write):
    path = write("kind,price,weight", "a,1,", "b,,2", "a,3,4")
    with pytest.raises(ValueError, match=r"numbers=\{'price': \['price'\], 'weight'"):
        table(path, label="kind", numbers=["price", "weight"])
    source = table(path, label="kind", numbers={"price": ["price"], "weight": ["weight"]})
    assert {name: there.tolist() for name, there in source.x.present.items()} == {
        "price": [True, True, False],  # sorted by class: the lines 2, 4, 3
        "weight": [False, True, True],
    }
    assert source.x.value["price"].tolist() == [[1], [3], [0]]
    with pytest.raises(ValueError, match=r"each modality once; got \['kind', 'kind'\]"):
        table(path, label="kind", images=["kind"], numbers={"kind": ["price"]}, size=2)


def test_a_broken_image_of_a_table_takes_its_line_with_it(write, tmp_path):
    (tmp_path / "img" / "bad.png").write_bytes(b"bad")
    rows = ["photo,kind,wing", "img/bad.png,a,1", "img/red.png,a,2", ",a,3", "img/green.png,b,4"]
    path = write(*rows)
    options = {"label": "kind", "images": ["photo"], "numbers": ["wing"], "size": 2}
    with pytest.raises(ValueError, match=r"bad\.png cannot be read as an image"):
        table(path, **options)
    lost = []
    source = table(path, **options, broken=lost.append)
    assert [image.name for image in lost] == ["bad.png"]
    assert source.x.value["numbers"].tolist() == [[2], [3], [4]]
    assert source.x.present["photo"].tolist() == [True, False, True]
    path = write("photo,kind", "img/bad.png,a", "img/red.png,a", "img/bad.png,b")
    with pytest.raises(ValueError, match=r"No image of the classes \['b'\] can be read"):
        table(path, label="kind", images=["photo"], size=2, broken=lost.append)


WING = {"numbers": ["wing"]}
BAD = {
    "no column": (
        ["kind,wing", "a,1"],
        {"numbers": ["bill"]},
        r"columns \['bill'\] once; it has \['kind', 'wing'\]",
    ),
    "a column twice": (["kind,wing,wing", "a,1,2"], WING, r"the columns \['wing'\] once"),
    "no label column": (["wing", "1"], WING, r"the columns \['kind'\] once"),
    "too few cells": (
        ["kind,wing", "a,1", "b", "c,3,4"],
        WING,
        r"Lines \[3, 4\] of .* have 2 cells",
    ),
    "no examples": (["kind,wing"], WING, "needs a line with the names of the columns and one"),
    "no label": (["kind,wing", "a,1", " ,2"], WING, r"Lines \[3\] of .* have no 'kind'"),
    "no number": (["kind,wing", "a,1", "a,long"], WING, r"Line 3 of .* in 'wing': 'long'"),
    "not finite": (["kind,wing", "a,1", "a,nan"], WING, "not finite in rows"),
    "some numbers": (
        ["kind,wing,bill", "a,1,2", "a,,2"],
        {"numbers": ["wing", "bill"]},
        r"Lines \[3\] of .* lack",
    ),
    "a gap": (
        ["kind,wing", "a,1", "a,"],
        WING,
        r"Lines \[3\] of .* have no 'numbers', and nothing",
    ),
    "an empty column": (
        ["kind,words", "a,", "b,"],
        {"texts": {"words": count_letters}},
        "'words' has nothing in it",
    ),
    "lost texts": (
        ["kind,words", "a,x", "b,y"],
        {"texts": {"words": lambda texts: np.ones((1, 2))}},
        "each of the 2 values in 'words'",
    ),
    "no size": (
        ["kind,photo", "a,img/red.png"],
        {"images": ["photo"]},
        r"columns \['photo'\] are images; give size=",
    ),
    "nothing": (["kind", "a"], {}, r"Name images, numbers or texts, each modality once; got \[\]"),
    "twice": (
        ["kind,w", "a,1"],
        {"images": ["w"], "texts": {"w": len}},
        r"each modality once; got \['w', 'w'\]",
    ),
    "quotes": (["kind,wing", '"a,1'], WING, r"Lines \[2\] of .* do not have 2 cells"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_tables_are_refused(case, write):
    rows, options, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        table(write(*rows), label="kind", **options)


def test_files_that_do_not_exist_or_are_not_text(write, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.csv"):
        table(tmp_path / "none.csv", label="kind", **WING)
    path = write("kind,photo", "a,img/red.png", "b,img/blue.png")
    message = r"1 images of column 'photo' are not there: .*blue\.png"
    with pytest.raises(FileNotFoundError, match=message):
        table(path, label="kind", images=["photo"], size=2, broken=lambda path: None)
    path = write("kind,wing", "ä,1", encoding="latin-1")
    with pytest.raises(ValueError, match="not a table of comma-separated values in UTF-8"):
        table(path, label="kind", **WING)
