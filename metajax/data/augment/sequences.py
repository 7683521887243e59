"""Augmented spectrograms, waves and texts: functions (x, key) -> x of one example, as in `augment`."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from metajax._checks import check_counts, shapes
from metajax.data.augment.images import Augmentation, _check_range
from metajax.types import Array, Series


def spec_augment(time: int, frequency: int, *, masks: int = 2) -> Augmentation:
    """SpecAugment without its time warp: stretches of time and bands of pitch of a spectrogram become zero.

    Each stretch is w steps, w uniform in 0, ..., min(time, length), at a uniform place within the length; each band
    likewise. They may overlap. Zero is the mean of a spectrogram that is normalised. With `frequency=0` it masks time
    in any series.

    Args:
        time: steps of the longest stretch; 0 is none. The paper takes 100 of 10 ms, and 70 for Switchboard.
        frequency: channels of the widest band; 0 is none. The paper takes 27 or 15 of 80.
        masks: number of stretches, and of bands.

    Returns:
        (x, key) -> x of a spectrogram [time, channels] of floats, or a `Series` of it, which stays as it is past its
        length.

    Raises:
        ValueError: negative sizes, no mask; when called, sizes larger than the spectrogram, integers or another rank.

    Source: Park et al. 2019, arXiv 1904.08779, whose larger policies have two masks of each kind.

    >>> x = spec_augment(time=3, frequency=0, masks=1)(jnp.ones((9, 4)), jax.random.key(0))
    >>> x.sum(axis=1).tolist()
    [4.0, 4.0, 4.0, 4.0, 4.0, 0.0, 4.0, 4.0, 4.0]
    """
    check_counts(0, time=time, frequency=frequency)
    check_counts(masks=masks)

    def augment(x: Array | Series, key: Array) -> Array | Series:
        value = x.value if isinstance(x, Series) else x
        _check_floats(value, 2, "spectrogram [time, channels]")
        if time > value.shape[0] or frequency > value.shape[1]:
            raise ValueError(
                f"{time=} and {frequency=} must not exceed the spectrogram, {list(value.shape)}."
            )
        steps, channels = value.shape
        length = jnp.asarray(x.length if isinstance(x, Series) else steps, jnp.int32)
        time_key, frequency_key = jax.random.split(key)
        late = _stretches(time_key, masks, time, length, steps)[:, None]
        high = _stretches(frequency_key, masks, frequency, jnp.int32(channels), channels)[None, :]
        known = (jnp.arange(steps) < length)[:, None]
        value = jnp.where((late | high) & known, jnp.zeros_like(value), value)
        return x._replace(value=value) if isinstance(x, Series) else value

    return augment


def wave(*, shift: int = 0, gain: float = 0.0) -> Augmentation:
    """A recording earlier or later by up to `shift` samples, and up to `gain` decibels louder or softer.

    x ← 10^(g/20) x with g uniform in [-gain, gain]; the shift is a uniform whole number. What is shifted out is lost,
    silence comes in, and nothing is clipped.

    Args:
        shift: samples.
        gain: decibels; 6 is a factor of 2.

    Returns:
        (x, key) -> x of a wave [samples] or [samples, channels] of floats, or a `Series` of it, whose end stays where
        it is.

    Raises:
        ValueError: negative sizes; when called, a shift as long as the wave, integers or another rank.

    >>> x = wave(shift=2)(jnp.array([1.0, 2.0, 3.0]), jax.random.key(0))
    >>> x.tolist()
    [0.0, 1.0, 2.0]
    """
    check_counts(0, shift=shift)
    _check_range(gain=(gain, 120.0))

    def augment(x: Array | Series, key: Array) -> Array | Series:
        value = x.value if isinstance(x, Series) else x
        _check_floats(
            value, 2 if jnp.ndim(value) == 2 else 1, "wave [samples] or [samples, channels]"
        )
        value = _until_end(x, value)
        if shift >= len(value):
            raise ValueError(f"{shift=} must be smaller than the wave of {len(value)} samples.")
        shift_key, gain_key = jax.random.split(key)
        first = jax.random.randint(shift_key, (), 0, 2 * shift + 1, jnp.int32)
        padded = jnp.pad(value, ((shift, shift), *((0, 0),) * (value.ndim - 1)))
        moved = jax.lax.dynamic_slice_in_dim(padded, first, len(value))
        loudness = 10 ** (jax.random.uniform(gain_key, (), jnp.float32, -gain, gain) / 20)
        moved = (loudness * moved).astype(value.dtype)
        return x._replace(value=_until_end(x, moved)) if isinstance(x, Series) else moved

    return augment


def text_dropout(rate: float, *, unknown: int | None = 1, keep: Sequence[int] = ()) -> Augmentation:
    """Each token but the first is, with this probability, replaced by the unknown token or left out.

    Args:
        rate: the probability.
        unknown: id to put in its place, 1 in `train_tokenizer`; None leaves the token out, and the rest moves up, so
            that padding stays at the end.
        keep: ids that always stay, such as 102, the mark at the end of `sentence_tokens`.

    Returns:
        (x, key) -> x of token ids int[length], 0 = padding, which stays.

    Raises:
        ValueError: a rate that is no probability, an `unknown` that pads; when called, floats or another rank.

    Source: Bowman et al. 2016, arXiv 1511.06349, who replace; Iyyer et al. 2015, doi 10.3115/v1/P15-1162, who leave
    out.

    >>> text_dropout(1.0, keep=[9])(jnp.array([7, 8, 9, 0]), jax.random.key(0)).tolist()
    [7, 1, 9, 0]
    >>> text_dropout(1.0, unknown=None, keep=[9])(jnp.array([7, 8, 9, 0]), jax.random.key(0)).tolist()
    [7, 9, 0, 0]
    """
    _check_range(rate=(rate, 1.0))
    if unknown is not None and unknown < 1:
        raise ValueError(
            f"{unknown=} must be the id of a token, 1 or more, for 0 pads; None leaves tokens out."
        )

    def augment(x: Array, key: Array) -> Array:
        if not hasattr(x, "dtype") or x.ndim != 1 or not jnp.issubdtype(x.dtype, jnp.integer):
            raise ValueError(
                f"One text of token ids int[length] is augmented, got {shapes(x)}; vmap over other axes."
            )
        hit = (
            (jax.random.uniform(key, x.shape, jnp.float32) < rate)
            & (jnp.arange(len(x)) > 0)
            & (x != 0)
        )
        for token in keep:
            hit &= x != token
        if unknown is not None:
            return jnp.where(hit, unknown, x)
        left = jnp.where(hit, 0, x)
        return left[jnp.argsort(left == 0, stable=True)]

    return augment


def _stretches(key: Array, number: int, widest: int, length: Array, size: int) -> Array:
    """Which places lie in one of several random stretches of the first `length`, bool[size]."""
    width_key, start_key = jax.random.split(key)
    width = jax.random.randint(
        width_key, (number, 1), 0, jnp.minimum(widest, length) + 1, jnp.int32
    )
    start = jax.random.randint(start_key, (number, 1), 0, length - width + 1, jnp.int32)
    place = jnp.arange(size, dtype=jnp.int32)[None]
    return ((place >= start) & (place < start + width)).any(axis=0)


def _until_end(x: Array | Series, value: Array) -> Array:
    """The value with zeros past the length that a series has."""
    if not isinstance(x, Series):
        return value
    return jnp.where((jnp.arange(len(value)) < x.length)[:, None], value, jnp.zeros_like(value))


def _check_floats(x: Array, rank: int, what: str) -> None:
    if not hasattr(x, "dtype") or x.ndim != rank or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"One {what} of floats is augmented, got {shapes(x)}; vmap over other axes."
        )
