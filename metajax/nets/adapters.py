"""The seam between Flax modules and the core."""

from __future__ import annotations

import inspect
from typing import Any

import jax
from flax import nnx

from metajax.types import Apply, Array, Params


def functional(module: nnx.Module, fast: nnx.filterlib.Filter = nnx.Param) -> tuple[Apply, Params]:
    """A Flax module as a pure function and its parameters, some of them fast.

    `apply(params, x, key=None, *, reference=None, method="__call__", **kwargs)` calls the module, or the method named.
    With key=None it is deterministic; a key seeds dropout and whatever else is random. `reference` is handed to methods
    that have such an argument, those of nets with normalisation statistics.

    Args:
        module: an nnx module. What it holds besides parameters (the statistics of `FrozenNorm`, random state) is kept
            as a constant and never learned.
        fast: which variables an adaptation rewrites, as a Flax filter; the other parameters are slow. All of them for
            MAML, `nnx.PathContains("head")` for ANIL.

    Returns:
        (apply, Params(fast, slow)) with plain nested dicts of arrays.

    Raises:
        ValueError: if the filter makes nothing fast.

    >>> import jax.numpy as jnp
    >>> apply, params = functional(nnx.Linear(3, 2, rngs=nnx.Rngs(0)), fast=nnx.PathContains("bias"))
    >>> list(params.fast), list(params.slow)
    (['bias'], ['kernel'])
    >>> apply(params, jnp.ones((4, 3))).shape
    (4, 2)
    """
    constant = (nnx.RngState, nnx.BatchStat)
    graph, *states = nnx.split(module, nnx.All(fast, nnx.Not(constant)), nnx.Param, ...)
    fast_state, slow_state, rest = states
    params = Params(nnx.to_pure_dict(fast_state), nnx.to_pure_dict(slow_state))
    if not jax.tree.leaves(params.fast):
        paths = [
            jax.tree_util.keystr(path)
            for path, _ in jax.tree_util.tree_leaves_with_path(params.slow)
        ]
        raise ValueError(
            f"The filter {fast!r} makes nothing fast; the module has {', '.join(paths)}."
        )
    streams = {
        node.key.tag for _, node in nnx.iter_graph(module) if isinstance(node, nnx.RngStream)
    }

    def apply(
        params: Params,
        x: Any,
        key: Array | None = None,
        *,
        reference: Array | None = None,
        method: str = "__call__",
        **kwargs: Any,
    ) -> Any:
        net = nnx.merge(graph, params.fast, params.slow, rest, copy=True)
        if key is None:
            net = nnx.view(net, deterministic=True, raise_if_not_found=False)
        elif streams:
            seeds: dict[str, Any] = dict.fromkeys(streams, key)
            nnx.reseed(net, **seeds)
        function = getattr(net, method)
        if "reference" in inspect.signature(function).parameters:
            kwargs["reference"] = reference
        return function(x, **kwargs)

    return apply, params
