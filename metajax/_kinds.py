"""Kinds: what an annotation asks of an argument, and the words for it in an error message."""

from __future__ import annotations

import collections.abc
import inspect
import math
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metajax.types import Array, Batch, Count, PyTree, Scalar, Size, Task

BY_PLACE = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
NUMBERS = (int, float, complex, bool, np.number, np.bool_)


class Kind(NamedTuple):
    """What an argument must be.

    Attributes:
        words: what it is, for an error message.
        fits: whether a value is of this kind.
    """

    words: str
    fits: Callable[[Any], bool]


def or_none(kind: Kind) -> Kind:
    """The kind, or None."""
    words = kind.words if kind.words.endswith(" or None") else _either(kind.words, "None")
    return Kind(words, lambda value: value is None or kind.fits(value))


def _either(*words: str) -> str:
    """The words of several kinds, of which a value has one."""
    return (", or " if any("," in one for one in words) else " or ").join(words)


def kind_of(hint: Any) -> Kind:
    """The kind that an annotation stands for."""
    if isinstance(hint, collections.abc.Hashable) and hint in _KIND_OF_HINT:
        return _KIND_OF_HINT[hint]
    origin = typing.get_origin(hint) or hint
    parts = typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        # `ArrayLike | None` is one union of all their parts; the words of `ArrayLike` are shorter.
        if set(_ARRAY_LIKE) <= set(parts):
            parts = (jax.typing.ArrayLike, *(part for part in parts if part not in _ARRAY_LIKE))
        kinds = [kind_of(part) for part in parts]
        return Kind(
            _either(*(kind.words for kind in kinds)),
            lambda value: any(kind.fits(value) for kind in kinds),
        )
    if not inspect.isclass(origin) or origin in (object, inspect.Parameter.empty):
        return _ANYTHING
    is_protocol = getattr(origin, "_is_protocol", False)
    if origin is collections.abc.Callable:
        if not parts or not isinstance(parts[0], list):
            return Kind("a function", callable)
        return _function_of(len(parts[0]))
    if is_protocol and "__call__" in vars(origin):
        return _function_like(origin.__call__)
    if is_protocol:
        return _ANYTHING
    if issubclass(origin, collections.abc.Iterable) and parts and not hasattr(origin, "_fields"):
        return _kind_of_container(origin, parts)
    library = "flax.nnx" if origin.__module__.startswith("flax.nnx") else origin.__module__
    name = f"{library if library == 'flax.nnx' else library.split('.')[0]}.{origin.__name__}"
    article = "an" if name[0] in "aeiou" else "a"
    return Kind(f"{article} {name}", lambda value: isinstance(value, origin))


def _function_of(number: int, keywords: Sequence[str] = ()) -> Kind:
    """The kind of a function that is called with this number of arguments by place.

    It must take the keywords, too. It may take `step`: a sampler or task loss that has it gets it
    by name.
    """

    def fits(value: Any) -> bool:
        if not callable(value):
            return False
        try:
            parameters = inspect.signature(value).parameters.values()
        except (TypeError, ValueError):
            return True  # it does not tell
        by_place = [one for one in parameters if one.kind in BY_PLACE]
        named = (*keywords, "step")
        needed = [one for one in by_place if one.default is one.empty and one.name not in named]
        kinds = {one.kind for one in parameters}
        takes_any = inspect.Parameter.VAR_KEYWORD in kinds
        return (
            len(needed) <= number
            and (number <= len(by_place) or inspect.Parameter.VAR_POSITIONAL in kinds)
            and (takes_any or set(keywords) <= {one.name for one in parameters})
        )

    words = f"a function of {number} argument{'s' * (number != 1)}"
    if keywords:
        words += f" and the keyword {', '.join(keywords)}"
    return Kind(words, fits)


def _function_like(model: Callable[..., Any]) -> Kind:
    """The kind of a function that can be called as the method `__call__` of a protocol can."""
    _, *parameters = inspect.signature(model).parameters.values()
    keywords = [one.name for one in parameters if one.kind is one.KEYWORD_ONLY]
    number = len(parameters) - len(keywords)
    return _function_of(number, keywords)


def _kind_of_container(origin: type, parts: tuple[Any, ...]) -> Kind:
    """The kind of a sequence, mapping or iterable. The parts of an iterator are not checked."""
    if issubclass(origin, collections.abc.Mapping):
        of_values = kind_of(parts[1])
        return Kind(
            f"a dict, each value {of_values.words}",
            lambda value: (
                isinstance(value, collections.abc.Mapping)
                and all(of_values.fits(part) for part in value.values())
            ),
        )
    if issubclass(origin, tuple) and parts[-1] is not Ellipsis:
        kinds = [kind_of(part) for part in parts]
        words = ", ".join(kind.words for kind in kinds)
        return Kind(
            f"({words})",
            lambda value: (
                isinstance(value, tuple | list)
                and len(value) == len(kinds)
                and all(kind.fits(part) for kind, part in zip(kinds, value, strict=True))
            ),
        )
    of_parts = kind_of(parts[0])
    return Kind(
        f"a sequence, each part {of_parts.words}",
        lambda value: _is_iterable(value) and all(of_parts.fits(part) for part in _parts(value)),
    )


def _is_iterable(value: Any) -> bool:
    """Whether a value has parts. A text is one value, and an array of rank 0 has none."""
    if isinstance(value, str | bytes) or getattr(value, "ndim", 1) == 0:
        return False
    return isinstance(value, collections.abc.Iterable)


def _parts(value: Any) -> collections.abc.Iterable[Any]:
    """The parts to look at. An iterator is left alone, as looking at it would use it up."""
    if isinstance(value, collections.abc.Sized):
        return typing.cast(collections.abc.Iterable[Any], value)
    return ()


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _is_array(value: Any) -> bool:
    """Whether a value is an array of numbers or a number, a traced one included."""
    if isinstance(value, NUMBERS):
        return True
    dtype = getattr(value, "dtype", None)
    if dtype is None or not hasattr(value, "shape"):
        return False
    return not jnp.issubdtype(dtype, jax.dtypes.extended) and np.dtype(dtype).kind not in "OUSMm"


def _is_array_or_list(value: Any) -> bool:
    """Whether NumPy makes an array of numbers of it."""
    if isinstance(value, list | tuple):
        return all(_is_array_or_list(part) for part in value)
    return _is_array(value)


def _is_array_or_key(value: Any) -> bool:
    dtype = getattr(value, "dtype", None)
    return _is_array(value) or (dtype is not None and jnp.issubdtype(dtype, jax.dtypes.extended))


def _has_arrays(value: Any) -> bool:
    """Whether every leaf of a pytree is an array, a number or a random key."""
    return all(_is_array_or_key(leaf) for leaf in jax.tree.leaves(value))


def _is_real(value: Any) -> bool:
    """Whether a value is one real number: a number of Python, NumPy or JAX, a traced one too."""
    if isinstance(value, bool | str):
        return False
    if isinstance(value, int | float | np.integer | np.floating):
        return True
    dtype = getattr(value, "dtype", None)
    if dtype is None or getattr(value, "shape", None) != ():
        return False
    return jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)


def _is_finite(value: Any) -> bool:
    """Whether a value is one real number, and neither NaN nor infinite, as far as it tells."""
    is_known = isinstance(value, int | float | np.integer | np.floating)
    return _is_real(value) and (not is_known or math.isfinite(value))


def _is_batch(value: Any) -> bool:
    """Whether a value is a batch of arrays that have the same number of rows."""
    if not isinstance(value, Batch) or not _has_arrays(value):
        return False
    if isinstance(value.x, list):
        return True  # `check_no_list` says what to do
    rows = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(value._replace(info=()))}
    return len(rows) < 2 and () not in rows


def _is_task(value: Any) -> bool:
    return isinstance(value, Task) and _is_batch(value.support) and _is_batch(value.query)


def _is_key(value: Any) -> bool:
    """Whether a value is one random key, of either kind of JAX."""
    dtype = getattr(value, "dtype", None)
    shape = getattr(value, "shape", None)
    is_new = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key) and shape == ()
    is_old = dtype == jnp.uint32 and shape in ((2,), (4,))  # of threefry, and of rbg
    return is_new or is_old


KEY = Kind("one random key, such as jax.random.key(0)", _is_key)


def _is_optimizer(value: Any) -> bool:
    """Whether a value has the two functions of an optax transformation, as `MultiSteps` has."""
    return all(callable(getattr(value, name, None)) for name in ("init", "update"))


_ARRAY_LIKE = typing.get_args(jax.typing.ArrayLike)

KEYS = Kind("random keys", _is_array_or_key)
_ANYTHING = Kind("anything", lambda value: True)

_KIND_OF_HINT: dict[Any, Kind] = {
    Any: _ANYTHING,
    type(None): Kind("None", lambda value: value is None),
    int: Kind("a whole number", _is_whole),
    Count: Kind("a whole number, 0 or more", lambda value: _is_whole(value) and value >= 0),
    Size: Kind("a whole number, 1 or more", lambda value: _is_whole(value) and value > 0),
    float: Kind("a finite real number", _is_finite),
    Scalar: Kind("a real number", _is_real),
    bool: Kind("True or False", lambda value: isinstance(value, bool | np.bool_)),
    str: Kind("a string", lambda value: isinstance(value, str)),
    PyTree: Kind("a pytree of arrays", _has_arrays),
    Array: Kind("an array of numbers", _is_array),
    np.ndarray: Kind("an array of numbers", _is_array),
    jax.typing.ArrayLike: Kind("an array of numbers", _is_array_or_list),
    optax.GradientTransformation: Kind("an optax.GradientTransformation", _is_optimizer),
    Batch: Kind("a metajax.Batch whose arrays all have the same number of rows", _is_batch),
    Task: Kind("a metajax.Task of batches whose arrays all have the same number of rows", _is_task),
}
