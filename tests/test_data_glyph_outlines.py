"""Outlines of glyphs: the edge of the picture that they go with, as a second view."""

import warnings

import numpy as np
import pytest
from matplotlib.path import Path

from metajax.data.sets import glyph_fonts, glyph_images, glyph_outlines
from metajax.data.sets.glyph_images import distortions
from metajax.data.sets.glyph_outlines import flatten_curves, glyph_modalities, glyph_words


@pytest.fixture(scope="module")
def classes():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(glyph_fonts, "is_letter", lambda character: character in "ARbΓΔՕა")
        return glyph_fonts.drawn_classes(12)


@pytest.fixture
def few(classes, monkeypatch):
    for module in (glyph_images, glyph_outlines):
        monkeypatch.setattr(module, "drawn_classes", lambda styles: classes)


def area(polygons):
    signed = [np.sum(p[:-1, 0] * p[1:, 1] - p[1:, 0] * p[:-1, 1]) / 2 for p in polygons]
    return sum(signed)


def test_flattened_curves_enclose_the_area_of_the_letter(classes):
    points, starts, offsets = flatten_curves(classes.outlines)
    assert len(offsets) == len(classes.outlines) + 1
    assert offsets[-1] == len(points) == len(starts)
    for letter, (vertices, codes) in enumerate(classes.outlines):
        rows = slice(offsets[letter], offsets[letter + 1])
        curves = np.split(points[rows], np.flatnonzero(starts[rows])[1:])
        closed = [np.concatenate([curve, curve[:1]]) for curve in curves]
        # matplotlib flattens curves to about a unit
        expected = area(Path(1000 * vertices, codes).to_polygons()) / 1000**2
        assert abs(area(closed) / expected - 1) < 0.01
        assert len(curves) == (codes == 1).sum()
        corners = vertices[codes != 79]  # the vertex of "close" is not a place
        assert (points[rows] >= corners.min(0)).all() and (points[rows] <= corners.max(0)).all()


def test_cubic_curves_are_refused():
    with pytest.raises(ValueError, match="cubic curves"):
        flatten_curves([(np.zeros((2, 2)), np.array([1, 4]))])


def test_an_outline_distorted_as_the_image_fits_the_image(few, tmp_path, monkeypatch):
    """Outlines with the values of the images, filled by matplotlib, are the images."""
    same = lambda number, seed: distortions(number, seed[0])
    monkeypatch.setattr(glyph_outlines, "distortions", same)
    data = glyph_modalities(points=200, cache=tmp_path)
    images = np.asarray(data.x.value["image"], np.float64)
    outlines = np.asarray(data.x.value["outline"])
    # Four places for each pixel, in units of 10 pixels.
    fine = (np.mgrid[:112, :112][::-1].reshape(2, -1).T + 0.5) / 40 - 1.4
    for row in range(0, len(data.y), 14):
        outline = outlines[row]
        curves = np.split(outline[:, :2], np.flatnonzero(outline[:, 3])[1:])
        inside = sum(Path(curve).contains_points(fine).astype(int) for curve in curves) % 2
        filled = inside.reshape(28, 4, 28, 4).mean((1, 3)).ravel()
        image = images[row].ravel()
        assert filled @ image / np.linalg.norm(filled) / np.linalg.norm(image) > 0.96


def test_outlines_are_a_second_view_that_is_kept_in_a_file(few, tmp_path, monkeypatch):
    first = glyph_modalities(cache=tmp_path, points=16)
    other = glyph_modalities(cache=tmp_path, points=16, seed=1)
    outline = np.asarray(first.x.value["outline"])
    assert outline.shape == (len(first.y), 16, 4) and first.x.present["outline"].all()
    assert dict(first.scale) == {"image": 255}
    assert not np.array_equal(outline, other.x.value["outline"])
    (path,) = tmp_path.glob("outlines*seed0*")
    path.write_bytes(path.read_bytes()[:99])  # damaged: made again
    again = glyph_modalities(cache=tmp_path, points=16)
    np.testing.assert_array_equal(outline, again.x.value["outline"])
    monkeypatch.setattr(glyph_outlines, "drawn_classes", lambda styles: pytest.fail("built again"))
    kept = glyph_modalities(cache=tmp_path, points=16)
    np.testing.assert_array_equal(outline, kept.x.value["outline"])


def test_where_no_file_can_be_written_glyphs_are_drawn_with_one_warning(few, tmp_path):
    place = tmp_path / "cache"
    place.write_text("a file in the place of the folder")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        drawn = glyph_modalities(points=16, cache=place)
    assert len(caught) == 1 and "cache cannot be written" in str(caught[0].message)
    kept = glyph_modalities(points=16, cache=tmp_path / "other")
    for name in ("image", "outline"):
        np.testing.assert_array_equal(drawn.x.value[name], kept.x.value[name])


def test_too_few_points_are_refused(few, tmp_path):
    with pytest.raises(ValueError, match="number=1 points are too few"):
        glyph_modalities(cache=tmp_path, points=1)


def test_words():
    name = "Cyrillic+Greek+Latin/LATIN CAPITAL LETTER A"
    assert glyph_words(name) == "latin capital letter a"
    assert glyph_words(name, script=False) == "capital letter a"
    assert glyph_words("Old Italic/OLD ITALIC LETTER BE", script=False) == "letter be"
