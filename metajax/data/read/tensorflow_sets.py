"""TensorFlow Datasets as few-shot data sets, read with random access and without TensorFlow."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from metajax.data.datasets import Dataset, dataset
from metajax.data.read.catalogue import convert, open_split, skip_decoding
from metajax.data.read.pictures import Prepare
from metajax.data.read.records import (
    Broken,
    Label,
    array_functions,
    arrays,
    classes,
    feature_names,
    labels_by,
    may_differ_in_length,
    named,
    read_all,
    stack,
    try_record,
)
from metajax.types import PyTree


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
    paths, labels = feature_names(source, features, label)
    given = _given(prepare, paths)
    source, made = array_functions(source, given, paths)
    if isinstance(keep, str):
        raise ValueError(f"{keep=} must be several names or a predicate; for one name, [{keep!r}].")
    wanted = keep if callable(keep) or keep is None else frozenset(keep)
    label_of = labels_by(source.features, labels)

    def read(example: Any) -> tuple[Label, dict[str, np.ndarray]] | None:
        found = label_of(example)
        return (
            (found, arrays(example, paths, made))
            if wanted is None or _chosen(wanted, found[1])
            else None
        )

    rows = [row for _, row in read_all(source, read, broken) if row is not None]
    y, names = classes([found for found, _ in rows], source)
    if isinstance(wanted, frozenset) and (missing := sorted(wanted - set(names))):
        raise ValueError(
            f"No record of {len(missing)} classes of keep is in {source.name} or can be read: {missing[:10]}."
        )
    if not names:
        raise ValueError(f"keep leaves no class of {source.name} so that there is nothing to read.")
    x = {}
    for key, path in paths.items():
        series = key not in given and may_differ_in_length(source.features, path)
        x[key] = stack([values[key] for _, values in rows], path, series)
    return dataset(named(x, y.shape), y, names=names)


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
    paths, labels = feature_names(source, features, label)
    given = _given(prepare, paths)
    if ragged := [
        p
        for key, p in paths.items()
        if key not in given and may_differ_in_length(source.features, p)
    ]:
        raise ValueError(
            f"{ragged} of {source.name} may differ in length; give prepare=, which cuts or pads them."
        )
    source, made = array_functions(source, given, paths)
    if not hasattr(source.examples, "__getitem__"):
        raise ValueError(
            f"{source.name} is prepared as tfrecord, which has no random access; {convert(source.builder)}."
        )
    label_of = labels_by(source.features, labels)
    if broken is None:
        rows = read_all(
            skip_decoding(source, [path for path in paths.values() if path not in labels]),
            label_of,
            None,
        )
    else:
        rows = read_all(
            source, lambda example: (label_of(example), arrays(example, paths, made))[0], broken
        )
    y, names = classes([found for _, found in rows], source)

    def fetch(numbers: np.ndarray) -> PyTree:
        numbers = np.asarray(numbers)
        read = lambda number: arrays(source.examples[number], paths, made)
        rows = [try_record(source, number, read, number) for number in numbers.reshape(-1).tolist()]
        x = {
            key: stack([values[key] for values in rows], path, series=False)
            for key, path in paths.items()
        }
        x = {key: leaf.reshape(*numbers.shape, *leaf.shape[1:]) for key, leaf in x.items()}
        return named(x, numbers.shape)

    return dataset(np.array([number for number, _ in rows], np.int32), y, names=names), fetch


def _given(
    prepare: Prepare | Mapping[str, Prepare] | None, paths: Mapping[str, str]
) -> dict[str, Prepare]:
    """{modality: function}, checked."""
    given = (
        dict(prepare)
        if isinstance(prepare, Mapping)
        else {}
        if prepare is None
        else dict.fromkeys(paths, prepare)
    )
    if not set(given) <= set(paths) or (callable(prepare) and len(paths) > 1):
        raise ValueError(
            f"prepare must be a function for each of the modalities {list(paths)}, got {prepare!r}."
        )
    return given


def _chosen(wanted: Callable[[str], bool] | frozenset[str], name: str | None) -> bool:
    """Whether a class is to be read; what has no label is of none."""
    if name is None:
        return False
    if isinstance(wanted, frozenset):
        return name in wanted
    try:
        return bool(wanted(name))
    except Exception as error:
        raise TypeError(f"keep fails on the class {name!r} ({error!r}).") from error
