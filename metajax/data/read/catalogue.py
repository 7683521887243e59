"""Opening a split of TensorFlow's catalogue, prepared if need be; every way in which that fails says what to do."""

from __future__ import annotations

import difflib
import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple


class Source(NamedTuple):
    """A split that can be read.

    Attributes:
        examples: one nested dict of features each; a sequence, or only iterable where TensorFlow reads tfrecord.
        features: what they are, as TensorFlow Datasets knows it.
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
    """The split of that name; `tfds` says what the arguments are and what is raised."""
    builder = _builder(name, data_dir)
    full, prepared = builder.info.full_name, builder.is_prepared() or _prepare(builder, download)
    try:
        examples = builder.as_data_source(split) if prepared else _by_tensorflow(builder, split)
    except NotImplementedError:  # of tfrecord
        examples = _by_tensorflow(builder, split)
    except (ValueError, KeyError) as error:
        raise ValueError(
            f"{full} has no split {split!r} ({error}); it has {', '.join(builder.info.splits)}."
        ) from error
    return Source(examples, builder.info.features, f"{full}, split {split!r},", builder, split)


def skip_decoding(source: Source, paths: Sequence[str]) -> Source:
    """The same, with these features left as they are stored, for whoever wants the others."""
    if not paths or not hasattr(source.examples, "__getitem__"):  # or TensorFlow has decoded them
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


def convert(builder: Any) -> str:
    """How to make random access of what was prepared as tfrecord."""
    return f"tfds convert_format --dataset_dir={builder.data_path} --out_file_format=array_record makes it of one"


def _by_tensorflow(builder: Any, split: str) -> Any:
    import tensorflow_datasets

    try:
        return tensorflow_datasets.as_numpy(builder.as_dataset(split))
    except ImportError as error:
        raise ImportError(
            f"{builder.info.full_name} is no array_record, which needs TensorFlow: pip install tensorflow-cpu; or, "
            f"where that is installed, {convert(builder)} that does not."
        ) from error


def _builder(name: Any, data_dir: str | os.PathLike | None) -> Any:
    """The builder of that name, of a prepared folder, or the builder that was given."""
    if not isinstance(name, str | os.PathLike):
        return name
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise ImportError(
            f"The catalogue needs tensorflow-datasets ({error}): pip install 'metajax[data]'."
        ) from error
    name, where = os.fspath(name), None if data_dir is None else os.fspath(data_dir)
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
        remedy = (
            f"do you mean {', '.join(close)}?"
            if close
            else "tensorflow.org/datasets lists what there is."
        )
        raise ValueError(
            f"There is no data set {name!r}, nor a prepared folder of that name; {remedy}"
        ) from error
    except ImportError as error:
        raise _missing(name, error) from error


def _missing(name: str, error: Exception) -> ImportError:
    """What to install, for most data sets only to prepare them."""
    return ImportError(
        f"{name} needs more: pip install tensorflow-cpu, or what is named ({error})."
    )


def _prepare(builder: Any, download: bool) -> bool:
    """Downloads and prepares, one process at a time; False if it reads files as they are, such as `ImageFolder`."""
    full, final = builder.info.full_name, pathlib.Path(builder.data_path)
    if not download:
        root = os.fspath(builder.data_dir_root)
        raise FileNotFoundError(
            f"{full} is not prepared in {final}; data.tfds({full!r}, data_dir={root!r}) does it."
        )
    import filelock
    import requests
    from tensorflow_datasets.core.download import download_manager, extractor, util

    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(final.parent / f".{final.name}.lock").acquire()
    except OSError as error:
        raise OSError(
            f"{final.parent} cannot be written ({error}); name another folder: data_dir=..."
        ) from error
    try:
        with lock:
            if builder.is_prepared():  # by another process, while this one waited
                builder.info.read_from_directory(builder.data_path)
            else:
                builder.download_and_prepare()
    except NotImplementedError:
        return False
    except ImportError as error:
        raise _missing(full, error) from error
    except extractor.ExtractError as error:
        if "No module named" in str(error):
            raise _missing(full, error) from error
        raise ValueError(
            f"{full} could not be unpacked ({error}); remove the download, and try again."
        ) from error
    except (
        requests.RequestException,
        util.DownloadError,
        download_manager.NonMatchingChecksumError,
    ) as error:
        raise ConnectionError(
            f"{full} could not be downloaded ({error}). Try again with a network, or prepare it on another machine and "
            f"copy it to {final}."
        ) from error
    return True
