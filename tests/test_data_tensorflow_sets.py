"""Real builders of TensorFlow Datasets, prepared from files at hand; nothing uses a network."""

import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import unicodedata

import jax
import numpy as np
import pytest
from PIL import Image

from metajax import data
from metajax.data.read.pictures import square
from metajax.data.read.tensorflow_sets import tfds, tfds_rows
from metajax.data.sets import glyph_fonts

tensorflow_datasets = pytest.importorskip("tensorflow_datasets")
core, features = tensorflow_datasets.core, tensorflow_datasets.features
ALPHABETS = ("Greek", "Korean", "Latin")


class Letters(core.GeneratorBasedBuilder):
    """With the features of the catalogue's Omniglot."""

    VERSION = core.Version("1.0.0")

    def _info(self):
        label = [f"{alphabet}_{number}" for alphabet in ALPHABETS for number in range(4)]
        kinds = {
            "image": features.Image(shape=(20, 20, 3), encoding_format="png"),
            "alphabet": features.ClassLabel(names=ALPHABETS),
            "alphabet_char_id": np.int64,
            "label": features.ClassLabel(names=label),
        }
        return core.DatasetInfo(builder=self, features=features.FeaturesDict(kinds))

    def _split_generators(self, dl_manager):
        return {
            "train": self._generate_examples(range(8)),
            "test": self._generate_examples(range(8, 12)),
        }

    def _generate_examples(self, labels):
        for label in labels:
            for drawer in range(3):
                yield (
                    10 * label + drawer,
                    {
                        "image": Image.fromarray(picture(label, drawer)),
                        "alphabet": label // 4,
                        "alphabet_char_id": label % 4,
                        "label": label,
                    },
                )


class Scenes(core.GeneratorBasedBuilder):
    """Several modalities, features inside features, and lengths that differ."""

    VERSION = core.Version("1.0.0")

    def _info(self):
        mark = {"kind": np.int64, "place": features.Tensor(shape=(2,), dtype=np.float32)}
        kinds = {
            "photo": {"image": features.Image(encoding_format="png"), "place": features.Text()},
            "film": features.Video(shape=(2, 4, 4, 3)),
            "sound": features.Audio(sample_rate=8000),
            "words": features.Sequence(np.int64),
            "caption": features.Text(),
            "marks": features.Sequence(mark),
        }
        return core.DatasetInfo(builder=self, features=features.FeaturesDict(kinds))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for number in range(6):
            image = np.full((8 + number, 9, 3), 10 * number, np.uint8)
            mark = {"kind": number, "place": np.full(2, number, np.float32)}
            yield (
                number,
                {
                    "photo": {
                        "image": Image.fromarray(image),
                        "place": "north" if number % 2 else "south",
                    },
                    "film": np.full((2, 4, 4, 3), number, np.uint8),
                    "sound": np.arange(number + 2, dtype=np.int64) - 1,
                    "words": list(range(number + 1)),
                    "caption": "a b" * number,
                    "marks": [mark] * 3,
                },
            )


class Alphabets(core.GeneratorBasedBuilder):
    """A few-shot data set, `source`, with the features of Omniglot, in the same order."""

    VERSION = core.Version("1.0.0")
    source = None

    def _info(self):
        groups = dict.fromkeys(data.group_of(name) for name in self.source.names)
        kinds = {
            "image": features.Image(shape=self.source.x.shape[1:], encoding_format="png"),
            "alphabet": features.ClassLabel(names=list(groups)),
            "label": features.ClassLabel(names=list(self.source.names)),
        }
        return core.DatasetInfo(
            builder=self, features=features.FeaturesDict(kinds), disable_shuffling=True
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        rows = zip(np.asarray(self.source.x), self.source.y.tolist(), strict=True)
        for row, (image, label) in enumerate(rows):
            name = self.source.names[label]
            yield row, {"image": image, "alphabet": data.group_of(name), "label": name}


def picture(label, drawer):
    return np.full((20, 20, 3), 20 * label + drawer, np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with letters and scenes, prepared as array_record."""
    folder = tmp_path_factory.mktemp("prepared")
    for builder in (Letters, Scenes):
        builder(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


@pytest.fixture(scope="module")
def tfrecord_folder(tmp_path_factory):
    """A folder with letters, prepared as tfrecord."""
    folder = tmp_path_factory.mktemp("tfrecord")
    Letters(data_dir=folder, file_format="tfrecord").download_and_prepare()
    return folder


def test_a_catalogue_name_becomes_a_data_set(folder):
    letters = tfds("letters", data_dir=folder, label=("alphabet", "label"))
    assert letters.names[:2] == ("Greek/Greek_0", "Greek/Greek_1")
    assert letters.classes == 8
    assert letters.x.shape == (24, 20, 20, 3)
    assert letters.x.dtype == np.uint8
    assert letters.scale == 255
    drawer = np.asarray(letters.x)[:, 0, 0, 0] - 20 * np.asarray(letters.y)
    assert set(drawer.tolist()) == {0, 1, 2}
    assert tfds("letters", split="train+test", data_dir=folder).classes == 12
    half = tfds("letters", split="train[:50%]", data_dir=folder, label="alphabet")
    assert half.names == ALPHABETS[:2]
    by_folder = tfds(folder / "letters" / "1.0.0", download=False, label="alphabet_char_id")
    assert by_folder.names == ("0", "1", "2", "3")
    by_builder = tfds(Letters(data_dir=folder, file_format="array_record"))
    assert by_builder.names == tuple(f"{a}_{n}" for a in ALPHABETS[:2] for n in range(4))


def test_features_become_modalities(folder):
    scenes = tfds(
        "scenes",
        data_dir=folder,
        features={"image": "photo/image", "film": "film", "sound": "sound", "words": "words"},
        label="photo/place",
        prepare={"image": square(4)},
    )
    assert scenes.names == ("north", "south")
    assert dict(scenes.scale) == {"image": 255, "film": 255, "sound": 32768}
    value = jax.device_get(scenes.x.value)
    assert value["image"].shape == (6, 4, 4, 3) and value["film"].shape == (6, 2, 4, 4, 3)
    assert value["sound"].value.dtype == np.int16
    assert value["sound"].value.shape == (6, 7, 1)
    for row in range(6):
        number = int(value["image"][row, 0, 0, 0]) // 10
        assert (number % 2 == 0) == bool(scenes.y[row])
        assert (value["film"][row] == number).all()
        assert value["sound"].length[row] == number + 2
        sound = value["sound"].value[row, : number + 2, 0]
        np.testing.assert_array_equal(sound, np.arange(number + 2) - 1)
        words = value["words"].value[row, : number + 1, 0]
        np.testing.assert_array_equal(words, np.arange(number + 1))
    count = tfds(
        "scenes",
        data_dir=folder,
        features="caption",
        label="photo/place",
        prepare=lambda text: [len(text)],
    )
    assert sorted(np.asarray(count.x)[:, 0].tolist()) == [0, 3, 6, 9, 12, 15]
    assert count.scale is None


def test_what_the_users_function_makes_floats_of_is_not_scaled(folder):
    prepare = lambda image: image[:2, :2].astype(np.float32)
    assert tfds("letters", data_dir=folder, prepare=prepare).scale is None


def test_rows_are_read_when_asked_for(folder):
    rows, fetch = tfds_rows("letters", data_dir=folder)
    whole = tfds("letters", data_dir=folder)
    np.testing.assert_array_equal(fetch(rows.x), whole.x)
    assert rows.names == whole.names
    assert rows.scale is None, "x are row numbers; stream(scale=255) scales what is read"
    assert fetch(np.asarray(rows.x).reshape(4, 6)).shape == (4, 6, 20, 20, 3)
    rows, fetch = tfds_rows(
        "scenes",
        data_dir=folder,
        features={"image": "photo/image", "sound": "photo/place"},
        label="photo/place",
        prepare={"image": square(4), "sound": lambda text: [len(text)]},
    )
    both = fetch(np.asarray(rows.x)[:2])
    assert both.value["image"].shape == (2, 4, 4, 3)
    assert both.present["sound"].tolist() == [True, True]


def test_what_is_read_is_the_data_set_it_was_prepared_from(tmp_path, monkeypatch):
    """In every array, name and scale, so that tasks and training are the same."""
    is_letter = glyph_fonts.is_letter
    is_greek = lambda character: "GREEK" in unicodedata.name(character, "")
    monkeypatch.setattr(glyph_fonts, "is_letter", lambda c: is_greek(c) and is_letter(c))
    source = data.glyphs(cache=tmp_path)
    Alphabets.source = source
    Alphabets(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    read = tfds("alphabets", data_dir=tmp_path)
    assert read.names == source.names and read.scale == source.scale == 255
    jax.tree.map(np.testing.assert_array_equal, read, source)
    draw = jax.jit(data.episodes(5, 1, 4))
    tasks = [draw(one, jax.random.key(0)) for one in (read, source)]
    jax.tree.map(np.testing.assert_array_equal, *tasks)
    assert tasks[0].support.x.dtype == np.float32 and 0.9 < tasks[0].support.x.max() <= 1


def test_tfrecord_is_read_by_tensorflow(folder, tfrecord_folder):
    read = tfds("letters", data_dir=tfrecord_folder)
    expected = tfds("letters", data_dir=folder)
    assert read.names == expected.names and read.scale == 255
    np.testing.assert_array_equal(np.sort(read.x[:, 0, 0, 0]), np.sort(expected.x[:, 0, 0, 0]))
    with pytest.raises(ValueError, match=r"no random access; tfds convert_format"):
        tfds_rows("letters", data_dir=tfrecord_folder)


def test_a_folder_of_images_is_read_as_it_is(tmp_path):
    for label, kind in enumerate(("cat", "dog")):
        (tmp_path / "train" / kind).mkdir(parents=True)
        Image.fromarray(picture(label, 0)).save(tmp_path / "train" / kind / "one.png")
    kinds = tfds(tensorflow_datasets.ImageFolder(tmp_path))
    assert kinds.names == ("cat", "dog")
    assert np.asarray(kinds.x)[:, 0, 0, 0].tolist() == [0, 20]
    with pytest.raises(ValueError, match=r"no split 'test'.*it has train"):
        tfds(tensorflow_datasets.ImageFolder(tmp_path), split="test")


BLOCKED = """
from importlib.machinery import PathFinder
found = PathFinder.find_spec
PathFinder.find_spec = lambda name, *rest: None if name == {0!r} else found(name, *rest)
from metajax import data
"""


@pytest.mark.parametrize(
    ("missing", "code", "message"),
    [
        ("tensorflow_datasets", "data.tfds('mnist')", r"pip install 'metajax\[data\]'"),
        ("tensorflow", "data.tfds('speech_commands', data_dir={!r})", "pip install tensorflow-cpu"),
        (
            "grain",
            "import jax, numpy as n; rows = data.dataset(n.arange(1), n.zeros(1, int));"
            "feed = data.stream(data.meta_batch(data.batches(1), 1), rows, print);"
            "data.tasks_of(feed, jax.random.key(0))",
            r"pip install 'metajax\[data\]'",
        ),
    ],
)
def test_what_is_not_installed_is_named(missing, code, message, tmp_path):
    """In a process in which it cannot be imported."""
    code = BLOCKED.format(missing) + code.format(str(tmp_path))
    here = os.path.dirname(__file__)
    done = subprocess.run([sys.executable, "-c", code], cwd=here, capture_output=True, text=True)
    assert re.search(f"^ImportError: .*{message}", done.stderr, flags=re.M), done.stderr


WRONG = {
    "split": ("letters", {"split": "valid"}, r"no split 'valid'.*train, test"),
    "feature": (
        "letters",
        {"features": "img"},
        r"no feature 'img'; it has image, alphabet, alphabet_char_id, label",
    ),
    "label": (
        "scenes",
        {"features": "photo/image", "label": "photo/label"},
        r"no feature 'photo/label'; it has photo/image, photo/place",
    ),
    "no feature": ("letters", {"features": {}}, r"features=\{\} and label=.* at least one feature"),
    "shapes": (
        "scenes",
        {"features": "photo/image", "label": "photo/place"},
        r"'photo/image' has examples of 6 shapes.*square",
    ),
    "texts": ("scenes", {"features": "caption", "label": "photo/place"}, r"'caption'.*tokenizer"),
    "a sequence as label": (
        "scenes",
        {"features": "sound", "label": "words"},
        r"A label must be one value of an example, but \['words'\]",
    ),
    "a sequence of features as label": (
        "scenes",
        {"features": "sound", "label": "marks/kind"},
        r"A label must be one value .* but \['marks/kind'\]",
    ),
    "an unknown class": (
        "letters",
        {"keep": ("Greek_1", "Greek_9")},
        r"No record of 1 classes of keep is in letters.*: \['Greek_9'\]",
    ),
    "one name": (
        "letters",
        {"keep": "Greek_1"},
        r"keep must be .* a sequence, each part a string, or None, got 'Greek_1'",
    ),
    "no class": ("letters", {"keep": lambda name: False}, "keep leaves no class of letters"),
    "one prepare for two": (
        "scenes",
        {"features": {"a": "sound", "b": "words"}, "label": "caption", "prepare": square(4)},
        "each of the modalities",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_requests_are_refused(folder, case):
    name, options, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        tfds(name, data_dir=folder, **options)


def test_errors_say_what_to_do(folder, tmp_path):
    with pytest.raises(ValueError, match=r"no data set 'omniglott'.*do you mean omniglot"):
        tfds("omniglott", data_dir=tmp_path)
    message = r"omniglot.* is not prepared in .*; data\.tfds\('omniglot"
    with pytest.raises(FileNotFoundError, match=message):
        tfds("omniglot", data_dir=tmp_path, download=False)
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"file/omniglot/? ?.*cannot be written .*data_dir="):
        tfds("omniglot", data_dir=tmp_path / "file")
    with pytest.raises(TypeError, match=r"keep fails on the class '[A-Z][a-z]+_\d' \(IndexError"):
        tfds("letters", keep=lambda name: name.split("/")[1], data_dir=folder)
    message = r"\['sound'\] of scenes.* may differ in length; give prepare="
    with pytest.raises(ValueError, match=message):
        tfds_rows("scenes", features="sound", label="photo/place", data_dir=folder)


def test_broken_records_are_left_out_on_request_only(folder, tfrecord_folder):
    def prepare(image):
        if image[0, 0, 0] == 21:
            raise OSError("no picture")
        return image[:2, :2]

    def never(image):
        raise OSError("never")

    with pytest.raises(ValueError, match=r"Record \d+ of letters.*no picture.*broken=\[\]"):
        tfds("letters", data_dir=folder, prepare=prepare)
    broken = []
    assert len(tfds("letters", data_dir=folder, prepare=prepare, broken=broken.append).y) == 23
    ((number, reason),) = broken
    assert reason == "no picture"
    rows, fetch = tfds_rows("letters", data_dir=folder, prepare=prepare)
    with pytest.raises(ValueError, match=rf"Record {number} of letters.*no picture"):
        fetch(np.arange(24))
    rows, fetch = tfds_rows("letters", data_dir=folder, prepare=prepare, broken=broken.append)
    assert broken[0] == broken[1] and len(broken) == 2
    assert number not in rows.x and len(fetch(np.asarray(rows.x))) == 23
    read = tfds("letters", data_dir=tfrecord_folder, prepare=prepare, broken=broken.append)
    assert len(read.y) == 23 and broken[2][1] == "no picture"
    message = r"No record of letters.* could be read: Record 0 of .*\(never\)"
    with pytest.raises(ValueError, match=message):
        tfds("letters", data_dir=folder, prepare=never, broken=broken.append)
    assert len(broken) == 27


def test_a_mistake_in_a_function_is_not_a_broken_record(folder):
    prepare = lambda image: square(4, no_such_argument=1)
    with pytest.raises(TypeError, match="no_such_argument"):
        tfds("letters", data_dir=folder, prepare=prepare, broken=print)


class Unlabelled(Letters):
    """Some of its records have no label, which is -1, as in the catalogue's stl10."""

    def _generate_examples(self, labels):
        for key, example in super()._generate_examples(labels):
            yield key, example | {"label": -1 if key < 5 else example["label"]}


def test_unlabelled_records_are_refused(tmp_path):
    builder = Unlabelled(data_dir=tmp_path, file_format="array_record")
    with pytest.raises(ValueError, match=r"3 records of unlabelled.*: their label is -1"):
        tfds(builder)
    for keep in (["Greek_1", "Korean_3"], lambda name: name in ("Greek_1", "Korean_3")):
        assert tfds(builder, keep=keep).sizes == (3, 3)
    last_name = ["Greek_1", "Latin_3"]
    with pytest.raises(ValueError, match=r"No record of 1 classes of keep is in .*\['Latin_3'\]"):
        tfds(builder, keep=last_name)


def test_only_some_classes_are_read(folder):
    decoded = []

    def prepare(image):
        decoded.append(image)
        return image[:2, :2]

    kept = tfds(
        "letters",
        data_dir=folder,
        label=("alphabet", "label"),
        keep=lambda name: name.startswith("Greek/"),
        prepare=prepare,
    )
    assert kept.names == tuple(f"Greek/Greek_{number}" for number in range(4))
    assert len(decoded) == 12
    split = data.class_split("two", {"train": ["Greek_0"], "test": ["Korean_1", "Greek_3"]})
    test = tfds("letters", data_dir=folder, keep=split.parts["test"])
    assert test.names == ("Greek_3", "Korean_1")
    np.testing.assert_array_equal(np.unique(test.x[:, 0, 0, 0]), [60, 61, 62, 100, 101, 102])


def test_what_may_differ_in_length_is_a_series_even_where_it_does_not(folder):
    one = tfds("scenes", split="train[:1]", features="sound", label="photo/place", data_dir=folder)
    assert one.x.value.shape[::2] == (1, 1) and one.scale == 32768
    assert one.x.length.tolist() == [one.x.value.shape[1]]
    named = {"kind": "marks/kind", "place": "marks/place"}
    value = tfds("scenes", features=named, label="photo/place", data_dir=folder).x.value
    assert value["kind"].value.shape == (6, 3, 1) and value["place"].value.shape == (6, 3, 2)
    assert value["kind"].length.tolist() == value["place"].length.tolist() == [3] * 6


def test_copies_are_found_in_data_that_is_not_in_memory(folder, monkeypatch):
    monkeypatch.setattr("metajax.data.leaks._BLOCK", 7)
    train, test, last = [
        tfds_rows("letters", split=split, data_dir=folder)
        for split in ("train", "test", "train[-1:]")
    ]
    data.check_leaks(train=train, test=test)
    with pytest.raises(ValueError, match="1 examples are in two parts"):
        data.check_leaks(train=train, test=test, validation=last)
    with pytest.raises(ValueError, match=r"single integers; if .* give \(rows, fetch\)"):
        data.check_leaks(train=train[0], test=test[0])


def ask(folder):
    return tfds(Letters(data_dir=folder, file_format="array_record")).classes


def test_two_processes_may_ask_at_once(tmp_path):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.map(ask, [tmp_path, tmp_path]) == [8, 8]
    assert [path.name for path in (tmp_path / "letters").iterdir() if path.is_dir()] == ["1.0.0"]


def test_a_builder_may_be_older_than_what_another_process_prepared(tmp_path):
    builder = Letters(data_dir=tmp_path, file_format="array_record")
    Letters(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    assert tfds(builder).classes == 8


def test_a_damaged_file_is_an_error(folder, tmp_path):
    shutil.copytree(folder / "letters", tmp_path / "letters")
    (path,) = (tmp_path / "letters" / "1.0.0").glob("*train*")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"letters"):
        tfds("letters", data_dir=tmp_path)
