"""A user's own files: image folders and tables, good and bad."""

import builtins

import numpy as np
import pytest
from PIL import Image

import metajax as mj
from metajax.data.read.folders import image_folder
from metajax.data.read.tables import table


def save(path, value, size=(20, 20), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)


@pytest.fixture
def photos(tmp_path):
    """Three classes, of which two are inside a folder; each image has one colour, and none is compressed with loss."""
    save(tmp_path / "Greek" / "alpha" / "b.png", (20, 40, 60))
    save(tmp_path / "Greek" / "alpha" / "a.BMP", (10, 20, 30), size=(40, 30))
    save(tmp_path / "Greek" / "beta" / "one.png", (50, 60, 70))
    save(tmp_path / "cat" / "1.png", 200, mode="L")
    (tmp_path / "cat" / "notes.txt").write_text("not an image")
    save(tmp_path / "cat" / ".hidden.png", (0, 0, 0))
    (tmp_path / ".cache").mkdir()
    return tmp_path


def test_an_image_folder_is_a_data_set(photos):
    source = image_folder(photos, size=8)
    assert source.names == ("Greek/alpha", "Greek/beta", "cat") and source.count.tolist() == [
        2,
        1,
        1,
    ]
    assert source.x.shape == (4, 8, 8, 3) and source.x.dtype == np.uint8
    colours = [[10, 20, 30], [20, 40, 60], [50, 60, 70], [200, 200, 200]]
    np.testing.assert_array_equal(
        source.x, np.broadcast_to(np.array(colours)[:, None, None], (4, 8, 8, 3))
    )
    grey = image_folder(str(photos), size=5, grey=True)
    assert grey.x.shape == (4, 5, 5, 1)
    np.testing.assert_allclose(
        grey.x[:, 0, 0, 0], np.array(colours) @ [0.299, 0.587, 0.114], atol=1
    )


def test_the_middle_square_is_taken_and_the_camera_turned_upright(tmp_path):
    picture = np.zeros((4, 12, 3), np.uint8)
    picture[:, 4:6], picture[:, 6:8] = 100, 200
    (tmp_path / "a").mkdir()
    Image.fromarray(picture).save(tmp_path / "a" / "1.png")
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera lay on its side: turn right by a quarter
    Image.fromarray(picture).save(tmp_path / "a" / "2.png", exif=turned)
    first, second = np.asarray(image_folder(tmp_path, size=4).x)
    np.testing.assert_array_equal(first[..., 0], [[100, 100, 200, 200]] * 4)
    np.testing.assert_array_equal(second[..., 0], np.rot90(first[..., 0], -1))


def test_what_is_transparent_becomes_white(tmp_path):
    (tmp_path / "a").mkdir()
    value = np.zeros((4, 4, 4), np.uint8)
    value[:, 2:] = 10, 20, 30, 255
    Image.fromarray(value).save(tmp_path / "a" / "1.png")
    palette = Image.fromarray(
        np.repeat([[0, 1]], 2, axis=1).repeat(4, axis=0).astype(np.uint8), mode="P"
    )
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.save(tmp_path / "a" / "2.png", transparency=bytes([0, 255]))
    for image in np.asarray(image_folder(tmp_path, size=4).x):
        assert (image[:, :2] == 255).all() and (image[:, 2:] == [10, 20, 30]).all()


def test_images_of_more_than_eight_bits_are_not_cut(tmp_path):
    (tmp_path / "a").mkdir()
    Image.fromarray(np.full((4, 4), 30000, np.uint16)).save(tmp_path / "a" / "1.png")
    with pytest.raises(
        ValueError, match=r"1\.png cannot be read as an image \(it has more than 8 bits"
    ):
        image_folder(tmp_path, size=4)


def test_broken_images_are_an_error_or_are_told(photos):
    wrong = photos / "Greek" / "alpha" / "c.jpg"
    wrong.write_bytes(b"no image")
    cut = photos / "cat" / "2.png"
    cut.write_bytes((photos / "Greek" / "beta" / "one.png").read_bytes()[:60])
    with pytest.raises(ValueError, match=r"c\.jpg cannot be read as an image .*broken="):
        image_folder(photos, size=8)
    lost = []
    source = image_folder(photos, size=8, broken=lost.append)
    assert lost == [wrong, cut] and source.count.tolist() == [2, 1, 1]
    np.testing.assert_array_equal(source.x, image_folder_without(photos, wrong, cut).x)
    (photos / "Greek" / "beta" / "one.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"No image of the classes \['Greek/beta'\] can be read"):
        image_folder(photos, size=8, broken=lambda path: None)


def image_folder_without(photos, *paths):
    for path in paths:
        path.unlink()
    return image_folder(photos, size=8)


def test_bad_folders_are_refused(photos, monkeypatch):
    with pytest.raises(FileNotFoundError, match="none is not a folder"):
        image_folder(photos / "none", size=8)
    with pytest.raises(ValueError, match="size=0 must be the height"):
        image_folder(photos, size=0)
    (photos / "Greek" / "gamma").mkdir()
    with pytest.raises(
        ValueError, match=r"Folders \['Greek/gamma'\] of .* have no image \(\.bmp, "
    ):
        image_folder(photos, size=8)
    (photos / "Greek" / "gamma").rmdir()
    save(photos / "stray.png", (0, 0, 0))
    with pytest.raises(ValueError, match=r"1 images lie in .* itself, such as stray\.png"):
        image_folder(photos, size=8)
    (photos / "empty").mkdir()
    with pytest.raises(ValueError, match="has no folder in it"):
        image_folder(photos / "empty", size=8)
    hide(monkeypatch, "PIL")
    with pytest.raises(ImportError, match=r"pip install 'metajax\[data\]'"):
        image_folder(photos / "Greek", size=8)


def hide(monkeypatch, package):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.partition(".")[0] == package:
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)


@pytest.fixture
def write(tmp_path):
    """Writes a table beside two images, red and green."""
    save(tmp_path / "img" / "red.png", (255, 0, 0))
    save(tmp_path / "img" / "green.png", (0, 255, 0))

    def lines(*rows, encoding="utf-8"):
        (tmp_path / "table.csv").write_bytes("\n".join(rows).encode(encoding))
        return tmp_path / "table.csv"

    return lines


def count_letters(texts):
    return np.array([[len(text), text.count("e")] for text in texts], np.int32)


def test_a_table_of_numbers(write):
    path = write(
        "wing,kind,bill", "1.5,wren,2", "3,tit,-4e-1", "", "5,wren,6", encoding="utf-8-sig"
    )
    source = table(path, label="kind", numbers=["bill", "wing"])
    assert source.names == ("tit", "wren") and source.x.dtype == np.float32
    np.testing.assert_array_equal(source.x, np.array([[-0.4, 3], [2, 1.5], [6, 5]], np.float32))
    assert source.y.tolist() == [0, 1, 1]


def test_a_table_of_images_or_of_texts(write):
    path = write("photo,kind,words", 'img/green.png,b,"a tree, red"', " img/red.png ,a,bee")
    source = table(path, label="kind", images=["photo"], size=3)
    assert source.names == ("a", "b") and source.x.shape == (2, 3, 3, 3)
    np.testing.assert_array_equal(source.x[:, 1, 1], [[255, 0, 0], [0, 255, 0]])
    assert table(path, label="kind", images=["photo"], size=3, grey=True).x.shape == (2, 3, 3, 1)
    words = table(path, label="kind", texts={"words": count_letters})
    assert words.x.tolist() == [[3, 2], [11, 3]] and words.x.dtype == np.int32


def test_a_table_of_several_modalities_with_gaps(write):
    path = write(
        "photo,kind,words,wing", "img/red.png,b,,1", ",b,tree,2", "img/green.png,a,bee,", ",a,,3"
    )
    source = table(
        path,
        label="kind",
        images=["photo"],
        numbers=["wing"],
        texts={"words": count_letters},
        size=2,
    )
    assert isinstance(source.x, mj.Modalities) and set(source.x.value) == {
        "photo",
        "numbers",
        "words",
    }
    present = {name: there.tolist() for name, there in source.x.present.items()}
    assert present == {  # sorted by class: the lines 4, 5, 2, 3
        "photo": [True, False, True, False],
        "numbers": [False, True, True, True],
        "words": [True, False, False, True],
    }
    assert source.x.value["numbers"].tolist() == [[0], [3], [1], [2]]
    assert source.x.value["words"].tolist() == [[3, 2], [0, 0], [0, 0], [4, 2]]
    np.testing.assert_array_equal(
        source.x.value["photo"][:, 0, 0], [[0, 255, 0], [0] * 3, [255, 0, 0], [0] * 3]
    )


def test_a_broken_image_of_a_table_takes_its_line_with_it(write, tmp_path):
    (tmp_path / "img" / "bad.png").write_bytes(b"bad")
    path = write(
        "photo,kind,wing", "img/bad.png,a,1", "img/red.png,a,2", ",a,3", "img/green.png,b,4"
    )
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


BAD = {
    "no column": (["kind,wing", "a,1"], {"numbers": ["bill"]}, r"columns \['bill'\] once; it has \['kind', 'wing'\]"),
    "a column twice": (["kind,wing,wing", "a,1,2"], {"numbers": ["wing"]}, r"the columns \['wing'\] once"),
    "no label column": (["wing", "1"], {"numbers": ["wing"]}, r"the columns \['kind'\] once"),
    "too few cells": (["kind,wing", "a,1", "b", "c,3,4"], {"numbers": ["wing"]}, r"Lines \[3, 4\] of .* have 2 cells"),
    "no examples": (["kind,wing"], {"numbers": ["wing"]}, "needs a line with the names of the columns and one"),
    "no label": (["kind,wing", "a,1", " ,2"], {"numbers": ["wing"]}, r"Lines \[3\] of .* have no 'kind'"),
    "no number": (["kind,wing", "a,1", "a,long"], {"numbers": ["wing"]}, r"Line 3 of .* in 'wing': 'long'"),
    "not finite": (["kind,wing", "a,1", "a,nan"], {"numbers": ["wing"]}, "not finite in rows"),
    "some numbers": (["kind,wing,bill", "a,1,2", "a,,2"], {"numbers": ["wing", "bill"]}, r"Lines \[3\] of .* lack"),
    "a gap": (["kind,wing", "a,1", "a,"], {"numbers": ["wing"]}, r"Lines \[3\] of .* have no 'numbers', and nothing"),
    "an empty column": (["kind,words", "a,", "b,"], {"texts": {"words": count_letters}}, "'words' has nothing in it"),
    "lost texts": (["kind,words", "a,x", "b,y"], {"texts": {"words": lambda t: np.ones((1, 2))}}, "of the 2 texts"),
    "no size": (["kind,photo", "a,img/red.png"], {"images": ["photo"]}, "size=None must be the height"),
    "nothing": (["kind", "a"], {}, r"Name images, numbers or texts, each modality once; got \[\]"),
    "twice": (["kind,w", "a,1"], {"images": ["w"], "texts": {"w": len}}, r"each modality once; got \['w', 'w'\]"),
    "quotes": (["kind,wing", '"a,1'], {"numbers": ["wing"]}, r"Lines \[2\] of .* do not have 2 cells"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_tables_are_refused(case, write):
    rows, options, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        table(write(*rows), label="kind", **options)


def test_files_that_are_not_there_or_not_text(write, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.csv"):
        table(tmp_path / "none.csv", label="kind", numbers=["wing"])
    path = write("kind,photo", "a,img/red.png", "b,img/blue.png")
    with pytest.raises(
        FileNotFoundError, match=r"1 images of column 'photo' are not there: .*blue\.png"
    ):
        table(path, label="kind", images=["photo"], size=2, broken=lambda path: None)
    with pytest.raises(ValueError, match="not a table of comma-separated values in UTF-8"):
        table(write("kind,wing", "ä,1", encoding="latin-1"), label="kind", numbers=["wing"])
