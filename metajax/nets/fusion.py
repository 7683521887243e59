"""Fusion of the features of several modalities, any of which may be missing in any example.

A fusion is a function or module `({name: [n, width]}, {name: bool[n]}) -> Fused`. What stands in an absent modality
reaches neither its output nor a gradient, and where every modality is absent the answer is the one for no evidence:
zero, or a bias. Modalities are told apart by name: the order in which they come changes nothing. Those of
`metajax.nets.fusion_tokens` read tokens, [n, t, width] and bool[n, t].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx

from metajax._types import Array

Features: TypeAlias = Mapping[str, Array]


class Fused(NamedTuple):
    """What a fusion answers.

    Attributes:
        features: [n, width].
        weights: {name: [n]}, how much each modality counted, 0 where it is absent and 1 in sum where any is there;
            empty for a fusion that computes none.
    """

    features: Array
    weights: dict[str, Array]


def mean(features: Features, present: Features) -> Fused:
    """The mean of the modalities that are present: y = Σₘ pₘ fₘ / Σₘ pₘ."""
    names, f_MxNxD, here_MxN = stack(features, present)
    return _weigh(names, f_MxNxD, here_MxN, jnp.ones_like(f_MxNxD[:, :, 0]))


def total(features: Features, present: Features) -> Fused:
    """The sum of the modalities that are present: y = Σₘ pₘ fₘ."""
    return Fused(stack(features, present)[1].sum(axis=0), {})


def maximum(features: Features, present: Features) -> Fused:
    """The largest of the modalities that are present, entry by entry; zero where none is. Of a tie the first counts."""
    _, f_MxNxD, here_MxN = stack(features, present)
    best = jnp.zeros_like(f_MxNxD[0])
    known_Nx1 = jnp.zeros_like(here_MxN[0])[:, None]
    for f_NxD, here_N in zip(f_MxNxD, here_MxN, strict=True):
        # Values are compared with each other, never with a maximum: see `max_pool`.
        best = jnp.where(here_N[:, None] & (~known_Nx1 | (f_NxD > best)), f_NxD, best)
        known_Nx1 = known_Nx1 | here_N[:, None]
    return Fused(best, {})


class Weighted(nnx.Module):
    """The mean by weights that are the same for all examples: y = Σₘ pₘ wₘ fₘ / Σₘ pₘ wₘ.

    Args:
        weights: {name: positive number}; only their ratios count.
        learned: whether they are parameters, as ℓ = log w in `logits`, {name: scalar}, or stay as they are. As
            parameters they may be fast: `functional(net, fast=nnx.PathContains("logits"))`.

    Raises:
        ValueError: weights that are negative, or not above zero where they are learned.

    Parameters: one for each modality if learned, else none.
    """

    def __init__(self, weights: Mapping[str, float], *, learned: bool = False):
        if min(weights.values(), default=-1.0) < 0 or (learned and min(weights.values()) <= 0):
            raise ValueError(f"{weights=} must be zero or more, above zero where they are learned.")
        self.fixed = tuple(sorted(weights.items()))
        self.logits = nnx.Dict({n: nnx.Param(jnp.log(w)) for n, w in self.fixed}) if learned else None

    def __call__(self, features: Features, present: Features) -> Fused:
        """{name: [n, width]} and {name: bool[n]} -> [n, width]."""
        names, f_MxNxD, here_MxN = stack(features, present, [name for name, _ in self.fixed])
        weights = [w if self.logits is None else jnp.exp(self.logits[name][...]) for name, w in self.fixed]
        weights_M = jnp.stack([jnp.asarray(weight, f_MxNxD.dtype) for weight in weights])
        return _weigh(names, f_MxNxD, here_MxN, jnp.broadcast_to(weights_M[:, None], here_MxN.shape))


class Concatenation(nnx.Module):
    """One linear layer over all modalities side by side: y = W [f₁; ...; f_M] + b, with zeros for the absent.

    Args:
        names: of the modalities.
        width: of each and of the answer.
        rngs: for the weights.

    Parameters: M width² + width.
    """

    def __init__(self, names: Sequence[str], width: int, *, rngs: nnx.Rngs):
        self.kernel = _per_name(names, lambda: _kernel(rngs, len(names) * width, width, width))
        self.bias = nnx.Param(jnp.zeros(width))

    def __call__(self, features: Features, present: Features) -> Fused:
        """{name: [n, width]} and {name: bool[n]} -> [n, width]."""
        names, f_MxNxD, _ = stack(features, present, self.kernel)
        parts = [f_NxD @ self.kernel[name][...] for name, f_NxD in zip(names, f_MxNxD, strict=True)]
        return Fused(sum(parts) + self.bias[None], {})


class Deep(nnx.Module):
    """Deep fusion: a concatenation, then layers over what it made: y = Wₗ gelu(... gelu(W₀ [f₁; ...; f_M] + b₀)) + bₗ.

    Args:
        names: of the modalities.
        width: of each, of the hidden layers and of the answer.
        layers: linear layers after the concatenation.
        rngs: for the weights.

    Parameters: (M + layers) width² + (1 + layers) width.
    """

    def __init__(self, names: Sequence[str], width: int, *, layers: int = 2, rngs: nnx.Rngs):
        self.first = Concatenation(names, width, rngs=rngs)
        self.layers = nnx.List([nnx.Linear(width, width, rngs=rngs) for _ in range(layers)])

    def __call__(self, features: Features, present: Features) -> Fused:
        """{name: [n, width]} and {name: bool[n]} -> [n, width]."""
        y = self.first(features, present).features
        for layer in self.layers:
            y = layer(jax.nn.gelu(y))
        return Fused(y, {})


class Gated(nnx.Module):
    """A gate for each modality and entry: y = Σₘ zₘ ⊙ tanh(Vₘ fₘ), z = softmaxₘ(Uₘ [f₁; ...; f_M] + cₘ).

    The gates of absent modalities are zero, so that those of the others sum to 1.

    Args:
        names: of the modalities.
        width: of each and of the answer.
        rngs: for the weights.

    Parameters: M width² + M² width² + M width.
    Source: the gated multimodal unit, Arevalo et al. 2017, arXiv 1702.01992, with a softmax for its sigmoid.
    """

    def __init__(self, names: Sequence[str], width: int, *, rngs: nnx.Rngs):
        self.gates = _per_name(names, lambda: Concatenation(names, width, rngs=rngs))
        self.values = _per_name(names, lambda: _kernel(rngs, width, width, width))

    def __call__(self, features: Features, present: Features) -> Fused:
        """{name: [n, width]} and {name: bool[n]} -> [n, width]."""
        names, f_MxNxD, here_MxN = stack(features, present, self.gates)
        gates_MxNxD = jnp.stack([self.gates[name](features, present).features for name in names])
        values_MxNxD = jnp.stack([jnp.tanh(f @ self.values[n][...]) for n, f in zip(names, f_MxNxD, strict=True)])
        z_MxNxD = _softmax(gates_MxNxD, here_MxN[:, :, None])
        return Fused((z_MxNxD * values_MxNxD).sum(axis=0), dict(zip(names, z_MxNxD.mean(axis=2), strict=True)))


class FiLM(nnx.Module):
    """The other modalities scale and shift a main one: y = (1 + Σₘ pₘ Gₘ fₘ) ⊙ f_main + Σₘ pₘ Hₘ fₘ.

    Without the main one the shifts are left, without the others the main one as it is.

    Args:
        names: of the modalities.
        width: of each and of the answer.
        main: the name of the main one.
        rngs: for the weights.

    Raises:
        ValueError: a main modality that is not among the names.

    Parameters: 2 (M - 1) width².
    Source: Perez et al. 2018, arXiv 1709.07871.
    """

    def __init__(self, names: Sequence[str], width: int, *, main: str, rngs: nnx.Rngs):
        others = [name for name in names if name != main]
        if main not in names or not others:
            raise ValueError(f"{main=} must be one of the names, and not the only one; got {sorted(names)}.")
        self.main = main
        self.scale = _per_name(others, lambda: _kernel(rngs, width, width, width))
        self.shift = _per_name(others, lambda: _kernel(rngs, width, width, width))

    def __call__(self, features: Features, present: Features) -> Fused:
        """{name: [n, width]} and {name: bool[n]} -> [n, width]."""
        names, f_MxNxD, _ = stack(features, present, [self.main, *self.scale])
        f = dict(zip(names, f_MxNxD, strict=True))
        scale = 1 + sum(f[name] @ self.scale[name][...] for name in self.scale)
        return Fused(scale * f[self.main] + sum(f[name] @ self.shift[name][...] for name in self.shift), {})


def stack(features: Features, present: Features, names: Sequence[str] | Mapping | None = None) -> tuple:
    """Checked and in alphabetical order: (names, features [M, n, ...] that are zero where absent, bool[M, n, ...])."""
    known = sorted(features if names is None else names)
    if sorted(features) != known or sorted(present) != known:
        raise ValueError(f"This fusion knows the modalities {known}, got {sorted(features)} and {sorted(present)}.")
    shapes = {name: jnp.shape(features[name]) for name in known}
    if len(set(shapes.values())) != 1:
        raise ValueError(f"Features of all modalities must have one shape, [n, width], got {shapes}.")
    here = jnp.stack([present[name] for name in known])
    f = jnp.stack([features[name] for name in known])
    return known, jnp.where(here[..., None], f, 0), here


def _weigh(names: Sequence[str], f_MxNxD: Array, here_MxN: Array, weights_MxN: Array) -> Fused:
    """The mean by weights over what is present."""
    weights_MxN = jnp.where(here_MxN, weights_MxN, 0).astype(f_MxNxD.dtype)
    sum_N = weights_MxN.sum(axis=0)
    weights_MxN = weights_MxN / jnp.where(sum_N > 0, sum_N, 1)[None]
    return Fused((weights_MxN[:, :, None] * f_MxNxD).sum(axis=0), dict(zip(names, weights_MxN, strict=True)))


def _softmax(logits: Array, here: Array) -> Array:
    """Softmax over the first axis, of what is present; zeros where nothing is."""
    low = jnp.finfo(logits.dtype).min
    return jnp.where(here, jax.nn.softmax(jnp.where(here, logits, low), axis=0), 0)


def _per_name(names: Sequence[str], make: Callable[[], object]) -> nnx.Dict:
    if len(set(names)) != len(names) or not names:
        raise ValueError(f"Modalities need names that differ, got {list(names)}.")
    return nnx.Dict({name: make() for name in sorted(names)})


def _kernel(rngs: nnx.Rngs, fan: int, *shape: int) -> nnx.Param:
    """Weights of variance 1 / fan."""
    return nnx.Param(jax.random.normal(rngs.params(), shape) / fan**0.5)
