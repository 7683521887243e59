"""Fast weights that modulate a net (FiLM), and an adaptation that moves them by what it reads in the support set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from metajax._checks import shapes
from metajax._tree import count_rows, row_weights
from metajax.inner.amortised import amortize
from metajax.inner.rows import take
from metajax.types import Adaptation, Array, Batch, Params, PyTree, Series

Rest = ParamSpec("Rest")

Result = TypeVar("Result")

ADDED = ("bias", "shift", "b", "offset")
"""What Flax, the norms of `metajax.nets` and Haiku call that which a layer adds."""


class FiLM(NamedTuple):
    """What modulates one layer: y ← scale ⊙ y + shift.

    Attributes:
        scale: [channels].
        shift: [channels].
    """

    scale: Array
    shift: Array


def film(layers: PyTree) -> PyTree:
    """The modulation of these layers that changes nothing, a `FiLM` with scale 1 and shift 0 for each.

    A layer is a dict that has a bias (or shift) [c] and whose other arrays all end with c: kernel [..., c] of a linear
    map or convolution, or scale [c] of a norm. Any other array is no layer of its own: a convolution without a bias is
    modulated through the norm after it, which would undo what came before.

    Args:
        layers: weights, a nested dict, of those layers that are to be modulated: all of `params.fast` or `params.slow`,
            or a part at its place, `{"layers": params.fast["layers"]}`, which leaves out the head as MMAML does.

    Raises:
        ValueError: no layer with a bias.

    >>> head, table = {"kernel": jnp.ones((4, 2)), "bias": jnp.zeros(2)}, {"kernel": jnp.ones((9, 4))}
    >>> jax.tree.map(lambda leaf: leaf.tolist(), film({"head": head, "table": table}))
    {'head': FiLM(scale=[1.0, 1.0], shift=[0.0, 0.0])}
    """
    found = _film(layers)
    if not found:
        raise ValueError(f"There is no layer with a bias to modulate in {shapes(layers)}.")
    return found


def modulated(
    function: Callable[Concatenate[Params, Rest], Result], *, entry: str = "modulation"
) -> Callable[Concatenate[Params, Rest], Result]:
    """The same function, of a net whose layers are modulated: (W, b) ← (W ⊙ scale, b ⊙ scale + shift).

    That is FiLM of what the layer gives, before its nonlinearity, as a function of weights alone: no net is changed for
    it. At scale 1 and shift 0 nothing changes. Weights may be fast or slow. With the net slow, and nothing but the
    modulation fast, `inner_loop(modulated(loss), ...)` is CAVIA with FiLM as its context.

    Args:
        function: whose first argument is `Params`: an `apply`, or a loss.
        entry: of `params.fast`, as `film` makes it; the function does not see it.

    Raises:
        ValueError: when called, fast weights without that entry, or a layer that is not there or has other channels.

    >>> apply = lambda params, x: x @ params.fast["head"]["kernel"] + params.fast["head"]["bias"][None]
    >>> head = {"kernel": jnp.ones((1, 2)), "bias": jnp.ones(2)}
    >>> by = {"head": FiLM(scale=jnp.array([1.0, 3.0]), shift=jnp.array([0.0, 5.0]))}
    >>> modulated(apply)(Params(fast={"head": head, "modulation": by}, slow={}), jnp.array([[1.0]])).tolist()
    [[2.0, 11.0]]

    Source: FiLM, Perez et al. 2018, arXiv 1709.07871; CAVIA, Zintgraf et al. 2019, arXiv 1810.03642.
    """

    def call(params: Params, *args: Rest.args, **kwargs: Rest.kwargs) -> Result:
        if not isinstance(params.fast, dict) or entry not in params.fast:
            got = (
                sorted(params.fast) if isinstance(params.fast, dict) else type(params.fast).__name__
            )
            raise ValueError(
                f"params.fast must have {entry!r}, as film(...) makes it; it is {got}."
            )
        modulation = params.fast[entry]
        net = {name: leaf for name, leaf in params.fast.items() if name != entry}
        _check_layers(modulation, net, params.slow)
        fast, slow = _modulate(net, modulation), _modulate(params.slow, modulation)
        return function(params._replace(fast=fast, slow=slow), *args, **kwargs)

    return call


def modulate(
    read: Callable[..., Array],
    start: PyTree,
    *,
    items: Callable[[Params, Batch, Array], Array] | None = None,
    entry: str = "modulation",
) -> Adaptation:
    """Moves an entry of the fast weights by what a net reads in the support set: τ = τ₀ + read(set).

    MMAML lets τ modulate a net, and then descends: with `film(...)` in `params.fast["modulation"]`,

        chain(modulate(*functional(DeepSets(2, size, rngs=rngs))), inner_loop(modulated(loss), optimizer, steps=5))

    where DeepSets reads pairs of 1 + 1 numbers and τ has `size` of them. A plain optimizer moves τ, too. MMAML as
    published holds it, which is

        optax.multi_transform({"move": optax.sgd(0.01), "hold": optax.set_to_zero()},
                              lambda fast: {name: "hold" if name == "modulation" else "move" for name in fast})

    and not `optax.masked`, which adds the gradient itself to what it masks. `implicit()` takes all fast weights for a
    minimum, so that with some held its gradient would be wrong.

    Args:
        read: (rule, set, key) -> [1, size], for a set that is one `Series` [1, n, d]: rows that count come first, and
            its length is their number. A net of `metajax.nets` that takes a series, as `functional` gives it; DeepSets
            does not heed the order of the rows, a GRU does.
        start: the net's weights, where `params.rule` starts.
        items: (params, support, key) -> what is read of each row, [n, d]; None takes x and y, one after the other, for
            regression. For images, `lambda params, support, key: modulated(embed)(params, support.x, key)`.
        entry: of `params.fast`; it has to be there already, and keeps its shapes.

    Raises:
        ValueError: on adaptation, an entry that is missing, an answer of another size, or labels that are integers
            where `items` is None; and those of `amortize`.

    Source: MMAML, Vuorio et al. 2019, arXiv 1910.13616.
    """
    pairs = _pairs if items is None else items

    def encode(params: Params, support: Batch, key: Array) -> PyTree:
        if entry not in params.fast:
            raise ValueError(
                f"params.fast has {sorted(params.fast)}, but no {entry!r} to move; put it there first."
            )
        flat, unravel = ravel_pytree(params.fast[entry])
        counts = row_weights(support) > 0
        first = jnp.argsort(~counts)  # rows that count, in their order, then the others
        items_key, read_key = jax.random.split(key)
        value = pairs(params, take(support, first), items_key)
        said = read(params.rule, Series(value[None], counts.sum(dtype=jnp.int32)[None]), read_key)
        if jnp.shape(said) != (1, flat.size):
            raise ValueError(
                f"To move {entry!r}, read must give shape (1, {flat.size}), a number for each of "
                f"{shapes(params.fast[entry])}; got {jnp.shape(said)}."
            )
        return unravel(flat + said[0].astype(flat.dtype))

    return amortize(lambda params, key: start, encode, entry=entry)


def _film(weights: PyTree) -> Any:
    """A `FiLM` for a layer; for a dict of others, a dict of what has one; None for the rest."""
    if not isinstance(weights, dict):
        return None
    added = [leaf for name, leaf in weights.items() if name in ADDED and jnp.ndim(leaf) == 1]
    if (
        added
        and len(weights) > 1
        and all(jnp.shape(leaf)[-1:] == added[0].shape for leaf in weights.values())
    ):
        return FiLM(jnp.ones_like(added[0]), jnp.zeros_like(added[0]))
    found = {name: _film(leaf) for name, leaf in weights.items()}
    return {name: leaf for name, leaf in found.items() if leaf is not None} or None


def _modulate(weights: PyTree, by: PyTree) -> PyTree:
    """The weights, of which some may be elsewhere, with those layers scaled and shifted that `by` has."""
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
    return {name: leaf + by.shift if name in ADDED else leaf for name, leaf in scaled.items()}


def _check_layers(modulation: PyTree, *places: PyTree) -> None:
    """Fails where a modulation has a layer that none of the places has, or one of other channels."""
    channels: dict[str, set[tuple[int, ...]]] = {}
    for path, leaf in [
        pair for place in places for pair in jax.tree_util.tree_leaves_with_path(place)
    ]:
        channels.setdefault(jax.tree_util.keystr(path[:-1]), set()).add(jnp.shape(leaf)[-1:])
    for path, by in jax.tree_util.tree_leaves_with_path(
        modulation, is_leaf=lambda node: isinstance(node, FiLM)
    ):
        layer = jax.tree_util.keystr(path)
        if not isinstance(by, FiLM) or channels.get(layer) != {jnp.shape(by.scale)}:
            have = {name: sizes for name, sizes in channels.items() if len(sizes) == 1}
            raise ValueError(
                f"{layer} is to be modulated by {shapes(by)}, but the layers have channels {have}."
            )


def _pairs(params: Params, support: Batch, key: Array) -> Array:
    """All numbers of x and y of each row, [n, d]."""
    leaves = jax.tree.leaves((support.x, support.y))
    if not all(jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves):
        raise ValueError(
            f"Rows with integers, {shapes((support.x, support.y))}, are not read as they are; say what to read of them "
            "with items=lambda params, support, key: ..."
        )
    return jnp.concatenate([leaf.reshape(count_rows(support), -1) for leaf in leaves], axis=1)
