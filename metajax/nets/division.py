"""How the weights of a net are divided into fast and slow ones, and joined again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import jax

from metajax._checked import checked
from metajax.types import Params, PyTree

IsFast: TypeAlias = Callable[[str], bool]
"""From the path of a weight, such as "layers/0/kernel", to whether it is fast."""

Weights: TypeAlias = dict[Any, Any]
"""A nested dict. Whatever is not a dict is a weight."""


@checked
def join_params(params: Params) -> Weights:
    """All weights of a net in one nested dict, however they are divided into fast and slow.

    Use it in a function of your own that should work with any division.

    Args:
        params: with nested dicts as `fast` and `slow`.

    Returns:
        A nested dict, without `params.rule`.

    Raises:
        ValueError: fast or slow weights that are not nested dicts, or a weight that both have.

    >>> join_params(Params(fast={"head": {"bias": 0.0}}, slow={"head": {"kernel": 1.0}}))
    {'head': {'kernel': 1.0, 'bias': 0.0}}
    """
    return _join(_as_dict(params.fast, "fast"), _as_dict(params.slow, "slow"), "")


@checked
def split_params(params: Params, is_fast: IsFast) -> Params:
    """Divides the weights of a net anew into fast and slow ones.

    It works for the params of every adapter of `metajax.nets`: their `apply` accepts any division.

    Args:
        params: with nested dicts as `fast` and `slow`, divided in any way.
        is_fast: from the path of a weight, such as "layers/0/kernel", to whether an adaptation
            rewrites it.

    Returns:
        The same params, with `fast` and `slow` divided anew.

    Raises:
        ValueError: a division without fast weights; fast or slow weights that are not nested dicts;
            a weight that both have.

    >>> params = Params(fast={"body": {"kernel": 1.0}, "head": {"kernel": 2.0}}, slow={})
    >>> split_params(params, lambda path: path.startswith("head"))
    Params(fast={'head': {'kernel': 2.0}}, slow={'body': {'kernel': 1.0}}, rule=())
    """
    weights = join_params(params)
    fast, slow = _divide(weights, is_fast, "")
    if not jax.tree.leaves(fast):
        paths = ", ".join(weight_paths(weights))
        raise ValueError(f"is_fast makes nothing fast; the net has {paths}.")
    return params._replace(fast=fast, slow=slow)


def divide(weights: Weights, is_fast: IsFast | None) -> Params:
    """The params of a net whose weights are a nested dict; None makes all of them fast."""
    params = Params(weights, {})
    return params if is_fast is None else split_params(params, is_fast)


def weight_paths(weights: Weights, path: str = "") -> Iterator[str]:
    """The paths of all weights, such as "layers/0/kernel".

    Args:
        weights: a nested dict.
        path: what the paths begin with.
    """
    for name, part in weights.items():
        if isinstance(part, dict):
            yield from weight_paths(part, f"{path}{name}/")
        else:
            yield f"{path}{name}"


def weights_reader(weights: Weights) -> Callable[[Params], Weights]:
    """Returns a function that finds the weights of a net in params with any division.

    Entries that the net does not have are ignored: adaptations write a head for `linear_head` into
    `params.fast`, and a learned decay of the inner loop may be in `params.slow`.

    Args:
        weights: those that the net starts with.

    Returns:
        params -> the weights of the net in one nested dict. It raises a ValueError where weights of
        the net are missing, or parts of it have weights that it does not have.
    """
    names = frozenset(weights)
    paths = frozenset(weight_paths(weights))

    def own(part: Weights) -> Weights:
        """The entries that belong to the net."""
        return {name: leaf for name, leaf in part.items() if name in names}

    def read(params: Params) -> Weights:
        fast = own(_as_dict(params.fast, "fast"))
        slow = own(_as_dict(params.slow, "slow"))
        found = join_params(params._replace(fast=fast, slow=slow))
        got = frozenset(weight_paths(found))
        if got != paths:
            raise ValueError(
                "params must have the weights of the net; "
                f"missing are {sorted(paths - got)}, unknown are {sorted(got - paths)}."
            )
        return found

    return read


def _as_dict(weights: PyTree, which: str) -> Weights:
    """The weights. What has no weights, such as (), counts as an empty dict."""
    if isinstance(weights, dict):
        return weights
    if jax.tree.leaves(weights):
        got = type(weights).__name__
        raise ValueError(f"params.{which} must be a nested dict of weights, got {got}.")
    return {}


def _join(fast: Weights, slow: Weights, path: str) -> Weights:
    joined = {**slow, **fast}
    for name in fast.keys() & slow.keys():
        here = f"{path}{name}"
        if not isinstance(fast[name], dict) or not isinstance(slow[name], dict):
            raise ValueError(
                f"params.fast and params.slow both have {here!r}; a weight is either fast or slow. "
                "To write one that is slow, make it fast first, such as with split_params."
            )
        joined[name] = _join(fast[name], slow[name], f"{here}/")
    return joined


def _divide(weights: Weights, is_fast: IsFast, path: str) -> tuple[Weights, Weights]:
    """(fast, slow) without empty dicts."""
    fast: Weights = {}
    slow: Weights = {}
    for name, part in weights.items():
        here = f"{path}{name}"
        if isinstance(part, dict):
            own_fast, own_slow = _divide(part, is_fast, f"{here}/")
            if own_fast:
                fast[name] = own_fast
            if own_slow:
                slow[name] = own_slow
        elif is_fast(here):
            fast[name] = part
        else:
            slow[name] = part
    return fast, slow
