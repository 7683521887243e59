"""TensorFlow Datasets as few-shot data sets, read with random access and without TensorFlow."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from metajax._checked import checked
from metajax.data.datasets import Dataset, dataset
from metajax.data.read.catalogue import Source, conversion_command, open_split, skip_decoding
from metajax.data.read.features import (
    ONLY,
    array_functions,
    as_x,
    check_lengths,
    feature_names,
    functions_by_modality,
    may_differ_in_length,
    scale_of,
    to_arrays,
)
from metajax.data.read.pictures import Prepare
from metajax.data.read.records import (
    BrokenRecord,
    Label,
    label_reader,
    number_classes,
    read_all,
    stack,
    try_record,
)
from metajax.types import PyTree

Wanted: TypeAlias = Callable[[str], bool] | frozenset[str]


@checked
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
    broken: BrokenRecord | None = None,
) -> Dataset:
    """A data set of TensorFlow's catalogue, all of it in memory.

    `tfds("omniglot", label=("alphabet", "label"))` is Omniglot. What is larger than memory is read
    by `tfds_rows`.

    The data is read through `tfds.data_source`, which does not need TensorFlow. A data set that is
    not there yet is downloaded and prepared as array_record, once, even if several processes ask at
    the same time. Preparing some data sets needs TensorFlow (`pip install tensorflow-cpu`), and so
    does reading what another tool has prepared as tfrecord.

    The data set declares a scale for pictures that are uint8 (255) and for recordings that are
    int16 (32 768), so that drawn values are float32 in [0, 1] or [-1, 1).

    Args:
        name: the name in the catalogue, with configuration and version if need be ("omniglot",
            "ucf101/ucf101_1_256"); the folder of a prepared data set; or a
            `tfds.core.DatasetBuilder` of your own.
        split: as TensorFlow Datasets writes it: "train", "train+test", "train[:10%]".
        features: what x is: the name of a feature, "a/b" for one inside another, or
            {modality: name} for several.
        label: the feature that separates the classes: the label, or a speaker, alphabet or domain.
            The values of several features are joined, the group first: ("alphabet", "label") makes
            the class "Greek/alpha". Classes without an example in the split are left out. Names are
            those of the catalogue where it has any.
        prepare: a function from the feature of one example to an array, always of the same shape,
            such as `square(84)` for photographs or a tokenizer for texts; {modality: function} for
            several. Without one, a feature that may differ in length becomes a `Series`, padded
            with zeros; recordings become int16.
        keep: the classes to read, as names (`split.parts["train"]`) or as a predicate on names.
            Pictures of other classes are not decoded, unless TensorFlow reads the data. None reads
            all classes.
        data_dir: where prepared data is. None is the default of TensorFlow Datasets,
            ~/tensorflow_datasets.
        download: False reads only what is prepared, and never uses the network.
        broken: called with (number, reason) of each record that cannot be read, which is then left
            out; to collect them in a list `lost`, give `lost.append`. None makes the first one an
            error. What TensorFlow itself cannot read is always an error.

    Raises:
        ImportError: tensorflow-datasets is missing, or TensorFlow where it is needed.
        FileNotFoundError: `download` is False, and the data is not prepared.
        ConnectionError: the download failed, after some minutes of tries by TensorFlow Datasets.
        OSError: `data_dir` cannot be written.
        ValueError: an unknown name, split or feature; a label of several values, or unlabelled
            records; a class of `keep` that does not exist; a record that cannot be read; examples
            that differ in shape or are not numbers, and no `prepare`.
        TypeError: `keep` fails on a name.
        TypeError, NameError, AttributeError, ImportError: those of `prepare` are raised as they
            are, because no record is to blame.

    Source: tensorflow.org/datasets.
    """
    source = open_split(name, split, data_dir, download)
    paths, labels = feature_names(source, features, label)
    given = functions_by_modality(prepare, paths)
    source, made = array_functions(source, given, paths)
    wanted = keep if callable(keep) or keep is None else frozenset(keep)
    label_of = label_reader(source.features, labels)

    def read(example: Any) -> tuple[Label, dict[str, np.ndarray]] | None:
        found = label_of(example)
        if wanted is not None and not _is_wanted(wanted, found[1]):
            return None
        return found, to_arrays(example, paths, made)

    rows = [row for _, row in read_all(source, read, broken) if row is not None]
    y, names = number_classes([found for found, _ in rows], source)
    _check_kept(wanted, names, source)
    x, scale = {}, {}
    for modality, path in paths.items():
        values = [arrays[modality] for _, arrays in rows]
        series = modality not in given and may_differ_in_length(source.features, path)
        x[modality] = stack(values, path, series)
        divisor = scale_of(source.features, path, np.result_type(*values))
        if divisor is not None:
            scale[modality] = divisor
    return dataset(
        as_x(x, y.shape),
        y,
        names=names,
        scale=scale.get(ONLY) if ONLY in paths else scale or None,
    )


@checked
def tfds_rows(
    name: Any,
    *,
    split: str = "train",
    features: str | Mapping[str, str] = "image",
    label: str | Sequence[str] = "label",
    prepare: Prepare | Mapping[str, Prepare] | None = None,
    data_dir: str | os.PathLike | None = None,
    download: bool = True,
    broken: BrokenRecord | None = None,
) -> tuple[Dataset, Callable[[np.ndarray], PyTree]]:
    """A data set of TensorFlow's catalogue that is larger than memory, for `stream`.

    Labels are read once, now, and the features are not decoded, unless `broken` asks to try every
    record whole. Choose classes by `select_part(rows, split, "train")`, which reads nothing. Give
    `stream` the scale of what is read, such as `scale=255` for pictures.

    Args:
        name: as in `tfds`, and so are the other arguments. Examples must have one shape: features
            that may differ in length need `prepare`.
        split: as in `tfds`.
        features: as in `tfds`.
        label: as in `tfds`.
        prepare: as in `tfds`.
        data_dir: as in `tfds`.
        download: as in `tfds`.
        broken: as in `tfds`.

    Returns:
        (rows, fetch). `rows` is a `Dataset` whose x are the numbers of the records,
        int32[examples], so that every sampler can draw from it. `fetch(numbers)` reads these
        records: int[...] -> x, with the axes of the numbers first. It is a ValueError, with the
        number, if it cannot read a record.

    Raises:
        ValueError: as `tfds`; also features that may differ in length without `prepare`, or data
            that is prepared as tfrecord, which has no random access.
        ImportError, FileNotFoundError, ConnectionError, OSError, TypeError: as `tfds`.
    """
    source = open_split(name, split, data_dir, download)
    paths, labels = feature_names(source, features, label)
    given = functions_by_modality(prepare, paths)
    check_lengths(source, paths, given)
    source, made = array_functions(source, given, paths)
    if not hasattr(source.examples, "__getitem__"):
        raise ValueError(
            f"{source.name} is prepared as tfrecord, which has no random access; "
            f"{conversion_command(source.builder)} converts it."
        )
    label_of = label_reader(source.features, labels)

    def read_whole(example: Any) -> Label:
        to_arrays(example, paths, made)
        return label_of(example)

    if broken is None:
        undecoded = [path for path in paths.values() if path not in labels]
        found = read_all(skip_decoding(source, undecoded), label_of, None)
    else:
        found = read_all(source, read_whole, broken)
    y, names = number_classes([label for _, label in found], source)
    records = np.array([number for number, _ in found], np.int32)

    def fetch(numbers: np.ndarray) -> PyTree:
        numbers = np.asarray(numbers)
        rows = [_read_row(source, number, paths, made) for number in numbers.reshape(-1).tolist()]
        x = {}
        for modality, path in paths.items():
            stacked = stack([row[modality] for row in rows], path, series=False)
            x[modality] = stacked.reshape(*numbers.shape, *stacked.shape[1:])
        return as_x(x, numbers.shape)

    return dataset(records, y, names=names), fetch


def _read_row(
    source: Source, number: int, paths: Mapping[str, str], made: Mapping[str, Prepare]
) -> dict[str, np.ndarray]:
    """{modality: array} of one record."""

    def read() -> dict[str, np.ndarray]:
        return to_arrays(source.examples[number], paths, made)

    return try_record(source, number, read)


def _is_wanted(wanted: Wanted, name: str | None) -> bool:
    """Whether a class is to be read. An unlabelled example belongs to no class."""
    if name is None:
        return False
    if isinstance(wanted, frozenset):
        return name in wanted
    try:
        return bool(wanted(name))
    except Exception as error:
        raise TypeError(f"keep fails on the class {name!r} ({error!r}).") from error


def _check_kept(wanted: Wanted | None, names: list[str], source: Source) -> None:
    """Checks that every class that was named was found, and that there is one."""
    missing = sorted(wanted - set(names)) if isinstance(wanted, frozenset) else []
    if missing:
        raise ValueError(
            f"No record of {len(missing)} classes of keep is in {source.name} or can be read: "
            f"{missing[:10]}."
        )
    if not names:
        raise ValueError(f"keep leaves no class of {source.name}, so there is nothing to read.")
