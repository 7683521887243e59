"""Features of TensorFlow Datasets, and their conversion to arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jax.typing import ArrayLike

from metajax.data.read.catalogue import Source, skip_decoding
from metajax.data.read.pictures import Prepare, decode_picture
from metajax.data.read.rows import all_present
from metajax.types import PyTree

ONLY = ""
"""The name of a modality that is the only one, so that x is its array."""


def feature_names(
    source: Source, features: str | Mapping[str, str], label: str | Sequence[str]
) -> tuple[dict[str, str], list[str]]:
    """{modality: path of its feature}, and the paths of the features of the label.

    A single feature is the modality `ONLY`.

    Raises:
        ValueError: no feature, one that does not exist, or a label of several values.
    """
    paths = {ONLY: features} if isinstance(features, str) else dict(features)
    labels = [label] if isinstance(label, str) else list(label)
    known = list(_all_paths(source.features))
    for path in (*paths.values(), *labels):
        if path not in known:
            raise ValueError(f"{source.name} has no feature {path!r}; it has {', '.join(known)}.")
    if not paths or not labels:
        raise ValueError(
            f"{features=} and {label=} must name at least one feature each, of {', '.join(known)}."
        )
    if several := [path for path in labels if _shape(source.features, path) != ()]:
        raise ValueError(
            "A label must be one value of an example, "
            f"but {several} of {source.name} have several values."
        )
    return paths, labels


def find_feature(tree: Any, path: str) -> Any:
    """The entry of nested dicts with this path, "a/b" for b inside a. Names may have slashes."""
    tree = _inside_sequence(tree)
    if path in tree:
        return tree[path]
    outer, _, inner = path.partition("/")
    return find_feature(tree[outer], inner)


def may_differ_in_length(features: Any, path: str) -> bool:
    """Whether a feature is a sequence of any length, of numbers or of vectors of one size."""
    shape = _shape(features, path)
    return shape[:1] == (None,) and len(shape) <= 2 and None not in shape[1:]


def check_lengths(source: Source, paths: Mapping[str, str], given: Mapping[str, Prepare]) -> None:
    """Checks that no feature may differ in length, unless the user's function makes an array of it.

    Raises:
        ValueError: the features that may.
    """
    ragged = [
        path
        for modality, path in paths.items()
        if modality not in given and may_differ_in_length(source.features, path)
    ]
    if ragged:
        raise ValueError(
            f"{ragged} of {source.name} may differ in length; "
            "give prepare=, which cuts or pads them."
        )


def functions_by_modality(
    prepare: Prepare | Mapping[str, Prepare] | None, paths: Mapping[str, str]
) -> dict[str, Prepare]:
    """{modality: function}, of what the user gave as `prepare`.

    Raises:
        ValueError: a function for a modality that does not exist, or one function for several.
    """
    if prepare is None:
        given = {}
    elif isinstance(prepare, Mapping):
        given = dict(prepare)
    else:
        given = dict.fromkeys(paths, prepare)
    if not set(given) <= set(paths) or (callable(prepare) and len(paths) > 1):
        raise ValueError(
            f"prepare must be a function for each of the modalities {list(paths)}, got {prepare!r}."
        )
    return given


def array_functions(
    source: Source, prepare: Mapping[str, Prepare], paths: Mapping[str, str]
) -> tuple[Source, dict[str, Prepare]]:
    """The function that makes an array of each modality's feature.

    Args:
        source: the split.
        prepare: {modality: the user's function}, where there is one.
        paths: {modality: path of its feature}.

    Returns:
        (the source, whose pictures are now left as they are stored, {modality: function}).
    """
    made = {}
    pictures = []
    for modality, path in paths.items():
        feature = find_feature(source.features, path)
        user = prepare.get(modality, np.asarray)
        if _is_picture(feature):
            pictures.append(path)
            made[modality] = _after(_picture_decoder(feature), user)
        elif _kind(feature) == "Audio":
            made[modality] = _after(_wave, user)
        else:
            made[modality] = user
    return skip_decoding(source, pictures), made


def to_arrays(
    example: Any, paths: Mapping[str, str], made: Mapping[str, Prepare]
) -> dict[str, np.ndarray]:
    """{modality: array} of an example."""
    return {
        modality: np.asarray(made[modality](find_feature(example, path)))
        for modality, path in paths.items()
    }


def as_x(x: dict[str, Any], shape: tuple[int, ...]) -> PyTree:
    """The array of the only modality, or several modalities of which none is missing."""
    return x[ONLY] if ONLY in x else all_present(x, shape)


def scale_of(features: Any, path: str, dtype: np.dtype) -> int | None:
    """The number that the values of a feature are to be divided by.

    Pictures and videos that are still uint8 have 255, and recordings that are still int16 have
    32 768. Anything else has None: what the user's function made of it is not known.
    """
    feature = find_feature(features, path)
    while hasattr(feature, "feature"):  # a video is a sequence of pictures
        feature = feature.feature
    if _kind(feature) == "Image" and dtype == np.uint8:
        return 255
    if _kind(feature) == "Audio" and dtype == np.int16:
        return 32768
    return None


def _inside_sequence(feature: Any) -> Any:
    """What a sequence is of; anything else is returned as it is."""
    return getattr(feature, "feature", feature)


def _all_paths(features: Any, before: str = "") -> Iterator[str]:
    """The paths of all features, "a/b" for b inside a."""
    for name, feature in features.items():
        inner = _inside_sequence(feature)
        if hasattr(inner, "items"):
            yield from _all_paths(inner, f"{before}{name}/")
        else:
            yield before + name


def _shape(tree: Any, path: str) -> tuple[int | None, ...]:
    """Shape of a feature in an example. A length that may differ is None.

    Every sequence that the feature is inside of adds an axis.
    """
    outer = (None,) if hasattr(tree, "feature") else ()
    tree = _inside_sequence(tree)
    if path in tree:
        return (*outer, *tree[path].shape)
    head, _, inner = path.partition("/")
    return (*outer, *_shape(tree[head], inner))


def _kind(feature: Any) -> str:
    """The class of a feature; naming it so does not import TensorFlow Datasets."""
    return type(feature).__name__


def _is_picture(feature: Any) -> bool:
    return _kind(feature) == "Image" and feature.np_dtype == np.uint8


def _picture_decoder(feature: Any) -> Prepare:
    """Decodes a stored picture to the channels of its feature.

    `tfds.data_source` does not do so: it returns black and white, or grey, as it is stored.
    """
    channels = feature.shape[-1] or 3

    def decode(stored: Any) -> np.ndarray:
        if isinstance(stored, np.ndarray):
            if stored.ndim:  # TensorFlow has decoded it.
                return stored
            stored = stored.item()
        return decode_picture(stored, channels, as_stored=True)

    return decode


def _wave(samples: ArrayLike) -> np.ndarray:
    """A recording as int16, which TensorFlow Datasets returns as int64."""
    wave = np.asarray(samples)
    if wave.dtype.kind == "i" and (wave.astype(np.int16) == wave).all():
        return wave.astype(np.int16)
    return wave.astype(np.float32)


def _after(first: Prepare, second: Prepare) -> Prepare:
    """Two functions, one after the other."""
    return lambda value: second(first(value))
