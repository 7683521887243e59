"""Files of the data folder: errors that say what to do, and, once, the real files read whole."""

import numpy as np
import pytest

from metajax.data.graphs import composition_graph
from metajax.data.read.data_files import data_file_path, read_data_file
from metajax.data.read.downloads import DataFile
from metajax.data.sets.characters import hanzi, hanzi_characters, hanzi_pictures
from metajax.data.sets.digits import paired_digits, spoken_digits
from metajax.data.sets.grocery import groceries, grocery_descriptions
from metajax.data.sets.handwriting import omniglot, omniglot_strokes
from metajax.data.sets.intents import clinc150, clinc150_texts

SOME = DataFile("some.npz", (), lambda paths, file: None)


def test_arrays_are_read_by_name(tmp_path, monkeypatch):
    monkeypatch.setenv("METAJAX_DATA", str(tmp_path))
    np.savez(tmp_path / "some.npz", a=np.arange(3), b=np.ones(2))
    read = read_data_file(SOME, ("a",))
    assert list(read) == ["a"] and read["a"].tolist() == [0, 1, 2]
    assert data_file_path(SOME) == tmp_path / "some.npz"


def test_damaged_files(tmp_path, monkeypatch):
    monkeypatch.setenv("METAJAX_DATA", str(tmp_path))
    path = tmp_path / "some.npz"
    np.savez(path, a=np.arange(3))
    with pytest.raises(ValueError, match=r"is damaged .*must have the arrays \('b',\)"):
        read_data_file(SOME, ("b",))
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"some\.npz is damaged"):
        read_data_file(SOME, ("a",))


def test_the_data_files_are_read_whole(packs):
    letters = omniglot()
    assert letters.classes == 1623 and (letters.count == 20).all() and letters.scale == 255
    strokes = omniglot_strokes(points=64)
    assert strokes.classes == 242 and (strokes.count == 20).all()
    alphabets = {name.partition("/")[0] for name in strokes.names}
    assert alphabets >= {"Sanskrit", "Tagalog", "Balinese"}
    points = np.asarray(strokes.x.value["stroke"], np.float64)
    assert 2.5 < points[:, :, 3].sum(axis=1).mean() < 4, "strokes of a character"
    image = np.asarray(strokes.x.value["image"])[..., 0]
    rows, columns = np.mgrid[:28, :28]
    for axis, places in ((0, columns), (1, rows)):  # image and trajectory are of the same drawing
        centre = (image * places).sum((1, 2)) / image.sum((1, 2))
        middle = np.where(image > 99, places, 14).mean((1, 2))
        assert np.corrcoef(centre - middle, points[:, :, axis].mean(axis=1))[0, 1] > 0.3

    assert spoken_digits().x.shape == (2000, 6000)
    assert paired_digits(pairs=200).smallest == 200

    photographs = groceries(size=8)
    assert photographs.classes == 81 and len(photographs.y) == 5421
    assert photographs.info["iconic"].shape[0] == 81
    descriptions = grocery_descriptions()
    assert set(descriptions) == set(photographs.names) and all(descriptions.values())

    characters = hanzi(points=33)
    assert characters.classes == 94 and characters.smallest >= 20
    table = hanzi_characters()
    assert len(table["character"]) == len(hanzi_pictures()) == 9574
    answers = {(whole, table["radical"][whole]) for whole in range(9574)}
    names, edges = composition_graph(table["character"], table["decomposition"])
    assert len(answers & {(whole, names[part]) for whole, part in edges}) > 8000
    names, edges = composition_graph(
        table["character"], table["decomposition"], without=table["radical"]
    )
    assert not answers & {(whole, names[part]) for whole, part in edges}
    assert len(edges) > 5000

    assert clinc150("train").smallest == 100
    assert clinc150_texts("test")[1].count("meta/yes") == 30
    assert set(clinc150_texts("oos_test")[1]) == {"oos"}
