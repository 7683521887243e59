"""Corruptions of modalities, one of each kind, that can be compiled.

A corruption is a function (x, severity, key) -> x corrupted, with the shapes and dtypes of x, whose
leading axis counts examples. The severity is a scalar in [0, 1] that may be traced; at 0, nothing
changes. All randomness comes from the key. The result for one example does not depend on the other
examples, except in `text` and `tabular`, which take replacements from them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp

from metajax._checked import checked
from metajax._tree import largest
from metajax.types import Array, PyTree, Series

Corruption: TypeAlias = Callable[[PyTree, float | Array, Array], PyTree]
"""(x, severity, key) -> x corrupted."""


@checked
def image(x: Array, severity: float | Array, key: Array) -> Array:
    """Adds Gaussian noise, and hides a square at a random place.

    The noise has the standard deviation severity/2. The square is black, and its side is severity/2
    of the shorter side of the image. In a video it stays at one place.

    Args:
        x: images [n, height, width, channels] or videos [n, frames, height, width, channels] in
            [0, 1]. The result stays in [0, 1].
        severity: scalar in [0, 1].
        key: for noise and place.

    Raises:
        ValueError: integers. Scale them to [0, 1] first.
    """
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"Images must be floats in [0, 1], got {x.dtype}; divide by 255 first.")

    def one(x: Array, severity: Array, key: Array) -> Array:
        noise_key, place_key = jax.random.split(key)
        noisy = x + severity / 2 * jax.random.normal(noise_key, x.shape, x.dtype)
        height, width, _ = x.shape[-3:]
        hidden_HxWx1 = _square(height, width, severity, place_key)
        return jnp.where(jnp.broadcast_to(hidden_HxWx1, x.shape), 0, jnp.clip(noisy, 0, 1))

    return _each_example(one, x, severity, key)


@checked
def audio(x: Array, severity: float | Array, key: Array) -> Array:
    """Adds white noise at a signal-to-noise ratio of -20 log₁₀(severity) dB.

    That is 20 dB at severity 0.1, and noise as loud as the signal at severity 1.

    Args:
        x: waves [n, samples]. The sum is not clipped.
        severity: scalar in [0, 1]: the amplitude of the noise over that of the signal.
        key: for the noise.
    """

    def one(x: Array, severity: Array, key: Array) -> Array:
        noise = jax.random.normal(key, x.shape, x.dtype)
        loudness = jnp.sqrt((x**2).mean() / (noise**2).mean())
        # The loudness of silence has no derivative.
        return x + severity * jax.lax.stop_gradient(loudness) * noise

    return _each_example(one, x, severity, key)


@checked
def text(x: Array, severity: float | Array, key: Array) -> Array:
    """Drops or replaces each token with the probability severity.

    Half of the changed tokens are dropped; the others become a token drawn from all texts in x. The
    tokens after a dropped one move up, so that padding stays at the end. The first token of a text
    is replaced but never dropped.

    Args:
        x: token ids int[n, time]; 0 is padding, at the end.
        severity: scalar in [0, 1].
        key: for the choice.
    """
    token_key, key = jax.random.split(key)
    share = (x > 0).reshape(-1) / jnp.maximum((x > 0).sum(), 1)
    drawn = jax.random.choice(token_key, x.reshape(-1), x.shape, p=share)

    def one(pair: tuple[Array, Array], severity: Array, key: Array) -> tuple[Array, Array]:
        x, drawn = pair
        change_key, drop_key = jax.random.split(key)
        changed = (jax.random.uniform(change_key, x.shape) < severity) & (x > 0)
        may_drop = jnp.arange(len(x)) > 0
        dropped = changed & jax.random.bernoulli(drop_key, shape=x.shape) & may_drop
        kept = jnp.where(dropped, 0, jnp.where(changed, drawn, x))
        return kept[jnp.argsort(kept == 0, stable=True)], drawn

    corrupted, _ = _each_example(one, (x, drawn), severity, key)
    return corrupted


@checked
def stroke(x: Array | Series, severity: float | Array, key: Array) -> Array | Series:
    """Shakes the pen, and loses a stretch of points.

    Points move by Gaussian noise of severity/10 of the size of the drawing, and stay within its
    bounding box. The lost stretch is severity/2 of the points, at a random place; its points repeat
    the point before it.

    Args:
        x: [n, time, channels] or a `Series`. Channels 0 and 1 are positions; the other channels
            (time, pen) do not change.
        severity: scalar in [0, 1].
        key: for noise and place.
    """

    def one(x: Array | Series, severity: Array, key: Array) -> Array | Series:
        value, valid = _valid_steps(x)
        noise_key, place_key = jax.random.split(key)
        points = value[:, :2]
        inside = jnp.where(valid, points, points[:1])
        low = -largest(-inside, 0)[None]
        high = largest(inside, 0)[None]
        deviation = severity / 10 * largest((high - low)[0], 0)
        noise = deviation * jax.random.normal(noise_key, points.shape, value.dtype)
        source = _lose_stretch(len(value), valid.sum(), severity, place_key)
        moved = jnp.clip(points + noise, low, high)[source]
        corrupted = jnp.concatenate([moved.astype(value.dtype), value[:, 2:]], axis=1)
        return _with_steps(x, corrupted, valid)

    return _each_example(one, x, severity, key)


@checked
def series(x: Array | Series, severity: float | Array, key: Array) -> Array | Series:
    """Adds noise to each channel, and loses each step with the probability severity/2.

    The noise has severity times the standard deviation of its channel over time. A lost step
    repeats the last step that was not lost. The first step is never lost.

    Args:
        x: [n, time, channels] or a `Series`.
        severity: scalar in [0, 1].
        key: for noise and loss.
    """

    def one(x: Array | Series, severity: Array, key: Array) -> Array | Series:
        value, valid = _valid_steps(x)
        noise_key, loss_key = jax.random.split(key)
        noise = jax.random.normal(noise_key, value.shape, value.dtype)
        deviation = value.std(axis=0, where=valid, keepdims=True)
        # The deviation of a constant channel has no derivative.
        noisy = value + severity * jax.lax.stop_gradient(deviation) * noise
        steps = jnp.arange(len(value))
        kept = (jax.random.uniform(loss_key, steps.shape) >= severity / 2) | (steps == 0)
        last_kept = jax.lax.cummax(jnp.where(kept, steps, 0))
        return _with_steps(x, noisy[last_kept], valid)

    return _each_example(one, x, severity, key)


@checked
def tabular(x: Array, severity: float | Array, key: Array) -> Array:
    """Replaces each feature, with the probability severity, by that of another example.

    The distribution of each feature stays.

    Args:
        x: [n, features]. A single example does not change.
        severity: scalar in [0, 1].
        key: for the choice.
    """
    change_key, row_key = jax.random.split(key)
    number = len(x)
    ahead = jax.random.randint(row_key, x.shape, min(1, number - 1), number)
    rows = (jnp.arange(number)[:, None] + ahead) % number
    others = jnp.take_along_axis(x, rows, axis=0)
    return jnp.where(jax.random.uniform(change_key, x.shape) < severity, others, x)


def _each_example(
    one: Callable[..., PyTree], x: PyTree, severity: float | Array, key: Array
) -> PyTree:
    """Corrupts each example with a key of its own, in the dtype of x; at severity 0 it is x."""
    number = jax.tree.leaves(x)[0].shape[0]
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(number))
    corrupted = jax.vmap(one, (0, None, 0))(x, severity, keys)
    return jax.tree.map(
        lambda new, old: jnp.where(severity > 0, new.astype(old.dtype), old), corrupted, x
    )


def _square(height: int, width: int, severity: Array, key: Array) -> Array:
    """A square at a random place in an image, bool[height, width, 1]."""
    sizes = jnp.array([height, width])
    side = jnp.round(severity / 2 * sizes.min())
    low = jnp.floor(jax.random.uniform(key, (2,)) * (sizes - side + 1))
    rows, columns = jnp.arange(height), jnp.arange(width)
    in_rows = (rows >= low[0]) & (rows < low[0] + side)
    in_columns = (columns >= low[1]) & (columns < low[1] + side)
    return (in_rows[:, None] & in_columns[None])[..., None]


def _lose_stretch(steps: int, length: Array, severity: Array, key: Array) -> Array:
    """The step that each step is read from, int[steps], with a stretch of the length lost."""
    lost = jnp.floor(severity / 2 * length)
    first = 1 + jnp.floor(jax.random.uniform(key) * jnp.maximum(length - lost, 1))
    step = jnp.arange(steps)
    in_stretch = (step >= first) & (step < first + lost)
    return jnp.where(in_stretch, first - 1, step).astype(int)


def _valid_steps(x: Array | Series) -> tuple[Array, Array]:
    """One sequence [time, channels], zero after its length, and its valid steps, bool[time, 1]."""
    if not isinstance(x, Series):
        return x, jnp.ones((len(x), 1), bool)
    valid = (jnp.arange(len(x.value)) < x.length)[:, None]
    return jnp.where(valid, x.value, 0), valid


def _with_steps(x: Array | Series, value: Array, valid: Array) -> Array | Series:
    """The new values in the form of x, and the old values after its length."""
    if not isinstance(x, Series):
        return value
    return x._replace(value=jnp.where(valid, value, x.value))
