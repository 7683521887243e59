"""Files that keep what was made from fonts."""

import matplotlib
import numpy as np

from metajax.data.sets.caches import UNREADABLE, cache_path, write_cache


def test_a_file_is_named_by_what_it_depends_on_and_written_in_one_step(tmp_path):
    path = cache_path("kind-1", "seed3", tmp_path / "new")
    assert path == tmp_path / "new" / f"kind-1-matplotlib{matplotlib.__version__}-seed3.npz"
    write_cache(path, x=np.arange(3))
    write_cache(path, x=np.arange(4))
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    with np.load(path) as stored:
        assert stored["x"].tolist() == [0, 1, 2, 3]
    assert OSError in UNREADABLE and ValueError in UNREADABLE
