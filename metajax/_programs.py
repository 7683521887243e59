"""What was compiled for the functions of a user, kept for as long as these functions live."""

from __future__ import annotations

import functools
import types
import weakref
from collections.abc import Callable
from typing import Any

import jax

KEPT = (types.FunctionType, functools.partial, jax.stages.Wrapped)
"""Functions whose programs are kept. What another object computes may change with the object."""

_kept: dict[tuple[Any, ...], Any] = {}


def jit_with(function: Callable[..., Any], *owners: Any, **options: Any) -> Any:
    """`jax.jit(functools.partial(function, *owners), **options)`; the same one for the same owners.

    A function that is made anew at each call, and compiled with `jax.jit`, is compiled anew at each
    call. This one is kept, and with it all that JAX compiled of it, until one of the owners is
    gone. It does not keep them, nor what they hold, such as data.

    Args:
        function: of a module, always the same one. It is called with the owners first.
        owners: functions of a user, which must compute the same whenever they are called.
        options: those of `jax.jit`.
    """
    if not all(isinstance(owner, KEPT) for owner in owners):
        return jax.jit(functools.partial(function, *owners), **options)
    place = (function, *map(id, owners))
    if place in _kept:
        return _kept[place]
    references = [weakref.ref(owner) for owner in owners]

    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*(reference() for reference in references), *args, **kwargs)

    _kept[place] = jax.jit(call, **options)
    for owner in owners:
        weakref.finalize(owner, _kept.pop, place, None).atexit = False
    return _kept[place]
