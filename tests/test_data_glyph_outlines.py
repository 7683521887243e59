"""Outlines of glyphs: the edge of the picture they go with, seen a second time."""

import importlib

import numpy as np
import pytest
from matplotlib.path import Path

from metajax.data.sets.glyph_images import split_scripts
from metajax.data.sets.glyph_outlines import glyph_modalities, glyph_words

glyphs, fonts, outlines = (
    importlib.import_module(f"metajax.data.{name}") for name in ("glyphs", "fonts", "outlines")
)
LETTERS = "ARbΓΔՕა"


@pytest.fixture(scope="module")
def classes():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fonts, "_is_letter", lambda character: character in LETTERS)
        return fonts.drawn_classes(12)


@pytest.fixture
def few(classes, monkeypatch):
    for module in (glyphs, outlines):
        monkeypatch.setattr(module, "drawn_classes", lambda styles: classes)


def area(polygons):
    return sum(np.sum(p[:-1, 0] * p[1:, 1] - p[1:, 0] * p[:-1, 1]) / 2 for p in polygons)


def test_flattened_curves_enclose_the_area_of_the_letter(classes):
    paths = classes[3]
    points, starts, offsets = outlines._flatten(paths)
    assert len(offsets) == len(paths) + 1 and offsets[-1] == len(points) == len(starts)
    for letter, (vertices, codes) in enumerate(paths):
        rows = slice(offsets[letter], offsets[letter + 1])
        curves = np.split(points[rows], np.flatnonzero(starts[rows])[1:])
        closed = [np.concatenate([curve, curve[:1]]) for curve in curves]
        expected = (
            area(Path(1000 * vertices, codes).to_polygons()) / 1000**2
        )  # it flattens to about a unit
        assert abs(area(closed) / expected - 1) < 0.01
        assert len(curves) == (codes == 1).sum()
        corners = vertices[codes != 79]  # the vertex of "close" has no meaning
        assert (points[rows] >= corners.min(0)).all() and (points[rows] <= corners.max(0)).all()


def test_an_outline_distorted_as_the_image_fits_the_image(few, classes, tmp_path, monkeypatch):
    """Outlines with the values of the images, filled by matplotlib, are the images: same sense of turning and shift."""
    monkeypatch.setattr(
        outlines, "distortions", lambda number, seed: glyphs.distortions(number, seed[0])
    )
    data = glyph_modalities(points=200, cache=tmp_path)
    fine = (
        np.mgrid[:112, :112][::-1].reshape(2, -1).T + 0.5
    ) / 40 - 1.4  # four places a pixel, in units of 10 pixels
    for row in range(0, len(data.y), 7):
        outline = np.asarray(data.x.value["outline"][row])
        curves = np.split(outline[:, :2], np.flatnonzero(outline[:, 3])[1:])
        inside = sum(Path(curve).contains_points(fine).astype(int) for curve in curves) % 2
        filled = inside.reshape(28, 4, 28, 4).mean((1, 3)).ravel()
        image = np.asarray(data.x.value["image"][row], np.float64).ravel()
        assert filled @ image / np.linalg.norm(filled) / np.linalg.norm(image) > 0.96


def test_outlines_are_a_second_view_that_is_kept_in_a_file(few, tmp_path, monkeypatch):
    first, other = (
        glyph_modalities(cache=tmp_path, points=16),
        glyph_modalities(cache=tmp_path, points=16, seed=1),
    )
    assert (
        first.x.value["outline"].shape == (len(first.y), 16, 4) and first.x.present["outline"].all()
    )
    assert not np.array_equal(first.x.value["outline"], other.x.value["outline"])
    assert not np.allclose(glyphs.distortions(5, 0), glyphs.distortions(5, [0, 1]))
    path = next(
        path
        for path in tmp_path.iterdir()
        if path.name.startswith("outlines") and "seed0" in path.name
    )
    path.write_bytes(path.read_bytes()[:99])  # damaged: made again
    again = glyph_modalities(cache=tmp_path, points=16)
    np.testing.assert_array_equal(first.x.value["outline"], again.x.value["outline"])
    monkeypatch.setattr(outlines, "drawn_classes", lambda styles: pytest.fail("built again"))
    glyph_modalities(cache=tmp_path, points=16)
    split = split_scripts(first, train=["Latin"], test=["Greek", "Armenian", "Georgian"])
    assert split.train.x.value["outline"].shape[0] == len(split.train.y) and split.test.classes == 4


def test_too_few_points_are_refused(few, tmp_path):
    with pytest.raises(ValueError, match="number=1 points are too few"):
        glyph_modalities(cache=tmp_path, points=1)


def test_words():
    name = "Cyrillic+Greek+Latin/LATIN CAPITAL LETTER A"
    assert glyph_words(name) == "latin capital letter a"
    assert glyph_words(name, script=False) == "capital letter a"
    assert glyph_words("Old Italic/OLD ITALIC LETTER BE", script=False) == "letter be"
