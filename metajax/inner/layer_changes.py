"""Changes of the linear maps of a net: a learned transformation (T-net), and low-rank additions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import optax

from metajax._checked import checked
from metajax._checks import shapes
from metajax.inner.amortised import amortize
from metajax.inner.film_layers import BIASES
from metajax.types import Adaptation, Array, Batch, Params, PyTree, Size

Rest = ParamSpec("Rest")
Result = TypeVar("Result")


@checked
def transformations(layers: PyTree) -> PyTree:
    """A transformation of the outputs of these layers that changes nothing yet: identity matrices.

    A layer is a dict with a kernel [..., channels] and perhaps biases. `transformed` applies what
    this makes.

    Args:
        layers: weights of the layers, a nested dict.

    Raises:
        ValueError: no layer, or layers in a list or tuple.

    >>> found = transformations({"head": {"kernel": jnp.ones((4, 2)), "bias": jnp.zeros(2)}})
    >>> found["head"].tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    return _of_layers(layers, lambda kernel: jnp.eye(kernel.shape[-1], dtype=kernel.dtype))


@checked
def transformed(
    function: Callable[Concatenate[Params, Rest], Result], *, entry: str = "transformation"
) -> Callable[Concatenate[Params, Rest], Result]:
    """The same function of a net whose layers are transformed: (W, b) ← (W T, b T).

    For linear maps and convolutions it is T applied to the outputs; for convolutions in groups of
    channels it is not.

    Args:
        function: a function whose first argument is `Params`, such as an `apply` or a loss.
        entry: the entry of `params.fast` or `params.slow` with the matrices, as `transformations`
            makes them. The function does not see this entry.

    Raises:
        ValueError: when called, params without that entry.

    Source: Lee and Choi 2018, arXiv 1801.05558, section 3.1.
    """

    def change(layer: dict[str, Array], matrix: Array) -> dict[str, Array]:
        return {name: leaf @ matrix for name, leaf in layer.items()}

    return _changed(function, entry, change)


@checked
def unit_masks(layers: PyTree, *, temperature: float = 1.0, entry: str = "mask") -> Adaptation:
    """Draws a mask of the units of each layer for a task, which `masked_descent` reads.

    m = σ((ζ + log u - log(1 - u)) / temperature) with u uniform in 0 … 1, a relaxed draw that is 1
    with probability σ(ζ). The logits ζ are `params.rule`, one for each unit, and start at 0.

    Args:
        layers: weights of the layers, a nested dict; a layer is a dict with a kernel [...,
            channels] and perhaps biases.
        temperature: a low one makes the masks nearly 0 or 1.
        entry: the entry of `params.fast` to write.

    Raises:
        ValueError: no layer, or layers in a list or tuple; a temperature that is not positive.

    Source: Lee and Choi 2018, arXiv 1801.05558, section 3.2; the relaxed draw, Maddison et al.
    2017, arXiv 1611.00712.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}.")
    logits = _of_layers(layers, lambda kernel: jnp.zeros(kernel.shape[-1], kernel.dtype))

    def draw(params: Params, support: Batch, key: Array) -> PyTree:
        leaves, tree = jax.tree.flatten(params.rule)
        keys = jax.tree.unflatten(tree, jax.random.split(key, len(leaves)))

        def of_layer(logit: Array, layer_key: Array) -> Array:
            noise = jax.random.logistic(layer_key, logit.shape, logit.dtype)
            return jax.nn.sigmoid((logit + noise) / temperature)

        return jax.tree.map(of_layer, params.rule, keys)

    return amortize(lambda params, key: logits, draw, entry=entry)


@checked
def masked_descent(rate: float, *, entry: str = "mask") -> optax.GradientTransformation:
    """Gradient descent of the units that a mask lets through: W' = W - rate ∇L(W) diag(m).

    Args:
        rate: step size.
        entry: the entry of the fast weights with the masks, which stays, as `unit_masks` writes it.
            Weights outside its layers do not move.

    Raises:
        ValueError: fast weights without that entry.

    Source: Lee and Choi 2018, arXiv 1801.05558, equation 6.
    """

    def of_part(slopes: PyTree, mask: Any) -> PyTree:
        if not isinstance(slopes, dict):
            keep = jnp.zeros((), slopes.dtype) if mask is None else mask
            return -rate * slopes * keep.reshape((1,) * (slopes.ndim - keep.ndim) + keep.shape)
        inside = lambda name: mask.get(name) if isinstance(mask, dict) else mask
        return {name: of_part(part, inside(name)) for name, part in slopes.items()}

    def update(slopes: PyTree, state: PyTree, fast: PyTree = None) -> tuple[PyTree, PyTree]:
        if not isinstance(fast, dict) or entry not in fast:
            raise ValueError(
                f"The fast weights must have the entry {entry!r}; put unit_masks before the "
                "descent, by `chain`."
            )
        return of_part(slopes, {**fast[entry], entry: None}), state

    return optax.GradientTransformation(lambda fast: (), update)


@checked
def low_rank(layers: PyTree, rank: Size, key: Array) -> PyTree:
    """Low-rank factors for these layers that change nothing yet: a random "down" and "up" = 0.

    A layer is a dict with a kernel [..., channels] and perhaps biases. `with_low_rank` adds the
    product of the factors to its kernel.

    Args:
        layers: weights of the layers, a nested dict.
        rank: columns of "down" and rows of "up".
        key: for "down", whose numbers are normal with variance 1/rows.

    Raises:
        ValueError: no layer, or layers in a list or tuple.

    >>> layers = {"head": {"kernel": jnp.ones((4, 2)), "bias": jnp.zeros(2)}}
    >>> jax.tree.map(jnp.shape, low_rank(layers, 1, jax.random.key(0)))
    {'head': {'down': (4, 1), 'up': (1, 2)}}

    Source: LoRA, Hu et al. 2021, arXiv 2106.09685, section 4.1.
    """
    numbers = itertools.count()

    def factors(kernel: Array) -> dict[str, Array]:
        rows = math.prod(kernel.shape[:-1])
        own_key = jax.random.fold_in(key, next(numbers))
        down = jax.random.normal(own_key, (rows, rank), kernel.dtype) / math.sqrt(rows)
        return {"down": down, "up": jnp.zeros((rank, kernel.shape[-1]), kernel.dtype)}

    return _of_layers(layers, factors)


@checked
def with_low_rank(
    function: Callable[Concatenate[Params, Rest], Result], *, entry: str = "low_rank"
) -> Callable[Concatenate[Params, Rest], Result]:
    """The same function of a net to whose kernels low-rank matrices are added: W ← W + down · up.

    Args:
        function: a function whose first argument is `Params`, such as an `apply` or a loss.
        entry: the entry of `params.fast` or `params.slow` with the factors, as `low_rank` makes
            them. The function does not see this entry.

    Raises:
        ValueError: when called, params without that entry.

    Source: LoRA, Hu et al. 2021, arXiv 2106.09685, without its factor α/rank.
    """

    def change(layer: dict[str, Array], factors: dict[str, Array]) -> dict[str, Array]:
        added = factors["down"] @ factors["up"]
        return {
            name: leaf if name in BIASES else leaf + added.reshape(leaf.shape)
            for name, leaf in layer.items()
        }

    return _changed(function, entry, change)


def _is_layer(weights: PyTree) -> bool:
    """Whether this is a dict of one kernel [..., channels] and perhaps biases [channels]."""
    if not isinstance(weights, dict) or any(isinstance(leaf, dict) for leaf in weights.values()):
        return False
    kernels = [leaf for name, leaf in weights.items() if name not in BIASES]
    return len(kernels) == 1 and jnp.ndim(kernels[0]) > 1


def _of_layers(weights: PyTree, make: Callable[[Array], Any]) -> PyTree:
    """What is made of the kernel of each layer, at its place.

    Raises:
        ValueError: no layer, or layers in a list or tuple.
    """
    found = _of_part(weights, make)
    if found is None:
        raise ValueError(f"There is no layer with a kernel [..., channels] in {shapes(weights)}.")
    return found


def _of_part(weights: PyTree, make: Callable[[Array], Any]) -> Any:
    """What `_of_layers` makes of a part, or None where it has no layer."""
    if _is_layer(weights):
        (kernel,) = (leaf for name, leaf in weights.items() if name not in BIASES)
        return make(kernel)
    if isinstance(weights, (list, tuple)) and jax.tree.leaves(weights):
        raise ValueError(
            f"Layers are looked for in nested dicts, and these are in a {type(weights).__name__}: "
            f"{shapes(weights)}."
        )
    if not isinstance(weights, dict):
        return None
    found = {name: _of_part(part, make) for name, part in weights.items()}
    return {name: part for name, part in found.items() if part is not None} or None


def _changed(
    function: Callable[Concatenate[Params, Rest], Result],
    entry: str,
    change: Callable[[dict[str, Array], Any], dict[str, Array]],
) -> Callable[Concatenate[Params, Rest], Result]:
    """The function, with every layer changed by what stands at its place in the entry."""

    def of_part(weights: PyTree, by: Any) -> PyTree:
        if _is_layer(weights):
            return change(weights, by)
        if not isinstance(weights, dict):
            return weights
        return {
            name: of_part(part, by[name]) if name in by else part for name, part in weights.items()
        }

    def call(params: Params, *args: Rest.args, **kwargs: Rest.kwargs) -> Result:
        places = [part for part in (params.fast, params.slow) if isinstance(part, dict)]
        found = [part[entry] for part in places if entry in part]
        if len(found) != 1:
            names = sorted(name for part in places for name in part)
            raise ValueError(
                f"One of params.fast and params.slow must have the entry {entry!r}; they have "
                f"{names}."
            )
        without = [
            {name: part for name, part in place.items() if name != entry}
            if isinstance(place, dict)
            else place
            for place in (params.fast, params.slow)
        ]
        fast, slow = (of_part(part, found[0]) for part in without)
        return function(params._replace(fast=fast, slow=slow), *args, **kwargs)

    return call
