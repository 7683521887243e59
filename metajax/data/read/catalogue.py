"""Opening a split of the catalogue of TensorFlow Datasets, and preparing it where need be."""

from __future__ import annotations

import difflib
import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple


class Source(NamedTuple):
    """A split that can be read.

    Attributes:
        examples: one nested dict of features for each example. A sequence, or only an iterable
            where TensorFlow reads tfrecord.
        features: the features as TensorFlow Datasets describes them.
        name: of the data set and split, for errors.
        builder: of TensorFlow Datasets.
        split: as it was asked for.
    """

    examples: Any
    features: Any
    name: str
    builder: Any
    split: str


def open_split(name: Any, split: str, data_dir: str | os.PathLike | None, download: bool) -> Source:
    """Opens a split, after downloading and preparing it where need be.

    `tfds` documents the arguments.

    Raises:
        ImportError: tensorflow-datasets is missing, or another package that the data set needs.
        FileNotFoundError: the data set is not prepared, and `download` is False.
        ConnectionError: the download failed.
        OSError: `data_dir` cannot be written.
        ValueError: an unknown name or split, or a download that cannot be unpacked.
    """
    builder = _find_builder(name, data_dir)
    full_name = builder.info.full_name
    prepared = builder.is_prepared() or _prepare(builder, download)
    if prepared and not builder.info.initialized:  # another process prepared it meanwhile
        builder.info.read_from_directory(builder.data_path)
    try:
        if prepared:
            examples = _open_prepared(builder, split)
        else:
            examples = _open_by_tensorflow(builder, split)
    except (ValueError, KeyError) as error:
        splits = ", ".join(builder.info.splits)
        raise ValueError(
            f"{full_name} has no split {split!r} ({error}); it has {splits}."
        ) from error
    return Source(examples, builder.info.features, f"{full_name}, split {split!r},", builder, split)


def skip_decoding(source: Source, paths: Sequence[str]) -> Source:
    """The same split, in which these features are left as they are stored.

    Where TensorFlow reads the data it has decoded them already, and the source stays as it is.
    """
    if not paths or not hasattr(source.examples, "__getitem__"):
        return source
    import tensorflow_datasets

    decoders: dict[str, Any] = {}
    for path in paths:
        *outer, last = path.split("/")
        inner = decoders
        for part in outer:
            inner = inner.setdefault(part, {})
        inner[last] = tensorflow_datasets.decode.SkipDecoding()
    return source._replace(examples=source.builder.as_data_source(source.split, decoders=decoders))


def conversion_command(builder: Any) -> str:
    """The command that makes array_record, which has random access, of prepared tfrecord."""
    return f"tfds convert_format --dataset_dir={builder.data_path} --out_file_format=array_record"


def _open_prepared(builder: Any, split: str) -> Any:
    """Examples with random access, or what TensorFlow reads where the format has no such access."""
    try:
        return builder.as_data_source(split)
    except NotImplementedError:  # of tfrecord
        return _open_by_tensorflow(builder, split)


def _open_by_tensorflow(builder: Any, split: str) -> Any:
    """Examples to iterate over."""
    import tensorflow_datasets

    try:
        return tensorflow_datasets.as_numpy(builder.as_dataset(split))
    except ImportError as error:
        raise ImportError(
            f"{builder.info.full_name} is not prepared as array_record, so that reading it needs "
            "TensorFlow: pip install tensorflow-cpu; or, where that is installed, convert it: "
            f"{conversion_command(builder)}."
        ) from error


def _find_builder(name: Any, data_dir: str | os.PathLike | None) -> Any:
    """The builder of a name in the catalogue or of a prepared folder, or the given builder."""
    if not isinstance(name, str | os.PathLike):
        return name
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise ImportError(
            f"The catalogue needs tensorflow-datasets ({error}): pip install 'metajax[data]'."
        ) from error
    name = os.fspath(name)
    where = None if data_dir is None else os.fspath(data_dir)
    folder = pathlib.Path(name).expanduser()
    try:
        if (folder / "dataset_info.json").is_file():
            return tensorflow_datasets.builder_from_directory(folder)
        builder = tensorflow_datasets.builder(name, data_dir=where)
        if builder.is_prepared():
            return builder
        return tensorflow_datasets.builder(name, data_dir=where, file_format="array_record")
    except tensorflow_datasets.core.registered.DatasetNotFoundError as error:
        close = difflib.get_close_matches(name, tensorflow_datasets.list_builders(), 5)
        if close:
            remedy = f"do you mean {', '.join(close)}?"
        else:
            remedy = "tensorflow.org/datasets lists what there is."
        raise ValueError(
            f"There is no data set {name!r}, nor a prepared folder of that name; {remedy}"
        ) from error
    except ImportError as error:
        raise _missing_package(name, error) from error


def _missing_package(name: str, error: Exception) -> ImportError:
    """An error that says what to install. Most data sets need it only to be prepared."""
    return ImportError(
        f"{name} needs another package: pip install tensorflow-cpu, or what is named ({error})."
    )


def _prepare(builder: Any, download: bool) -> bool:
    """Downloads and prepares a data set, one process at a time.

    Returns:
        False for builders that read files as they are, such as `ImageFolder`; else True.
    """
    full_name = builder.info.full_name
    folder = pathlib.Path(builder.data_path)
    if not download:
        root = os.fspath(builder.data_dir_root)
        raise FileNotFoundError(
            f"{full_name} is not prepared in {folder}; "
            f"data.tfds({full_name!r}, data_dir={root!r}) does it."
        )
    import requests
    from tensorflow_datasets.core.download import download_manager, extractor, util

    failed_downloads = (
        requests.RequestException,
        util.DownloadError,
        download_manager.NonMatchingChecksumError,
    )
    lock = _lock(folder)
    try:
        with lock:
            if not builder.is_prepared():  # by another process, while this one waited
                builder.download_and_prepare()
    except NotImplementedError:
        return False
    except ImportError as error:
        raise _missing_package(full_name, error) from error
    except extractor.ExtractError as error:
        if "No module named" in str(error):
            raise _missing_package(full_name, error) from error
        raise ValueError(
            f"{full_name} could not be unpacked ({error}); remove the download, and try again."
        ) from error
    except failed_downloads as error:
        raise ConnectionError(
            f"{full_name} could not be downloaded ({error}). Try again with a network, "
            f"or prepare it on another machine and copy it to {folder}."
        ) from error
    return True


def _lock(folder: pathlib.Path) -> Any:
    """A lock beside the folder that is to be prepared, acquired."""
    import filelock

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        return filelock.FileLock(folder.parent / f".{folder.name}.lock").acquire()
    except OSError as error:
        raise OSError(
            f"{folder.parent} cannot be written ({error}); name another folder: data_dir=..."
        ) from error
