"""Translation of strings, character by character, by a net that can look things up in examples."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from metajax._tree import row_weights
from metajax.types import Adaptation, Apply, Array, Batch, Params

START = 1  # stands before the first character: the id that ends a target

RECENT = 3  # characters that a place sees at once, before any attention

LONGEST = 6  # of the matches that are told apart

NOWHERE = -1e9  # score of what must not be read: finite, and no softmax gives it any weight


class Memory(NamedTuple):
    """Every place of every target of a support set, as a table to look things up in.

    Attributes:
        state: [places, width], what the net knew before it read the character there: what is compared.
        value: [places, width], what the character is and what the net knew after it: what is found.
        previous: [places], the character before.
        source: [pairs, 2 source], the sources, from the left and from the right.
        character: [places, characters], one-hot.
        valid: [places], 1 where there is a character, 0 in padding.
    """

    state: Array
    value: Array
    previous: Array
    source: Array
    character: Array
    valid: Array


class Translator(nnx.Module):
    """A small encoder and decoder with attention, which says a character, or copies it, or looks it up.

    One softmax weighs all the ways to say the next character c after y₁…yₜ₋₁ (CopyNet's mixture):
    p(c) ∝ exp(say_c) + Σₛ [xₛ = c] exp(copyₛ) + Σₘ [characterₘ = c] exp(lookₘ), over the places s of the source and m
    of a memory of examples. So it is a matching network over characters, and without a memory a plain net from sequence
    to sequence. It reads targets as they are ("teacher forcing"), and place t sees only what is before t.

    Args:
        characters: number of ids; 0 is padding, 1 ends a target.
        source: length of a source.
        target: length of a target.
        width: of all states; divisible by `heads`.
        heads: of the attentions.
        languages: rows of a table of vectors that tell languages apart in joint training.
        rngs: for the weights.

    Sources: Gu et al. 2016, arXiv 1603.06393 (CopyNet); Vinyals et al. 2016, arXiv 1606.04080 (matching networks).
    """

    def __init__(
        self,
        characters: int,
        source: int,
        target: int,
        *,
        width: int = 64,
        heads: int = 4,
        languages: int = 1,
        rngs: nnx.Rngs,
    ):
        if heads < 1 or width % heads:
            raise ValueError(f"{heads=} must divide {width=}.")
        self.embedding, self.source_place, self.target_place, self.language = (
            nnx.Param(nnx.initializers.normal(0.1)(rngs.params(), (rows, width)))
            for rows in (characters, source, target, languages)
        )
        self.recent = nnx.Linear(RECENT * width, width, use_bias=False, rngs=rngs)
        self.encoder = Layer(width, heads, rngs=rngs)
        self.before, self.after = (Layer(width, heads, reads=2, rngs=rngs) for _ in range(2))
        self.lookup = Reading(width, heads, rngs=rngs)
        self.found = nnx.Linear(2 * width, width, rngs=rngs)
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.choose = nnx.Linear(width, 3 * width, rngs=rngs)
        self.source_key, self.memory_key = (
            nnx.Linear(width, width, use_bias=False, rngs=rngs) for _ in range(2)
        )
        self.bias = nnx.Param(jnp.zeros(characters))
        self.match = nnx.Param(jnp.ones(heads + 1))
        self.matter = nnx.Linear(
            width, 2 * source, bias_init=nnx.initializers.constant(0.5), rngs=rngs
        )

    def read(self, x: dict[str, Array]) -> tuple[Array, Array, Array]:
        """Encoded sources [n, s, width], the states before each character [n, t, width], and bool[n, 1, s]: source.

        `x` is {"source": int[n, s], "target": int[n, t]}, and "language": int[n] where there are several.
        """
        embedding, length = self.embedding[...], x["target"].shape[1]
        here = x["source"][:, None] > 0
        encoded = embedding[x["source"]] + self.source_place[...][None]
        encoded = self.encoder(encoded, (None, here))
        shifted = jnp.pad(x["target"], ((0, 0), (RECENT, 0)), constant_values=START)
        last = [embedding[shifted[:, place : place + length]] for place in range(RECENT)]
        states = self.recent(jnp.concatenate(last, axis=-1)) + self.target_place[...][None, :length]
        language = self.language[...][x["language"]] if "language" in x else self.language[...][:1]
        states = self.before(states + language[:, None], (None, _before(length)), (encoded, here))
        return encoded, states, here

    def remember(self, x: dict[str, Array], weight: Array) -> Memory:
        """The examples as a memory; rows of weight 0 are left out. x as for `read`, weight [n]."""
        _, states, _ = self.read(x)
        embedding, target = self.embedding[...], x["target"]
        after = jnp.pad(states, ((0, 0), (0, 1), (0, 0)))[:, 1:]
        value = self.found(jnp.concatenate([embedding[target], after], axis=-1))
        valid = (target > 0) & (weight > 0)[:, None]
        flat = lambda leaf: leaf.reshape(leaf.shape[0] * leaf.shape[1], *leaf.shape[2:])
        return Memory(
            flat(states),
            flat(value),
            flat(_previous(target)).astype(
                states.dtype
            ),  # as floats, for what is fast has derivatives
            _aligned(x["source"]).astype(states.dtype),
            jax.nn.one_hot(flat(target), len(embedding), dtype=states.dtype),
            flat(valid).astype(states.dtype),
        )

    def alike(self, x: dict[str, Array], states: Array, memory: Memory) -> Array:
        """How much each place is like each of the memory by its characters alone: [n, heads + 1, t, places].

        Two things, with learned weights: how many characters before it are the same, and which characters of the source
        are, counted from the left and from the right. How much each of these matters is up to the state.
        """
        match = matched(_previous(x["target"]), memory.previous).astype(states.dtype)
        source = _aligned(x["source"])[:, None]
        same = ((source == memory.source[None]) & (source > 0)).astype(states.dtype)
        pairs = jnp.repeat(self.matter(states) @ same.mT, states.shape[1], axis=-1)
        return self.match[...][None, :, None, None] * match[:, None] + pairs[:, None]

    def __call__(self, x: dict[str, Array], memory: Memory | None = None) -> Array:
        """Log-probabilities [n, t, characters] of the character at each place of the target, given those before."""
        encoded, states, here = self.read(x)
        embedding, root = self.embedding[...], states.shape[-1] ** 0.5
        if memory is not None:
            known = memory.valid[None, None] > 0
            bias = self.alike(x, states, memory)
            states += self.lookup(
                states, memory.state[None], memory.value[None], known, bias[:, :-1]
            )
        states = self.norm(self.after(states, (None, _before(states.shape[1])), (encoded, here)))
        say, copy, look = jnp.split(self.choose(states), 3, axis=-1)
        scores = [say @ embedding.T + self.bias[...][None, None]]
        scores += [jnp.where(here, copy @ self.source_key(encoded).mT / root, NOWHERE)]
        characters = [jax.nn.one_hot(x["source"], len(embedding), dtype=states.dtype)]
        if memory is not None:
            found = look @ self.memory_key(memory.state).T / root + bias[:, -1]
            scores += [jnp.where(known, found, NOWHERE)]
            characters += [memory.character[None]]
        likely = jax.nn.softmax(jnp.concatenate(scores, axis=-1))
        total, place = likely[..., : len(embedding)], len(embedding)
        for one_hot in characters:
            total += likely[..., place : place + one_hot.shape[1]] @ one_hot
            place += one_hot.shape[1]
        return jnp.log(total + 1e-9)


class Layer(nnx.Module):
    """States read each other, then something else where `reads` is 2, then a hidden layer; each added to its input."""

    def __init__(self, width: int, heads: int, *, reads: int = 1, rngs: nnx.Rngs):
        self.readings = nnx.List([Reading(width, heads, rngs=rngs) for _ in range(reads)])
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.hidden = nnx.Linear(width, 2 * width, rngs=rngs)
        self.output = nnx.Linear(2 * width, width, rngs=rngs)

    def __call__(self, states: Array, *contexts: tuple[Array | None, Array]) -> Array:
        """[n, t, width], and what each reading reads, None for the states themselves, with what of it may be read."""
        for reading, (context, valid) in zip(self.readings, contexts, strict=True):
            read = reading.norm(states) if context is None else context
            states += reading(states, read, read, valid)
        return states + self.output(jax.nn.gelu(self.hidden(self.norm(states))))


class Reading(nnx.Module):
    """Attention in which each query may read other places, or nothing: softmax over [0, scores], the 0 worth zero."""

    def __init__(self, width: int, heads: int, *, rngs: nnx.Rngs):
        self.query, self.key, self.value, self.output = (
            nnx.Linear(width, width, use_bias=False, rngs=rngs) for _ in range(4)
        )
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.heads = heads

    def __call__(
        self, states: Array, keys: Array, values: Array, valid: Array, bias: Array | float = 0.0
    ) -> Array:
        """[n, q, width], [n or 1, k, width] twice, and bool[n or 1, q or 1, k] -> [n, q, width].

        `bias`, [n, heads, q, k], is added to the scores.
        """
        query, key, value = (
            layer(x).reshape(*x.shape[:2], self.heads, x.shape[-1] // self.heads).swapaxes(1, 2)
            for layer, x in (
                (self.query, self.norm(states)),
                (self.key, keys),
                (self.value, values),
            )
        )
        scores = jnp.where(valid[:, None], query @ key.mT / query.shape[-1] ** 0.5 + bias, NOWHERE)
        weight = jax.nn.softmax(jnp.pad(scores, ((0, 0), (0, 0), (0, 0), (1, 0))))[..., 1:]
        return self.output((weight @ value).swapaxes(1, 2).reshape(states.shape))


def matched(here: Array, there: Array) -> Array:
    """How many characters up to each place are the same as those up to each place there, at most 6.

    That what followed last time may follow again is all that copying is, and a net of two layers of attention is slow
    to discover it. m[t, s] = 1 + m[t - 1, s - 1] where here[t] = there[s] > 0, else 0.

    [n, t] and [s] -> int32[n, t, s].

    >>> matched(jnp.array([[5, 6, 7]]), jnp.array([6, 7, 5])).tolist()
    [[[0, 0, 1], [1, 0, 0], [0, 2, 0]]]
    """
    same = ((here[:, :, None] == there[None, None]) & (here[:, :, None] > 0)).astype(jnp.int32)
    run = total = same
    for _ in range(LONGEST - 1):
        run = same * jnp.pad(run, ((0, 0), (1, 0), (1, 0)))[:, :-1, :-1]
        total += run
    return total


def remember(apply: Apply) -> Adaptation:
    """Writes the support pairs into `params.fast["memory"]`, for `with_memory(apply)` to look things up in.

    Args:
        apply: that of a `Translator`, from `functional`.
    """

    def adapt(params: Params, support: Batch, key: Array) -> Params:
        plain = params._replace(
            fast={name: leaf for name, leaf in params.fast.items() if name != "memory"}
        )
        memory = apply(plain, support.x, method="remember", weight=row_weights(support))  # type: ignore[call-arg]
        return params._replace(fast={**plain.fast, "memory": memory})

    return Adaptation(lambda params, key: params._replace(rule=()), adapt)


def with_memory(apply: Apply) -> Apply:
    """The `Translator` that looks things up in what `remember` has written; before that, the plain one."""

    def recalled(
        params: Params, x: Any, key: Array | None = None, *, reference: Array | None = None
    ) -> Array:
        plain = params._replace(
            fast={name: leaf for name, leaf in params.fast.items() if name != "memory"}
        )
        return apply(plain, x, key, memory=params.fast.get("memory"))  # type: ignore[call-arg]

    return recalled


def translate(apply: Apply, params: Params, source: Array, *, length: int) -> Array:
    """Says the likeliest character, one after the other, up to the end: int[n, s] -> int[n, length].

    The whole net runs once for each character: for looking at answers. `losses.sequence_cross_entropy` judges them.
    """

    def step(target: Array, place: Array) -> tuple[Array, None]:
        said = (
            apply(params, {"source": source, "target": target})[:, place]
            .argmax(axis=-1)
            .astype(target.dtype)
        )
        ended = (target == START).any(axis=1)
        return target.at[:, place].set(jnp.where(ended, 0, said)), None

    return jax.lax.scan(step, jnp.zeros((len(source), length), source.dtype), jnp.arange(length))[0]


def _previous(target: Array) -> Array:
    """The character before each, [n, t]; 0 after the end, so that the start is like no other place."""
    characters = jnp.where(target == START, 0, target)
    return jnp.pad(characters, ((0, 0), (1, 0)), constant_values=START)[:, :-1]


def _aligned(source: Array) -> Array:
    """Sources from the left, and again from the right: [n, s] -> [n, 2 s]."""
    length = (source > 0).sum(axis=1, keepdims=True)
    places = (jnp.arange(source.shape[1])[None] + length) % source.shape[1]
    return jnp.concatenate([source, jnp.take_along_axis(source, places, axis=1)], axis=1)


def _before(length: int) -> Array:
    """bool[1, t, t]: place t may read the states up to its own, which have seen the characters before it."""
    return jnp.tril(jnp.ones((length, length), bool))[None]
