"""What was compiled for the functions of a user, kept for as long as they read the same."""

from __future__ import annotations

import dis
import functools
import sys
import types
import weakref
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

JITTED = type(jax.jit(lambda: None))
"""What `jax.jit` returns. An object may have all methods of `jax.stages.Wrapped` and be no such."""

KEPT = (types.FunctionType, functools.partial, JITTED)
"""Functions whose programs may be kept."""

PURE = (
    *("metajax", "jax", "jaxlib", "flax", "optax", "chex", "numpy", "scipy", "haiku", "equinox"),
    *("builtins", "math", "functools", "itertools", "operator", "collections", "typing"),
)
"""Packages that do not change: neither their modules, nor what their functions hold."""

CONSTANTS = (type(None), bool, int, float, complex, str, bytes, range, types.CodeType)
"""Types of values that cannot change. A subclass of one may have attributes."""

FUNCTIONS = (jax.custom_jvp, jax.custom_vjp, np.ufunc, jnp.ufunc, types.BuiltinFunctionType)
"""Functions that are not written in Python, or are wrapped."""

HELD = (set, MutableMapping, functools._lru_cache_wrapper)
"""What functions of `PURE` packages hold and leave as it is."""

LOOKUPS = frozenset({"globals", "vars", "eval", "exec", "open"})
"""Functions of Python that read what no look at the code can name."""

_kept: dict[tuple[Any, ...], tuple[Any, list[Any]]] = {}
"""What was compiled, and what its owners read then."""


def jit_with(function: Callable[..., Any], *owners: Any, **options: Any) -> Any:
    """`jax.jit(functools.partial(function, *owners), **options)`; the same one for the same owners.

    A function that is made anew at each call, and compiled with `jax.jit`, is compiled anew at each
    call. This one is kept, and with it all that JAX compiled of it, for as long as its owners live
    and read the same values from closures, default arguments and global variables. Where one reads
    what may change without notice, such as a NumPy array or an object with attributes, it is
    compiled anew. It does not keep the owners, nor data that only they hold.

    Args:
        function: of a module, always the same one. It is called with the owners first.
        owners: functions of a user.
        options: those of `jax.jit`.
    """
    try:
        read = [value for owner in owners for value in _read_by(owner, {})]
    except _ChangeError:
        read = []
    if not read or not all(isinstance(owner, KEPT) for owner in owners):
        return jax.jit(functools.partial(function, *owners), **options)
    place = (function, *map(id, owners))
    if place in _kept:
        compiled, before = _kept[place]
        if _are_same(before, read):
            return compiled
    else:
        for owner in owners:
            weakref.finalize(owner, _kept.pop, place, None).atexit = False
    references = [weakref.ref(owner) for owner in owners]

    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*(reference() for reference in references), *args, **kwargs)

    compiled = jax.jit(call, **options)
    _kept[place] = (compiled, read)
    return compiled


def _are_same(before: list[Any], now: list[Any]) -> bool:
    """Whether two lists hold the very same values; equality is not enough: 0.0 equals -0.0."""
    return len(before) == len(now) and all(a is b for a, b in zip(before, now, strict=True))


class _ChangeError(Exception):
    """A function reads something that may change without notice."""


def _read_by(value: Any, seen: dict[int, str], is_held: bool = False) -> Iterator[Any]:
    """The constants that a value is made of, and the code of its functions, in a fixed order.

    Args:
        value: a function, or what one reads.
        seen: {identity: name} of the functions and containers that were looked through. A second
            look gives the name only, since a function may read itself.
        is_held: whether a function of a `PURE` package holds the value.

    Raises:
        _ChangeError: a part that may change without notice.
    """
    if _is_constant(value) or (is_held and type(value) is not dict and _is_left_alone(value)):
        yield value
        return
    if id(value) in seen:
        yield seen[id(value)]
        return
    seen[id(value)] = sys.intern(f"seen {len(seen)}")
    parts: list[Any]
    if isinstance(value, types.FunctionType):
        is_held = _is_pure(value)
        parts = [value.__code__, value.__defaults__, value.__kwdefaults__, vars(value)]
        parts += _variables(value)
    elif isinstance(value, functools.partial):
        is_held = False
        parts = [value.func, value.args, value.keywords]
    elif isinstance(value, types.MethodType):
        parts = [value.__func__, value.__self__]
    elif type(value) in (tuple, list) or (isinstance(value, tuple) and _is_pure(type(value))):
        parts = [sys.intern(f"length {len(value)}"), *value]
    elif type(value) is dict:
        parts = [*value, *value.values()]
    else:
        raise _ChangeError
    for part in parts:
        yield from _read_by(part, seen, is_held)


def _is_constant(value: Any) -> bool:
    """Whether a value cannot change, as long as the `PURE` packages do not."""
    if isinstance(value, (type, types.ModuleType, *FUNCTIONS)):
        return _is_pure(value)
    if isinstance(value, jax.Array):
        return not isinstance(value, jax.core.Tracer)
    return type(value) in CONSTANTS or isinstance(value, (JITTED, np.generic, np.dtype))


def _is_left_alone(value: Any) -> bool:
    """Whether a value stays as it is while a function of a `PURE` package holds it."""
    has_hash_of_value = type(value).__hash__ not in (None, object.__hash__)
    is_data = isinstance(value, (tuple, types.FunctionType, types.MethodType))
    return isinstance(value, HELD) or (has_hash_of_value and not is_data and _is_pure(type(value)))


def _is_pure(value: Any) -> bool:
    """Whether a module, class or function is of one of the `PURE` packages."""
    module = getattr(value, "__module__", None)
    if isinstance(value, types.FunctionType):
        module = value.__globals__.get("__name__")  # `functools.wraps` copies `__module__`
    elif isinstance(value, types.ModuleType):
        module = value.__name__
    return isinstance(module, str) and _is_in_pure(module)


def _is_in_pure(module: str) -> bool:
    """Whether a module, by its full name, is of one of the `PURE` packages."""
    return module.partition(".")[0] in PURE


def _variables(function: types.FunctionType) -> list[Any]:
    """What a function reads from the functions around it, and from its module.

    Raises:
        _ChangeError: it imports a module that is not of a `PURE` package, or looks values up.
    """
    found = [_content(cell) for cell in function.__closure__ or ()]
    if not _is_pure(function):
        steps = _steps(function.__code__)
        if any(step.opname == "IMPORT_NAME" and not _is_in_pure(step.argval) for step in steps):
            raise _ChangeError
        names = [step.argval for step in steps if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")]
        if not LOOKUPS.isdisjoint(names):
            raise _ChangeError
        found += [function.__globals__[name] for name in names if name in function.__globals__]
    return found


def _content(cell: types.CellType) -> Any:
    """The value of a variable of the function around; None where it has none yet."""
    try:
        return cell.cell_contents
    except ValueError:
        return None


@functools.cache
def _steps(code: types.CodeType) -> tuple[dis.Instruction, ...]:
    """The instructions of a function, and those of functions inside it."""
    inside = [part for part in code.co_consts if isinstance(part, types.CodeType)]
    return (*dis.get_instructions(code), *(step for part in inside for step in _steps(part)))
