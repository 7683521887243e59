"""Real builders of TensorFlow Datasets, prepared from files at hand; nothing here uses a network."""

import functools
import multiprocessing
import os
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest
from flax import nnx
from PIL import Image

import metajax as mj
from metajax import data
from metajax.data.read.pictures import square
from metajax.data.read.tensorflow_sets import tfds, tfds_rows

tensorflow_datasets = pytest.importorskip("tensorflow_datasets")
core, features = tensorflow_datasets.core, tensorflow_datasets.features
RNG = np.random.default_rng(0)
ALPHABETS = ("Greek", "Korean", "Latin")


class Letters(core.GeneratorBasedBuilder):
    """With the features of the catalogue's Omniglot."""

    VERSION = core.Version("1.0.0")

    def _info(self):
        label = [f"{alphabet}_{number}" for alphabet in ALPHABETS for number in range(4)]
        kinds = {
            "image": features.Image(shape=(105, 105, 3), encoding_format="png"),
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
                image = Image.fromarray(picture(label, drawer))
                yield 10 * label + drawer, {
                    "image": image, "alphabet": label // 4, "alphabet_char_id": label % 4, "label": label
                }  # fmt: skip


class Scenes(core.GeneratorBasedBuilder):
    """Several modalities, features inside features, and lengths that differ."""

    VERSION = core.Version("1.0.0")

    def _info(self):
        kinds = {
            "photo": {"image": features.Image(encoding_format="png"), "place": features.Text()},
            "sound": features.Audio(sample_rate=8000),
            "words": features.Sequence(np.int64),
            "caption": features.Text(),
            "marks": features.Sequence(
                {"kind": np.int64, "place": features.Tensor(shape=(2,), dtype=np.float32)}
            ),
        }
        return core.DatasetInfo(builder=self, features=features.FeaturesDict(kinds))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for number in range(6):
            image = Image.fromarray(np.full((8 + number, 9, 3), 10 * number, np.uint8))
            yield (
                number,
                {
                    "photo": {"image": image, "place": "north" if number % 2 else "south"},
                    "sound": np.arange(number + 2, dtype=np.int64) - 1,
                    "words": list(range(number + 1)),
                    "caption": "a b" * number,
                    "marks": [{"kind": number, "place": np.full(2, number, np.float32)}] * 3,
                },
            )


class Pack(core.GeneratorBasedBuilder):
    """A few-shot data set, `source`, with the features of the catalogue's Omniglot, in the same order."""

    VERSION = core.Version("1.0.0")
    source = None

    def _info(self):
        kinds = {
            "image": features.Image(shape=self.source.x.shape[1:], encoding_format="png"),
            "alphabet": features.ClassLabel(
                names=list(dict.fromkeys(map(data.group_of, self.source.names)))
            ),
            "label": features.ClassLabel(names=list(self.source.names)),
        }
        return core.DatasetInfo(
            builder=self, features=features.FeaturesDict(kinds), disable_shuffling=True
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for row, (image, label) in enumerate(
            zip(np.asarray(self.source.x), self.source.y.tolist(), strict=True)
        ):
            name = self.source.names[label]
            yield row, {"image": image, "alphabet": data.group_of(name), "label": name}


def picture(label, drawer):
    return np.full((105, 105, 3), 20 * label + drawer, np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With both, prepared as array_record."""
    folder = tmp_path_factory.mktemp("prepared")
    for builder in (Letters, Scenes):
        builder(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


def test_a_catalogue_name_becomes_a_data_set(folder):
    letters = tfds("letters", data_dir=folder, label=("alphabet", "label"))
    assert letters.names[:2] == ("Greek/Greek_0", "Greek/Greek_1")
    assert letters.classes == 8
    assert letters.x.shape == (24, 105, 105, 3)
    assert letters.x.dtype == np.uint8
    for row, label in enumerate(np.asarray(letters.y)):
        assert {int(letters.x[row, 0, 0, 0]) - 20 * int(label)} <= {0, 1, 2}
    assert tfds("letters", split="train+test", data_dir=folder).classes == 12
    assert (
        tfds("letters", split="train[:50%]", data_dir=folder, label="alphabet").names
        == ALPHABETS[:2]
    )
    by_folder = tfds(folder / "letters" / "1.0.0", download=False, label="alphabet_char_id")
    assert by_folder.names == ("0", "1", "2", "3")
    by_builder = tfds(Letters(data_dir=folder, file_format="array_record"))
    assert by_builder.names == tuple(f"{a}_{n}" for a in ALPHABETS[:2] for n in range(4))


def test_features_become_modalities(folder):
    named = {"image": "photo/image", "sound": "sound", "words": "words"}
    scenes = tfds(
        "scenes", data_dir=folder, features=named, label="photo/place", prepare={"image": square(4)}
    )
    assert scenes.names == ("north", "south")
    value = scenes.x.value
    assert value["image"].shape == (6, 4, 4, 3)
    assert value["sound"].value.dtype == np.int16
    assert value["sound"].value.shape == (6, 7, 1)
    for row in range(6):
        number = int(value["image"][row, 0, 0, 0]) // 10
        assert (number % 2 == 0) == bool(scenes.y[row])
        assert value["sound"].length[row] == number + 2
        np.testing.assert_array_equal(
            value["sound"].value[row, : number + 2, 0], np.arange(number + 2) - 1
        )
        np.testing.assert_array_equal(
            value["words"].value[row, : number + 1, 0], np.arange(number + 1)
        )
    count = tfds(
        "scenes",
        data_dir=folder,
        features="caption",
        label="photo/place",
        prepare=lambda text: [len(text)],
    )
    assert sorted(np.asarray(count.x)[:, 0].tolist()) == [0, 3, 6, 9, 12, 15]


def test_rows_are_read_when_asked_for(folder):
    rows, fetch = tfds_rows("letters", data_dir=folder)
    whole = tfds("letters", data_dir=folder)
    np.testing.assert_array_equal(fetch(rows.x), whole.x)
    assert rows.names == whole.names
    assert fetch(np.asarray(rows.x).reshape(4, 6)).shape == (4, 6, 105, 105, 3)
    named = {"image": "photo/image", "sound": "photo/place"}
    prepare = {"image": square(4), "sound": lambda text: [len(text)]}
    rows, fetch = tfds_rows(
        "scenes", data_dir=folder, features=named, label="photo/place", prepare=prepare
    )
    both = fetch(np.asarray(rows.x)[:2])
    assert both.value["image"].shape == (2, 4, 4, 3)
    assert both.present["sound"].tolist() == [True, True]


def learned(source):
    """The state of a prototypical network after some steps, and its accuracy."""
    apply, params = mj.nets.functional(
        mj.nets.Conv4(5, width=8, rngs=nnx.Rngs(0)), fast=nnx.PathContains("head")
    )
    write = mj.prototypes(functools.partial(apply, method="embed"), 5)
    learner = mj.query_loss(write, mj.losses.cross_entropy(apply))
    outer, sample = (
        mj.outer_loop(learner, optax.adam(3e-3)),
        data.meta_batch(data.episodes(5, 1, 4), tasks=4),
    )
    run = {"steps": 40, "every": 20, "fuse": 10, "progress": False}
    state, records = mj.training.fit(
        outer, outer.init(params), sample, source, jax.random.key(0), **run
    )
    return state.params, records[-1]["accuracy"]


def test_training_is_that_of_the_data_it_was_prepared_from(tmp_path):
    Pack.source = data.select(
        data.glyphs(cache=tmp_path), lambda name: data.group_of(name) == "Greek"
    )
    Pack(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    read = tfds("pack", data_dir=tmp_path)
    np.testing.assert_array_equal(read.x, Pack.source.x)
    params, accuracy = learned(read)
    jax.tree.map(np.testing.assert_array_equal, params, learned(Pack.source)[0])
    assert accuracy > 0.25, "chance is 0.2"


def test_tfrecord_is_read_by_tensorflow(folder, tmp_path):
    Letters(data_dir=tmp_path, file_format="tfrecord").download_and_prepare()
    read, expected = tfds("letters", data_dir=tmp_path), tfds("letters", data_dir=folder)
    assert read.names == expected.names
    np.testing.assert_array_equal(np.sort(read.x[:, 0, 0, 0]), np.sort(expected.x[:, 0, 0, 0]))
    with pytest.raises(ValueError, match=r"no random access; tfds convert_format"):
        tfds_rows("letters", data_dir=tmp_path)


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
            "import numpy as n; rows = data.dataset(n.arange(1), n.zeros(1, int));"
            "data.tasks_of(data.stream(data.meta_batch(data.batches(1), 1), rows, print), 0)",
            r"pip install 'metajax\[data\]'",
        ),
    ],
)
def test_what_is_not_installed_is_named(missing, code, message, tmp_path):
    """In a process in which it cannot be imported."""
    code = BLOCKED.format(missing) + code.format(str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=os.path.dirname(__file__), capture_output=True, text=True
    )
    assert re.search(f"^ImportError: .*{message}", done.stderr, flags=re.M), done.stderr


def test_errors_say_what_to_do(folder, tmp_path):
    with pytest.raises(ValueError, match=r"no data set 'omniglott'.*do you mean omniglot"):
        tfds("omniglott", data_dir=tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"omniglot.* is not prepared in .*; data\.tfds\('omniglot"
    ):
        tfds("omniglot", data_dir=tmp_path, download=False)
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"file/omniglot/? ?.*cannot be written .*data_dir="):
        tfds("omniglot", data_dir=tmp_path / "file")
    with pytest.raises(ValueError, match=r"no split 'valid'.*train, test"):
        tfds("letters", split="valid", data_dir=folder)
    with pytest.raises(
        ValueError, match=r"no feature 'img'; it has image, alphabet, alphabet_char_id, label"
    ):
        tfds("letters", features="img", data_dir=folder)
    with pytest.raises(
        ValueError, match=r"no feature 'photo/label'; it has photo/image, photo/place"
    ):
        tfds("scenes", features="photo/image", label="photo/label", data_dir=folder)
    with pytest.raises(ValueError, match=r"'photo/image' has examples of 6 shapes.*square"):
        tfds("scenes", features="photo/image", label="photo/place", data_dir=folder)
    with pytest.raises(ValueError, match=r"'caption'.*tokenizer"):
        tfds("scenes", features="caption", label="photo/place", data_dir=folder)
    with pytest.raises(
        ValueError, match=r"A label must be one value of an example, which \['words'\]"
    ):
        tfds("scenes", features="sound", label="words", data_dir=folder)
    with pytest.raises(
        ValueError, match=r"No record of 1 classes of keep is in letters.*: \['Greek_9'\]"
    ):
        tfds("letters", keep=(name for name in ("Greek_1", "Greek_9")), data_dir=folder)
    with pytest.raises(ValueError, match=r"keep='Greek_1' must be several names .* \['Greek_1'\]"):
        tfds("letters", keep="Greek_1", data_dir=folder)
    with pytest.raises(TypeError, match=r"keep fails on the class '[A-Z][a-z]+_\d' \(IndexError"):
        tfds("letters", keep=lambda name: name.split("/")[1], data_dir=folder)
    with pytest.raises(ValueError, match=r"A label must be one value .* which \['marks/kind'\]"):
        tfds("scenes", features="sound", label="marks/kind", data_dir=folder)
    with pytest.raises(
        ValueError, match=r"\['sound'\] of scenes.* may differ in length; give prepare="
    ):
        tfds_rows("scenes", features="sound", label="photo/place", data_dir=folder)
    with pytest.raises(ValueError, match=r"keep leaves no class of letters"):
        tfds("letters", keep=lambda name: False, data_dir=folder)
    with pytest.raises(ValueError, match=r"each of the modalities"):
        tfds(
            "scenes",
            features={"a": "sound", "b": "words"},
            label="caption",
            prepare=square(4),
            data_dir=folder,
        )
    with pytest.raises(ValueError, match=r"size=0"):
        square(0)


def test_broken_records_are_left_out_on_request_only(folder, tmp_path):
    def prepare(image):
        if image[0, 0, 0] == 21:
            raise OSError("no picture")
        return image[:2, :2]

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
    Letters(data_dir=tmp_path, file_format="tfrecord").download_and_prepare()
    read = tfds("letters", data_dir=tmp_path, prepare=prepare, broken=broken.append)
    assert len(read.y) == 23 and broken[2][1] == "no picture"
    with pytest.raises(
        ValueError, match=r"Nothing could be read of letters.*, Record 0 of .*\(never\)"
    ):
        tfds("letters", data_dir=folder, prepare=never, broken=broken.append)
    assert len(broken) == 27


def never(image):
    raise OSError("never")


def test_an_error_in_a_program_is_no_broken_record(folder):
    with pytest.raises(TypeError, match="no_such_argument"):
        tfds(
            "letters",
            data_dir=folder,
            prepare=lambda image: square(4, no_such_argument=1),
            broken=print,
        )


class Unlabelled(Letters):
    """Some of its records have no label, which is -1, as in the catalogue's stl10."""

    def _generate_examples(self, labels):
        for key, example in super()._generate_examples(labels):
            yield key, example | {"label": -1 if key < 5 else example["label"]}


def test_records_without_a_label_are_refused(tmp_path):
    builder = Unlabelled(data_dir=tmp_path, file_format="array_record")
    with pytest.raises(
        ValueError, match=r"3 records of unlabelled.* have a label of -1, which is none"
    ):
        tfds(builder)
    for keep in (["Greek_1", "Korean_3"], lambda name: name in ("Greek_1", "Korean_3")):
        assert tfds(builder, keep=keep).sizes == (3, 3)
    with pytest.raises(
        ValueError, match=r"No record of 1 classes of keep is in .*\['Latin_3'\]"
    ):  # the last name
        tfds(builder, keep=["Greek_1", "Latin_3"])


def test_only_some_classes_are_read(folder):
    decoded = []
    kept = tfds(
        "letters", data_dir=folder, label=("alphabet", "label"), keep=lambda name: name.startswith("Greek/"),
        prepare=lambda image: (decoded.append(image), image[:2, :2])[1],
    )  # fmt: skip
    assert (
        kept.names == tuple(f"Greek/Greek_{number}" for number in range(4)) and len(decoded) == 12
    )
    split = data.class_split("two", {"train": ["Greek_0"], "test": ["Korean_1", "Greek_3"]})
    test = tfds("letters", data_dir=folder, keep=split.parts["test"])
    assert test.names == ("Greek_3", "Korean_1")
    np.testing.assert_array_equal(np.unique(test.x[:, 0, 0, 0]), [60, 61, 62, 100, 101, 102])


def test_what_may_differ_in_length_is_a_series_even_where_it_does_not(folder):
    one = tfds("scenes", split="train[:1]", features="sound", label="photo/place", data_dir=folder)
    assert one.x.value.shape[::2] == (1, 1) and one.x.length.tolist() == [one.x.value.shape[1]]
    named = {"kind": "marks/kind", "place": "marks/place"}
    value = tfds("scenes", features=named, label="photo/place", data_dir=folder).x.value
    assert value["kind"].value.shape == (6, 3, 1) and value["place"].value.shape == (6, 3, 2)
    assert value["kind"].length.tolist() == value["place"].length.tolist() == [3] * 6


def test_copies_are_found_in_data_that_is_not_in_memory(folder, monkeypatch):
    monkeypatch.setattr("metajax.data.splits._BLOCK", 7)
    both = [
        tfds_rows("letters", split=split, data_dir=folder)
        for split in ("train", "test", "train[-1:]")
    ]
    data.check_leaks(train=both[0], test=both[1])
    with pytest.raises(ValueError, match="1 examples are in two parts"):
        data.check_leaks(train=both[0], test=both[1], validation=both[2])
    with pytest.raises(
        ValueError, match=r"single integers; if .* numbers of rows, give \(rows, fetch\)"
    ):
        data.check_leaks(train=both[0][0], test=both[1][0])


def ask(folder):
    return tfds(Letters(data_dir=folder, file_format="array_record")).classes


def test_two_processes_may_ask_at_once(tmp_path):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.map(ask, [tmp_path, tmp_path]) == [8, 8]
    assert [path.name for path in (tmp_path / "letters").iterdir() if path.is_dir()] == ["1.0.0"]


def test_a_damaged_file_is_said(folder, tmp_path):
    shutil.copytree(folder / "letters", tmp_path / "letters")
    (path,) = (tmp_path / "letters" / "1.0.0").glob("*train*")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"letters"):
        tfds("letters", data_dir=tmp_path)
