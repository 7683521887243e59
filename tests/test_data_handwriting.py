"""Omniglot's readers, on small files made here."""

import numpy as np
import pytest

from metajax.data.sets.handwriting import omniglot, omniglot_strokes


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a data file."""
    monkeypatch.setenv("METAJAX_DATA", str(tmp_path))
    return lambda name, **arrays: np.savez(tmp_path / name, **arrays)


def test_omniglot(write):
    image = np.zeros((3, 28, 28), np.uint8)
    image[1] = 255
    names = ["images_background/A/1", "images_evaluation/B/1"]
    write("omniglot.npz", image=image, label=[1, 0, 1], names=names)
    source = omniglot()
    assert source.names == tuple(names) and source.scale == 255
    assert source.x.shape == (3, 28, 28, 1) and source.x[:, 0, 0, 0].tolist() == [255, 0, 0]


def test_strokes_start_where_the_file_marks_it(write):
    # A stroke of 10 pixels; a jump of 60 within a second, not marked, is a stroke, too; a mark at
    # the end of the clock.
    points = [
        [0, 0, 0, 1],
        [160, 0, 12, 0],
        [160, 960, 512, 1],
        [1120, 960, 1524, 0],
        [1120, 1040, 65535, 0],
        [0, 1040, 65535, 1],
        [5, 1040, 65535, 0],
    ]
    write(
        "omniglot_strokes.npz",
        image=np.zeros((1, 28, 28), np.uint8),
        stroke=np.array(points, np.uint16),
        offset=[0, 7],
        label=[0],
        names=["A/1"],
    )
    source = omniglot_strokes(points=50)
    assert dict(source.scale) == {"image": 255}
    assert source.x.present["image"].all() and source.x.present["stroke"].all()
    stroke = np.asarray(source.x.value["stroke"])[0]
    starts = stroke[stroke[:, 3] == 1][:, :2] * 560 + [560, 520]
    np.testing.assert_allclose(starts, [[0, 0], [160, 960], [0, 1040]], atol=0.1)
