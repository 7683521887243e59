"""Data sets of the catalogue by name: their own builders, local files in place of a network."""

import io
import shutil
import tarfile
import wave

import numpy as np
import pytest
import requests
from PIL import Image

from metajax.data.prepare.contents import shrink
from metajax.data.read.pictures import square
from metajax.data.read.tensorflow_sets import tfds
from metajax.data.sets.cifar import cifar_fs, fc100
from metajax.data.sets.published_splits import (
    CIFAR100,
    OMNIGLOT_ALPHABETS,
    cifar_fs_split,
    fc100_split,
    omniglot_split,
)

tensorflow_datasets = pytest.importorskip("tensorflow_datasets")
RNG = np.random.default_rng(0)


@pytest.fixture
def network(monkeypatch, tmp_path):
    """`network(files)` lets every download come from {end of its address: local file or folder}."""

    def replace(files):
        def local(url):
            url = getattr(url, "url", url)
            return next(path for end, path in files.items() if url.split("?")[0].endswith(end))

        def download(self, urls):
            if isinstance(urls, dict):
                return {name: local(url) for name, url in urls.items()}
            return [local(url) for url in urls] if isinstance(urls, list) else local(urls)

        def unpack(self, urls):
            done = download(self, urls)
            return [self.extract(path) for path in done] if isinstance(done, list) else done

        manager = tensorflow_datasets.download.DownloadManager
        monkeypatch.setattr(manager, "download", download)
        monkeypatch.setattr(manager, "download_and_extract", unpack)

    return replace


def archive(path, files):
    """A .tgz of {name: bytes}."""
    with tarfile.open(path, "w:gz") as opened:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            opened.addfile(entry, io.BytesIO(content))
    return path


def omniglot_image(content):
    """A drawing as `omniglot.npz` has it."""
    return 255 - shrink(content, 28, "L", "BOX")


def encoded(pixels, kind):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def test_omniglot(network, tmp_path):
    """Its files have one bit a pixel; ink is black.

    The builder insists on 50 alphabets and 1 623 characters.
    """
    files = tmp_path / "files"
    alphabets = " ".join(OMNIGLOT_ALPHABETS.values()).split()
    in_background = 0
    for label in range(1623):
        alphabet = label * 50 // 1623
        part = "background" if alphabet < 30 else "evaluation"
        in_background += part == "background"
        character = label - -(-alphabet * 1623 // 50) + 1
        folder = files / part / part / alphabets[alphabet] / f"character{character:02}"
        folder.mkdir(parents=True)
        pixels = np.full((105, 105), True)
        pixels[label % 105] = False
        Image.fromarray(pixels).save(folder / f"{label + 1:04}_01.png")
    first = alphabets[0]
    small = files / "small"
    shutil.copytree(files / "background" / "background" / first, small / "background" / first)
    network(
        {
            "images_background.zip": files / "background",
            "images_evaluation.zip": files / "evaluation",
            "images_background_small1.zip": small,
            "images_background_small2.zip": small,
        }
    )
    letters = tfds(
        "omniglot",
        split="train+test",
        label=("alphabet", "label"),
        data_dir=tmp_path,
        prepare=square(28, grey=True, resample="box", invert=True),
    )
    assert letters.classes == 1623
    assert "Korean/Korean_0" in letters.names
    assert len(omniglot_split(letters.names).parts["train"]) == in_background
    assert letters.x.shape == (1623, 28, 28, 1) and letters.scale == 255
    # The pictures are those of `omniglot`, in another order.
    prepared = omniglot_image((folder / f"{label + 1:04}_01.png").read_bytes())
    assert prepared.max() > 60 and (prepared == 0).sum() > 600
    assert prepared.tobytes() in {np.asarray(row).tobytes() for row in letters.x[..., 0]}
    whole = tfds("omniglot", split="small1", data_dir=tmp_path)
    assert whole.x.shape[1:] == (105, 105, 3)
    assert [int(np.asarray(image[:, 0, 0]).argmin()) for image in whole.x[:4]] == [0, 1, 2, 3]


def test_no_network(monkeypatch, tmp_path):
    def send(*_, **__):
        raise requests.ConnectionError("no route")

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", send)
    with pytest.raises(ConnectionError, match=r"cifar100.*no route.*copy it to .*cifar100"):
        tfds("cifar100", data_dir=tmp_path)


def test_cifar100(network, tmp_path):
    folder = tmp_path / "files" / "cifar-100-binary"
    folder.mkdir(parents=True)
    (folder / "coarse_label_names.txt").write_text(
        "".join(f"kind{number}\n" for number in range(20))
    )
    (folder / "fine_label_names.txt").write_text(
        "".join(f"thing{number}\n" for number in range(100))
    )
    pixels = RNG.integers(0, 256, (6, 3, 32, 32), dtype=np.uint8)
    records = [bytes([number % 3, number]) + image.tobytes() for number, image in enumerate(pixels)]
    (folder / "train.bin").write_bytes(b"".join(records))
    (folder / "test.bin").write_bytes(b"".join(records[:2]))
    network({"cifar-100-binary.tar.gz": folder.parent})
    things = tfds(
        "cifar100", split="train+test", label=("coarse_label", "label"), data_dir=tmp_path
    )
    assert things.names == (
        "kind0/thing0",
        "kind0/thing3",
        "kind1/thing1",
        "kind1/thing4",
        "kind2/thing2",
        "kind2/thing5",
    )
    assert things.count.tolist() == [2, 1, 2, 1, 1, 1]
    np.testing.assert_array_equal(things.x[2], pixels[3].transpose(1, 2, 0))


@pytest.mark.parametrize("kind", ["cifar_fs", "fc100"])
def test_few_shot_parts_of_cifar100(kind, network, tmp_path):
    """Each image is filled with the number of its class; its first row with that of the copy."""
    folder = tmp_path / "files" / "cifar-100-binary"
    folder.mkdir(parents=True)
    superclasses = list(CIFAR100)
    of_class = {name: kind for kind, names in CIFAR100.items() for name in names.split()}
    names = sorted(of_class)
    (folder / "coarse_label_names.txt").write_text("\n".join(superclasses) + "\n")
    (folder / "fine_label_names.txt").write_text("\n".join(names) + "\n")

    def records(number):
        image = np.full((3, 32, 32), number, np.uint8)
        for label, name in enumerate(names):
            image[:, 1:] = label
            yield bytes([superclasses.index(of_class[name]), label]) + image.tobytes()

    (folder / "train.bin").write_bytes(b"".join([*records(0), *records(1)]))
    (folder / "test.bin").write_bytes(b"".join(records(2)))
    network({"cifar-100-binary.tar.gz": folder.parent})
    read, split = {"cifar_fs": (cifar_fs, cifar_fs_split()), "fc100": (fc100, fc100_split())}[kind]
    for part, wanted in split.parts.items():
        source = read(part, data_dir=tmp_path)
        assert set(source.names) == set(wanted) and source.scale == 255
        assert "Krizhevsky 2009" in source.credit and "arXiv 180" in source.credit
        assert source.count.tolist() == [3] * len(wanted), "training and test examples"
        shown = [names[label] for label in np.asarray(source.x)[:, 1, 0, 0]]
        assert shown == [source.names[label] for label in np.asarray(source.y)]
        assert sorted(set(np.asarray(source.x)[:, 0, 0, 0].tolist())) == [0, 1, 2]
    with pytest.raises(ValueError, match=r"\['val'\] are not among the parts"):
        read("val", data_dir=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"cifar100.* is not prepared"):
        read("test", data_dir=tmp_path / "nowhere", download=False)


def test_caltech_birds2011(network, tmp_path):
    """Photographs of many sizes, some of them grey."""
    names = [
        f"{label:03}.Bird_{label}/Bird_{label}_{number}.jpg"
        for label in (1, 2)
        for number in (1, 2)
    ]
    photographs = [np.full((30 + 5 * number, 40, 3), 50 * number, np.uint8) for number in range(4)]
    photographs[3] = photographs[3][..., 0]
    lines = lambda make: "".join(f"{number + 1} {make(number)}\n" for number in range(4)).encode()
    files = {
        f"CUB_200_2011/images/{name}": encoded(p, "JPEG")
        for name, p in zip(names, photographs, strict=True)
    }
    files["CUB_200_2011/images.txt"] = lines(lambda number: names[number])
    files["CUB_200_2011/train_test_split.txt"] = lines(lambda number: int(number != 1))
    files["CUB_200_2011/bounding_boxes.txt"] = lines(lambda number: "1.0 2.0 10.0 12.0")
    masks = {
        f"segmentations/{n[:-4]}.png": encoded(np.zeros((30, 40), np.uint8), "PNG") for n in names
    }
    birds = archive(tmp_path / "birds.tgz", files)
    shapes = archive(tmp_path / "masks.tgz", masks)
    network({"CUB_200_2011.tgz": birds, "segmentations.tgz": shapes})
    photos = tfds("caltech_birds2011", data_dir=tmp_path, label="label_name", prepare=square(16))
    assert photos.names == ("bird_1", "bird_2")
    assert photos.x.shape == (3, 16, 16, 3)
    assert sorted(np.asarray(photos.x[:, 8, 8, 0]).tolist()) == [0, 100, 150]


@pytest.mark.filterwarnings(
    "ignore:'audioop':DeprecationWarning", "ignore:Couldn't find ffmpeg:RuntimeWarning"
)
def test_speech_commands(network, tmp_path):
    """Recordings of different lengths."""

    def recording(samples):
        buffer = io.BytesIO()
        with wave.open(buffer, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(16000)
            file.writeframes(np.asarray(samples, np.int16).tobytes())
        return buffer.getvalue()

    words = {
        f"{word}/{number}.wav": recording(np.arange(10 * number + 5) - 3)
        for word in ("yes", "no")
        for number in (1, 2)
    }
    words["no/3.wav"] = recording(np.zeros(5))
    lists = {"testing_list.txt": b"yes/9.wav", "validation_list.txt": b"no/3.wav"}
    noise = {"_background_noise_/hum.wav": recording(np.zeros(16000))}
    main = archive(tmp_path / "main.tgz", words | noise | lists)
    test = archive(tmp_path / "test.tgz", dict(list(words.items())[:1]))
    network({"speech_commands_v0.02.tar.gz": main, "speech_commands_test_set_v0.02.tar.gz": test})
    speech = tfds("speech_commands", features="audio", data_dir=tmp_path)
    assert speech.names == ("no", "yes")
    assert speech.x.value.dtype == np.int16 and speech.scale == 32768
    assert speech.x.value.shape == (4, 25, 1)
    assert sorted(speech.x.length.tolist()) == [15, 15, 25, 25]
    one = int(np.asarray(speech.x.length).argmax())
    np.testing.assert_array_equal(speech.x.value[one, :, 0], np.arange(25) - 3)
