"""Augmented spectrograms, waves and texts: functions (x, key) -> x of one example."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from metajax._checked import checked
from metajax._checks import shapes
from metajax._tree import keep_rows
from metajax.data.augment.checks import check_range, check_sequence
from metajax.data.augment.images import Augmentation
from metajax.types import Array, Count, Series, Size


@checked
def spec_augment(time: Count, frequency: Count, *, masks: Size = 2) -> Augmentation:
    """Masks stretches of time and bands of frequency of a spectrogram: SpecAugment without warping.

    Each stretch is w steps long, with w uniform in 0, ..., min(time, length), at a uniform place
    within the length; each band likewise. They may overlap. They become zero, which is the mean of
    a normalised spectrogram. With `frequency=0` it masks time in any series.

    Args:
        time: steps of the longest stretch; 0 is none. The paper takes 100 of 10 ms, and 70 for
            Switchboard.
        frequency: channels of the widest band; 0 is none. The paper takes 27 or 15 of 80.
        masks: number of stretches, and of bands.

    Returns:
        (x, key) -> x of a spectrogram [time, channels] of floats, or of a `Series` of it, which is
        not changed past its length.

    Raises:
        ValueError: negative sizes or no mask; when called, sizes larger than the spectrogram,
            integers or another rank.

    >>> x = spec_augment(time=3, frequency=0, masks=1)(jnp.ones((9, 4)), jax.random.key(0))
    >>> x.sum(axis=1).tolist()
    [4.0, 4.0, 4.0, 4.0, 4.0, 0.0, 4.0, 4.0, 4.0]

    Source: Park et al. 2019, arXiv 1904.08779, whose larger policies have two masks of each kind.
    """

    def mask(value: Array, length: Array, key: Array) -> Array:
        steps, channels = value.shape
        if time > steps or frequency > channels:
            raise ValueError(
                f"{time=} and {frequency=} must not exceed the spectrogram, {[steps, channels]}."
            )
        time_key, frequency_key = jax.random.split(key)
        in_stretch = _stretches(time_key, masks, time, length, steps)
        in_band = _stretches(frequency_key, masks, frequency, jnp.int32(channels), channels)
        is_valid = jnp.arange(steps) < length
        is_masked = (in_stretch[:, None] | in_band[None, :]) & is_valid[:, None]
        return jnp.where(is_masked, jnp.zeros_like(value), value)

    @checked
    def augment(x: Array | Series, key: Array) -> Array | Series:
        value = x.value if isinstance(x, Series) else x
        check_sequence(value, (2,), "spectrogram [time, channels]")
        if not isinstance(x, Series):
            return mask(value, jnp.int32(len(value)), key)
        return x._replace(value=mask(value, jnp.asarray(x.length, jnp.int32), key))

    return augment


@checked
def wave(*, shift: Count = 0, gain: float = 0.0) -> Augmentation:
    """Shifts a recording by up to `shift` samples and changes its level by up to `gain` decibels.

    x ← 10^(g/20) x with g uniform in [-gain, gain]; the shift is a uniform whole number. Samples
    that are shifted out are lost, silence comes in, and nothing is clipped.

    Args:
        shift: samples, in both directions.
        gain: decibels; 6 is a factor of 2.

    Returns:
        (x, key) -> x of a wave [samples] or [samples, channels] of floats, or of a `Series` of it,
        whose length stays.

    Raises:
        ValueError: negative sizes; when called, a shift as long as the wave, integers or another
            rank.

    >>> x = wave(shift=2)(jnp.array([1.0, 2.0, 3.0]), jax.random.key(0))
    >>> x.tolist()
    [0.0, 1.0, 2.0]
    """
    check_range("gain", gain, 120.0)

    def move(value: Array, key: Array) -> Array:
        if shift >= len(value):
            raise ValueError(f"{shift=} must be smaller than the wave of {len(value)} samples.")
        shift_key, gain_key = jax.random.split(key)
        first = jax.random.randint(shift_key, (), 0, 2 * shift + 1, jnp.int32)
        silence = ((shift, shift), *((0, 0),) * (value.ndim - 1))
        moved = jax.lax.dynamic_slice_in_dim(jnp.pad(value, silence), first, len(value))
        factor = 10 ** (jax.random.uniform(gain_key, (), jnp.float32, -gain, gain) / 20)
        return (factor * moved).astype(value.dtype)

    @checked
    def augment(x: Array | Series, key: Array) -> Array | Series:
        value = x.value if isinstance(x, Series) else x
        check_sequence(value, (1, 2), "wave [samples] or [samples, channels]")
        if not isinstance(x, Series):
            return move(value, key)
        moved = move(_until(x.length, value), key)
        return x._replace(value=_until(x.length, moved))

    return augment


@checked
def text_dropout(rate: float, *, unknown: int | None = 1, keep: Sequence[int] = ()) -> Augmentation:
    """Replaces each token but the first by the unknown token, or leaves it out, at random.

    Args:
        rate: probability of each token.
        unknown: id of the token that replaces others, 1 in `train_tokenizer`. None leaves tokens
            out and moves the rest up, so that padding stays at the end.
        keep: ids that always stay, such as 102, the end mark of `sentence_tokens`.

    Returns:
        (x, key) -> x of token ids int[length]. 0 is padding and stays.

    Raises:
        ValueError: a rate that is not a probability, or an `unknown` that is padding; when called,
            floats or another rank.

    >>> tokens = jnp.array([7, 8, 9, 0])
    >>> text_dropout(1.0, keep=[9])(tokens, jax.random.key(0)).tolist()
    [7, 1, 9, 0]
    >>> text_dropout(1.0, unknown=None, keep=[9])(tokens, jax.random.key(0)).tolist()
    [7, 9, 0, 0]

    Source: Bowman et al. 2016, arXiv 1511.06349, who replace tokens; Iyyer et al. 2015,
    doi 10.3115/v1/P15-1162, who leave them out.
    """
    check_range("rate", rate, 1.0)
    if unknown is not None and unknown < 1:
        raise ValueError(
            f"{unknown=} must be the id of a token, 1 or more, because 0 is padding; None leaves "
            f"tokens out."
        )

    @checked
    def augment(x: Any, key: Array) -> Array:
        is_array = hasattr(x, "dtype")
        if not is_array or x.ndim != 1 or not jnp.issubdtype(x.dtype, jnp.integer):
            raise ValueError(
                f"One text of token ids int[length] is augmented, got {shapes(x)}; vmap over other "
                f"axes."
            )
        is_drawn = jax.random.uniform(key, x.shape, jnp.float32) < rate
        is_dropped = is_drawn & (jnp.arange(len(x)) > 0) & (x != 0)
        for token in keep:
            is_dropped &= x != token
        if unknown is not None:
            return jnp.where(is_dropped, unknown, x)
        left = jnp.where(is_dropped, 0, x)
        return left[jnp.argsort(left == 0, stable=True)]

    return augment


def _stretches(key: Array, number: int, widest: int, length: Array, size: int) -> Array:
    """Which places lie in one of several random stretches of the first `length`, bool[size]."""
    width_key, start_key = jax.random.split(key)
    most = jnp.minimum(widest, length) + 1
    width = jax.random.randint(width_key, (number, 1), 0, most, jnp.int32)
    start = jax.random.randint(start_key, (number, 1), 0, length - width + 1, jnp.int32)
    place = jnp.arange(size, dtype=jnp.int32)[None]
    return ((place >= start) & (place < start + width)).any(axis=0)


def _until(length: Array, value: Array) -> Array:
    """The value with zeros past the length."""
    return keep_rows(jnp.arange(len(value)) < length, value)
