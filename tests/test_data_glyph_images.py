"""Glyphs: what is in a class, what the cache does, and that no drawing is on both sides of a split."""

import importlib
import sys

import numpy as np
import pytest

from metajax.data.datasets import dataset
from metajax.data.sets.glyph_images import glyphs, split_scripts

module = importlib.import_module("metajax.data.glyphs")
fonts = importlib.import_module("metajax.data.fonts")


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """All letters: the data set as read from the file, and its pictures before distortion, labels and names."""
    classes = module.drawn_classes(12)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "drawn_classes", lambda styles: classes)
        cache = tmp_path_factory.mktemp("glyphs")
        glyphs(cache=cache)
    return glyphs(cache=cache), classes


@pytest.fixture
def few(monkeypatch):
    """Makes a build quick: few letters, of which A, B are alike in three scripts, and O in four."""
    monkeypatch.setattr(fonts, "_is_letter", lambda character: character in "ABDORabΑΒΓΔΟАБВДОՕԱԲა")


def in_final_size(pictures):
    return (
        np.asarray(pictures).reshape(-1, 28, 2, 28, 2).mean(axis=(2, 4)).reshape(len(pictures), -1)
    )


def toy(*names):
    return dataset(np.arange(len(names)), np.arange(len(names)), names=names)


def test_images_and_classes(built):
    data, (_, y, names, _) = built
    x = np.asarray(data.x)
    assert x.dtype == np.uint8 and x.shape[1:] == (28, 28, 1)
    assert (
        data.names == tuple(names) and np.array_equal(data.y, y) and len(set(names)) == len(names)
    )
    assert data.classes > 900 and data.count.min() >= 12
    assert (x.max(axis=(1, 2, 3)) > 127).all(), "ink in every image"
    assert 0.05 < (x > 127).mean() < 0.3, "ink is bright on a dark ground"


def test_pictures_are_centred_and_fill_20_of_28_pixels(built):
    ink = built[1][0] > 0
    for axis in (1, 2):
        place = np.arange(56) * ink.any(axis=axis)
        first, last = np.where(ink.any(axis=axis), place, 99).min(axis=1), place.max(axis=1)
        assert (np.abs(first + last - 55) <= 1).all()
        assert (last - first < 45).all()
    side = np.maximum(*(ink.any(axis=axis).sum(axis=1) for axis in (1, 2)))
    assert 39 <= np.median(side) <= 42


def test_scripts_and_names(built):
    names = built[0].names
    assert {script for name in names for script in name.partition("/")[0].split("+")} >= {
        "Latin",
        "Greek",
        "Armenian",
    }
    assert "Greek/GREEK SMALL LETTER ALPHA" in names
    assert "Cyrillic+Greek+Latin/LATIN CAPITAL LETTER A" in names
    assert not any(name.endswith("GREEK CAPITAL LETTER ALPHA") for name in names)


@pytest.mark.parametrize(
    "character", [*" 1+ⁿʰﬁ⠁─", "\u2126", "\u1eaf", "\ue000", "\u0301", "\U0010ffff"]
)
def test_not_a_letter(character):
    assert not fonts._is_letter(character)


@pytest.mark.parametrize("character", [*"AzñøßΑᾳЖйԱაאعᐁ"])
def test_a_letter(character):
    assert fonts._is_letter(character)


def test_distorted_images_differ_from_pictures_but_keep_their_ink(built):
    data, (pictures, *_) = built
    plain, x = in_final_size(pictures), np.asarray(data.x, np.float64).reshape(len(pictures), -1)
    assert np.abs(plain - x).mean() > 10
    assert 0.9 < x.sum() / plain.sum() < 1.1  # the mean of scale² is 1.013


def test_distortion_of_nothing_is_the_picture(built):
    picture = built[1][0][0]
    same = np.asarray(module._distort(picture, *np.float32([0, 1, 0, 0, 0])))
    np.testing.assert_allclose(same.ravel(), in_final_size([picture])[0], atol=0.51)


def test_distortion_turns_scales_and_shifts_as_documented():
    picture = np.zeros((56, 56), np.uint8)
    picture[27:29, 39:41] = 255  # one pixel of the final image, 6 right of the middle

    def place(*values):
        image = np.asarray(module._distort(picture, *np.float32(values)), np.float64)[:, :, 0]
        rows, columns = np.mgrid[:28, :28] - 13.5
        return (image * columns).sum() / image.sum(), (image * rows).sum() / image.sum()

    np.testing.assert_allclose(place(0, 1, 0, 0, 0), (6, 0), atol=0.01)
    np.testing.assert_allclose(place(0, 1, 0, 3, -2), (9, -2), atol=0.01)
    np.testing.assert_allclose(place(0, 1.2, 0, 0, 0), (7.2, 0), atol=0.2)
    np.testing.assert_allclose(place(np.pi / 2, 1, 0, 0, 0), (0, 6), atol=0.01)
    np.testing.assert_allclose(
        place(np.pi / 2, 1, 0.2, 0, 0), (0, 6), atol=0.1
    )  # shear comes first: y is 0 there
    np.testing.assert_allclose(place(0, 1, 0.2, 0, 0), (6, 0), atol=0.1)


def test_no_two_classes_look_alike_in_the_base_font(built):
    _, (pictures, y, *_) = built
    base = in_final_size(pictures[np.searchsorted(y, np.arange(y.max() + 1))])
    base /= np.linalg.norm(base, axis=1, keepdims=True)
    assert np.triu(base @ base.T, 1).max() <= fonts._ALIKE


def test_no_two_examples_share_a_picture(built):
    pictures = built[1][0]
    assert len({picture.tobytes() for picture in pictures}) == len(pictures)


def test_split_has_no_leak(built):
    data, (pictures, y, names, _) = built
    split = split_scripts(
        data, train=["Latin"], validation=["Armenian", "Georgian"], test=["Greek", "Cyrillic"]
    )
    of = {
        name: {picture.tobytes() for picture in pictures[y == label]}
        for label, name in enumerate(names)
    }
    parts = [set().union(*(of[name] for name in part.names)) for part in split[:3]]
    assert len(set().union(*parts)) == sum(map(len, parts)), "no class and no picture in two parts"
    assert all("Latin" in name.partition("/")[0] for name in split.train.names)
    assert not any("Latin" in name.partition("/")[0] for part in split[1:3] for name in part.names)
    assert split.train.classes > 600 and split.validation.classes > 60 and split.test.classes > 200
    assert sum(part.classes for part in split[:3]) == data.classes and 50 < split.dropped < 150


def test_second_call_reads_the_file(few, tmp_path, monkeypatch):
    first = glyphs(cache=tmp_path)
    monkeypatch.setattr(module, "drawn_classes", lambda styles: pytest.fail("built again"))
    second = glyphs(cache=tmp_path)
    assert np.array_equal(first.x, second.x) and first.names == second.names


def test_default_folder(few, tmp_path, monkeypatch):
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: tmp_path / name / "deep")
    glyphs()
    (path,) = (tmp_path / "metajax" / "deep").iterdir()
    assert path.name.startswith("glyphs-") and path.name.endswith("-styles12-seed0.npz")


@pytest.mark.parametrize(
    "damage", ["truncated", "text", "empty", "array", "other keys", "other shape", "other labels"]
)
def test_damaged_file_is_rebuilt(few, tmp_path, damage):
    first = glyphs(cache=tmp_path)
    (path,) = tmp_path.iterdir()
    x, y, names = np.asarray(first.x), np.asarray(first.y), np.array(first.names)
    content = path.read_bytes()
    with path.open("wb") as file:
        match damage:
            case "truncated":
                file.write(content[: len(content) // 2])
            case "text":
                file.write(b"not a file of glyphs")
            case "array":
                np.save(file, x)
            case "other keys":
                np.savez(file, images=x)
            case "other shape":
                np.savez(file, x=x[:, :14], y=y, names=names)
            case "other labels":
                np.savez(file, x=x, y=y + 1, names=names)
    again = glyphs(cache=tmp_path)
    assert np.array_equal(first.x, again.x) and first.names == again.names
    assert [found.name for found in tmp_path.iterdir()] == [path.name], "nothing temporary is left"
    assert np.array_equal(module._read(path).x, first.x)


def test_seed_and_styles_move_the_result(few, tmp_path):
    first, same = glyphs(cache=tmp_path / "a"), glyphs(cache=tmp_path / "b")
    other, fewer = glyphs(cache=tmp_path / "a", seed=1), glyphs(cache=tmp_path / "a", styles=16)
    assert np.array_equal(first.x, same.x)
    assert first.names == other.names and not np.array_equal(first.x, other.x)
    assert fewer.classes < first.classes and fewer.count.min() >= 16
    assert len(list((tmp_path / "a").iterdir())) == 3


def test_merged_class_holds_the_drawings_of_the_first(few, tmp_path):
    data = glyphs(cache=tmp_path)
    assert "Armenian+Cyrillic+Greek+Latin/LATIN CAPITAL LETTER O" in data.names
    assert "Cyrillic+Greek+Latin/LATIN CAPITAL LETTER A" in data.names
    assert data.count.max() == 16  # not 3 x 16


@pytest.mark.parametrize(
    ("arguments", "message"), [({"styles": 1}, "styles=1"), ({"seed": -1}, "seed=-1")]
)
def test_arguments_out_of_range(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        glyphs(cache=tmp_path, **arguments)


def test_too_many_styles(few, tmp_path):
    with pytest.raises(ValueError, match=r"styles=40 drawings.*16 or fewer"):
        glyphs(cache=tmp_path, styles=40)


def test_missing_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "platformdirs", None)
    with pytest.raises(ImportError, match=r"pip install 'metajax\[examples\]'"):
        glyphs(cache=tmp_path)


def test_split_prefers_train_then_validation():
    data = toy("A/1", "A+B/2", "A+C/3", "B+C/4", "B/5", "C/6", "C+D/7", "A+B+C/8", "D/9")
    split = split_scripts(data, train=["A"], validation=["B"], test=["C"])
    assert split.train.names == ("A/1", "A+B/2", "A+C/3", "A+B+C/8")
    assert split.validation.names == ("B+C/4", "B/5")
    assert split.test.names == ("C/6", "C+D/7")
    assert split.dropped == 4
    assert split.test.x.tolist() == [5, 6] and split.test.y.tolist() == [0, 1]


def test_split_without_validation():
    split = split_scripts(toy("A/1", "A+B/2", "B/3"), train=["A"], test=["B"])
    assert split.validation is None and split.dropped == 1 and split.test.names == ("B/3",)


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
def test_split_errors(scripts, message):
    with pytest.raises(ValueError, match=message):
        split_scripts(toy("A/1", "A+C/2", "B/3"), **scripts)
