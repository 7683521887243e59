"""Translation of strings, character by character, by a net that can look things up in examples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from metajax._checked import checked
from metajax.nets.memory import Memory
from metajax.nets.text import look_up
from metajax.nets.translation_layers import (
    END,
    MASKED,
    OptionalAttention,
    ReadingLayer,
    aligned_from_both_ends,
    causal_mask,
    match_lengths,
    previous_characters,
)
from metajax.types import Array, Params, Size

RECENT = 3
"""Number of characters that a place sees at once, before any attention."""


@checked
class Translator(nnx.Module):
    """A small encoder and decoder with attention, which generates, copies or looks up characters.

    One softmax is over all the ways to the next character c after y₁…yₜ₋₁ (the mixture of CopyNet):
    p(c) ∝ exp(generate_c) + Σₛ [xₛ = c] exp(copyₛ) + Σₘ [characterₘ = c] exp(lookₘ), over the
    places s of the source and m of a memory of examples. With a memory it is a matching network
    over characters, and without one a plain net from sequence to sequence. It reads the correct
    targets ("teacher forcing"), and place t sees only what is before t.

    Args:
        characters: number of ids; 0 is padding, 1 ends a target.
        source: length of a source.
        target: length of a target.
        width: width of all states; divisible by `heads`.
        heads: number of heads of each attention.
        languages: number of vectors that distinguish languages in joint training.
        rngs: for the weights.

    Raises:
        ValueError: heads that do not divide the width.

    Sources: Gu et al. 2016, arXiv 1603.06393 (CopyNet); Vinyals et al. 2016, arXiv 1606.04080
    (matching networks).
    """

    def __init__(
        self,
        characters: Size,
        source: Size,
        target: Size,
        *,
        width: Size = 64,
        heads: Size = 4,
        languages: Size = 1,
        rngs: nnx.Rngs,
    ):
        if heads < 1 or width % heads:
            raise ValueError(f"{heads=} must divide {width=}.")

        def vectors(rows: int) -> nnx.Param:
            return nnx.Param(nnx.initializers.normal(0.1)(rngs.params(), (rows, width)))

        self.embedding = vectors(characters)
        self.source_place = vectors(source)
        self.target_place = vectors(target)
        self.language = vectors(languages)
        self.recent = nnx.Linear(RECENT * width, width, use_bias=False, rngs=rngs)
        self.encoder = ReadingLayer(width, heads, rngs=rngs)
        self.before = ReadingLayer(width, heads, reads=2, rngs=rngs)
        self.after = ReadingLayer(width, heads, reads=2, rngs=rngs)
        self.lookup = OptionalAttention(width, heads, rngs=rngs)
        self.found = nnx.Linear(2 * width, width, rngs=rngs)
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.choose = nnx.Linear(width, 3 * width, rngs=rngs)
        self.source_key = nnx.Linear(width, width, use_bias=False, rngs=rngs)
        self.memory_key = nnx.Linear(width, width, use_bias=False, rngs=rngs)
        self.bias = nnx.Param(jnp.zeros(characters))
        self.match = nnx.Param(jnp.ones(heads + 1))
        half = nnx.initializers.constant(0.5)
        self.matter = nnx.Linear(width, 2 * source, bias_init=half, rngs=rngs)

    def read(self, x: dict[str, Array]) -> tuple[Array, Array, Array]:
        """Encodes the sources, and reads the targets up to each place.

        Args:
            x: {"source": int[n, s], "target": int[n, t]}, and "language": int[n] where there are
                several languages.

        Returns:
            (sources [n, s, width], states before each character [n, t, width], valid places of the
            source bool[n, 1, s]).

        Raises:
            ValueError: several languages, and no "language" in x.
        """
        embedding = self.embedding[...]
        length = x["target"].shape[1]
        valid = x["source"][:, None] > 0
        encoded = look_up(embedding, x["source"]) + self.source_place[...][None]
        encoded = self.encoder(encoded, (None, valid))
        shifted = jnp.pad(x["target"], ((0, 0), (RECENT, 0)), constant_values=END)
        last = [look_up(embedding, shifted[:, place : place + length]) for place in range(RECENT)]
        states = self.recent(jnp.concatenate(last, axis=-1)) + self.target_place[...][None, :length]
        language = self.language[...]
        if "language" in x:
            language = look_up(language, x["language"])
        elif len(language) > 1:
            raise ValueError(
                f"The translator was made for {len(language)} languages, and x has no entry "
                "'language', int[n], that says which one each target is in."
            )
        states = self.before(
            states + language[:, None], (None, causal_mask(length)), (encoded, valid)
        )
        return encoded, states, valid

    def remember(self, x: dict[str, Array], weight: Array) -> Memory:
        """Makes a memory of examples.

        Args:
            x: as for `read`.
            weight: [n]; rows of weight 0 are left out.

        Returns:
            The memory. Integers in it are floats, because fast weights have derivatives.
        """
        _, states, _ = self.read(x)
        embedding = self.embedding[...]
        target = x["target"]
        after = jnp.pad(states, ((0, 0), (0, 1), (0, 0)))[:, 1:]
        value = self.found(jnp.concatenate([look_up(embedding, target), after], axis=-1))
        valid = (target > 0) & (weight > 0)[:, None]
        dtype = states.dtype
        return Memory(
            state=_flatten(states),
            value=_flatten(value),
            previous=_flatten(previous_characters(target)).astype(dtype),
            source=aligned_from_both_ends(x["source"]).astype(dtype),
            character=jax.nn.one_hot(_flatten(target), len(embedding), dtype=dtype),
            valid=_flatten(valid).astype(dtype),
        )

    def likeness(self, x: dict[str, Array], states: Array, memory: Memory) -> Array:
        """How much each place is like each place of the memory by its characters alone.

        Two numbers are added, with learned weights: how many characters before the place are equal,
        and how many characters of the source, counted from the left and from the right. The state
        decides how much each of these characters matters.

        Args:
            x: as for `read`.
            states: [n, t, width].
            memory: the memory.

        Returns:
            [n, heads + 1, t, places].
        """
        match = match_lengths(previous_characters(x["target"]), memory.previous)
        match = match.astype(states.dtype)
        source = aligned_from_both_ends(x["source"])[:, None]
        equal = ((source == memory.source[None]) & (source > 0)).astype(states.dtype)
        pairs = jnp.repeat(self.matter(states) @ equal.mT, states.shape[1], axis=-1)
        return self.match[...][None, :, None, None] * match[:, None] + pairs[:, None]

    def __call__(self, x: dict[str, Array], memory: Memory | None = None) -> Array:
        """The log-probabilities of the character at each place, given those before it.

        Args:
            x: as for `read`.
            memory: what to look characters up in; None generates and copies only.

        Returns:
            [n, t, characters].
        """
        encoded, states, valid = self.read(x)
        embedding = self.embedding[...]
        root = states.shape[-1] ** 0.5
        if memory is not None:
            known = memory.valid[None, None] > 0
            bias = self.likeness(x, states, memory)
            keys = memory.state[None]
            states += self.lookup(states, keys, memory.value[None], known, bias[:, :-1])
        mask = causal_mask(states.shape[1])
        states = self.norm(self.after(states, (None, mask), (encoded, valid)))
        generate, copy, look = jnp.split(self.choose(states), 3, axis=-1)
        generated = generate @ embedding.T + self.bias[...][None, None]
        copied = jnp.where(valid, copy @ self.source_key(encoded).mT / root, MASKED)
        scores = [generated, copied]
        characters = [jax.nn.one_hot(x["source"], len(embedding), dtype=states.dtype)]
        if memory is not None:
            found = look @ self.memory_key(memory.state).T / root + bias[:, -1]
            scores.append(jnp.where(known, found, MASKED))
            characters.append(memory.character[None])
        return _log_mixture(scores, characters)


@checked
def translate(apply: Callable[..., Any], params: Params, source: Array, *, length: int) -> Array:
    """Greedy translation: the likeliest character, one after the other, up to the end.

    The whole net runs once for each character, so this is for looking at translations. Their score
    is the accuracy of `losses.sequence_cross_entropy`.

    Args:
        apply: that of a `Translator` of one language, or of `with_memory`. Where there are several,
            a function that adds "language" to x.
        params: its weights.
        source: int[n, s].
        length: length of the translations: at most the `target` of the net and, with a memory,
            exactly the length of the support targets.

    Returns:
        int[n, length], 0 after the end.
    """

    def step(target: Array, place: Array) -> tuple[Array, None]:
        scores = apply(params, {"source": source, "target": target})[:, place]
        character = scores.argmax(axis=-1).astype(target.dtype)
        ended = (target == END).any(axis=1)
        return target.at[:, place].set(jnp.where(ended, 0, character)), None

    start = jnp.zeros((len(source), length), source.dtype)
    target, _ = jax.lax.scan(step, start, jnp.arange(length))
    return target


def _log_mixture(scores: list[Array], one_hots: list[Array]) -> Array:
    """The log-probabilities of characters, [n, t, characters], with one softmax over all scores.

    Args:
        scores: [n, t, characters], then [n, t, k] for each way to read a character elsewhere.
        one_hots: for each of the latter the characters there, [n or 1, k, characters].
    """
    probabilities = jax.nn.softmax(jnp.concatenate(scores, axis=-1))
    place = scores[0].shape[-1]
    total = probabilities[..., :place]
    for one_hot in one_hots:
        end = place + one_hot.shape[1]
        total += probabilities[..., place:end] @ one_hot
        place = end
    return jnp.log(total + 1e-9)


def _flatten(leaf: Array) -> Array:
    """[pairs, t, ...] -> [pairs * t, ...]."""
    return leaf.reshape(leaf.shape[0] * leaf.shape[1], *leaf.shape[2:])
