"""How the recipes take a net: a Flax module, or the (apply, params) of any adapter."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeAlias

import jax
from flax import nnx

from metajax._checked import checked
from metajax.inner import linear_head
from metajax.nets import functional, join_params, split_params
from metajax.types import Apply, Loss, Params, PyTree

Net: TypeAlias = nnx.Module | tuple[Apply, Params]
"""A Flax module, or (apply, params) as an adapter of `metajax.nets` returns them."""

_OWN_WEIGHTS = (
    "The net has weights of its own under {entry!r}, where the adaptation writes a head. Give the "
    "net a method `embed` that returns the features that its head reads, or give another entry=."
)

MakeLoss: TypeAlias = Callable[[Apply], Loss]
"""What makes a loss of a network, such as `metajax.losses.cross_entropy`."""


@checked
def as_function(net: Net, fast: Callable[[str], bool] | None = None) -> tuple[Apply, Params]:
    """A net as (apply, params).

    Args:
        net: a Flax module or (apply, params).
        fast: path of a weight, such as "head/kernel" -> whether it is fast. None makes all weights
            of a module fast, and leaves the params of a pair as they are.

    Raises:
        ValueError: nothing is fast.
    """
    apply, params = functional(net) if isinstance(net, nnx.Module) else net
    if fast is not None:
        params = split_params(params, fast)
    return apply, params


def check_has_slow(params: Params, what: str) -> None:
    """Checks that some weights are slow, where an argument says which ones are.

    Args:
        params: of the net, divided.
        what: the argument, as an error names it.

    Raises:
        ValueError: all are fast.
    """
    if not jax.tree.leaves(params.slow):
        raise ValueError(f"{what} matches no weight of the net, whose parts are {[*params.fast]}.")


@checked
def as_encoder(net: Net, entry: str) -> tuple[Apply, Apply, Params]:
    """A net as an encoder whose weights are slow, under a head that an adaptation writes.

    The encoder of a Flax module that has a method `embed` and a `head` is its `embed`, and the
    adaptation writes its head; where `entry` has another name, its own head is not used. Of any
    other net, the outputs are the features, and a linear head stands on them.

    Returns:
        (embed, apply, params): the features, the net with a head, and slow weights.

    Raises:
        ValueError: weights of the net where the head is written.
    """
    has_head = isinstance(net, nnx.Module) and hasattr(net, "embed") and hasattr(net, "head")
    if has_head and entry == "head":
        apply, params = as_function(net, fast=in_part("head"))
        return embed_of(apply), apply, params
    apply, params = as_function(net)
    weights = join_params(params)
    if isinstance(net, nnx.Module) and entry in weights:
        raise ValueError(_OWN_WEIGHTS.format(entry=entry))
    embed = embed_of(apply) if has_head else apply
    return embed, linear_head(embed, entry=entry), Params(fast={}, slow=weights)


@checked
def as_features(net: Net, entry: str) -> tuple[Apply, Params]:
    """A net as an encoder whose weights are slow, without the head of a Flax module.

    It is for adaptations whose head is not linear. The features of a Flax module that has a method
    `embed` and a `head` are those of `embed`; of any other net, they are its outputs.

    Args:
        net: a Flax module or (apply, params).
        entry: the entry of `params.fast` that the adaptation writes.

    Returns:
        (embed, params): the features, and slow weights.

    Raises:
        ValueError: weights of the net where the adaptation writes.
    """
    if isinstance(net, nnx.Module) and hasattr(net, "embed") and hasattr(net, "head"):
        body = nnx.clone(net)
        del body.head
        apply, params = functional(body)
        embed = embed_of(apply)
    else:
        embed, params = as_function(net)
    weights = join_params(params)
    if entry in weights:
        raise ValueError(_OWN_WEIGHTS.format(entry=entry))
    return embed, Params(fast={}, slow=weights)


def with_part(params: Params, name: str, weights: PyTree) -> Params:
    """The params with the weights of a further net among the slow ones.

    Raises:
        ValueError: a net that has a part of this name.
    """
    parts = [part for part in (params.fast, params.slow) if isinstance(part, dict)]
    if any(name in part for part in parts):
        raise ValueError(
            f"The net has a part {name!r}, the name of a further net of this algorithm; rename it."
        )
    return params._replace(slow={**(params.slow or {}), name: weights})


def loss_of(make_loss: MakeLoss, apply: Apply) -> Loss:
    """The loss of a network.

    Raises:
        ValueError: a net in place of the function that makes a loss of it.
    """
    if isinstance(make_loss, nnx.Module):
        raise ValueError(
            "loss must be a function that makes a loss of a net, such as "
            f"metajax.losses.cross_entropy, got a net, {type(make_loss).__name__}."
        )
    return make_loss(apply)


def embed_of(apply: Apply) -> Apply:
    """The method `embed` of a Flax module, of which `functional` made `apply`."""
    return method_of(apply, "embed")


def method_of(apply: Apply, name: str) -> Apply:
    """A method of a Flax module, of which `functional` made `apply`."""
    return functools.partial(apply, method=name)  # type: ignore[call-arg]


@checked
def in_part(*names: str) -> Callable[[str], bool]:
    """Whether a weight belongs to one of these parts of the net: names anywhere in its path.

    >>> is_head = in_part("head")
    >>> is_head("head/kernel"), is_head("layers/0/kernel")
    (True, False)
    >>> is_late = in_part("layers/1", "head")
    >>> is_late("layers/1/kernel"), is_late("layers/0/kernel")
    (True, False)
    """
    return lambda path: any(f"/{name}/" in f"/{path}/" for name in names)
