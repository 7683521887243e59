"""Splits of classes in files."""

import json

import pytest

from metajax.data.split_files import load_split, save_split
from metajax.data.splits import Split, draw_split

NAMES = [f"alphabet{number % 5}/character{number}" for number in range(23)]


def test_a_split_is_written_and_read(tmp_path):
    split = draw_split([*NAMES, "日本語/あ"], {"train": 20, "test": 4})
    save_split(split, tmp_path / "split.json")
    assert load_split(tmp_path / "split.json") == split
    stored = json.loads((tmp_path / "split.json").read_text(encoding="utf-8"))
    assert stored["digest"] == split.digest
    stored["parts"]["test"].pop()
    (tmp_path / "changed.json").write_text(json.dumps(stored))
    with pytest.raises(ValueError, match=rf"digest [0-9a-f]{{12}}, not {split.digest} as saved"):
        load_split(tmp_path / "changed.json")
    for text in ("{", "[]", "{}", '{"name": "x", "digest": "", "parts": []}'):
        (tmp_path / "broken.json").write_text(text)
        with pytest.raises(ValueError, match="is not a split of classes"):
            load_split(tmp_path / "broken.json")
    with pytest.raises(FileNotFoundError):
        load_split(tmp_path / "none.json")


@pytest.mark.parametrize(("old", "new"), [("mine", "mind"), ("dropped", "droppee"), ('"c"', '"d"')])
def test_a_changed_name_or_dropped_class_is_refused(tmp_path, old, new):
    split = Split("mine", {"train": ("a",), "test": ("b",)}, dropped=("c",))
    path = tmp_path / "split.json"
    save_split(split, path)
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ValueError, match="one of which is not as saved"):
        load_split(path)


def test_dropped_classes_are_saved(tmp_path):
    split = Split("mine", {"train": ("a",), "test": ("b",)}, dropped=("a", "c"))
    save_split(split, tmp_path / "split.json")
    assert load_split(tmp_path / "split.json") == split
