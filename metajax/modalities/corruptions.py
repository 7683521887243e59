"""Corrupted modalities: one jittable corruption of each kind.

A corruption is a function (x [n, ...], severity, key) -> the same shapes and dtypes. The severity is a scalar in
[0, 1], may be traced, and at 0 nothing changes at all. It is deterministic in the key, and row i is corrupted in the
same way whatever the other rows are; only `text` and `tabular` take their replacements from the other rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import jax
import jax.numpy as jnp

from metajax.types import Array, Modalities, PyTree, Series

Corruption: TypeAlias = Callable[[PyTree, float | Array, Array], PyTree]
"""(x, severity, key) -> x corrupted."""


def image(x: Array, severity: float | Array, key: Array) -> Array:
    """Gaussian noise of deviation severity/2 and a black square of severity/2 of the shorter side, at a random place.

    Args:
        x: images [n, ..., height, width, channels] in [0, 1], where they stay; of a video, the square covers one place.
        severity: scalar in [0, 1].
        key: of the noise and the place.

    Raises:
        ValueError: integers; scale them to [0, 1] first.
    """
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"Images must be floats in [0, 1], got {x.dtype}; divide by 255 first.")

    def one(x: Array, severity: Array, key: Array) -> Array:
        noise_key, place_key = jax.random.split(key)
        noisy = x + severity / 2 * jax.random.normal(noise_key, x.shape, x.dtype)
        sizes = jnp.array(x.shape[-3:-1])
        side = jnp.round(severity / 2 * sizes.min())
        low = jnp.floor(jax.random.uniform(place_key, (2,)) * (sizes - side + 1))
        down, across = (
            (jnp.arange(size) >= low[axis]) & (jnp.arange(size) < low[axis] + side)
            for axis, size in enumerate(x.shape[-3:-1])
        )
        hidden = (down[:, None] & across[None, :])[..., None]
        return jnp.where(jnp.broadcast_to(hidden, x.shape), 0, jnp.clip(noisy, 0, 1))

    return _each(one, x, severity, key)


def audio(x: Array, severity: float | Array, key: Array) -> Array:
    """White noise at a signal-to-noise ratio of -20 log₁₀(severity) dB: 20 dB at 0.1, as loud as the signal at 1.

    Args:
        x: waves [n, samples]; the sum is not clipped.
        severity: scalar in [0, 1], the amplitude of the noise over that of the signal.
        key: of the noise.
    """

    def one(x: Array, severity: Array, key: Array) -> Array:
        noise = jax.random.normal(key, x.shape, x.dtype)
        loudness = jnp.sqrt((x**2).mean() / (noise**2).mean())
        return (
            x + severity * jax.lax.stop_gradient(loudness) * noise
        )  # silence has no derivative of it

    return _each(one, x, severity, key)


def text(x: Array, severity: float | Array, key: Array) -> Array:
    """Each token is, with probability severity, either dropped or replaced by a token from somewhere in x.

    What follows a dropped token moves up, so that padding stays at the end; a text keeps at least its first place.

    Args:
        x: token ids int[n, time]; 0 is padding, at the end.
        severity: scalar in [0, 1].
        key: of the choice.
    """
    token_key, key = jax.random.split(key)
    common = (x > 0).reshape(-1) / jnp.maximum((x > 0).sum(), 1)
    others = jax.random.choice(token_key, x.reshape(-1), x.shape, p=common)

    def one(pair: tuple[Array, Array], severity: Array, key: Array) -> tuple[Array, Array]:
        x, others = pair
        hit_key, drop_key = jax.random.split(key)
        hit = (jax.random.uniform(hit_key, x.shape) < severity) & (x > 0)
        dropped = hit & jax.random.bernoulli(drop_key, shape=x.shape) & (jnp.arange(len(x)) > 0)
        kept = jnp.where(dropped, 0, jnp.where(hit, others, x))
        return kept[jnp.argsort(kept == 0, stable=True)], others

    return _each(one, (x, others), severity, key)[0]


def stroke(x: Array | Series, severity: float | Array, key: Array) -> Array | Series:
    """A shaking pen that skips: points jitter by severity/10 of the drawing's size, and a stretch of them is lost.

    The lost stretch is severity/2 of the points, at a random place; they stay where the pen was before. Points stay
    within the drawing's box.

    Args:
        x: [n, time, channels] or a `Series`; channels 0 and 1 are positions, the others (time, pen) stay as they are.
        severity: scalar in [0, 1].
        key: of jitter and place.
    """

    def one(x: Array | Series, severity: Array, key: Array) -> Array | Series:
        value, valid = _steps(x)
        jitter_key, place_key = jax.random.split(key)
        points, length = value[:, :2], valid.sum()
        known = jnp.where(valid, points, points[:1])
        low, high = known.min(axis=0, keepdims=True), known.max(axis=0, keepdims=True)
        jitter = (
            severity
            / 10
            * (high - low).max()
            * jax.random.normal(jitter_key, points.shape, value.dtype)
        )
        lost = jnp.floor(severity / 2 * length)
        first = 1 + jnp.floor(jax.random.uniform(place_key) * jnp.maximum(length - lost, 1))
        steps = jnp.arange(len(value))
        source = jnp.where((steps >= first) & (steps < first + lost), first - 1, steps).astype(int)
        moved = jnp.clip(points + jitter, low, high)[source]
        return _restore(
            x, jnp.concatenate([moved.astype(value.dtype), value[:, 2:]], axis=1), valid
        )

    return _each(one, x, severity, key)


def series(x: Array | Series, severity: float | Array, key: Array) -> Array | Series:
    """Noise of severity times each channel's deviation over time; a step is lost with probability severity/2.

    A lost step repeats the last one that was seen; the first is never lost.

    Args:
        x: [n, time, channels] or a `Series`.
        severity: scalar in [0, 1].
        key: of noise and loss.
    """

    def one(x: Array | Series, severity: Array, key: Array) -> Array | Series:
        value, valid = _steps(x)
        noise_key, loss_key = jax.random.split(key)
        noise = jax.random.normal(noise_key, value.shape, value.dtype)
        deviation = value.std(axis=0, where=valid, keepdims=True)
        noisy = (
            value + severity * jax.lax.stop_gradient(deviation) * noise
        )  # a constant has no derivative of it
        steps = jnp.arange(len(value))
        seen = (jax.random.uniform(loss_key, steps.shape) >= severity / 2) | (steps == 0)
        return _restore(x, noisy[jax.lax.cummax(jnp.where(seen, steps, 0))], valid)

    return _each(one, x, severity, key)


def tabular(x: Array, severity: float | Array, key: Array) -> Array:
    """Each feature is, with probability severity, that of another row: its distribution stays, its meaning goes.

    Args:
        x: [n, features]; one row by itself stays as it is.
        severity: scalar in [0, 1].
        key: of the choice.
    """
    hit_key, row_key = jax.random.split(key)
    number = len(x)
    ahead = jax.random.randint(row_key, x.shape, min(1, number - 1), number)
    other = jnp.take_along_axis(x, (jnp.arange(number)[:, None] + ahead) % number, axis=0)
    return jnp.where(jax.random.uniform(hit_key, x.shape) < severity, other, x)


def corrupt(
    x: Modalities, corruptions: Mapping[str, Corruption], severity: float | Array, key: Array
) -> Modalities:
    """Corrupts some modalities of the examples that have them; absent values stay, and are no one's replacement.

    Args:
        x: n examples.
        corruptions: {name of a modality: corruption}, such as {"image": image}.
        severity: scalar in [0, 1].
        key: each modality has a key of its own, which does not depend on what else is corrupted.

    Raises:
        ValueError: a name that is not a modality of x.
    """
    unknown = sorted(set(corruptions) - set(x.value))
    if unknown:
        raise ValueError(f"{unknown} are not among the modalities, which are {sorted(x.value)}.")
    value = dict(x.value)
    for index, name in enumerate(sorted(x.value)):
        if name in corruptions:
            here, old = x.present[name], x.value[name]
            rows = _stand_ins(here)
            filled = jax.tree.map(lambda leaf, rows=rows: leaf[rows], old)
            new = corruptions[name](filled, severity, jax.random.fold_in(key, index))
            value[name] = jax.tree.map(
                lambda a, b, here=here: jnp.where(_like(here, a), a, b), new, old
            )
    return x._replace(value=value)


def _each(one: Callable[..., PyTree], x: PyTree, severity: float | Array, key: Array) -> PyTree:
    """Corrupts example by example, each with a key of its own, in the dtype of x; at severity 0 it is x itself."""
    number = jax.tree.leaves(x)[0].shape[0]
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(number))
    new = jax.vmap(one, (0, None, 0))(x, severity, keys)
    return jax.tree.map(lambda a, b: jnp.where(severity > 0, a.astype(b.dtype), b), new, x)


def _steps(x: Array | Series) -> tuple[Array, Array]:
    """One sequence [time, channels], zero past its length, and which steps are part of it, bool[time, 1]."""
    if not isinstance(x, Series):
        return x, jnp.ones((len(x), 1), bool)
    valid = (jnp.arange(len(x.value)) < x.length)[:, None]
    return jnp.where(valid, x.value, 0), valid


def _restore(x: Array | Series, value: Array, valid: Array) -> Array | Series:
    """The new values in the form of x, the old ones past its length."""
    return x._replace(value=jnp.where(valid, value, x.value)) if isinstance(x, Series) else value


def _stand_ins(present: Array) -> Array:
    """For each example the row to read, int[n]: itself, or for an absent one a row that is present, each in turn."""
    order = jnp.argsort(~present, stable=True)
    return jnp.where(
        present,
        jnp.arange(len(present)),
        order[jnp.arange(len(present)) % jnp.maximum(present.sum(), 1)],
    )


def _like(present: Array, leaf: Array) -> Array:
    return present.reshape(-1, *(1,) * (leaf.ndim - 1))
