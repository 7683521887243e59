"""A user's own folders of images, good and bad."""

import sys

import jax
import numpy as np
import pytest
from PIL import Image

from metajax.data.read.folders import image_folder

COLOURS = np.array([[10, 20, 30], [20, 40, 60], [50, 60, 70], [200, 200, 200]])


def save(path, value, size=(20, 20), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)


@pytest.fixture
def photos(tmp_path):
    """Three classes, two of them inside a folder. Each image has one colour, stored exactly."""
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
    assert source.names == ("Greek/alpha", "Greek/beta", "cat")
    assert source.count.tolist() == [2, 1, 1]
    assert source.x.shape == (4, 8, 8, 3) and source.x.dtype == np.uint8
    expected = np.broadcast_to(COLOURS[:, None, None], (4, 8, 8, 3))
    np.testing.assert_array_equal(source.x, expected)
    assert source.scale == 255
    grey = image_folder(str(photos), size=5, grey=True)
    assert grey.x.shape == (4, 5, 5, 1)
    np.testing.assert_allclose(grey.x[:, 0, 0, 0], COLOURS @ [0.299, 0.587, 0.114], atol=1)


def test_broken_images_are_an_error_or_left_out(photos):
    wrong = photos / "Greek" / "alpha" / "c.jpg"
    wrong.write_bytes(b"no image")
    cut = photos / "cat" / "2.png"
    cut.write_bytes((photos / "Greek" / "beta" / "one.png").read_bytes()[:60])
    deep = photos / "cat" / "3.png"
    Image.fromarray(np.full((4, 4), 30000, np.uint16)).save(deep)
    with pytest.raises(ValueError, match=r"c\.jpg cannot be read as an image .*broken="):
        image_folder(photos, size=8)
    lost = []
    source = image_folder(photos, size=8, broken=lost.append)
    assert lost == [wrong, cut, deep]
    for path in lost:
        path.unlink()
    whole = image_folder(photos, size=8)
    assert source.names == whole.names
    jax.tree.map(np.testing.assert_array_equal, source, whole)
    (photos / "Greek" / "beta" / "one.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"No image of the classes \['Greek/beta'\] can be read"):
        image_folder(photos, size=8, broken=lambda path: None)


def test_bad_folders_are_refused(photos, monkeypatch):
    with pytest.raises(FileNotFoundError, match="none is not a folder"):
        image_folder(photos / "none", size=8)
    with pytest.raises(ValueError, match="size must be a whole number, 1 or more, got 0"):
        image_folder(photos, size=0)
    empty = photos / "Greek" / "gamma"
    empty.mkdir()
    message = r"Folders \['Greek/gamma'\] of .* have no image \(\.bmp, "
    with pytest.raises(ValueError, match=message):
        image_folder(photos, size=8)
    empty.rmdir()
    save(photos / "stray.png", (0, 0, 0))
    with pytest.raises(ValueError, match=r"1 images lie in .* itself, such as stray\.png"):
        image_folder(photos, size=8)
    (photos / "empty").mkdir()
    with pytest.raises(ValueError, match="has no folder in it"):
        image_folder(photos / "empty", size=8)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r"pip install 'metajax\[data\]'"):
        image_folder(photos / "Greek", size=8)
