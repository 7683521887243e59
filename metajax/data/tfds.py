"""TensorFlow Datasets as few-shot data sets, read with random access and without TensorFlow."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from jax.typing import ArrayLike

from metajax._types import Modalities, PyTree, Series
from metajax.data.arrays import Dataset, dataset
from metajax.data.catalogue import Source, convert, open_split, skip_decoding

Broken: TypeAlias = Callable[[tuple[int, str]], object]
Prepare: TypeAlias = Callable[[Any], ArrayLike]
"""What an example's feature is, as TensorFlow Datasets decodes it -> array of one shape."""


def tfds(
    name: Any,
    *,
    split: str = "train",
    features: str | Mapping[str, str] = "image",
    label: str | Sequence[str] = "label",
    prepare: Prepare | Mapping[str, Prepare] | None = None,
    data_dir: str | os.PathLike | None = None,
    download: bool = True,
    broken: Broken | None = None,
) -> Dataset:
    """A data set of TensorFlow's catalogue, all of it in memory: `tfds("omniglot", label=("alphabet", "label"))`.

    It is read through `tfds.data_source`, that is, without TensorFlow. Where it is not there yet it is downloaded and
    prepared as array_record, once, even if several processes ask at the same time; for some data sets preparing needs
    TensorFlow (`pip install tensorflow-cpu`). What another tool has prepared as tfrecord is read by TensorFlow.

    Args:
        name: as in the catalogue, with configuration and version if need be ("omniglot", "ucf101/ucf101_1_256"); the
            folder of a prepared data set; or a `tfds.core.DatasetBuilder` of your own.
        split: as TensorFlow Datasets writes it: "train", "train+test", "train[:10%]".
        features: what x is: the name of a feature, "a/b" for one inside another, or {modality: name} for several.
        label: the feature that tells classes apart: the label, or a speaker, alphabet or domain. Of several the values
            are joined, group first: ("alphabet", "label") names a class "Greek/alpha". Classes without an example in
            the split are left out; names are those of the catalogue where it has any.
        prepare: a function of one example's feature that makes an array of it, always of the same shape, such as
            `square(84)` for photographs or a tokenizer for texts; {modality: function} where there are several. Without
            one, what differs in length only becomes a `Series`, padded with zeros; recordings become int16.
        data_dir: where prepared data is; None is TensorFlow Datasets' own choice, ~/tensorflow_datasets.
        download: False reads what was prepared and never uses the network.
        broken: called with (number, reason) of each record that cannot be read, which is then left out, such as the
            `append` of a list. None raises at the first of them.

    Raises:
        ImportError: tensorflow-datasets is missing, or TensorFlow where it is needed.
        FileNotFoundError: `download` is False, and the data was not prepared.
        ConnectionError: the download failed, at the end of the tries of TensorFlow Datasets, which take some minutes.
        OSError: `data_dir` cannot be written.
        ValueError: an unknown name, split or feature; a record that cannot be read; examples that differ in shape, or
            are no numbers, and no `prepare`.

    Source: tensorflow.org/datasets.
    """
    source = open_split(name, split, data_dir, download)
    paths, labels = _names(source, features, label)
    source, made = _functions(source, prepare, paths)
    rows = list(_read(source, lambda example: (_values(example, paths, made), _label(example, labels)), broken))
    if not rows:
        raise ValueError(f"Nothing could be read of {source.name} which has {len(source.examples)} records.")
    x = {key: _stack([values[key] for values, _ in rows], paths[key]) for key in paths}
    y, names = _classes([value for _, value in rows], labels, source.features)
    return dataset(_named(x, y.shape), y, names=names)


def tfds_rows(
    name: Any,
    *,
    split: str = "train",
    features: str | Mapping[str, str] = "image",
    label: str | Sequence[str] = "label",
    prepare: Prepare | Mapping[str, Prepare] | None = None,
    data_dir: str | os.PathLike | None = None,
    download: bool = True,
) -> tuple[Dataset, Callable[[np.ndarray], PyTree]]:
    """A data set that is larger than memory: (rows, fetch), for `stream`.

    `rows` is a `Dataset` whose x are the numbers of the records, int32[examples], so that every sampler can draw from
    it; `fetch(numbers)` reads these records: int[...] -> what x is, with the axes of the numbers first. Labels are read
    once, now, without decoding the features.

    Args and errors are those of `tfds`; examples must have one shape.
    """
    source = open_split(name, split, data_dir, download)
    paths, labels = _names(source, features, label)
    source, made = _functions(source, prepare, paths)
    if not hasattr(source.examples, "__getitem__"):
        raise ValueError(
            f"{source.name} is prepared as tfrecord, which has no random access; {convert(source.builder)}."
        )
    bare = skip_decoding(source, [path for path in paths.values() if path not in labels])
    y, names = _classes(list(_read(bare, lambda example: _label(example, labels), None)), labels, source.features)

    def fetch(numbers: np.ndarray) -> PyTree:
        numbers = np.asarray(numbers)
        rows = [_values(source.examples[number], paths, made) for number in numbers.reshape(-1).tolist()]
        x = {key: _stack([values[key] for values in rows], path, ragged=False) for key, path in paths.items()}
        x = {key: leaf.reshape(*numbers.shape, *leaf.shape[1:]) for key, leaf in x.items()}
        return _named(x, numbers.shape)

    return dataset(np.arange(len(y), dtype=np.int32), y, names=names), fetch


def square(size: int) -> Prepare:
    """The middle square of a picture, resized: uint8[height, width, channels] -> uint8[size, size, channels].

    Raises:
        ValueError: size below 1.
        ImportError: Pillow is missing.
    """
    if size < 1:
        raise ValueError(f"{size=} must be 1 or more.")
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ImportError("Photographs need Pillow: pip install 'metajax[data]'.") from error

    def resize(picture: ArrayLike) -> np.ndarray:
        picture = np.asarray(picture)
        flat = picture[..., 0] if picture.shape[-1] == 1 else picture
        return np.asarray(ImageOps.fit(Image.fromarray(flat), (size, size))).reshape(size, size, -1)

    return resize


def _names(
    source: Source, features: str | Mapping[str, str], label: str | Sequence[str]
) -> tuple[dict[str, str], list[str]]:
    """{modality: feature}, of the name "" where there is but one, and the label's features; all of them exist."""
    paths = {"": features} if isinstance(features, str) else dict(features)
    labels = [label] if isinstance(label, str) else list(label)
    known = list(_paths(source.features))
    for path in (*paths.values(), *labels):
        if path not in known:
            raise ValueError(f"{source.name} has no feature {path!r}; it has {', '.join(known)}.")
    if not paths or not labels:
        raise ValueError(f"{features=} and {label=} must name one feature at the least, of {', '.join(known)}.")
    return paths, labels


def _paths(features: Any, before: str = "") -> Iterator[str]:
    """Names of all features, those inside others as "a/b"."""
    for name, feature in features.items():
        inner = getattr(feature, "feature", feature)  # of a sequence
        yield from _paths(inner, f"{before}{name}/") if hasattr(inner, "items") else [before + name]


def _at(tree: Any, path: str) -> Any:
    """What has this name; a name may have a slash of its own."""
    tree = getattr(tree, "feature", tree)
    if path in tree:
        return tree[path]
    outer, _, inner = path.partition("/")
    return _at(tree[outer], inner)


def _functions(
    source: Source, prepare: Prepare | Mapping[str, Prepare] | None, paths: Mapping[str, str]
) -> tuple[Source, dict[str, Prepare]]:
    """The source with its pictures as they are stored, and what makes an array of each feature of it."""
    given = dict(prepare) if isinstance(prepare, Mapping) else {} if prepare is None else dict.fromkeys(paths, prepare)
    if not set(given) <= set(paths) or (callable(prepare) and len(paths) > 1):
        raise ValueError(f"prepare must be a function for each of the modalities {list(paths)}, got {prepare!r}.")
    made = {}
    for key, path in paths.items():
        feature = _at(source.features, path)
        decode = _wave if type(feature).__name__ == "Audio" else _picture_of(feature) if _is_picture(feature) else None
        made[key] = _after(decode, given.get(key, np.asarray))
    pictures = [path for path in paths.values() if _is_picture(_at(source.features, path))]
    return skip_decoding(source, pictures), made


def _after(decode: Prepare | None, prepare: Prepare) -> Prepare:
    return prepare if decode is None else lambda value: prepare(decode(value))


def _is_picture(feature: Any) -> bool:
    return type(feature).__name__ == "Image" and feature.np_dtype == np.uint8


def _picture_of(feature: Any) -> Prepare:
    """Decodes an image to the channels of its feature, which `tfds.data_source` does not: black and white, or grey."""
    from PIL import Image

    mode = {1: "L", 3: "RGB", 4: "RGBA"}[feature.shape[-1] or 3]

    def decode(stored: Any) -> np.ndarray:
        if isinstance(stored, np.ndarray) and stored.ndim:  # TensorFlow has decoded it
            return stored
        with Image.open(io.BytesIO(stored)) as picture:
            decoded = np.asarray(picture.convert(mode))
        return decoded if decoded.ndim == 3 else decoded[..., None]

    return decode


def _wave(samples: ArrayLike) -> np.ndarray:
    """A recording as int16, which TensorFlow Datasets hands out as int64."""
    wave = np.asarray(samples)
    if wave.dtype.kind == "i" and (wave.astype(np.int16) == wave).all():
        return wave.astype(np.int16)
    return wave.astype(np.float32)


def _read(source: Source, read: Callable[[Any], Any], broken: Broken | None) -> Iterator[Any]:
    """What `read` makes of each example, but for those that cannot be read."""
    if not hasattr(source.examples, "__getitem__"):
        yield from map(read, source.examples)
        return
    for row in range(len(source.examples)):
        try:
            made = read(source.examples[row])
        except Exception as error:  # of whatever reads or decodes it
            if broken is None:
                raise ValueError(
                    f"Record {row} of {source.name} cannot be read ({error}); broken=[].append leaves out what cannot."
                ) from error
            broken((row, str(error)))
        else:
            yield made


def _values(example: Any, paths: Mapping[str, str], made: Mapping[str, Prepare]) -> dict[str, np.ndarray]:
    return {key: np.asarray(made[key](_at(example, path))) for key, path in paths.items()}


def _named(x: dict[str, Any], shape: tuple[int, ...]) -> PyTree:
    """The one array that has no name, or modalities of which none is missing."""
    present: dict[str, Any] = {key: np.ones(shape, bool) for key in x}
    return x[""] if "" in x else Modalities(x, present)


def _label(example: Any, labels: Sequence[str]) -> tuple[Any, ...]:
    """The values of the features that tell classes apart."""
    values = [np.asarray(_at(example, path)) for path in labels]
    if any(value.ndim for value in values):
        raise ValueError(f"A label must be one value, got shapes {[value.shape for value in values]} of {labels}.")
    return tuple(value.item().decode() if value.dtype.kind in "SO" else value.item() for value in values)


def _classes(values: list[tuple[Any, ...]], labels: Sequence[str], features: Any) -> tuple[np.ndarray, list[str]]:
    """Numbers of the classes, in the order of their values, and names, the catalogue's own where it has any."""
    kept = sorted(set(values))
    number = {value: i for i, value in enumerate(kept)}
    say = [getattr(_at(features, path), "int2str", str) for path in labels]
    names = ["/".join(to(part) for to, part in zip(say, value, strict=True)) for value in kept]
    return np.array([number[value] for value in values]), names


def _stack(values: list[np.ndarray], path: str, ragged: bool = True) -> Any:
    """Rows of one array; a `Series` where they differ in length only."""
    if any(value.dtype.kind not in "biuf" for value in values):
        raise ValueError(f"{path!r} is {values[0].dtype}, no number; give prepare=, such as a tokenizer.")
    shapes = {value.shape for value in values}
    if len(shapes) == 1:
        return np.stack(values)
    if not ragged or len({shape[1:] for shape in shapes}) > 1 or not 1 <= values[0].ndim <= 2:
        some = ", ".join(map(str, sorted(shapes)[:3]))
        raise ValueError(
            f"{path!r} has examples of {len(shapes)} shapes, such as {some}; give prepare=, such as square(84)."
        )
    length: Any = np.array([len(value) for value in values], np.int32)
    padded: Any = np.zeros((len(values), length.max(), *values[0].shape[1:]), values[0].dtype)
    for row, value in zip(padded, values, strict=True):
        row[: len(value)] = value
    return Series(padded if padded.ndim > 2 else padded[..., None], length)
