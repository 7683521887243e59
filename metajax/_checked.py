"""The decorator `@checked` compares the arguments of a function with its annotations."""

from __future__ import annotations

import functools
import inspect
import re
import types
import typing
from collections.abc import Callable
from typing import Any, TypeVar

import jax

from metajax._checks import shapes, shorten
from metajax._kinds import KEY, KEYS, NUMBERS, Kind, kind_of, or_none
from metajax.types import Batch, Task

Checked = TypeVar("Checked", bound=Callable[..., Any])

TEXT_LABELS = (
    "; of labels that are texts, names, y = np.unique(labels, return_inverse=True) makes integers"
)
"""What to do about the labels of a batch that are texts."""


def checked(item: Checked) -> Checked:
    """Checks every argument of a function or class against its annotation, at each call.

    Only the kind is looked at: a number, an array, a function with the right number of arguments, a
    `Params`, a `Batch` whose arrays all have the same number of rows. Shapes and values are checked
    where they are used. `Any` and `object` take anything, and every leaf of a `PyTree` must be an
    array, a number or a random key. An argument that is called `key` must be one random key.
    `*args`, `**kwargs` and the keys of a dict are not checked. Of a class, `__init__`, `__call__`
    and the public methods are checked.

    Returns:
        The function, which raises ValueError for an argument of another kind: its name, what it
        must be, what it is, and what the docstring says about it. Or the class.

    >>> @checked
    ... def double(x: float) -> float:
    ...     return 2 * x
    >>> double("1")
    Traceback (most recent call last):
    ValueError: x must be a finite real number, got '1'; an argument of double.
    """
    if not inspect.isclass(item):
        return _checked_function(item, item)
    for name, method in list(vars(item).items()):
        is_public = not name.startswith("_") or name in ("__init__", "__call__")
        if is_public and inspect.isfunction(method):
            setattr(item, name, _checked_function(method, item if name == "__init__" else method))
    if "__init__" in vars(item):
        item.__signature__ = _InitSignature()  # type: ignore[attr-defined]
    return typing.cast(Checked, item)


class _InitSignature:
    """The signature of a class, or of one that is derived from it: that of its `__init__`.

    `help`, editors and the API pages show it. Else they would show the (*args, **kwargs) of Flax's
    metaclass.
    """

    def __get__(self, instance: Any, owner: type) -> inspect.Signature:
        if instance is not None:
            raise AttributeError("__signature__")  # an instance is called by `__call__`
        init: Callable[..., Any] = owner.__init__  # type: ignore[misc]
        _, *parameters = inspect.signature(init).parameters.values()
        return inspect.Signature(parameters)


def _checked_function(function: Callable[..., Any], documented: Any) -> Any:
    """The function, which checks its arguments. The docstring of `documented` describes them."""
    code = inspect.unwrap(function).__code__

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if code not in _found:
            _found[code] = _parameter_kinds(function)
        by_place, by_name = _found[code]
        for (name, kind), value in zip(by_place, args, strict=False):
            if not kind.fits(value):
                raise ValueError(_message(documented, name, kind, value))
        for name, value in kwargs.items():
            if name in by_name and not by_name[name].fits(value):
                raise ValueError(_message(documented, name, by_name[name], value))
        return function(*args, **kwargs)

    return call


_ParameterKinds = tuple[list[tuple[str, Kind]], dict[str, Kind]]
_found: dict[types.CodeType, _ParameterKinds] = {}
"""What `_parameter_kinds` found, by code: that of a function inside another is always the same."""


def _parameter_kinds(function: Callable[..., Any]) -> _ParameterKinds:
    """The kinds of the parameters that may be given by place, and of all by name.

    They are found at the first call, when all modules are there.
    """
    by_place = []
    by_name = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        kind = kind_of(_resolved(parameter.annotation, function))
        if name == "key" and kind.fits(None):
            kind = or_none(KEY)
        elif name == "key":
            kind = KEY
        elif name == "keys":
            kind = KEYS
        if parameter.default is None:
            kind = or_none(kind)
        by_name[name] = kind
        if parameter.kind is not parameter.KEYWORD_ONLY:
            by_place.append((name, kind))
    return by_place, by_name


def _resolved(annotation: Any, function: Callable[..., Any]) -> Any:
    """The annotation that a text stands for; Any where it is imported for type checkers only."""
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, inspect.unwrap(function).__globals__)
    except NameError:
        return Any


def _message(documented: Any, name: str, kind: Kind, value: Any) -> str:
    """What is wrong with an argument, and what its documentation says."""
    got = _got(value)
    if (inspect.isfunction(value) or inspect.isclass(value)) and "a function" not in kind.words:
        got += ", which was not called"
    field = "params" if "metajax.Params" in kind.words else name
    if field in getattr(value, "_fields", ()):
        got += f"; give its .{field}"
    text = f"{name} must be {kind.words}, got {got}; an argument of {_title(documented)}."
    doc = inspect.getdoc(documented) or ""
    entry = re.search(rf"^    ({name}: .*(?:\n     .*)*)", doc, re.MULTILINE)
    if entry:
        text += "\n" + " ".join(entry[1].split())
    return text


def _title(documented: Any) -> str:
    """The name of a function or class, without the functions that it is defined in."""
    return documented.__qualname__.rpartition("<locals>.")[2]


def _has_texts(batch: Any) -> bool:
    """Whether a leaf of a batch or task is a text or an array of texts."""
    return any(
        isinstance(leaf, str) or getattr(getattr(leaf, "dtype", None), "kind", None) in ("T", "U")
        for leaf in jax.tree.leaves(batch)
    )


def _got(value: Any) -> str:
    """A short description of a value of the wrong kind."""
    if isinstance(value, str):
        return repr(value[:40])
    if isinstance(value, NUMBERS) or value is None:
        return repr(value)
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"{value.dtype}{list(value.shape)}"
    if isinstance(value, Batch | Task):
        return shorten(str(shapes(value))) + (TEXT_LABELS if _has_texts(value) else "")
    if inspect.isfunction(value):
        return f"the function {value.__name__}"
    if inspect.isclass(value):
        return f"the class {value.__name__}"
    if isinstance(value, list | tuple | dict | set) and not hasattr(value, "_fields"):
        return shorten(repr(value))
    return f"a {type(value).__name__}"
