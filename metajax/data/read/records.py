"""Records of TensorFlow Datasets: read one by one, labelled, and stacked to arrays."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np

from metajax.data.read.catalogue import Source
from metajax.data.read.features import find_feature
from metajax.types import Series

BrokenRecord: TypeAlias = Callable[[tuple[int, str]], object]
"""What is called with (number, reason) of each record that cannot be read."""

Label: TypeAlias = tuple[tuple[Any, ...], str | None]
"""Values of the features that make up a label, and the name of the class, None if unlabelled."""


def read_all(
    source: Source, read: Callable[[Any], Any], broken: BrokenRecord | None
) -> list[tuple[int, Any]]:
    """(number, what `read` returns) for each example that can be read.

    Args:
        source: the split.
        read: a function of an example.
        broken: called with (number, reason) of each that cannot be read. None makes it an error.

    Raises:
        ValueError: a record that cannot be read and no `broken`, or no record that can be read.
    """

    def read_one(row: int, get: Callable[[], Any]) -> Any:
        return try_record(source, row, lambda: read(get()))

    found = []
    first_error = ""
    for row, get in _examples(source):
        try:
            found.append((row, read_one(row, get)))
        except ValueError as error:
            if broken is None:
                raise ValueError(
                    f"{error}; broken=[].append leaves out such records."
                ) from error.__cause__
            broken((row, str(error.__cause__)))
            first_error = first_error or str(error)
    if not found:
        raise ValueError(
            f"No record of {source.name} could be read: {first_error or 'there is none'}."
        )
    return found


def try_record(source: Source, row: int, read: Callable[[], Any]) -> Any:
    """What `read` returns. Its errors name the record.

    Raises:
        ValueError: the record cannot be read; `__cause__` is why.
        NameError, TypeError, AttributeError, ImportError: as raised. They come from a mistake in
            the user's function, and no record is to blame.
    """
    try:
        return read()
    except (NameError, TypeError, AttributeError, ImportError):
        raise
    except Exception as error:  # of any library that reads or decodes it
        raise ValueError(f"Record {row} of {source.name} cannot be read ({error})") from error


def label_reader(features: Any, labels: Sequence[str]) -> Callable[[Any], Label]:
    """A function from an example to its label.

    The name joins the names of all parts by "/", those of the catalogue where it has any. It is
    None where a `ClassLabel` is -1, which is how the catalogue marks an unlabelled example.
    """
    names = [getattr(find_feature(features, path), "int2str", None) for path in labels]

    def read(example: Any) -> Label:
        value = tuple(_scalar(find_feature(example, path)) for path in labels)
        parts = []
        for name_of, part in zip(names, value, strict=True):
            if name_of is None:
                parts.append(str(part))
            elif part == -1:
                return value, None
            else:
                parts.append(name_of(part))
        return value, "/".join(parts)

    return read


def number_classes(found: Sequence[Label], source: Source) -> tuple[np.ndarray, list[str]]:
    """Labels int[examples], in the order of their values, and the names of the classes.

    Raises:
        ValueError: an unlabelled example.
    """
    if without := sum(name is None for _, name in found):
        raise ValueError(
            f"{without} records of {source.name} are unlabelled: their label is -1; "
            "choose another split."
        )
    different = sorted(set(found))
    number = {label: index for index, label in enumerate(different)}
    y = np.array([number[label] for label in found])
    return y, [str(name) for _, name in different]


def stack(values: Sequence[np.ndarray], path: str, series: bool) -> Any:
    """Rows of one array, or of a `Series`.

    Args:
        values: the array of each example.
        path: name of the feature, for errors.
        series: whether the arrays may differ in length.

    Raises:
        ValueError: arrays that are not numbers, or that differ in shape.
    """
    if any(value.dtype.kind not in "biuf" for value in values):
        raise ValueError(
            f"{path!r} is {values[0].dtype}, not a number; give prepare=, such as a tokenizer."
        )
    if series:
        return _pad(values)
    shapes = {value.shape for value in values}
    if len(shapes) > 1:
        some = ", ".join(str(shape) for shape in sorted(shapes)[:3])
        raise ValueError(
            f"{path!r} has examples of {len(shapes)} shapes, such as {some}; "
            "give prepare=, such as square(84)."
        )
    return np.stack(values)


def _examples(source: Source) -> Iterator[tuple[int, Callable[[], Any]]]:
    """(number, function that gets the example) for each example."""
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
            raise ValueError(
                f"{source.name} is damaged from record {row} on ({error}); prepare it anew."
            ) from error
        yield row, functools.partial(_same, example)


def _same(example: Any) -> Any:
    return example


def _scalar(value: Any) -> Any:
    """One value as a number or a string of Python."""
    array = np.asarray(value)
    return array.item().decode() if array.dtype.kind in "SO" else array.item()


def _pad(values: Sequence[np.ndarray]) -> Any:
    """Sequences [time] or [time, channels] as a `Series`, with zeros after their end."""
    length: Any = np.array([len(value) for value in values], np.int32)
    shape = (len(values), length.max(), *values[0].shape[1:])
    padded: Any = np.zeros(shape, np.result_type(*values))
    for row, value in zip(padded, values, strict=True):
        row[: len(value)] = value
    return Series(padded if padded.ndim > 2 else padded[..., None], length)
