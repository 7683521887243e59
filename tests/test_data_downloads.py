"""Data files are found, downloaded and prepared; a server on this machine is the network."""

import functools
import gzip
import hashlib
import http.server
import os
import pathlib
import subprocess
import sys
import threading

import numpy as np
import pooch
import pytest
import requests

from metajax.data.datasets import select
from metajax.data.descriptions import describe
from metajax.data.read.data_files import data_file_path, read_data_file
from metajax.data.read.downloads import DataFile, Origin, cache_folder, prepare_data_file
from metajax.data.sets import digits
from metajax.data.sets.digits import written_digits

CONTENT = b"three bytes and more"


class Server(http.server.ThreadingHTTPServer):
    """Serves the files of a folder and remembers what was asked for."""

    def __init__(self, folder):
        self.asked = []
        super().__init__(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/"


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        self.server.asked.append(self.path.strip("/"))


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "origin"
    folder.mkdir()
    (folder / "raw").write_bytes(CONTENT)
    with Server(folder) as running:
        running.folder = folder
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder of the user, and no METAJAX_DATA."""
    monkeypatch.delenv("METAJAX_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "metajax"


def write_lengths(paths, file):
    np.savez(file, length=[len(path.read_bytes()) for path in paths])


def data_file(url, sha256=None, write=write_lengths):
    return DataFile("some.npz", (Origin("some-raw", f"{url}raw", sha256),), write)


def checksum(content):
    return hashlib.sha256(content).hexdigest()


def test_the_cache_folder_is_that_of_pooch(cache):
    assert cache_folder() == cache == pathlib.Path(pooch.os_cache("metajax"))


def test_a_file_is_taken_from_the_folder_the_cache_or_the_network(
    server, cache, tmp_path, monkeypatch
):
    wanted = data_file(server.url, checksum(CONTENT))
    assert read_data_file(wanted, ("length",))["length"].tolist() == [len(CONTENT)]
    assert server.asked == ["raw"]
    assert data_file_path(wanted) == cache / "some.npz"
    assert server.asked == ["raw"], "the cache has it"
    assert (cache / "downloads" / "some-raw").read_bytes() == CONTENT
    names = {path.name for path in cache.iterdir()}
    assert names - {".some.npz.lock"} == {"downloads", "some.npz"}, "no part of a file is left"

    mine = tmp_path / "mine"
    mine.mkdir()
    monkeypatch.setenv("METAJAX_DATA", str(mine))
    assert data_file_path(wanted) == cache / "some.npz"
    np.savez(mine / "some.npz", length=[1])
    assert read_data_file(wanted, ("length",))["length"].tolist() == [1]
    monkeypatch.setenv("METAJAX_DATA", str(mine / "nowhere"))
    with pytest.raises(
        FileNotFoundError, match=r"METAJAX_DATA names .*nowhere, which is not a fol"
    ):
        data_file_path(wanted)


def test_a_download_by_hand_is_taken(cache):
    (cache / "downloads").mkdir(parents=True)
    (cache / "downloads" / "some-raw").write_bytes(CONTENT)
    wanted = data_file("http://127.0.0.1:9/", checksum(CONTENT))  # nobody listens at port 9
    assert read_data_file(wanted, ("length",))["length"].tolist() == [len(CONTENT)]


def test_offline_the_error_says_what_to_fetch_and_where_to_put_it(cache):
    wanted = data_file("http://127.0.0.1:9/", checksum(CONTENT))
    with pytest.raises(ConnectionError) as caught:
        read_data_file(wanted, ("length",))
    text = str(caught.value)
    assert f"fetch http://127.0.0.1:9/raw as {cache / 'downloads' / 'some-raw'}" in text
    assert f"copy some.npz from a machine that has it into {cache}" in text
    assert not (cache / "some.npz").exists()


def test_offline_a_named_data_set_says_so(cache, monkeypatch):
    def send(*_, **__):
        raise requests.ConnectionError("no route")

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", send)
    images, labels = digits.MNIST.origins
    message = rf"mnist\.npz is not in .* fetch {images.url} as .* and {labels.url} as .*no route"
    with pytest.raises(ConnectionError, match=message):
        written_digits()


def test_a_damaged_download_is_refused_and_not_kept(server, cache):
    wanted = data_file(server.url, checksum(CONTENT))
    (server.folder / "raw").write_bytes(CONTENT[:-1])
    message = r"What came from http.*/raw is damaged or another file .*SHA256"
    with pytest.raises(ValueError, match=message):
        data_file_path(wanted)
    assert list((cache / "downloads").iterdir()) == [] and not (cache / "some.npz").exists()
    (server.folder / "raw").write_bytes(CONTENT)
    assert read_data_file(wanted, ("length",))["length"].tolist() == [len(CONTENT)]


def test_a_download_that_was_damaged_since_is_replaced(server, cache):
    (cache / "downloads").mkdir(parents=True)
    (cache / "downloads" / "some-raw").write_bytes(CONTENT + b"!")
    wanted = data_file(server.url, checksum(CONTENT))
    assert read_data_file(wanted, ("length",))["length"].tolist() == [len(CONTENT)]


@pytest.mark.parametrize("sha256", [None, checksum(CONTENT)])
def test_what_is_not_made_right_is_not_kept(sha256, server, cache):
    """An archive without a checksum is fetched anew; a file that is right is not."""

    def write(paths, file):
        file.write(b"a part")
        raise ValueError("The array 'x' has the checksum 1 instead of 2")

    message = r"some\.npz could not be made of \['some-raw'\]: The array 'x' has the checksum"
    for _ in range(2):
        with pytest.raises(ValueError, match=message):
            data_file_path(data_file(server.url, sha256, write))
    assert len(server.asked) == (2 if sha256 is None else 1)
    assert not list(cache.glob("*some.npz")) and not list(cache.glob("*.partial"))
    read_data_file(data_file(server.url, sha256), ("length",))


def test_a_server_error_is_no_file(server, cache):
    (server.folder / "raw").unlink()
    with pytest.raises(ConnectionError, match=r"By hand, fetch .*/raw .*404"):
        data_file_path(data_file(server.url))
    assert list((cache / "downloads").iterdir()) == []


def test_a_damaged_file_in_the_cache_is_made_again_after_it_is_removed(server, cache):
    wanted = data_file(server.url, checksum(CONTENT))
    path = data_file_path(wanted)
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(ValueError, match=r"some\.npz is damaged .*Remove it, and it is made again"):
        read_data_file(wanted, ("length",))
    path.unlink()
    assert read_data_file(wanted, ("length",))["length"].tolist() == [len(CONTENT)]


def test_a_cache_that_cannot_be_written(server, cache):
    cache.parent.mkdir()
    cache.write_text("a file in the place of the folder")
    with pytest.raises(OSError, match=r"metajax cannot be written .*let METAJAX_DATA name"):
        data_file_path(data_file(server.url))


def test_packages_that_are_missing_are_named(server, cache, monkeypatch):
    for package in ("pooch", "filelock", "platformdirs"):
        with monkeypatch.context() as patched:
            patched.setitem(sys.modules, package, None)
            with pytest.raises(ImportError, match=rf"{package}: pip install 'metajax\[data\]'"):
                data_file_path(data_file(server.url))


ASK = """
import pathlib, sys, time
import numpy as np
from metajax.data.read.data_files import data_file_path
from metajax.data.read.downloads import DataFile, Origin

url, log = sys.argv[1:]

def write(paths, file):
    with open(log, "a") as lines:
        lines.write("made\\n")
    time.sleep(1)
    np.savez(file, x=paths[0].read_bytes())

path = data_file_path(DataFile("some.npz", (Origin("some-raw", url + "raw"),), write))
print(np.load(path)["x"].item())
"""


def test_two_processes_at_once_prepare_it_once(server, cache, tmp_path):
    log = tmp_path / "log"
    command = [sys.executable, "-c", ASK, server.url, str(log)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [process.communicate(timeout=200)[0].strip() for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert answers == [str(CONTENT)] * 2
    assert log.read_text() == "made\n" and server.asked == ["raw"]


def test_a_file_that_another_process_has_made_is_taken(cache):
    cache.mkdir(parents=True)
    np.savez(cache / "some.npz", length=[5])
    assert prepare_data_file(data_file("http://127.0.0.1:9/"), cache) == cache / "some.npz"


def test_a_named_data_set_is_downloaded_and_prepared(server, cache, monkeypatch):
    """MNIST, with zeros for pictures: all but its checksums."""
    label = (np.arange(10000) % 10).astype(np.uint8)
    images = bytes(16) + np.repeat(label, 784).tobytes()
    for name, content in (("images", images), ("labels", bytes(8) + label.tobytes())):
        (server.folder / name).write_bytes(gzip.compress(content, 1))
    origins = [Origin(name, server.url + name) for name in ("images", "labels")]
    monkeypatch.setattr(digits, "MNIST", digits.MNIST._replace(origins=tuple(origins)))
    with pytest.raises(ValueError, match=r"mnist\.npz could not be made .*The array 'image' has"):
        written_digits()
    monkeypatch.setattr(
        "metajax.data.prepare.digits.write_arrays",
        lambda arrays, expected, file: np.savez_compressed(file, **arrays),
    )
    source = written_digits()
    assert source.count.tolist() == [1000] * 10
    np.testing.assert_array_equal(source.x[:, 0, 0, 0], source.y)
    assert os.listdir(cache / "downloads")
    server.shutdown()
    assert "training digits" in str(describe(source)) and "LeCun" in describe(source).credit
    assert select(source, lambda name: name == "two").credit == source.credit
    again = written_digits()
    np.testing.assert_array_equal(again.x, source.x)
