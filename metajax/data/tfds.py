"""TensorFlow Datasets as few-shot data sets, read with random access and without TensorFlow."""

from __future__ import annotations

import functools
import io
import itertools
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
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
    keep: Callable[[str], bool] | Collection[str] | None = None,
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
            one, what may differ in length becomes a `Series`, padded with zeros; recordings become int16.
        keep: which classes to read, names (`split.parts["train"]`) or a predicate on them; pictures of others are not
            decoded, unless TensorFlow reads the data. None reads all.
        data_dir: where prepared data is; None is TensorFlow Datasets' own choice, ~/tensorflow_datasets.
        download: False reads what was prepared and never uses the network.
        broken: called with (number, reason) of each record that cannot be read, which is then left out, such as the
            `append` of a list. None raises at the first of them, and so does what TensorFlow itself cannot read.

    Raises:
        ImportError: tensorflow-datasets is missing, or TensorFlow where it is needed.
        FileNotFoundError: `download` is False, and the data was not prepared.
        ConnectionError: the download failed, at the end of the tries of TensorFlow Datasets, which take some minutes.
        OSError: `data_dir` cannot be written.
        ValueError: an unknown name, split or feature; a label of several values, or records without one; a class of
            `keep` that there is not; a record that cannot be read; examples that differ in shape, or are no numbers,
            and no `prepare`.
        TypeError: `keep` fails on a name. This, `NameError`, `AttributeError` and `ImportError` in `prepare` are raised
            as they are, for no record is to blame.

    Source: tensorflow.org/datasets.
    """
    source = open_split(name, split, data_dir, download)
    paths, labels = _names(source, features, label)
    given = _given(prepare, paths)
    source, made = _functions(source, given, paths)
    if isinstance(keep, str):
        raise ValueError(f"{keep=} must be several names or a predicate; for one name, [{keep!r}].")
    wanted = keep if callable(keep) or keep is None else frozenset(keep)

    def read(example: Any) -> tuple[Any, Any] | None:
        value = _label(example, labels)
        return (value, _values(example, paths, made)) if _chosen(wanted, value, labels, source.features) else None

    rows = [row for _, row in _read(source, read, broken) if row is not None]
    y, names = _classes([value for value, _ in rows], labels, source)
    if isinstance(wanted, frozenset) and (missing := sorted(wanted - set(names))):
        raise ValueError(
            f"No record of {len(missing)} classes of keep is in {source.name} or can be read: {missing[:10]}."
        )
    if not names:
        raise ValueError(f"keep leaves no class of {source.name} so that there is nothing to read.")
    x = {}
    for key, path in paths.items():
        series = key not in given and _may_differ_in_length(source.features, path)
        x[key] = _stack([values[key] for _, values in rows], path, series)
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
    broken: Broken | None = None,
) -> tuple[Dataset, Callable[[np.ndarray], PyTree]]:
    """A data set that is larger than memory: (rows, fetch), for `stream`.

    `rows` is a `Dataset` whose x are the numbers of the records, int32[examples], so that every sampler can draw from
    it; `fetch(numbers)` reads these records: int[...] -> what x is, with the axes of the numbers first. Labels are read
    once, now, without decoding the features, unless `broken` asks to try every record whole. Classes are chosen by
    `select_part(rows, split, "train")`, which reads nothing.

    Args and errors are those of `tfds`, but that examples must have one shape: what may differ in length needs
    `prepare`. `fetch` says which record it cannot read.
    """
    source = open_split(name, split, data_dir, download)
    paths, labels = _names(source, features, label)
    given = _given(prepare, paths)
    if ragged := [p for key, p in paths.items() if key not in given and _may_differ_in_length(source.features, p)]:
        raise ValueError(f"{ragged} of {source.name} may differ in length; give prepare=, which cuts or pads them.")
    source, made = _functions(source, given, paths)
    if not hasattr(source.examples, "__getitem__"):
        raise ValueError(
            f"{source.name} is prepared as tfrecord, which has no random access; {convert(source.builder)}."
        )
    if broken is None:
        bare = skip_decoding(source, [path for path in paths.values() if path not in labels])
        rows = _read(bare, lambda example: _label(example, labels), None)
    else:
        rows = _read(source, lambda example: (_label(example, labels), _values(example, paths, made))[0], broken)
    y, names = _classes([value for _, value in rows], labels, source)

    def fetch(numbers: np.ndarray) -> PyTree:
        numbers = np.asarray(numbers)
        read = lambda number: _values(source.examples[number], paths, made)
        rows = [_try(source, number, read, number) for number in numbers.reshape(-1).tolist()]
        x = {key: _stack([values[key] for values in rows], path, ragged=False) for key, path in paths.items()}
        x = {key: leaf.reshape(*numbers.shape, *leaf.shape[1:]) for key, leaf in x.items()}
        return _named(x, numbers.shape)

    return dataset(np.array([number for number, _ in rows], np.int32), y, names=names), fetch


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
    if several := [path for path in labels if _shape(source.features, path) != ()]:
        raise ValueError(f"A label must be one value of an example, which {several} of {source.name} are not.")
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


def _shape(tree: Any, path: str) -> tuple[int | None, ...]:
    """Of a feature in an example, None for what may differ; every sequence that it is inside of is an axis."""
    outer = (None,) if hasattr(tree, "feature") else ()
    tree = getattr(tree, "feature", tree)
    if path in tree:
        return (*outer, *tree[path].shape)
    head, _, inner = path.partition("/")
    return (*outer, *_shape(tree[head], inner))


def _may_differ_in_length(features: Any, path: str) -> bool:
    """Whether it is a sequence of numbers, or of vectors of one size, as long as it likes."""
    shape = _shape(features, path)
    return shape[:1] == (None,) and len(shape) <= 2 and None not in shape[1:]


def _chosen(wanted: Any, value: tuple[Any, ...], labels: Sequence[str], features: Any) -> bool:
    """Whether a class is to be read; what has no label is of none."""
    if wanted is None:
        return True
    if _lacks_label(value, labels, features):
        return False
    name = _class_name(value, labels, features)
    if isinstance(wanted, frozenset):
        return name in wanted
    try:
        return bool(wanted(name))
    except Exception as error:
        raise TypeError(f"keep fails on the class {name!r} ({error!r}).") from error


def _given(prepare: Prepare | Mapping[str, Prepare] | None, paths: Mapping[str, str]) -> dict[str, Prepare]:
    """{modality: function}, checked."""
    given = dict(prepare) if isinstance(prepare, Mapping) else {} if prepare is None else dict.fromkeys(paths, prepare)
    if not set(given) <= set(paths) or (callable(prepare) and len(paths) > 1):
        raise ValueError(f"prepare must be a function for each of the modalities {list(paths)}, got {prepare!r}.")
    return given


def _functions(
    source: Source, given: Mapping[str, Prepare], paths: Mapping[str, str]
) -> tuple[Source, dict[str, Prepare]]:
    """The source with its pictures as they are stored, and what makes an array of each feature of it."""
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


def _read(source: Source, read: Callable[[Any], Any], broken: Broken | None) -> list[tuple[int, Any]]:
    """(number, what `read` makes of it) of each example, but for those that cannot be read."""
    whole, made, first = (lambda get: read(get())), [], ""
    for row, get in _examples(source):
        try:
            made.append((row, _try(source, row, whole, get)))
        except ValueError as error:
            if broken is None:
                raise ValueError(f"{error}; broken=[].append leaves out what cannot.") from error.__cause__
            broken((row, str(error.__cause__)))
            first = first or str(error)
    if not made:
        raise ValueError(f"Nothing could be read of {source.name} {first or 'which has no record'}.")
    return made


def _examples(source: Source) -> Iterator[tuple[int, Callable[[], Any]]]:
    """(number, function that gets it) of each."""
    if hasattr(source.examples, "__getitem__"):
        for row in range(len(source.examples)):
            yield row, functools.partial(source.examples.__getitem__, row)
        return
    examples = iter(source.examples)
    for row in itertools.count():
        try:
            example = next(examples)
        except StopIteration:
            return
        except Exception as error:  # of TensorFlow, which cannot go on
            raise ValueError(f"{source.name} is damaged from record {row} on ({error}); prepare it anew.") from error
        yield row, functools.partial(lambda example: example, example)


def _try(source: Source, row: int, reading: Callable[[Any], Any], of: Any) -> Any:
    """What reading gives, with the record's number in the error; an error in a program is no broken record."""
    try:
        return reading(of)
    except (NameError, TypeError, AttributeError, ImportError):
        raise
    except Exception as error:  # of whatever reads or decodes it
        raise ValueError(f"Record {row} of {source.name} cannot be read ({error})") from error


def _values(example: Any, paths: Mapping[str, str], made: Mapping[str, Prepare]) -> dict[str, np.ndarray]:
    return {key: np.asarray(made[key](_at(example, path))) for key, path in paths.items()}


def _named(x: dict[str, Any], shape: tuple[int, ...]) -> PyTree:
    """The one array that has no name, or modalities of which none is missing."""
    present: dict[str, Any] = {key: np.ones(shape, bool) for key in x}
    return x[""] if "" in x else Modalities(x, present)


def _label(example: Any, labels: Sequence[str]) -> tuple[Any, ...]:
    """The values of the features that tell classes apart."""
    values = [np.asarray(_at(example, path)) for path in labels]
    return tuple(value.item().decode() if value.dtype.kind in "SO" else value.item() for value in values)


def _class_name(value: tuple[Any, ...], labels: Sequence[str], features: Any) -> str:
    """The catalogue's own where it has any."""
    say = [getattr(_at(features, path), "int2str", str) for path in labels]
    return "/".join(to(part) for to, part in zip(say, value, strict=True))


def _lacks_label(value: tuple[Any, ...], labels: Sequence[str], features: Any) -> bool:
    """Whether a `ClassLabel` of it is -1, which the catalogue writes for none."""
    return any(part == -1 and hasattr(_at(features, path), "int2str") for part, path in zip(value, labels, strict=True))


def _classes(values: list[tuple[Any, ...]], labels: Sequence[str], source: Source) -> tuple[np.ndarray, list[str]]:
    """Numbers of the classes, in the order of their values, and their names."""
    kept = sorted(set(values))
    number = {value: i for i, value in enumerate(kept)}
    if without := sum(_lacks_label(value, labels, source.features) for value in values):
        raise ValueError(f"{without} records of {source.name} have a label of -1, which is none; choose another split.")
    return np.array([number[value] for value in values]), [_class_name(v, labels, source.features) for v in kept]


def _stack(values: list[np.ndarray], path: str, series: bool = False, ragged: bool = True) -> Any:
    """Rows of one array; a `Series` if asked for, or where they differ in length only."""
    if any(value.dtype.kind not in "biuf" for value in values):
        raise ValueError(f"{path!r} is {values[0].dtype}, no number; give prepare=, such as a tokenizer.")
    shapes = {value.shape for value in values}
    if len(shapes) == 1 and not series:
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
