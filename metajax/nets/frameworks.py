"""Adapters that turn nets of Flax Linen, Haiku and Equinox into functions of params.

Each gives `(apply, params)` with nested dicts of weights. Every apply accepts any division of them
into fast and slow ones, so `split_params` can divide them anew. It ignores entries of `params.fast`
that the net does not have, which adaptations write for other functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax

from metajax._checked import checked
from metajax._checks import takes
from metajax.nets.division import IsFast, divide, weights_reader
from metajax.types import Apply, Array, Params


@checked
def from_linen(
    module: Any, variables: Mapping[str, Any], fast: IsFast | None = None
) -> tuple[Apply, Params]:
    """A Flax Linen module as an apply.

    `apply(params, x, key=None, *, reference=None, **kwargs)` hands on keyword arguments such as
    `train=` or `method=`. A key seeds dropout. `reference` is handed to methods that have this
    argument.

    Args:
        module: a `flax.linen.Module`.
        variables: those of `module.init`. Collections besides "params" are constants.
        fast: from the path of a weight, such as "Dense_0/kernel", to whether it is fast. None makes
            all weights fast.

    Returns:
        (apply, Params(fast, slow)) with nested dicts of arrays.

    Raises:
        ValueError: not a Linen module, variables without "params", or nothing fast; when called,
            weights that are not the net's.

    >>> from flax import linen
    >>> import jax.numpy as jnp
    >>> net = linen.Dense(2)
    >>> variables = net.init(jax.random.key(0), jnp.ones((1, 3)))
    >>> apply, params = from_linen(net, variables, fast=lambda path: path == "bias")
    >>> list(params.fast), apply(params, jnp.ones((4, 3))).shape
    (['bias'], (4, 2))
    """
    from flax import linen
    from flax.core import unfreeze

    if not isinstance(module, linen.Module):
        raise ValueError(
            f"from_linen takes a flax.linen.Module, got {type(module).__name__}; for an nnx.Module "
            "use functional."
        )
    if "params" not in variables:
        raise ValueError(
            f"variables must have 'params', as module.init gives them, got {list(variables)}."
        )
    constants = {name: part for name, part in variables.items() if name != "params"}
    weights = unfreeze(variables["params"])
    read_weights = weights_reader(weights)

    @checked
    def apply(
        params: Params,
        x: Any,
        key: Array | None = None,
        *,
        reference: Array | None = None,
        **kwargs: Any,
    ) -> Any:
        if takes(_linen_method(module, kwargs.get("method")), "reference"):
            kwargs["reference"] = reference
        rngs = None if key is None else {"dropout": key}
        variables = {"params": read_weights(params), **constants}
        return module.apply(variables, x, rngs=rngs, **kwargs)

    return apply, divide(weights, fast)


def _linen_method(module: Any, method: Any) -> Callable[..., Any]:
    """The function that Linen's `method` argument stands for: a name, a function, or None."""
    if method is None:
        return type(module).__call__
    return getattr(type(module), method) if isinstance(method, str) else method


@checked
def from_haiku(
    transformed: Any,
    weights: Mapping[str, Any],
    state: Mapping[str, Any] | None = None,
    fast: IsFast | None = None,
) -> tuple[Apply, Params]:
    """A transformed Haiku function as an apply.

    `apply(params, x, key=None, *, reference=None, **kwargs)` hands on other keyword arguments, such
    as `is_training=`. The key is Haiku's rng, unless `hk.without_apply_rng` has removed it.
    A transformed function does not show whether it takes `reference`, which is therefore dropped;
    with `is_training=True` and a state, where `hk.BatchNorm` counts all rows, that is an error.

    Args:
        transformed: of `hk.transform` or `hk.transform_with_state`.
        weights: the parameters that `transformed.init` gives.
        state: the state that `transformed.init` gives, for `hk.transform_with_state`. It is a
            constant; what the function writes into it is dropped.
        fast: from the path of a weight, such as "mlp/~/linear_0/w", to whether it is fast. None
            makes all weights fast.

    Returns:
        (apply, Params(fast, slow)) with nested dicts of arrays.

    Raises:
        ImportError: without Haiku.
        ValueError: not a transformed function; a state for `hk.transform`, or none for
            `hk.transform_with_state`; nothing fast; when called, weights that are not the net's, or
            a reference together with a state and `is_training=True`.

    >>> import haiku as hk
    >>> import jax.numpy as jnp
    >>> net = hk.without_apply_rng(hk.transform(lambda x: hk.Linear(2)(x)))
    >>> apply, params = from_haiku(net, net.init(jax.random.key(0), jnp.ones((1, 3))))
    >>> list(params.fast["linear"]), apply(params, jnp.ones((4, 3))).shape
    (['w', 'b'], (4, 2))
    """
    try:
        import haiku as hk
    except ImportError as error:
        raise ImportError("from_haiku needs Haiku: pip install dm-haiku.") from error
    if not isinstance(transformed, hk.Transformed | hk.TransformedWithState):
        raise ValueError(
            "from_haiku takes what hk.transform or hk.transform_with_state gives, "
            f"got {type(transformed).__name__}."
        )
    has_state = isinstance(transformed, hk.TransformedWithState)
    if has_state != (state is not None):
        needed = "Give the state of transformed.init" if has_state else "Leave state out"
        raise ValueError(f"{needed}: the function is a {type(transformed).__name__}.")
    takes_rng = takes(transformed.apply, "rng")
    start = {name: dict(part) for name, part in weights.items()}
    read_weights = weights_reader(start)

    @checked
    def apply(
        params: Params,
        x: Any,
        key: Array | None = None,
        *,
        reference: Array | None = None,
        **kwargs: Any,
    ) -> Any:
        arguments: list[Any] = [read_weights(params)]
        if has_state and reference is not None and kwargs.get("is_training"):
            raise ValueError(
                "With is_training=True, hk.BatchNorm counts all rows, padded ones and queries "
                "included, although the batch says which rows count; use is_training=False, a "
                "normalisation of each example, or batches without weights."
            )
        if has_state:
            arguments.append(state)
        if takes_rng:
            arguments.append(key)
        result = transformed.apply(*arguments, x, **kwargs)
        return result[0] if has_state else result

    return apply, divide(start, fast)


@checked
def from_equinox(model: Any, fast: IsFast | None = None) -> tuple[Apply, Params]:
    """An Equinox model of one example as an apply of many.

    `apply(params, x, key=None, *, reference=None, **kwargs)` maps the model over the examples of x
    and hands on other keyword arguments. With key=None the model is in inference mode; a key is
    split over the examples, for models that take one. `reference` is ignored: a model of one
    example has no statistics over examples.

    Args:
        model: an `equinox.Module` that is called with one example. Its floating-point arrays are
            the weights; all else is constant.
        fast: from the path of a weight, such as "layers/0/weight", to whether it is fast. None
            makes all weights fast.

    Returns:
        (apply, Params(fast, slow)) with nested dicts of arrays.

    Raises:
        ImportError: without Equinox.
        ValueError: nothing fast; when called, weights that are not the net's.

    >>> import equinox as eqx
    >>> import jax.numpy as jnp
    >>> model = eqx.nn.Linear(3, 2, key=jax.random.key(0))
    >>> apply, params = from_equinox(model, fast=lambda path: path == "bias")
    >>> list(params.fast), apply(params, jnp.ones((4, 3))).shape
    (['bias'], (4, 2))
    """
    try:
        import equinox as eqx
    except ImportError as error:
        raise ImportError("from_equinox needs Equinox: pip install equinox.") from error
    arrays, constant = eqx.partition(model, eqx.is_inexact_array)
    leaves, structure = jax.tree_util.tree_flatten_with_path(arrays)
    places = [_names(path) for path, _ in leaves]
    weights = _nest({place: leaf for place, (_, leaf) in zip(places, leaves, strict=True)})
    read_weights = weights_reader(weights)
    takes_key = takes(model, "key")

    @checked
    def apply(
        params: Params,
        x: Any,
        key: Array | None = None,
        *,
        reference: Array | None = None,
        **kwargs: Any,
    ) -> Any:
        weights = read_weights(params)
        arrays = jax.tree.unflatten(structure, [_at(weights, place) for place in places])
        net = eqx.combine(arrays, constant)
        if key is None:
            net = eqx.nn.inference_mode(net)
        if key is None or not takes_key:
            return jax.vmap(lambda one: net(one, **kwargs))(x)
        keys = jax.random.split(key, len(jax.tree.leaves(x)[0]))
        return jax.vmap(lambda one, key: net(one, key=key, **kwargs))(x, keys)

    return apply, divide(weights, fast)


def _names(path: tuple[Any, ...]) -> tuple[str, ...]:
    """The names along the path of a leaf: ("layers", "0", "weight")."""
    return tuple(jax.tree_util.keystr((entry,), simple=True) for entry in path)


def _nest(leaves: Mapping[tuple[str, ...], Array]) -> dict[str, Any]:
    """A nested dict of leaves by their paths."""
    nested: dict[str, Any] = {}
    for path, leaf in leaves.items():
        node = nested
        for name in path[:-1]:
            node = node.setdefault(name, {})
        node[path[-1]] = leaf
    return nested


def _at(nested: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    """The leaf at a path of a nested dict."""
    node: Any = nested
    for name in path:
        node = node[name]
    return node
