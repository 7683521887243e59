"""The one decoder of pictures: sources, channels, orientation, transparency and depth."""

import builtins
import io
import pathlib
import zipfile

import numpy as np
import pytest
from PIL import Image

from metajax.data.read.folders import image_folder
from metajax.data.read.pictures import decode_picture, read_pictures, square
from metajax.data.read.tables import table

COLOURS = np.random.default_rng(0).integers(0, 256, (6, 10, 3), np.uint8)


def encoded(pixels, kind="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def test_bytes_a_path_and_an_array_give_the_same_picture(tmp_path):
    stored = encoded(COLOURS)
    path = tmp_path / "one.png"
    path.write_bytes(stored)
    for source in (stored, path, str(path), COLOURS):
        np.testing.assert_array_equal(decode_picture(source, 3), COLOURS)
        grey = decode_picture(source, 1)
        assert grey.shape == (6, 10, 1) and grey.dtype == np.uint8
        expected = COLOURS @ [0.299, 0.587, 0.114]
        np.testing.assert_allclose(grey[..., 0], expected, atol=1)


def test_grey_and_black_and_white_pictures_get_the_channels_asked_for():
    grey = decode_picture(encoded(COLOURS[..., 0]), 3)
    np.testing.assert_array_equal(grey, np.repeat(COLOURS[..., :1], 3, axis=2))
    one_bit = decode_picture(encoded(COLOURS[..., 0] > 127), 1)
    np.testing.assert_array_equal(one_bit[..., 0], np.where(COLOURS[..., 0] > 127, 255, 0))


def test_the_middle_square_is_taken_and_photographs_are_turned_upright():
    picture = np.zeros((4, 12, 3), np.uint8)
    picture[:, 4:6] = 100
    picture[:, 6:8] = 200
    middle = [[100, 100, 200, 200]] * 4
    np.testing.assert_array_equal(decode_picture(encoded(picture), 3, size=4)[..., 0], middle)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side: turn right by a quarter
    on_its_side = encoded(picture, exif=exif)
    upright = decode_picture(on_its_side, 3, size=4)
    np.testing.assert_array_equal(upright[..., 0], np.rot90(middle, -1))
    as_stored = decode_picture(on_its_side, 3, as_stored=True)
    np.testing.assert_array_equal(as_stored, picture)


def test_transparent_places_become_white():
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[:, 2:] = (10, 20, 30, 255)
    indices = np.array([[0, 0, 1, 1]] * 4, np.uint8)
    palette = Image.fromarray(indices).convert("P")
    palette.putdata(indices.ravel().tolist())
    palette.putpalette([0, 0, 0, 10, 20, 30])
    buffer = io.BytesIO()
    palette.save(buffer, "PNG", transparency=bytes([0, 255]))
    for stored in (encoded(pixels), buffer.getvalue()):
        image = decode_picture(stored, 3)
        assert (image[:, :2] == 255).all()
        assert (image[:, 2:] == [10, 20, 30]).all()
    np.testing.assert_array_equal(decode_picture(encoded(pixels), 4, as_stored=True), pixels)


def test_pictures_of_more_than_eight_bits_are_not_cut():
    deep = np.full((4, 4), 30000, np.uint16)
    with pytest.raises(ValueError, match="it has more than 8 bits"):
        decode_picture(encoded(deep), 3)
    with pytest.raises(ValueError, match="it has more than 8 bits"):
        decode_picture(deep[..., None], 1, as_stored=True)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_square_keeps_channels(channels):
    colour = np.array([100, 20, 30, 255], np.uint8)[:channels]
    result = square(2)(np.tile(colour, (4, 8, 1)))
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, np.tile(colour, (2, 2, 1)))


def test_square_keeps_depth():
    assert square(2)(np.full((4, 4, 1), 30000, np.uint16)).tolist() == [[[30000]] * 2] * 2


def test_files_that_cannot_be_read(tmp_path):
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    good.write_bytes(encoded(COLOURS))
    bad.write_bytes(good.read_bytes()[:60])
    with pytest.raises(ValueError, match=r"bad\.png cannot be read as an image .*broken="):
        read_pictures([good, bad], 4, False, None)
    lost = []
    images, read = read_pictures([bad, good], 4, True, lost.append)
    assert images.shape == (1, 4, 4, 1) and read.tolist() == [False, True] and lost == [bad]
    images, read = read_pictures([bad], 4, False, lost.append)
    assert images.shape == (0, 4, 4, 3) and not read.any()
    with pytest.raises(ValueError, match="cannot identify image file"):
        decode_picture(b"no picture", 3)


def test_sizes_and_missing_packages(monkeypatch):
    with pytest.raises(ValueError, match="size must be a whole number, 1 or more, got 0"):
        square(0)
    with pytest.raises(ValueError, match="size must be a whole number, 1 or more, got None"):
        read_pictures([], None, False, None)
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.partition(".")[0] == "PIL":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    for call in (lambda: square(4), lambda: decode_picture(COLOURS, 3)):
        with pytest.raises(ImportError, match=r"pip install 'metajax\[data\]'"):
            call()


def omniglot_files(folder):
    """Writes the PNG files of `raw` and returns the rows of the data file that they are."""
    raw = pathlib.Path(__file__).parent / "raw"
    with zipfile.ZipFile(raw / "images_background.zip") as archive:
        for name in archive.namelist():
            if name.endswith(".png") and not name.startswith("__MACOSX"):
                archive.extract(name, folder)
    with np.load(raw / "expected.npz") as file:
        first = np.char.startswith(file["omniglot.name"], "images_background")
        return file["omniglot.image"][first], file["omniglot.name"][first]


def test_every_door_can_have_the_ink_of_the_omniglot_file(tmp_path):
    """The rows are those of `omniglot.npz`; the files are the origin's in kind, size and row."""
    rows, names = omniglot_files(tmp_path)
    read = image_folder(tmp_path, size=28, grey=True, resample="box", invert=True)
    np.testing.assert_array_equal(read.x[..., 0], rows)
    assert np.array(read.names)[np.asarray(read.y)].tolist() == names.tolist()
    usual = image_folder(tmp_path, size=28)
    assert usual.x.shape == (10, 28, 28, 3) and usual.x.min() == 0 and usual.x.max() == 255
    assert 20 < np.abs(255 - np.asarray(usual.x[..., 0], int) - rows).max() < 90

    paths = sorted(tmp_path.rglob("*.png"))
    like_tfds = [decode_picture(path, 3, as_stored=True) for path in paths]
    assert like_tfds[0].shape == (105, 105, 3)
    prepare = square(28, grey=True, resample="box", invert=True)
    np.testing.assert_array_equal([prepare(picture)[..., 0] for picture in like_tfds], rows)

    lines = [
        "kind,picture",
        *(f"{path.parent.name},{path.relative_to(tmp_path)}" for path in paths),
    ]
    (tmp_path / "table.csv").write_text("\n".join(lines))
    options = {"grey": True, "resample": "box", "invert": True}
    listed = table(tmp_path / "table.csv", label="kind", images=["picture"], size=28, **options)
    known = sorted(row.tobytes() for row in rows)
    assert sorted(np.asarray(row).tobytes() for row in listed.x) == known


def test_what_cannot_be_resampled_or_inverted_is_refused(tmp_path):
    known = r"\['nearest'\] are not among the values of resample, which are \['bicubic', 'box'\]"
    with pytest.raises(ValueError, match=known):
        square(4, resample="nearest")
    omniglot_files(tmp_path)
    with pytest.raises(ValueError, match=known):
        image_folder(tmp_path, size=4, resample="nearest")
    with pytest.raises(
        ValueError, match="only 8-bit grey or colour can be inverted, and it is RGBA"
    ):
        square(2, invert=True)(np.zeros((4, 4, 4), np.uint8))
    with pytest.raises(ValueError, match=r"can be inverted, and it is I;16"):
        square(2, invert=True)(np.zeros((4, 4, 1), np.uint16))
    colours = np.zeros((4, 4, 3), np.uint8) + np.array([0, 100, 255], np.uint8)
    assert square(2, invert=True)(colours)[0, 0].tolist() == [255, 155, 0]
