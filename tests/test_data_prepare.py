"""Data files made of raw files: samples in `raw`, and whole files made again from the rows."""

import gzip
import hashlib
import io
import pathlib
import re
import tarfile
import wave

import numpy as np
import pytest
from PIL import Image

from metajax.data.prepare.clinc150 import CLINC150
from metajax.data.prepare.contents import (
    array_checksum,
    check_contents,
    unpack_archive,
    write_arrays,
)
from metajax.data.prepare.digits import FSDD, MNIST, spoken_arrays
from metajax.data.prepare.grocery import GROCERY, grocery_arrays, used_files
from metajax.data.prepare.hanzi import HANZI, hanzi_arrays
from metajax.data.prepare.omniglot import (
    OMNIGLOT,
    OMNIGLOT_STROKES,
    omniglot_arrays,
    stroke_arrays,
)
from metajax.data.read.data_files import data_file_path, read_data_file

RAW = pathlib.Path(__file__).parent / "raw"


def expected(kind):
    """{array: rows that the data file has}."""
    with np.load(RAW / "expected.npz") as file:
        return {
            name.partition(".")[2]: file[name] for name in file.files if name.startswith(f"{kind}.")
        }


def assert_equal(arrays, rows, *names):
    for name in names:
        assert arrays[name].dtype.kind == rows[name].dtype.kind, name
        np.testing.assert_array_equal(arrays[name], rows[name], err_msg=name)


def test_drawings_of_omniglot():
    paths = [RAW / "images_background.zip", RAW / "images_evaluation.zip"]
    arrays, rows = omniglot_arrays(paths), expected("omniglot")
    assert len(rows["image"]) == 20
    assert_equal(arrays, rows, "image", "drawer")
    assert arrays["names"][arrays["label"]].tolist() == rows["name"].tolist()
    assert arrays["names"].tolist() == sorted(set(rows["name"].tolist()))
    assert [arrays[name].dtype for name in ("image", "label", "drawer")] == [
        np.uint8,
        np.int16,
        np.int8,
    ]


def test_drawings_of_omniglot_with_strokes():
    """Entries are not sorted by name, and one is in both archives; the clock of one stops."""
    files = [
        f"{kind}_background_{part}.zip"
        for kind in ("images", "strokes")
        for part in ("small1", "small2")
    ]
    arrays, rows = stroke_arrays([RAW / file for file in files]), expected("strokes")
    assert len(rows["image"]) == 20 and rows["stroke"][:, 2].max() == 65535
    assert rows["stroke"][:, 3].sum() > 25, "some drawings have several strokes"
    assert_equal(arrays, rows, "image", "stroke", "drawer")
    assert np.diff(arrays["offset"]).tolist() == rows["count"].tolist()
    assert arrays["names"][arrays["label"]].tolist() == rows["name"].tolist()
    assert arrays["stroke"].dtype == np.uint16 and arrays["offset"].dtype == np.int32


def pixels(arrays, row):
    jpeg = arrays["jpeg"][arrays["offset"][row] : arrays["offset"][row + 1]]
    return Image.open(io.BytesIO(jpeg.tobytes()))


def test_photographs_of_groceries():
    unpacked = unpack_archive(RAW / "grocery.tar.gz", lambda name: name.startswith("dataset/"))
    files = {name.removeprefix("dataset/"): content for name, content in unpacked.items()}
    assert set(used_files(files)) == set(files)
    arrays, rows = grocery_arrays(files), expected("grocery")
    texts = ("fine_name", "coarse_name", "description")
    assert_equal(arrays, rows, "fine", "coarse", "split", "iconic", *texts)
    assert len(rows["fine"]) == 5
    for row in range(5):
        made, known = pixels(arrays, row), pixels(rows, row)
        # The raw photographs become about these pixels, and JPEG has rounded twice.
        difference = np.abs(np.asarray(made, float) - np.asarray(known, float)).mean()
        assert difference < 2, row
        middle = np.asarray(made.crop((6, 0, 58, 64)).resize((64, 64)), float)
        assert np.abs(middle - np.asarray(known, float)).mean() > 4, "squashed is not cropped"
        assert made.quantization == known.quantization, "the quality"
        assert made.layer == known.layer, "the sampling of colours"
        assert made.info.get("progressive") == known.info.get("progressive")


def test_lines_of_make_me_a_hanzi():
    arrays = hanzi_arrays([RAW / "dictionary.txt", RAW / "graphics.txt"])
    rows = expected("hanzi")
    assert len(rows["image"]) >= 20 and "" in rows["definition"] and rows["image"].max() == 255
    texts = ("character", "radical", "definition", "decomposition", "pinyin")
    assert_equal(arrays, rows, "image", "stroke", "offset", *texts)
    assert arrays["stroke"].dtype == np.int16


def test_the_graphics_are_in_another_order_than_the_dictionary(tmp_path):
    lines = (RAW / "graphics.txt").read_text("utf-8").splitlines(keepends=True)
    (tmp_path / "graphics.txt").write_text("".join(lines[::-1]), "utf-8")
    arrays = hanzi_arrays([RAW / "dictionary.txt", tmp_path / "graphics.txt"])
    assert_equal(arrays, expected("hanzi"), "image", "stroke", "offset")


def written(data_file, raw, folder):
    """The arrays of the file that is made of raw files, after all its checks."""
    path = folder / data_file.name
    with path.open("wb") as file:
        data_file.write(raw, file)
    if path.suffix == ".gz":
        return path
    with np.load(path, allow_pickle=False) as made:
        return dict(made.items())


def test_all_of_mnist(packs, tmp_path):
    """The 10 000 that are taken come first, in an order that keeps that of each digit."""
    stored = read_data_file(MNIST, ("image", "label"))
    order = np.argsort(np.random.default_rng(0).permutation(stored["label"]), kind="stable")
    place = np.argsort(order)  # so that a stable sort by label undoes it
    image, label = stored["image"][place], stored["label"][place]
    more = np.full((5, 28, 28), 7, np.uint8)
    header = lambda *numbers: np.array(numbers, ">i4").tobytes()
    raw = [tmp_path / "images.gz", tmp_path / "labels.gz"]
    images = header(2051, 10005, 28, 28) + image.tobytes() + more.tobytes()
    raw[0].write_bytes(gzip.compress(images, 1))
    labels = header(2049, 10005) + label.astype(np.uint8).tobytes() + bytes(5)
    raw[1].write_bytes(gzip.compress(labels, 1))
    made = written(MNIST, raw, tmp_path)
    assert (np.diff(label.astype(int)) < 0).sum() > 1000, "the raw file is not sorted"
    assert_equal(made, stored, "image", "label")
    assert made["label"].dtype == stored["label"].dtype


def recordings(stored):
    """{"recordings/7_theo_0.wav": the origin's file}, of all rows."""
    indices = sorted(str(index) for index in range(50))
    files, counts = {}, {}
    for row, key in enumerate(
        zip(stored["digit"].tolist(), stored["speaker"].tolist(), strict=True)
    ):
        counts[key] = counts.get(key, -1) + 1
        content = io.BytesIO()
        with wave.open(content, "wb") as file:
            file.setparams((1, 2, 8000, 0, "NONE", ""))
            first, last = stored["offset"][row : row + 2]
            file.writeframes(stored["wave"][first:last].astype("<i2").tobytes())
        digit, speaker = key
        files[f"recordings/{digit}_{speaker}_{indices[counts[key]]}.wav"] = content.getvalue()
    return files


def write_archive(path, files):
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"outermost/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def test_all_spoken_digits(packs, tmp_path):
    """The rows give the very bytes of the origin's 2 000 files, which its checksum shows."""
    arrays = ("wave", "offset", "digit", "speaker")
    stored = read_data_file(FSDD, arrays)
    files = recordings(stored)
    assert len(files) == 2000 and sum(map(len, files.values())) == 13_657_820
    others = {"recordings/0_lucas_0.wav": b"", "README.md": b"", "recordings/notes.txt": b""}
    raw = write_archive(tmp_path / "raw.tar.gz", others | dict(reversed(files.items())))
    made = written(FSDD, [raw], tmp_path)
    assert_equal(made, stored, *arrays)
    damaged = files | {"recordings/0_theo_0.wav": files["recordings/0_theo_1.wav"]}
    write_archive(raw, damaged)
    with pytest.raises(
        ValueError, match=r"The 2000 files .* have the checksum .* instead of bc150fb"
    ):
        written(FSDD, [raw], tmp_path)


def test_recordings_are_sorted_by_file_name():
    def recording(value):
        content = io.BytesIO()
        with wave.open(content, "wb") as file:
            file.setparams((1, 2, 8000, 0, "NONE", ""))
            file.writeframes(np.full(value, value, "<i2").tobytes())
        return content.getvalue()

    names = ["1_ann_0", "0_bob_2", "0_bob_10", "0_bob_1"]
    files = {f"recordings/{name}.wav": recording(n + 1) for n, name in enumerate(names)}
    arrays = spoken_arrays(files)
    assert arrays["wave"].tolist() == [4] * 4 + [3] * 3 + [2] * 2 + [1]
    assert arrays["offset"].tolist() == [0, 4, 7, 9, 10]
    assert arrays["digit"].tolist() == [0, 0, 0, 1]
    assert arrays["speaker"].tolist() == ["bob", "bob", "bob", "ann"]


def test_all_intents(packs, tmp_path):
    """The file at hand holds the very bytes of the origin's."""
    stored = gzip.decompress(data_file_path(CLINC150).read_bytes())
    assert hashlib.sha256(stored).hexdigest() == CLINC150.origins[0].sha256
    raw = tmp_path / "data_full.json"
    raw.write_bytes(stored)
    path = written(CLINC150, [raw], tmp_path)
    assert gzip.decompress(path.read_bytes()) == stored
    assert len(path.read_bytes()) < len(stored) / 3


def test_the_files_at_hand_have_the_known_checksums(packs, monkeypatch):
    """Of every array: `write` of each data file accepts what is stored, and nothing else."""
    prepared = "metajax.data.prepare."
    whole = {}

    def give(name):
        return lambda *_: whole[name]

    for name, module, function, data_file in (
        ("omniglot.npz", "omniglot", "omniglot_arrays", OMNIGLOT),
        ("omniglot_strokes.npz", "omniglot", "stroke_arrays", OMNIGLOT_STROKES),
        ("hanzi.npz", "hanzi", "hanzi_arrays", HANZI),
        ("grocery.npz", "grocery", "grocery_arrays", GROCERY),
    ):
        with np.load(data_file_path(data_file)) as file:
            whole[name] = dict(file.items())
        monkeypatch.setattr(f"{prepared}{module}.{function}", give(name))
        monkeypatch.setattr(f"{prepared}contents.np.savez_compressed", lambda *_, **__: None)
        if data_file is GROCERY:
            monkeypatch.setattr(f"{prepared}grocery.unpack_archive", lambda *_: {})
            monkeypatch.setattr(f"{prepared}grocery.used_files", lambda files: files)
            monkeypatch.setattr(f"{prepared}grocery.check_contents", lambda *_: None)
        data_file.write([RAW], io.BytesIO())
        last = list(whole[name])[-2]
        for array in ("drawer", "pinyin", "description"):
            if array in whole[name]:
                last = array
        whole[name][last] = whole[name][last][::-1]
        with pytest.raises(ValueError, match=rf"The array '{last}' has the checksum"):
            data_file.write([RAW], io.BytesIO())


def test_checksums_do_not_depend_on_the_order_of_bytes():
    array = np.arange(6, dtype=np.int32).reshape(2, 3)
    known = hashlib.sha256(array.astype("<i4").tobytes()).hexdigest()
    assert array_checksum(array) == known
    assert array_checksum(array.astype(">i4")) == known
    assert array_checksum(np.asfortranarray(array)) == known
    text = hashlib.sha256("é\nb".encode()).hexdigest()
    assert array_checksum(np.array(["é", "b"])) == text
    with pytest.raises(ValueError, match=r"The array 'x' has the checksum .* instead of 12ab"):
        write_arrays({"x": array}, {"x": "12ab"}, io.BytesIO())


def test_checksums_of_contents():
    lines = "".join(
        f"{name}\0{hashlib.sha256(content).hexdigest()}\n"
        for name, content in (("a/b", b"1"), ("c", b"2"))
    )
    known = hashlib.sha256(lines.encode()).hexdigest()
    check_contents({"c": b"2", "a/b": b"1"}, known)
    for other in ({"c": b"2", "a/d": b"1"}, {"c": b"2", "a/b": b"3"}, {"c": b"2"}):
        with pytest.raises(ValueError, match=f"have the checksum .* instead of {known}"):
            check_contents(other, known)


@pytest.mark.parametrize("end", [0, 5, 100, 2000])
def test_a_damaged_archive_is_refused(end, tmp_path):
    path = write_archive(tmp_path / "some.tar.gz", {"a": np.random.default_rng(0).bytes(5000)})
    assert list(unpack_archive(path, lambda name: True)) == ["a"]
    assert unpack_archive(path, lambda name: name == "b") == {}
    path.write_bytes(path.read_bytes()[:end])
    with pytest.raises(ValueError, match=r"some\.tar\.gz is damaged"):
        unpack_archive(path, lambda name: True)


def test_an_archive_without_a_photograph_is_refused(tmp_path):
    with tarfile.open(RAW / "grocery.tar.gz") as archive:
        files = {
            member.name.partition("/")[2]: archive.extractfile(member).read()
            for member in archive
            if "13" not in member.name and "Honeydew-Melon_001" not in member.name
        }
    raw = write_archive(tmp_path / "raw.tar.gz", files)
    with pytest.raises(ValueError, match=r"raw\.tar\.gz lacks the file 'test/Melon/Honeydew"):
        GROCERY.write([raw], io.BytesIO())
    with pytest.raises(ValueError, match=r"The 19 files that .* have the checksum"):
        GROCERY.write([RAW / "grocery.tar.gz"], io.BytesIO())


@pytest.mark.parametrize(
    "data_file", [CLINC150, FSDD, GROCERY, HANZI, MNIST, OMNIGLOT, OMNIGLOT_STROKES]
)
def test_each_data_file_has_a_pinned_origin_and_a_credit(data_file):
    assert "Cite " in data_file.credit and data_file.origins
    for origin in data_file.origins:
        assert re.search(r"/[0-9a-f]{40}[/.]|cvdf-datasets/mnist/train-", origin.url)
        archive = origin.url.endswith(".tar.gz")
        assert archive == (origin.sha256 is None), "its content has a checksum, see `write`"
        assert archive or re.fullmatch("[0-9a-f]{64}", origin.sha256)
    page = (RAW.parents[1] / "docs" / "data.md").read_text()
    assert data_file.credit.rpartition(" ")[2].rstrip(".") in page
