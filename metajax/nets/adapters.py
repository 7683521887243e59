"""Adapters that turn Flax NNX modules and plain functions into functions of params."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable, Collection
from typing import Any

import jax
from flax import nnx

from metajax._checked import checked
from metajax._checks import is_concrete, takes
from metajax.nets.division import join_params, weights_reader
from metajax.nets.norms import TaskNorm
from metajax.types import Apply, Array, Modalities, Params, PyTree


@checked
def functional(module: nnx.Module, fast: nnx.filterlib.Filter = nnx.Param) -> tuple[Apply, Params]:
    """A Flax NNX module as a pure function and its parameters, some of them fast.

    `apply(params, x, key=None, *, reference=None, method="__call__", **kwargs)` calls the
    module, or another method by its name. With key=None dropout is off; a key seeds dropout and
    whatever else is random. `reference` is handed to methods that have this argument. Where the
    method has none, every `TaskNorm` of the module gets it, and an `nnx.BatchNorm` that would count
    all rows is an error. `apply` accepts any division of the weights into fast and slow ones, so
    `split_params` can divide them anew. It ignores entries that the net does not have, which
    adaptations and other functions use.

    A module of your own that draws numbers from its `nnx.Rngs` draws them with key=None, too, and
    then the same ones in every call. Give it a method `set_view(self, deterministic=None)`, as
    `nnx.Dropout` has: it is called with True where there is no key.

    An `nnx.BatchNorm` takes its statistics from all rows of the batch, as `TaskNorm` does; after
    `module.eval()` it uses the stored ones, which `apply` never updates. A warning says so where
    nothing has learned them. An `nnx.Conv` with fast weights is many times slower on a CPU than
    `nets.Conv`.

    Args:
        module: an NNX module. What it has besides parameters (the statistics of `FrozenNorm`,
            random state) is kept as a constant and never learned.
        fast: which variables an adaptation rewrites, as a Flax filter; the other parameters are
            slow. All of them for MAML, `nnx.PathContains("head")` for ANIL.

    Returns:
        (apply, Params(fast, slow)) with nested dicts of arrays.

    Raises:
        ValueError: a filter that makes nothing fast, or names a part that the module does not have;
            when called, weights that are not the net's, or a reference for a net that normalises
            all rows of a batch together.

    >>> import jax.numpy as jnp
    >>> net = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    >>> apply, params = functional(net, fast=nnx.PathContains("bias"))
    >>> list(params.fast), list(params.slow)
    (['bias'], ['kernel'])
    >>> apply(params, jnp.ones((4, 3))).shape
    (4, 2)
    """
    _check_filter(fast, module)
    _warn_of_first_statistics(module)
    constant = (nnx.RngState, nnx.BatchStat)
    is_fast = nnx.All(fast, nnx.Not(constant))
    graph, *states = nnx.split(module, is_fast, nnx.Param, ...)
    fast_state, slow_state, rest = states
    start = Params(nnx.to_pure_dict(fast_state), nnx.to_pure_dict(slow_state))
    if not jax.tree.leaves(start.fast):
        leaves = jax.tree_util.tree_leaves_with_path(start.slow)
        names = ", ".join(jax.tree_util.keystr(path) for path, _ in leaves)
        raise ValueError(f"The filter {fast!r} makes nothing fast; the module has {names}.")
    read_weights = weights_reader(join_params(start))
    random_streams = _random_streams(module)

    @checked
    def apply(
        params: Params,
        x: Any,
        key: Array | None = None,
        *,
        reference: Array | None = None,
        method: str = "__call__",
        **kwargs: Any,
    ) -> Any:
        net = nnx.merge(graph, read_weights(params), rest, copy=True)
        if key is None:
            net = nnx.view(net, deterministic=True, raise_if_not_found=False)
        elif random_streams:
            nnx.reseed(net, **_stream_keys(random_streams, key))
        function = getattr(net, method)
        if takes(function, "reference"):
            kwargs["reference"] = reference
        elif reference is not None:
            _set_reference(net, reference)
        return function(x, **kwargs)

    return apply, start


def _stream_keys(names: Collection[str], key: Array) -> dict[str, Any]:
    """A key for each random stream of a module. Equal ones would give equal dropout and noise."""
    if len(names) == 1:
        return dict.fromkeys(names, key)
    return {name: jax.random.fold_in(key, zlib.crc32(name.encode())) for name in names}


def _check_filter(fast: Any, module: nnx.Module) -> None:
    """Checks that every name in a filter is that of a part of the module.

    Raises:
        ValueError: what is no filter, or a name that no path has, such as "0" for the number 0.
    """
    try:
        nnx.filterlib.to_predicate(fast)
    except (TypeError, ValueError) as error:
        raise ValueError(f"fast must be a Flax filter, such as nnx.Param, got {fast!r}.") from error
    if isinstance(fast, nnx.Not):
        _check_filter(fast.predicate, module)
    elif isinstance(fast, nnx.All | nnx.Any):
        for one in fast.predicates:
            _check_filter(one, module)
    elif isinstance(fast, nnx.PathContains):
        paths = [path for path, _ in nnx.to_flat_state(nnx.state(module))]
        if not any(fast(path, None) for path in paths):
            parts = sorted({part for path in paths for part in path}, key=str)
            raise ValueError(
                f"{fast!r} names no part of the module; the parts are {parts}. Numbers are not "
                "strings."
            )


def _set_reference(net: nnx.Module, reference: Array) -> None:
    """Lets the layers of a net whose method has no such argument count the reference rows only."""
    for path, node in nnx.iter_graph(net):
        if isinstance(node, TaskNorm):
            node.default_reference = lambda: reference
        if isinstance(node, nnx.BatchNorm) and not node.use_running_average:
            raise ValueError(
                f"The layer {_name(path, net)} is an nnx.BatchNorm, whose statistics count all "
                "rows, padded ones and queries included, although the batch says which rows "
                "count. Use metajax.nets.TaskNorm, or give the module an argument `reference` and "
                "call the layer with mask=, or call module.eval() to use the stored statistics."
            )


def _warn_of_first_statistics(module: nnx.Module) -> None:
    """Warns of layers that normalise by the mean 0 and the variance 1 that they were made with."""
    for path, node in nnx.iter_graph(module):
        if not isinstance(node, nnx.BatchNorm) or not node.use_running_average:
            continue
        mean, variance = node.mean[...], node.var[...]
        if is_concrete(mean, variance) and not mean.any() and (variance == 1).all():
            warnings.warn(
                f"The layer {_name(path, module)} is an nnx.BatchNorm that uses its stored "
                "statistics, which are still those that it was made with, and metajax never "
                "updates them: it does not normalise. Load the statistics of a trained net, or "
                "use metajax.nets.TaskNorm.",
                stacklevel=4,
            )


def _name(path: tuple[Any, ...], module: nnx.Module) -> str:
    """The name of a part of a module."""
    return "/".join(map(str, path)) or type(module).__name__


def _random_streams(module: nnx.Module) -> set[str]:
    """The names of the streams of random numbers that a module has, such as "dropout"."""
    nodes = [node for _, node in nnx.iter_graph(module)]
    return {node.key.tag for node in nodes if isinstance(node, nnx.RngStream)}


@checked
def from_function(
    function: Callable[..., Any], params: Params | None = None
) -> tuple[Apply, Params]:
    """A function of your own as an apply; it needs only those of the arguments that it uses.

    Args:
        function: (params, x), and also `key` or `reference` if it has arguments of these names.
            `params` is the `Params`; `join_params` gives all its weights in any division.
            Other keyword arguments of apply are handed on.
        params: where the weights start; None means that there are none yet, such as before
            `prototypes` writes a head.

    Returns:
        (apply, params).

    >>> import jax.numpy as jnp
    >>> start = Params(fast={"scale": jnp.array(2.0)}, slow={})
    >>> apply, params = from_function(lambda params, x: params.fast["scale"] * x, start)
    >>> apply(params, jnp.ones(3), jax.random.key(0)).tolist()
    [2.0, 2.0, 2.0]
    """
    takes_key = takes(function, "key")
    takes_reference = takes(function, "reference")

    @checked
    def apply(
        params: Params,
        x: Any,
        key: Array | None = None,
        *,
        reference: Array | None = None,
        **kwargs: Any,
    ) -> Any:
        if takes_key:
            kwargs["key"] = key
        if takes_reference:
            kwargs["reference"] = reference
        return function(params, x, **kwargs)

    return apply, Params({}, {}) if params is None else params


@checked
def deterministic(apply: Apply) -> Apply:
    """The same network without a random key, so that dropout is off.

    Numbers that a Flax module draws from its own `nnx.Rngs` are then the same in every call. They
    are left out only if the module has a method `set_view`, as `functional` says.

    Use it to evaluate: the loss of a task hands on a key, with which dropout is on. A learner of
    (deterministic(apply), params) takes the params that one of (apply, params) has learned. Of a
    Flax module, take `nnx.view(module, deterministic=True)`: it keeps `embed` and `head`.

    >>> import jax.numpy as jnp
    >>> noise = lambda x, key: 0 if key is None else jax.random.normal(key, x.shape)
    >>> apply, params = from_function(lambda params, x, key: x + noise(x, key))
    >>> deterministic(apply)(params, jnp.ones(2), jax.random.key(0)).tolist()
    [1.0, 1.0]
    """

    @checked
    def without_key(
        params: Params,
        x: PyTree,
        key: Array | None = None,
        *,
        reference: Array | None = None,
        **kwargs: Any,
    ) -> Any:
        return apply(params, x, reference=reference, **kwargs)

    return without_key


@checked
def identity_encoder(
    params: Params, x: PyTree, key: Array | None = None, *, reference: Array | None = None
) -> Any:
    """An encoder that returns its input: for features that were computed before.

    Use it where an `embed` or an `encode` is asked for and x are features already.

    Args:
        params: not used.
        x: features [examples, d], or a `Modalities` of such features.
        key: not used.
        reference: not used.

    Returns:
        x, or `x.value` of a `Modalities`.

    >>> import jax.numpy as jnp
    >>> identity_encoder(Params({}, {}), jnp.ones((2, 3))).shape
    (2, 3)
    """
    return x.value if isinstance(x, Modalities) else x
