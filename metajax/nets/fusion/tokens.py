"""Fusions by attention between the tokens of different modalities."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from metajax.nets.attention import Block, pool
from metajax.nets.fusion.protocol import Features, Fused, _per_name
from metajax.types import Array


class CrossAttention(nnx.Module):
    """Every modality reads every other one: y = mean over s ≠ t of pool(Block(f_t, f_s)), t present.

    A source that is absent adds nothing but the target as it is.

    Args:
        names: of the modalities, two or more.
        width: of each and of the answer.
        heads: of the attention.
        rngs: for the weights.

    Raises:
        ValueError: fewer than two names.

    Parameters: M (M - 1) blocks of 12 width² + 9 width.
    Source: MulT, Tsai et al. 2019, arXiv 1906.00295, with one layer for each pair and no convolution before.
    """

    reads_tokens = True

    def __init__(self, names: Sequence[str], width: int, *, heads: int = 4, rngs: nnx.Rngs):
        if len(names) < 2:
            raise ValueError(f"Attention between modalities needs two or more, got {list(names)}.")
        make = lambda target: _per_name(
            [n for n in names if n != target], lambda: Block(width, heads, rngs=rngs)
        )
        self.blocks = nnx.Dict({target: make(target) for target in sorted(names)})

    def __call__(self, features: Features, present: Features) -> Fused:
        """{name: [n, t, width]} and {name: bool[n, t]}; t may differ."""
        tokens = _tokens(features, present, list(self.blocks))
        answers = {}
        for target, sources in self.blocks.items():
            read = [
                pool(block(tokens[target], present[source], tokens[source]), present[target])
                for source, block in sources.items()
            ]
            answers[target] = jnp.stack(read).mean(axis=0)
        return Fused(_mean(answers, present), {})


class Bottleneck(nnx.Module):
    """A transformer for each modality; from one layer on they exchange a few bottleneck tokens.

    In layers before `fusion_layer` the tokens of a modality read each other only. In the others they and the
    bottlenecks read each other, and a bottleneck goes on as its mean over the modalities that are present. The answer
    is the mean over those of their pooled tokens: at fusion_layer=0 early, at fusion_layer=layers late fusion.

    Args:
        names: of the modalities.
        width: of each and of the answer.
        layers: blocks of each modality.
        fusion_layer: the first in which they exchange, 0 to `layers`.
        bottlenecks: number of tokens that they exchange, 1 or more.
        heads: of the attention.
        rngs: for the weights.

    Raises:
        ValueError: a fusion layer out of range, or no bottleneck.

    Parameters: M layers blocks of 12 width² + 9 width, and bottlenecks width if fusion_layer < layers.
    Source: MBT, Nagrani et al. 2021, arXiv 2107.00135.
    """

    reads_tokens = True

    def __init__(
        self,
        names: Sequence[str],
        width: int,
        *,
        layers: int = 2,
        fusion_layer: int = 1,
        bottlenecks: int = 4,
        heads: int = 4,
        rngs: nnx.Rngs,
    ):
        if not 0 <= fusion_layer <= layers or bottlenecks < 1:
            raise ValueError(
                f"Need 0 <= {fusion_layer=} <= {layers=} and {bottlenecks=} of 1 or more."
            )
        self.blocks = _per_name(
            names, lambda: nnx.List([Block(width, heads, rngs=rngs) for _ in range(layers)])
        )
        self.layers, self.fusion_layer = layers, fusion_layer
        start = 0.02 * jax.random.normal(rngs.params(), (bottlenecks, width))
        self.bottlenecks = nnx.Param(start) if fusion_layer < layers else None

    def __call__(self, features: Features, present: Features) -> Fused:
        """{name: [n, t, width]} and {name: bool[n, t]}; t may differ."""
        tokens = _tokens(features, present, list(self.blocks))
        for layer in range(self.fusion_layer):
            tokens = {
                name: self.blocks[name][layer](tokens[name], present[name]) for name in tokens
            }
        if self.bottlenecks is not None:
            rows = len(next(iter(tokens.values())))
            shared = jnp.broadcast_to(self.bottlenecks[...][None], (rows, *self.bottlenecks.shape))
            for layer in range(self.fusion_layer, self.layers):
                said = {}
                for name, own in tokens.items():
                    valid = jnp.concatenate(
                        [present[name], jnp.ones(shared.shape[:2], bool)], axis=1
                    )
                    both = self.blocks[name][layer](jnp.concatenate([own, shared], axis=1), valid)
                    tokens[name], said[name] = both[:, : own.shape[1]], both[:, own.shape[1] :]
                shared = _mean(said, present)
        return Fused(
            _mean({name: pool(tokens[name], present[name]) for name in tokens}, present), {}
        )


def _mean(parts: Features, present: Features) -> Array:
    """The mean of [n, ...] over the modalities of which any token is present; zero where none is."""
    here = {
        name: present[name].any(axis=1).reshape(-1, *(1,) * (part.ndim - 1))
        for name, part in parts.items()
    }
    number = sum(mask.astype(int) for mask in here.values())
    return sum(jnp.where(here[name], part, 0) for name, part in parts.items()) / jnp.maximum(
        number, 1
    )


def _tokens(features: Features, present: Features, names: Sequence[str]) -> dict[str, Array]:
    """Checked, in alphabetical order, and zero where absent."""
    known = sorted(names)
    if sorted(features) != known or sorted(present) != known:
        raise ValueError(
            f"This fusion knows the modalities {known}, got {sorted(features)} and {sorted(present)}."
        )
    for name in known:
        if (
            jnp.shape(present[name]) != jnp.shape(features[name])[:2]
            or jnp.ndim(features[name]) != 3
        ):
            got = f"{jnp.shape(features[name])} and {jnp.shape(present[name])}"
            raise ValueError(
                f"This fusion reads tokens [n, t, width] and bool[n, t]; got {got} for {name!r}."
            )
    return {name: jnp.where(present[name][:, :, None], features[name], 0) for name in known}
