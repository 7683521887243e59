"""Records of TensorFlow Datasets as arrays: their features, their classes, and those that cannot be read."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from jax.typing import ArrayLike

from metajax.data.read.catalogue import Source, skip_decoding
from metajax.data.read.pictures import Prepare, _picture_of
from metajax.types import Modalities, PyTree, Series

Broken: TypeAlias = Callable[[tuple[int, str]], object]

Label: TypeAlias = tuple[tuple[Any, ...], str | None]


def feature_names(
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
        raise ValueError(
            f"{features=} and {label=} must name one feature at the least, of {', '.join(known)}."
        )
    if several := [path for path in labels if _shape(source.features, path) != ()]:
        raise ValueError(
            f"A label must be one value of an example, which {several} of {source.name} are not."
        )
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


def may_differ_in_length(features: Any, path: str) -> bool:
    """Whether it is a sequence of numbers, or of vectors of one size, as long as it likes."""
    shape = _shape(features, path)
    return shape[:1] == (None,) and len(shape) <= 2 and None not in shape[1:]


def array_functions(
    source: Source, given: Mapping[str, Prepare], paths: Mapping[str, str]
) -> tuple[Source, dict[str, Prepare]]:
    """The source with its pictures as they are stored, and what makes an array of each feature of it."""
    made = {}
    for key, path in paths.items():
        feature = _at(source.features, path)
        decode = (
            _wave
            if type(feature).__name__ == "Audio"
            else _picture_of(feature)
            if _is_picture(feature)
            else None
        )
        made[key] = _after(decode, given.get(key, np.asarray))
    pictures = [path for path in paths.values() if _is_picture(_at(source.features, path))]
    return skip_decoding(source, pictures), made


def _after(decode: Prepare | None, prepare: Prepare) -> Prepare:
    return prepare if decode is None else lambda value: prepare(decode(value))


def _is_picture(feature: Any) -> bool:
    return type(feature).__name__ == "Image" and feature.np_dtype == np.uint8


def _wave(samples: ArrayLike) -> np.ndarray:
    """A recording as int16, which TensorFlow Datasets hands out as int64."""
    wave = np.asarray(samples)
    if wave.dtype.kind == "i" and (wave.astype(np.int16) == wave).all():
        return wave.astype(np.int16)
    return wave.astype(np.float32)


def read_all(
    source: Source, read: Callable[[Any], Any], broken: Broken | None
) -> list[tuple[int, Any]]:
    """(number, what `read` makes of it) of each example, but for those that cannot be read."""
    whole, made, first = (lambda get: read(get())), [], ""
    for row, get in _examples(source):
        try:
            made.append((row, try_record(source, row, whole, get)))
        except ValueError as error:
            if broken is None:
                raise ValueError(
                    f"{error}; broken=[].append leaves out what cannot."
                ) from error.__cause__
            broken((row, str(error.__cause__)))
            first = first or str(error)
    if not made:
        raise ValueError(
            f"Nothing could be read of {source.name} {first or 'which has no record'}."
        )
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
            raise ValueError(
                f"{source.name} is damaged from record {row} on ({error}); prepare it anew."
            ) from error
        yield row, functools.partial(lambda example: example, example)


def try_record(source: Source, row: int, reading: Callable[[Any], Any], of: Any) -> Any:
    """What reading gives, with the record's number in the error; an error in a program is no broken record."""
    try:
        return reading(of)
    except (NameError, TypeError, AttributeError, ImportError):
        raise
    except Exception as error:  # of whatever reads or decodes it
        raise ValueError(f"Record {row} of {source.name} cannot be read ({error})") from error


def arrays(
    example: Any, paths: Mapping[str, str], made: Mapping[str, Prepare]
) -> dict[str, np.ndarray]:
    """{modality: array} of an example."""
    return {key: np.asarray(made[key](_at(example, path))) for key, path in paths.items()}


def named(x: dict[str, Any], shape: tuple[int, ...]) -> PyTree:
    """The one array that has no name, or modalities of which none is missing."""
    present: dict[str, Any] = {key: np.ones(shape, bool) for key in x}
    return x[""] if "" in x else Modalities(x, present)


def labels_by(features: Any, labels: Sequence[str]) -> Callable[[Any], Label]:
    """Example -> the values of the features that tell classes apart, and the name of the class, the catalogue's if any.

    The name is None where a `ClassLabel` is -1, which the catalogue writes for no label.
    """
    say = [getattr(_at(features, path), "int2str", None) for path in labels]

    def read(example: Any) -> Label:
        values = [np.asarray(_at(example, path)) for path in labels]
        value = tuple(
            one.item().decode() if one.dtype.kind in "SO" else one.item() for one in values
        )
        if any(to is not None and part == -1 for to, part in zip(say, value, strict=True)):
            return value, None
        return value, "/".join(
            str(part) if to is None else to(part) for to, part in zip(say, value, strict=True)
        )

    return read


def classes(found: Sequence[Label], source: Source) -> tuple[np.ndarray, list[str]]:
    """Numbers of the classes, in the order of their values, and their names."""
    if without := sum(name is None for _, name in found):
        raise ValueError(
            f"{without} records of {source.name} have a label of -1, which is none; choose another split."
        )
    kept = sorted(set(found))
    number = {label: i for i, label in enumerate(kept)}
    return np.array([number[label] for label in found]), [str(name) for _, name in kept]


def stack(values: Sequence[np.ndarray], path: str, series: bool) -> Any:
    """Rows of one array, or of a `Series`."""
    if any(value.dtype.kind not in "biuf" for value in values):
        raise ValueError(
            f"{path!r} is {values[0].dtype}, no number; give prepare=, such as a tokenizer."
        )
    if series:
        length: Any = np.array([len(value) for value in values], np.int32)
        padded: Any = np.zeros(
            (len(values), length.max(), *values[0].shape[1:]), np.result_type(*values)
        )
        for row, value in zip(padded, values, strict=True):
            row[: len(value)] = value
        return Series(padded if padded.ndim > 2 else padded[..., None], length)
    shapes = {value.shape for value in values}
    if len(shapes) > 1:
        some = ", ".join(map(str, sorted(shapes)[:3]))
        raise ValueError(
            f"{path!r} has examples of {len(shapes)} shapes, such as {some}; give prepare=, such as square(84)."
        )
    return np.stack(values)
