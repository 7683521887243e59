"""Letters of fonts: which they are, how they are drawn, and that no two classes look alike."""

import numpy as np
import pytest
from data_sets import drawn

from metajax.data.sets import glyph_fonts
from metajax.data.sets.glyph_fonts import drawn_classes, is_letter, look_alikes


def in_final_size(pictures):
    """As rows of pixels [pictures, 28 * 28]."""
    halves = np.asarray(pictures).reshape(-1, 28, 2, 28, 2).mean(axis=(2, 4))
    return halves.reshape(len(pictures), -1)


def test_classes():
    pictures, labels, names, outlines = drawn()
    assert pictures.dtype == np.uint8 and pictures.shape[1:] == (56, 56)
    assert len(outlines) == len(labels) == len(pictures)
    assert len(names) > 900 and len(set(names)) == len(names)
    assert np.bincount(labels).min() >= 12 and len(np.bincount(labels)) == len(names)


def test_pictures_are_centred_and_fill_20_of_28_pixels():
    ink = drawn().pictures > 0
    for axis in (1, 2):
        place = np.arange(56) * ink.any(axis=axis)
        first = np.where(ink.any(axis=axis), place, 99).min(axis=1)
        last = place.max(axis=1)
        assert (np.abs(first + last - 55) <= 1).all()
        assert (last - first < 45).all()
    side = np.maximum(*(ink.any(axis=axis).sum(axis=1) for axis in (1, 2)))
    assert 39 <= np.median(side) <= 42


def test_scripts_and_names():
    names = drawn().names
    scripts = {script for name in names for script in name.partition("/")[0].split("+")}
    assert scripts >= {"Latin", "Greek", "Armenian"}
    assert "Greek/GREEK SMALL LETTER ALPHA" in names
    assert "Cyrillic+Greek+Latin/LATIN CAPITAL LETTER A" in names
    assert not any(name.endswith("GREEK CAPITAL LETTER ALPHA") for name in names)


@pytest.mark.parametrize(
    "character", [*" 1+ⁿʰﬁ⁠─", "\u2126", "\u1eaf", "\ue000", "\u0301", "\U0010ffff"]
)
def test_not_a_letter(character):
    assert not is_letter(character)


@pytest.mark.parametrize("character", [*"AzñøßΑᾳЖйԱაאعᐁ"])
def test_a_letter(character):
    assert is_letter(character)


def test_no_two_classes_look_alike_in_the_base_font():
    pictures, labels, names, _ = drawn()
    base = in_final_size(pictures[np.searchsorted(labels, np.arange(len(names)))])
    base /= np.linalg.norm(base, axis=1, keepdims=True)
    assert np.triu(base @ base.T, 1).max() <= glyph_fonts.ALIKE


def test_pictures_that_look_alike_are_grouped():
    pictures = np.zeros((4, 56, 56), np.uint8)
    pictures[[0, 2], 10:20] = 255
    pictures[2, 10, 10] = 200
    pictures[1, 30:40] = 255
    pictures[3, 50:52] = 255
    assert look_alikes(pictures) == [[0, 2], [1], [3]]


def test_no_two_examples_share_a_picture():
    pictures = drawn().pictures
    assert len({picture.tobytes() for picture in pictures}) == len(pictures)


def test_a_merged_class_holds_the_drawings_of_the_first(monkeypatch):
    monkeypatch.setattr(glyph_fonts, "is_letter", lambda character: character in "OΟОՕAΑА")
    few = drawn_classes(12)
    assert few.names == [
        "Cyrillic+Greek+Latin/LATIN CAPITAL LETTER A",
        "Armenian+Cyrillic+Greek+Latin/LATIN CAPITAL LETTER O",
    ]
    assert np.bincount(few.labels).max() == 16  # not 3 x 16
    with pytest.raises(ValueError, match=r"styles=40 drawings.*16 or fewer"):
        drawn_classes(40)
