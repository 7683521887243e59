"""Glyphs as images: what the distortions do, and what the cache does."""

import sys

import jax
import numpy as np
import pytest
from data_sets import drawn

from metajax.data.sets import glyph_fonts, glyph_images
from metajax.data.sets.glyph_images import distort, distortions, glyphs, read_cache

distorted = jax.jit(distort)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The data set of all letters, as read from the file."""
    cache = tmp_path_factory.mktemp("glyphs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(glyph_images, "drawn_classes", lambda styles: drawn())
        glyphs(cache=cache)
    return glyphs(cache=cache)


@pytest.fixture
def few(monkeypatch):
    """Makes a build quick: few letters."""
    monkeypatch.setattr(glyph_fonts, "is_letter", lambda character: character in "ABabΓБԱԲ")


def in_final_size(pictures):
    """As rows of pixels [pictures, 28 * 28]."""
    halves = np.asarray(pictures).reshape(-1, 28, 2, 28, 2).mean(axis=(2, 4))
    return halves.reshape(len(pictures), -1)


def test_images_and_classes(built):
    x = np.asarray(built.x)
    assert x.dtype == np.uint8 and x.shape[1:] == (28, 28, 1) and built.scale == 255
    assert built.names == tuple(drawn().names)
    np.testing.assert_array_equal(built.y, drawn().labels)
    assert (x.max(axis=(1, 2, 3)) > 127).all(), "ink in every image"
    assert 0.05 < (x > 127).mean() < 0.3, "ink is bright on a dark ground"


def test_distorted_images_differ_from_pictures_but_keep_their_ink(built):
    plain = in_final_size(drawn().pictures)
    x = np.asarray(built.x, np.float64).reshape(plain.shape)
    assert np.abs(plain - x).mean() > 10
    assert 0.9 < x.sum() / plain.sum() < 1.1  # the mean of scale² is 1.013


def test_distortion_of_nothing_is_the_picture():
    picture = drawn().pictures[0]
    same = np.asarray(distorted(picture, *np.float32([0, 1, 0, 0, 0])))
    np.testing.assert_allclose(same.ravel(), in_final_size([picture])[0], atol=0.51)


def test_distortion_turns_scales_and_shifts_as_documented():
    picture = np.zeros((56, 56), np.uint8)
    picture[27:29, 39:41] = 255  # one pixel of the final image, 6 right of the middle

    def place(*values):
        image = np.asarray(distorted(picture, *np.float32(values)), np.float64)[:, :, 0]
        rows, columns = np.mgrid[:28, :28] - 13.5
        return (image * columns).sum() / image.sum(), (image * rows).sum() / image.sum()

    np.testing.assert_allclose(place(0, 1, 0, 0, 0), (6, 0), atol=0.01)
    np.testing.assert_allclose(place(0, 1, 0, 3, -2), (9, -2), atol=0.01)
    np.testing.assert_allclose(place(0, 1.2, 0, 0, 0), (7.2, 0), atol=0.2)
    np.testing.assert_allclose(place(np.pi / 2, 1, 0, 0, 0), (0, 6), atol=0.01)
    # Shear comes first: y is 0 there.
    np.testing.assert_allclose(place(np.pi / 2, 1, 0.2, 0, 0), (0, 6), atol=0.1)
    np.testing.assert_allclose(place(0, 1, 0.2, 0, 0), (6, 0), atol=0.1)


def test_distortions_lie_in_their_ranges():
    values = distortions(1000, 0)
    assert values.shape == (1000, 5) and values.dtype == np.float32
    np.testing.assert_allclose(values.min(axis=0), [-np.pi / 12, 0.8, -0.2, -3, -3], rtol=0.02)
    np.testing.assert_allclose(values.max(axis=0), [np.pi / 12, 1.2, 0.2, 3, 3], rtol=0.02)
    assert not np.allclose(distortions(5, 0), distortions(5, [0, 1]))


def test_a_second_call_reads_the_file(few, tmp_path, monkeypatch):
    first = glyphs(cache=tmp_path)
    monkeypatch.setattr(glyph_images, "drawn_classes", lambda styles: pytest.fail("built again"))
    second = glyphs(cache=tmp_path)
    np.testing.assert_array_equal(first.x, second.x)
    assert first.names == second.names and first.scale == second.scale == 255


def test_default_folder(few, tmp_path, monkeypatch):
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: tmp_path / name / "deep")
    glyphs()
    (path,) = (tmp_path / "metajax" / "deep").iterdir()
    assert path.name.startswith("glyphs-") and path.name.endswith("-styles12-seed0.npz")


def damaged(damage, path, source):
    """Writes another file in place of the cache."""
    x, y, names = np.asarray(source.x), np.asarray(source.y), np.array(source.names)
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


@pytest.mark.parametrize(
    "damage", ["truncated", "text", "empty", "array", "other keys", "other shape", "other labels"]
)
def test_a_damaged_file_is_replaced(few, tmp_path, damage):
    first = glyphs(cache=tmp_path)
    (path,) = tmp_path.iterdir()
    damaged(damage, path, first)
    again = glyphs(cache=tmp_path)
    np.testing.assert_array_equal(first.x, again.x)
    assert first.names == again.names
    assert [found.name for found in tmp_path.iterdir()] == [path.name], "nothing temporary is left"
    np.testing.assert_array_equal(read_cache(path).x, first.x)


def test_seed_and_styles_change_the_result(few, tmp_path):
    first, same = glyphs(cache=tmp_path / "a"), glyphs(cache=tmp_path / "b")
    np.testing.assert_array_equal(first.x, same.x)
    other = glyphs(cache=tmp_path / "a", seed=1)
    assert first.names == other.names and not np.array_equal(first.x, other.x)
    fewer = glyphs(cache=tmp_path / "a", styles=16)
    assert fewer.classes < first.classes and fewer.count.min() >= 16
    assert len(list((tmp_path / "a").iterdir())) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"styles": 1}, "styles must be a whole number, 2 or more, got 1"),
        ({"seed": -1}, "seed must be a whole number, 0 or more, got -1"),
    ],
)
def test_arguments_out_of_range(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        glyphs(cache=tmp_path, **arguments)


def test_missing_package(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "platformdirs", None)
        with pytest.raises(ImportError, match=r"platformdirs: pip install 'metajax\[data\]'"):
            glyphs()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"matplotlib: pip install 'metajax\[examples\]'"):
        glyphs(cache=tmp_path)
