"""Heads that an adaptation writes into the fast weights, and the networks that apply them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from metajax._checked import checked
from metajax._checks import check_fast_entry, takes
from metajax._tree import as_floating, reference_rows
from metajax.types import Adaptation, Apply, Array, Batch, Params, PyTree

ABSENT = -1e9
"""Head bias of a class without support, in float16 -∞.

A softmax gives the class no weight as long as the other logits are far above this number. Raw
features of thousands of large numbers may come near it: scale them.
"""


@checked
def linear_head(embed: Apply | None = None, *, entry: str = "head") -> Apply:
    """The network that applies a written linear head to features: f(x) @ kernel + bias.

    It is for features without a head of their own: raw pixels, features of a frozen encoder, or a
    net of another library. The modules of `metajax.nets` already have a head.

    Args:
        embed: (params, x, key, reference=...) -> features [examples, d]. None means that x are
            features already.
        entry: the entry of `params.fast` with the head, as `prototypes` or `ridge` writes it.

    Returns:
        (params, x, key=None, *, reference=None) -> logits [examples, ways].

    Raises:
        ValueError: when called, fast weights without that entry.
    """

    def read(params: Params, head: PyTree, features: Array) -> Array:
        return features @ head["kernel"] + head["bias"][None]

    return written_head(embed, read, entry=entry)


@checked
def written_head(embed: Apply | None, read: Callable[..., Any], *, entry: str = "head") -> Apply:
    """The network that applies what an adaptation wrote to features: read(params, head, f(x)).

    Args:
        embed: (params, x, key, reference=...) -> features [examples, ...]. None means that x are
            features already.
        read: (params, head, features) -> outputs. One with a keyword `reference` also gets the
            rows that normalisation statistics come from, bool[examples], or None for all rows.
        entry: the entry of `params.fast` with the head.

    Returns:
        (params, x, key=None, *, reference=None) -> outputs.

    Raises:
        ValueError: when called, fast weights without that entry.

    >>> distance = lambda params, centre, features: jnp.abs(features - centre)
    >>> apply = written_head(None, distance, entry="centre")
    >>> apply(Params({"centre": 2.0}, {}), jnp.array([1.0, 5.0])).tolist()
    [1.0, 3.0]
    """

    @checked
    def apply(
        params: Params, x: PyTree, key: Array | None = None, *, reference: Array | None = None
    ) -> Any:
        if not isinstance(params.fast, dict) or entry not in params.fast:
            raise ValueError(
                f"params.fast has no entry {entry!r}; adapt the params first, or write the head "
                "under this name."
            )
        features = x if embed is None else embed(params, x, key, reference=reference)
        options = {"reference": reference} if takes(read, "reference") else {}
        return read(params, params.fast[entry], as_floating(features), **options)

    return apply


@checked
def on_features(embed: Apply, adaptation: Adaptation) -> Adaptation:
    """An adaptation to the features of the support set, which are computed once.

    It is for an adaptation that changes the head alone, as in ANIL: the body of the net then runs
    once for a task, and not in every inner step. Derivatives pass through the features. Random
    layers of the body, such as dropout, draw once for a task.

    Args:
        embed: (params, x, key, reference=...) -> features [examples, ...]. They must not depend on
            what the adaptation changes.
        adaptation: how the fast weights are rewritten. Its support set has features in place of x,
            so that its loss must be of the head alone.

    Returns:
        An adaptation to support sets with x as `embed` takes them.

    >>> double = lambda params, x, key=None, *, reference=None: 2 * x
    >>> adapt = lambda params, support, key: params._replace(fast=support.x.mean())
    >>> of_features = on_features(double, Adaptation(lambda params, key: params, adapt))
    >>> support = Batch(jnp.array([1.0, 2.0]), jnp.array([0, 1]))
    >>> of_features.adapt(Params(0.0, {}), support, jax.random.key(0)).fast.item()
    3.0
    """
    solved = adaptation.inner

    def read(params: Params, support: Batch, key: Array | None) -> Batch:
        features = embed(params, support.x, key, reference=reference_rows(support))
        return support._replace(x=features)

    @checked
    def adapt(params: Params, support: Batch, key: Array) -> Params:
        embed_key, adapt_key = jax.random.split(key)
        return adaptation.adapt(params, read(params, support, embed_key), adapt_key)

    def inner(params: Params, support: Batch) -> Any:
        assert solved is not None
        return solved(params, read(params, support, None))

    return adaptation._replace(adapt=adapt, inner=None if solved is None else inner)


@checked
def write_head(params: Params, entry: str, kernel: PyTree, bias: PyTree) -> Params:
    """The params with a linear head written into an entry of `params.fast`.

    Raises:
        ValueError: fast weights that are not a dict.
    """
    check_fast_entry(params, entry)
    return params._replace(fast={**params.fast, entry: {"kernel": kernel, "bias": bias}})


def absent_bias(classes_NxW: Array) -> Array:
    """-1e9 for a class without support, and 0 for all if no class has any, [ways].

    It is NaN where a label was no class, as `weighted_one_hot` says in compiled code.

    Args:
        classes_NxW: one-hot labels times row weights, [examples, ways].
    """
    is_present_W = (classes_NxW != 0).any(axis=0)
    bias_W = jnp.where(~is_present_W & is_present_W.any(), ABSENT, 0).astype(classes_NxW.dtype)
    return jnp.where(jnp.isnan(classes_NxW).any(), jnp.nan, bias_W)


def embed_support(embed: Apply, params: Params, support: Batch, key: Array) -> Array:
    """Features of the support set, floats [examples, d].

    Raises:
        ValueError: features of another rank.
    """
    features = embed(params, support.x, key, reference=reference_rows(support))
    if jnp.ndim(features) != 2:
        raise ValueError(
            f"embed must return [examples, d], got shape {jnp.shape(features)}; flatten the rest."
        )
    return as_floating(features)
