"""Fusions by attention between the tokens of different modalities."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from metajax._checked import checked
from metajax._tree import along, as_floating, keep_rows
from metajax.nets.attention import Block
from metajax.nets.fusion.protocol import Features, Fused, check_same_modalities, per_name
from metajax.nets.tokens import pool_tokens
from metajax.types import Array, Count, Size


@checked
class CrossAttention(nnx.Module):
    """Every modality reads the tokens of every other one.

    y = the mean over pairs t ≠ s, t present, of pool(Block(f_t, f_s)). Where the source s is
    absent, attention adds nothing, and f_t passes through the hidden layer of the block only.

    Args:
        names: names of the modalities, two or more.
        width: width of each modality and of the output.
        heads: number of heads of the attention; divides `width`.
        rngs: for the weights.

    Raises:
        ValueError: fewer than two names, equal ones, or heads that do not divide the width.

    Parameters: M (M - 1) blocks of 12 width² + 9 width.
    Source: MulT, Tsai et al. 2019, arXiv 1906.00295, with one layer for each pair and without the
    convolution before.
    """

    reads_tokens = True

    def __init__(self, names: Sequence[str], width: Size, *, heads: Size = 4, rngs: nnx.Rngs):
        if len(names) < 2:
            raise ValueError(f"Attention between modalities needs two or more, got {list(names)}.")
        blocks = {}
        for target in sorted(names):
            sources = [name for name in names if name != target]
            blocks[target] = per_name(sources, lambda: Block(width, heads, rngs=rngs))
        self.blocks = nnx.Dict(blocks)

    def __call__(self, features: Features, present: Features) -> Fused:
        """Fuses {name: [n, t, width]} with {name: bool[n, t]} to [n, width]; t may differ."""
        tokens = _clear(features, present, self.blocks)
        outputs = {}
        for target, sources in self.blocks.items():
            read = []
            for source, block in sources.items():
                both = block(tokens[target], present[source], tokens[source])
                read.append(pool_tokens(both, present[target]))
            outputs[target] = jnp.stack(read).mean(axis=0)
        return Fused(_mean_of_present(outputs, present), {})


@checked
class Bottleneck(nnx.Module):
    """A transformer for each modality; from one layer on they exchange a few bottleneck tokens.

    In layers before `fusion_layer` the tokens of a modality read only each other. In the others
    they and the bottlenecks read each other, and a bottleneck goes on as its mean over the
    modalities that are present. The output is the mean over those of their pooled tokens.
    fusion_layer=0 is early fusion, fusion_layer=layers late fusion.

    Args:
        names: names of the modalities.
        width: width of each modality and of the output.
        layers: number of blocks of each modality.
        fusion_layer: the first layer in which they exchange, 0 to `layers`.
        bottlenecks: number of tokens that they exchange, 1 or more.
        heads: number of heads of the attention; divides `width`.
        rngs: for the weights.

    Raises:
        ValueError: a fusion layer out of range, or no bottleneck; no names, or equal ones.

    Parameters: M layers blocks of 12 width² + 9 width, and bottlenecks width if
    fusion_layer < layers.
    Source: MBT, Nagrani et al. 2021, arXiv 2107.00135.
    """

    reads_tokens = True

    def __init__(
        self,
        names: Sequence[str],
        width: Size,
        *,
        layers: Count = 2,
        fusion_layer: int = 1,
        bottlenecks: Size = 4,
        heads: Size = 4,
        rngs: nnx.Rngs,
    ):
        if not 0 <= fusion_layer <= layers or bottlenecks < 1:
            raise ValueError(
                f"Need 0 <= {fusion_layer=} <= {layers=} and {bottlenecks=} of 1 or more."
            )

        def make_blocks() -> nnx.List:
            return nnx.List([Block(width, heads, rngs=rngs) for _ in range(layers)])

        self.blocks = per_name(names, make_blocks)
        self.layers = layers
        self.fusion_layer = fusion_layer
        start = 0.02 * jax.random.normal(rngs.params(), (bottlenecks, width))
        self.bottlenecks = nnx.Param(start) if fusion_layer < layers else None

    def __call__(self, features: Features, present: Features) -> Fused:
        """Fuses {name: [n, t, width]} with {name: bool[n, t]} to [n, width]; t may differ."""
        tokens = _clear(features, present, self.blocks)
        for layer in range(self.fusion_layer):
            for name, own in tokens.items():
                tokens[name] = self.blocks[name][layer](own, present[name])
        if self.bottlenecks is not None:
            tokens = self._exchange(tokens, self.bottlenecks[...], present)
        pooled = {name: pool_tokens(own, present[name]) for name, own in tokens.items()}
        return Fused(_mean_of_present(pooled, present), {})

    def _exchange(
        self, tokens: dict[str, Array], bottlenecks: Array, present: Features
    ) -> dict[str, Array]:
        """The tokens after the layers in which modalities exchange bottlenecks."""
        examples = len(next(iter(tokens.values())))
        shared = jnp.broadcast_to(bottlenecks[None], (examples, *bottlenecks.shape))
        is_shared = jnp.ones(shared.shape[:2], bool)
        for layer in range(self.fusion_layer, self.layers):
            written = {}
            for name, own in tokens.items():
                both = jnp.concatenate([own, shared], axis=1)
                valid = jnp.concatenate([present[name], is_shared], axis=1)
                both = self.blocks[name][layer](both, valid)
                tokens[name] = both[:, : own.shape[1]]
                written[name] = both[:, own.shape[1] :]
            shared = _mean_of_present(written, present)
        return tokens


def _mean_of_present(parts: dict[str, Array], present: Features) -> Array:
    """The mean of [n, ...] over the modalities with a token present; zero where there is none."""
    here = {name: present[name].any(axis=1) for name in parts}
    cleared = [keep_rows(here[name], part) for name, part in parts.items()]
    counts = [along(here[name], part).astype(int) for name, part in parts.items()]
    return sum(cleared) / jnp.maximum(sum(counts), 1)


def _clear(features: Features, present: Features, names: Iterable[str]) -> dict[str, Array]:
    """The tokens, checked, in alphabetical order, and zero where they are absent."""
    names = sorted(names)
    check_same_modalities(features, present, names)
    tokens = {}
    for name in names:
        own = features[name]
        here = present[name]
        if jnp.ndim(own) != 3 or jnp.shape(here) != jnp.shape(own)[:2]:
            raise ValueError(
                "This fusion reads tokens [n, t, width] and bool[n, t]; got "
                f"{jnp.shape(own)} and {jnp.shape(here)} for {name!r}."
            )
        tokens[name] = keep_rows(here, as_floating(own))
    return tokens
