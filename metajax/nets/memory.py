"""A memory of the support pairs, which the `Translator` looks characters up in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from metajax._checked import checked
from metajax._checks import check_fast_entry
from metajax._tree import row_weights
from metajax.types import Adaptation, Apply, Array, Batch, Params


class Memory(NamedTuple):
    """Every place of every target of a support set, as a table to look things up in.

    Attributes:
        state: [places, width], the state before the net read the character there; it is compared.
        value: [places, width], made of the character and of the state after it; it is read.
        previous: [places], the character before.
        source: [pairs, 2 source], the sources, aligned at the left and at the right.
        character: [places, characters], one-hot.
        valid: [places], 1 where there is a character, 0 in padding.
    """

    state: Array
    value: Array
    previous: Array
    source: Array
    character: Array
    valid: Array


@checked
def remember_pairs(apply: Callable[..., Any], *, entry: str = "memory") -> Adaptation:
    """Writes the support pairs into the fast weights, for `with_memory` to look things up in.

    Args:
        apply: that of a `Translator`, from `functional`.
        entry: the entry of `params.fast` that is written.

    Raises:
        ValueError: on adaptation, fast weights that are not a dict.
    """

    @checked
    def init(params: Params, key: Array) -> Params:
        return params._replace(rule=())

    @checked
    def adapt(params: Params, support: Batch, key: Array) -> Params:
        check_fast_entry(params, entry)
        memory = apply(params, support.x, method="remember", weight=row_weights(support))
        return params._replace(fast={**params.fast, entry: memory})

    return Adaptation(init, adapt)


@checked
def with_memory(apply: Callable[..., Any], *, entry: str = "memory") -> Apply:
    """The `Translator` that looks things up in what `remember_pairs` has written.

    Where nothing has been written it is the plain `Translator`.

    Args:
        apply: that of a `Translator`, from `functional`.
        entry: the entry of `params.fast` that is read.
    """

    @checked
    def recalled(
        params: Params, x: Any, key: Array | None = None, *, reference: Array | None = None
    ) -> Array:
        return apply(params, x, key, memory=params.fast.get(entry))

    return recalled
