"""Files that keep what was made from fonts."""

import errno

import jax
import matplotlib
import numpy as np
import pytest

import metajax as mj
from metajax.data.sets.caches import UNREADABLE, cache_path, write_cache
from metajax.data.whole_files import open_whole


def test_a_file_is_named_by_what_it_depends_on_and_written_in_one_step(tmp_path):
    path = cache_path("kind-1", "seed3", tmp_path / "new")
    assert path == tmp_path / "new" / f"kind-1-matplotlib{matplotlib.__version__}-seed3.npz"
    write_cache(path, x=np.arange(3))
    write_cache(path, x=np.arange(4))
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    with np.load(path) as stored:
        assert stored["x"].tolist() == [0, 1, 2, 3]
    assert OSError in UNREADABLE and ValueError in UNREADABLE


@pytest.fixture
def full_disk(monkeypatch):
    """Every write of arrays ends after some bytes, as on a full disk."""

    def write(file, **arrays):
        file.write(b"some bytes")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", write)


def test_where_nothing_can_be_written_the_call_goes_on_and_warns(tmp_path, full_disk):
    place = tmp_path / "cache"
    with pytest.warns(UserWarning, match=r"cache cannot be written \(No space left on device\)"):
        write_cache(place / "some.npz", x=np.arange(3))
    assert list(place.iterdir()) == []
    place.rmdir()
    place.write_text("a file in the place of the folder")
    with pytest.warns(UserWarning, match=r"cannot be written \(File exists\).*cache="):
        write_cache(place / "some.npz", x=np.arange(3))


def test_a_write_that_fails_leaves_what_was_there(tmp_path, full_disk):
    with pytest.raises(OSError, match="No space left"):
        mj.data.save_tasks(
            tmp_path / "tasks.npz", mj.data.sinusoids(2, 2), (), jax.random.key(0), tasks=3
        )
    assert list(tmp_path.iterdir()) == []
    path = tmp_path / "split.json"
    path.write_text("what was there")
    with pytest.raises(OSError, match="No space left"), open_whole(path) as file:
        np.savez_compressed(file)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["what was there"]
