"""Files that anyone may have made: pipes, links, paths that lead out, huge and damaged ones."""

import json
import os
import pathlib
import zipfile

import jax
import numpy as np
import pytest
from PIL import Image

import metajax as mj
from metajax.data.read.data_files import read_data_file
from metajax.data.read.downloads import DataFile

KEY = jax.random.key(0)


def data_file(name):
    return DataFile(name, (), lambda paths, file: None)


def write_image(path, size=(8, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "red").save(path)


def folder_of_two(root):
    for name in ("cat", "dog"):
        write_image(root / name / "1.png")
    return root


def test_a_pipe_does_not_hang(tmp_path):
    root = folder_of_two(tmp_path / "pets")
    os.mkfifo(root / "cat" / "2.png")
    with pytest.raises(ValueError, match=r"2\.png cannot be read .*not a regular file"):
        mj.data.image_folder(root, size=8)
    lost = []
    assert len(mj.data.image_folder(root, size=8, broken=lost.append).y) == 2
    assert [path.name for path in lost] == ["2.png"]


def test_class_folders_may_be_links_but_not_circles(tmp_path):
    write_image(tmp_path / "elsewhere" / "1.png")
    root = folder_of_two(tmp_path / "pets")
    (root / "emu").symlink_to(tmp_path / "elsewhere")
    assert mj.data.image_folder(root, size=8).names == ("cat", "dog", "emu")
    (root / "cat" / "again").symlink_to(root)
    with pytest.raises(ValueError, match="is a link to a folder that it is in"):
        mj.data.image_folder(root, size=8)


@pytest.mark.parametrize("make", [lambda path: f"../{path.name}", os.fspath])
def test_a_table_does_not_lead_out_of_its_folder(make, tmp_path):
    write_image(tmp_path / "secret.png")
    file = tmp_path / "table" / "table.csv"
    file.parent.mkdir()
    file.write_text(f"kind,picture\ncat,{make(tmp_path / 'secret.png')}\n")
    with pytest.raises(ValueError, match=r"outside the folder of the table.*anywhere=True"):
        mj.data.table(file, label="kind", images=["picture"], size=8)
    source = mj.data.table(file, label="kind", images=["picture"], size=8, anywhere=True)
    assert source.x.shape == (1, 8, 8, 3)


def test_a_huge_picture_in_a_small_file_is_refused(tmp_path):
    root = folder_of_two(tmp_path / "pets")
    Image.new("1", (12_000, 12_000)).save(root / "cat" / "huge.png")
    assert (root / "cat" / "huge.png").stat().st_size < 200_000
    with pytest.raises(ValueError, match=r"12000 x 12000 pixels, and most_pixels is 64000000"):
        mj.data.image_folder(root, size=8)
    with pytest.raises(ValueError, match=r"8 x 8 pixels, and most_pixels is 63"):
        mj.data.image_folder(folder_of_two(tmp_path / "small"), size=8, most_pixels=63)


def test_a_huge_archive_in_a_small_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("METAJAX_DATA", os.fspath(tmp_path))
    np.savez_compressed(tmp_path / "big.npz", zeros=np.zeros(10_000_000, np.uint8))
    assert (tmp_path / "big.npz").stat().st_size < 100_000
    with pytest.raises(ValueError, match=r"unpacks to 1000.* and most_bytes is 1000000"):
        read_data_file(data_file("big.npz"), ("zeros",), most_bytes=1_000_000)
    assert read_data_file(data_file("big.npz"), ("zeros",))["zeros"].size == 10_000_000
    with pytest.raises(ValueError, match="and most_bytes is 1000"):
        mj.data.load_tasks(tmp_path / "big.npz", (), most_bytes=1000)


def test_every_flipped_byte_of_a_data_file_is_right_or_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("METAJAX_DATA", os.fspath(tmp_path))
    path = tmp_path / "some.npz"
    values = {"a": np.arange(40), "b": np.array(["text", "more"])}
    np.savez_compressed(path, **values)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for place in range(len(whole)):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << rng.integers(8)
        path.write_bytes(flipped)
        try:
            found = read_data_file(data_file("some.npz"), ("a", "b"))
        except ValueError as error:
            refused += "is damaged" in str(error)
            continue
        for name, value in values.items():
            np.testing.assert_array_equal(found[name], value)
    assert refused > len(whole) / 2


def crafted(path, change):
    """Rewrites a file of tasks with other arrays."""
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in stored.files}
    change(arrays)
    about = json.loads(str(arrays.pop("about")))
    about["arrays"] = sorted(arrays)
    with path.open("wb") as file:
        np.savez_compressed(file, about=np.array(json.dumps(about)), **arrays)


def setter(name, value):
    def change(arrays):
        arrays[name] = np.full_like(arrays[name], value)

    return change


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (setter("support.row", 999), r"support\.row must be from -1 to 11, got 999"),
        (setter("query.row", -2), r"query\.row must be from -1 to 11, got -2"),
        (setter("query.y", 7), r"query\.y must be from -1 to 2, got 7"),
        (setter("support.y", -2), r"support\.y must be from -1 to 2, got -2"),
        (lambda arrays: arrays.pop("query.row"), "one row for each example"),
        (
            lambda arrays: arrays.update({"query.row": arrays["query.row"][:, :1]}),
            "one row for each example",
        ),
    ],
)
def test_tasks_out_of_range_are_refused(change, error, tmp_path):
    source = mj.data.dataset(np.arange(12.0)[:, None], np.repeat(np.arange(3), 4))
    path = tmp_path / "tasks.npz"
    mj.data.save_tasks(path, mj.data.episodes(2, 1, 2), source, KEY, tasks=5)
    mj.data.load_tasks(path, source)
    crafted(path, change)
    with pytest.raises(ValueError, match=error):
        mj.data.load_tasks(path, source)


def test_an_encrypted_member_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("METAJAX_DATA", os.fspath(tmp_path))
    path = pathlib.Path(tmp_path / "some.npz")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", b"nothing")
    data = bytearray(path.read_bytes())
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="is damaged"):
        read_data_file(data_file("some.npz"), ("a",))
