"""Fast weights that modulate a net (FiLM), and an adaptation that computes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from metajax._checked import checked
from metajax._checks import shapes
from metajax._tree import count_rows, row_weights
from metajax.inner.amortised import amortize
from metajax.inner.rows import take
from metajax.types import Adaptation, Array, Batch, Params, PyTree, Series

Rest = ParamSpec("Rest")
Result = TypeVar("Result")

BIASES = ("bias", "shift", "b", "offset")
"""The names of what a layer adds: in Flax, in the norms of `metajax.nets`, and in Haiku."""


class FiLM(NamedTuple):
    """Feature-wise linear modulation of one layer: y ← scale ⊙ y + shift.

    Attributes:
        scale: [channels].
        shift: [channels].
    """

    scale: Array
    shift: Array


@checked
def film(layers: PyTree) -> PyTree:
    """A modulation of these layers that changes nothing yet: a `FiLM` of scale 1 and shift 0 each.

    A layer is a dict that has a bias (or shift) [c] and whose other arrays all end with c: a kernel
    [..., c] of a linear map or convolution, or the scale [c] of a norm. Other arrays are not layers
    of their own. A convolution without a bias is modulated through the norm after it.

    Args:
        layers: weights of the layers to modulate, a nested dict: all of `params.fast` or
            `params.slow`, or a part at its place. MMAML leaves out the head, with
            `{"layers": params.fast["layers"]}`.

    Raises:
        ValueError: no layer with a bias.

    >>> head = {"kernel": jnp.ones((4, 2)), "bias": jnp.zeros(2)}
    >>> table = {"kernel": jnp.ones((9, 4))}
    >>> jax.tree.map(lambda leaf: leaf.tolist(), film({"head": head, "table": table}))
    {'head': FiLM(scale=[1.0, 1.0], shift=[0.0, 0.0])}

    Source: Perez et al. 2018, arXiv 1709.07871.
    """
    found = _film(layers)
    if not found:
        raise ValueError(f"There is no layer with a bias to modulate in {shapes(layers)}.")
    return found


@checked
def modulated(
    function: Callable[Concatenate[Params, Rest], Result], *, entry: str = "modulation"
) -> Callable[Concatenate[Params, Rest], Result]:
    """The same function of a net whose layers are modulated.

    (W, b) ← (W ⊙ scale, b ⊙ scale + shift) is FiLM of a layer's output, before its nonlinearity,
    as a function of weights alone. So no net has to be changed for it. The layers may be fast or
    slow. If only the modulation is fast, `inner_loop(modulated(loss), ...)` is CAVIA with FiLM as
    its context.

    Args:
        function: a function whose first argument is `Params`, such as an `apply` or a loss.
        entry: the entry of `params.fast` with the modulation, as `film` makes it. The function does
            not see this entry.

    Raises:
        ValueError: when called, fast weights without that entry, or a modulated layer that the
            params do not have or that has other channels.

    >>> apply = lambda params, x: x @ params.fast["head"]["kernel"] + params.fast["head"]["bias"]
    >>> head = {"kernel": jnp.ones((1, 2)), "bias": jnp.ones(2)}
    >>> by = {"head": FiLM(scale=jnp.array([1.0, 3.0]), shift=jnp.array([0.0, 5.0]))}
    >>> params = Params(fast={"head": head, "modulation": by}, slow={})
    >>> modulated(apply)(params, jnp.array([1.0])).tolist()
    [2.0, 11.0]

    Source: FiLM, Perez et al. 2018, arXiv 1709.07871; CAVIA, Zintgraf et al. 2019,
    arXiv 1810.03642.
    """

    def call(params: Params, *args: Rest.args, **kwargs: Rest.kwargs) -> Result:
        if not isinstance(params.fast, dict) or entry not in params.fast:
            is_dict = isinstance(params.fast, dict)
            got = sorted(params.fast) if is_dict else type(params.fast).__name__
            raise ValueError(
                f"params.fast must have {entry!r}, as film(...) makes it; it is {got}."
            )
        modulation = params.fast[entry]
        fast = {name: leaf for name, leaf in params.fast.items() if name != entry}
        _check_layers(modulation, fast, params.slow)
        net = params._replace(
            fast=_modulate(fast, modulation), slow=_modulate(params.slow, modulation)
        )
        return function(net, *args, **kwargs)

    return call


@checked
def modulate(
    read: Callable[..., Array],
    start: PyTree,
    *,
    items: Callable[[Params, Batch, Array], Array] | None = None,
    entry: str = "modulation",
) -> Adaptation:
    """Moves an entry of the fast weights by the output of a net that reads the support set.

    τ = τ₀ + read(set). MMAML lets τ modulate a net and then descends: with `film(...)` in
    `params.fast["modulation"]`,

        reader = functional(DeepSets(2, size, rngs=rngs))
        mmaml = chain(modulate(*reader), inner_loop(modulated(loss), optimizer, steps=5))

    where DeepSets reads pairs (x, y) and τ has `size` numbers. The optimizer moves τ, too. MMAML as
    published freezes it, which is

        labels = lambda fast: {n: "freeze" if n == "modulation" else "move" for n in fast}
        optax.multi_transform({"move": optax.sgd(0.01), "freeze": optax.set_to_zero()}, labels)

    and not `optax.masked`, which adds the gradient itself where it is masked. `implicit()` assumes
    that all fast weights are at a minimum, so its gradient would be wrong with frozen ones.

    Args:
        read: (rule, set, key) -> [1, size]. The set is one `Series` [1, n, d]: rows that count come
            first, and its length is their number. It is a net of `metajax.nets` that takes a
            series, as `functional` gives it. DeepSets ignores the order of the rows, a GRU does
            not.
        start: the net's initial weights, which `init` stores in `params.rule`.
        items: (params, support, key) -> what is read of each row, [n, d]. None takes x and y, one
            after the other, for regression. For images:
            `lambda params, support, key: modulated(embed)(params, support.x, key,
            reference=support.weight > 0)`.
        entry: the entry of `params.fast` to move. It must be there already, and keeps its shapes.

    Raises:
        ValueError: on adaptation, an entry that is missing, an output of another size, or labels
            that are integers where `items` is None; and the errors of `amortize`.

    Source: MMAML, Vuorio et al. 2019, arXiv 1910.13616.
    """
    read_items = _pairs if items is None else items

    def encode(params: Params, support: Batch, key: Array) -> PyTree:
        if entry not in params.fast:
            raise ValueError(
                f"params.fast has {sorted(params.fast)}, but no {entry!r} to move; put it there "
                "first."
            )
        flat, unravel = ravel_pytree(params.fast[entry])
        valid = row_weights(support) > 0
        valid_first = jnp.argsort(~valid)  # rows that count, in their order, then the others
        items_key, read_key = jax.random.split(key)
        value = read_items(params, take(support, valid_first), items_key)
        rows = Series(value[None], valid.sum(dtype=jnp.int32)[None])
        change = read(params.rule, rows, read_key)
        if jnp.shape(change) != (1, flat.size):
            raise ValueError(
                f"To move {entry!r}, read must give shape (1, {flat.size}), a number for each of "
                f"{shapes(params.fast[entry])}; got {jnp.shape(change)}."
            )
        return unravel(flat + change[0].astype(flat.dtype))

    return amortize(lambda params, key: start, encode, entry=entry)


def _film(weights: PyTree) -> Any:
    """A `FiLM` for a layer; for a dict of others, a dict of those that have one; else None."""
    if not isinstance(weights, dict):
        return None
    biases = [leaf for name, leaf in weights.items() if name in BIASES and jnp.ndim(leaf) == 1]
    if biases and len(weights) > 1:
        channels = biases[0].shape
        if all(jnp.shape(leaf)[-1:] == channels for leaf in weights.values()):
            return FiLM(jnp.ones_like(biases[0]), jnp.zeros_like(biases[0]))
    found = {name: _film(leaf) for name, leaf in weights.items()}
    return {name: leaf for name, leaf in found.items() if leaf is not None} or None


def _modulate(weights: PyTree, by: PyTree) -> PyTree:
    """The weights, with those layers scaled and shifted that the modulation names.

    A layer may be absent here, because it stands among the other weights.
    """
    if not isinstance(weights, dict):
        return weights
    if not isinstance(by, FiLM):
        return {
            name: _modulate(leaf, by[name]) if name in by else leaf
            for name, leaf in weights.items()
        }
    scaled = {
        name: leaf * by.scale.reshape(*(1,) * (leaf.ndim - 1), -1) for name, leaf in weights.items()
    }
    return {name: leaf + by.shift if name in BIASES else leaf for name, leaf in scaled.items()}


def _check_layers(modulation: PyTree, *places: PyTree) -> None:
    """Checks that every modulated layer is among these weights and has the same channels."""
    channels: dict[str, set[tuple[int, ...]]] = {}
    for place in places:
        for path, leaf in jax.tree_util.tree_leaves_with_path(place):
            layer = jax.tree_util.keystr(path[:-1])
            channels.setdefault(layer, set()).add(jnp.shape(leaf)[-1:])
    is_film = lambda node: isinstance(node, FiLM)
    for path, by in jax.tree_util.tree_leaves_with_path(modulation, is_leaf=is_film):
        layer = jax.tree_util.keystr(path)
        if not is_film(by) or channels.get(layer) != {jnp.shape(by.scale)}:
            known = {name: sizes for name, sizes in channels.items() if len(sizes) == 1}
            raise ValueError(
                f"{layer} is to be modulated by {shapes(by)}, but the layers have channels {known}."
            )


def _pairs(params: Params, support: Batch, key: Array) -> Array:
    """All numbers of x and y of each row, [n, d]."""
    leaves = jax.tree.leaves((support.x, support.y))
    if not all(jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves):
        raise ValueError(
            f"Rows with integers, {shapes((support.x, support.y))}, are not read as they are; say "
            "what to read of them with items=lambda params, support, key: ..."
        )
    flat = [leaf.reshape(count_rows(support), -1) for leaf in leaves]
    return jnp.concatenate(flat, axis=1)
