"""Augmented spectrograms, waves and texts."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn_tasks import augmented_examples as draws
from jax.test_util import check_grads

from metajax import Series
from metajax.data.augment.sequences import spec_augment, text_dropout, wave

STEPS, CHANNELS = 12, 6
RNG = np.random.default_rng(0)
SPECTROGRAM = RNG.normal(size=(STEPS, CHANNELS)).astype(np.float32)
WAVE = RNG.normal(size=30).astype(np.float32)
TEXT = np.array([7, 8, 9, 8, 5, 6, 0, 0], np.int32)


def chi_square(counts):
    counts = np.asarray(counts)
    return ((counts - counts.mean()) ** 2 / counts.mean()).sum()


@pytest.mark.parametrize(
    ("augment", "x"),
    [
        (spec_augment(4, 2), SPECTROGRAM),
        (spec_augment(4, 2), Series(SPECTROGRAM, np.int32(5))),
        (wave(shift=3, gain=6), WAVE),
        (text_dropout(0.5), TEXT),
        (text_dropout(0.5, unknown=None), TEXT),
    ],
)
def test_shapes_dtypes_keys_and_vmap(augment, x):
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), x)
    assert jax.eval_shape(augment, like, jax.random.key(0)) == like
    many, again = draws(augment, x, 20), draws(augment, x, 20)
    jax.tree.map(np.testing.assert_array_equal, many, again)
    first = jax.tree.leaves(many)[0]
    assert len(np.unique(first.reshape(20, -1), axis=0)) > 5
    for index, key in enumerate(jax.random.split(jax.random.key(0), 20)[:3]):
        alone = augment(jax.tree.map(jnp.asarray, x), key)
        np.testing.assert_allclose(first[index], jax.tree.leaves(alone)[0], rtol=1e-6)


@pytest.mark.parametrize(
    ("augment", "x"),
    [
        (spec_augment(0, 0), SPECTROGRAM),
        (wave(), WAVE),
        (text_dropout(0.0), TEXT),
        (text_dropout(0.0, unknown=None), TEXT),
        (text_dropout(1.0, keep=np.unique(TEXT).tolist()), TEXT),
    ],
)
def test_no_strength_is_the_identity(augment, x):
    new = draws(augment, x, 5)
    assert new.dtype == x.dtype
    np.testing.assert_array_equal(new, np.broadcast_to(x, new.shape))


@pytest.mark.parametrize(
    ("augment", "x"), [(spec_augment(4, 2), SPECTROGRAM), (wave(shift=3, gain=6), WAVE)]
)
def test_derivatives_by_the_example(augment, x):
    check_grads(
        lambda x: augment(x, jax.random.key(2)), (x.astype(float),), order=1, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("along", ["time", "frequency"])
def test_a_stretch_is_uniform_in_width_and_place(along):
    """One mask in one direction: whole steps, or whole channels, in one piece."""
    size, widest = {"time": (STEPS, 3), "frequency": (CHANNELS, 3)}[along]
    options = {"time": 0, "frequency": 0, along: widest}
    new = draws(spec_augment(**options, masks=1), SPECTROGRAM, 4000)
    hidden = (new == 0).all(axis=2 if along == "time" else 1)
    grid = hidden[:, :, None] if along == "time" else hidden[:, None, :]
    np.testing.assert_array_equal(new, np.where(grid, 0, SPECTROGRAM))
    width = hidden.sum(axis=1)
    assert (
        chi_square(np.bincount(width, minlength=widest + 1)) < 16.3
    )  # 99.9 % of χ² with 3 degrees of freedom
    for wide in range(1, widest + 1):
        rows = hidden[width == wide]
        start = rows.argmax(axis=1)
        place = np.arange(size)[None]
        np.testing.assert_array_equal(
            rows, (place >= start[:, None]) & (place < start[:, None] + wide)
        )
        assert (
            chi_square(np.bincount(start, minlength=size - wide + 1)) < 32
        )  # at most 11 degrees of freedom


def runs(hidden):
    """Number of stretches in each row."""
    return (np.diff(np.pad(hidden.astype(int), ((0, 0), (1, 0))), axis=1) == 1).sum(axis=1)


def test_both_directions_and_several_masks():
    new = draws(spec_augment(2, 1, masks=3), SPECTROGRAM, 500)
    late, high = (new == 0).all(axis=2), (new == 0).all(axis=1)
    np.testing.assert_array_equal(
        new, np.where(late[:, :, None] | high[:, None, :], 0, SPECTROGRAM)
    )
    assert runs(late).max() == 3 and runs(high).max() == 3
    assert abs(np.corrcoef(late.sum(axis=1), high.sum(axis=1))[0, 1]) < 0.15
    for masks in (1, 2):
        late = (draws(spec_augment(2, 0, masks=masks), SPECTROGRAM, 500) == 0).all(axis=2)
        assert runs(late).max() == masks


@pytest.mark.parametrize("length", [0, 1, 3, 7])
def test_masks_of_a_series_stay_within_its_length(length):
    new = draws(spec_augment(5, 2), Series(SPECTROGRAM, np.int32(length)), 300)
    assert (new.length == length).all()
    np.testing.assert_array_equal(
        new.value[:, length:], np.broadcast_to(SPECTROGRAM, new.value.shape)[:, length:]
    )
    late = (
        draws(spec_augment(5, 0, masks=1), Series(SPECTROGRAM, np.int32(length)), 600).value == 0
    ).all(axis=2)
    width = late.sum(axis=1)
    assert (
        not late[:, length:].any()
        and chi_square(np.bincount(width, minlength=min(5, length) + 1)) < 20.6
    )
    rows = jax.vmap(spec_augment(5, 2))(
        Series(jnp.ones((2, STEPS, CHANNELS)), jnp.array([2, 9])),
        jax.random.split(jax.random.key(0)),
    )
    assert (rows.value[0, 2:] == 1).all() and rows.length.tolist() == [2, 9]


def test_a_wave_is_shifted_and_louder_as_a_loop_says():
    new = draws(wave(shift=3, gain=6), WAVE.astype(float), 700)
    counts, gains = np.zeros(7, int), []
    for one in new:
        for shift in range(-3, 4):
            expected = np.array(
                [WAVE[i - shift] if 0 <= i - shift < 30 else 0.0 for i in range(30)]
            )
            ratio = (one @ expected) / (expected @ expected)
            if np.allclose(one, ratio * expected, atol=1e-6):
                counts[shift + 3] += 1
                gains.append(20 * np.log10(ratio))
    assert (
        counts.sum() == 700 and chi_square(counts) < 22.5
    )  # 99.9 % of χ² with 6 degrees of freedom
    assert -6.001 < min(gains) < -5.7 and 5.7 < max(gains) < 6.001 and abs(np.mean(gains)) < 0.5
    quiet = draws(wave(gain=6), WAVE, 20)
    assert np.ptp(quiet / WAVE[None], axis=1).max() < 1e-5 and np.ptp(quiet[:, 0]) > 0.1
    moved = draws(wave(shift=2), WAVE, 20)
    assert np.isin(moved, [0, *WAVE]).all()


def test_a_recording_of_several_channels_or_some_length_is_shifted_alike():
    long = np.concatenate([WAVE, np.full(5, 99.0)])  # values past the length are not valid
    both = Series(jnp.stack([long, -long], axis=1), jnp.asarray(30))
    for seed in range(20):
        key = jax.random.key(seed)
        expected = wave(shift=3, gain=6)(jnp.asarray(WAVE, jnp.float64), key)
        moved = wave(shift=3, gain=6)(both, key)
        assert moved.length == 30 and not moved.value[30:].any()
        np.testing.assert_allclose(
            moved.value[:30], jnp.stack([expected, -expected], axis=1), atol=1e-6
        )
        np.testing.assert_array_equal(wave(shift=3, gain=6)(both.value[:30], key), moved.value[:30])


def test_tokens_are_replaced_with_their_rate_and_the_first_stays():
    new = draws(text_dropout(0.3), TEXT, 3000)
    hit = new != TEXT[None]
    assert (new[hit] == 1).all() and not hit[:, [0, 6, 7]].any()
    np.testing.assert_allclose(hit[:, 1:6].mean(axis=0), 0.3, atol=0.035)
    assert np.abs(np.corrcoef(hit[:, 1:6].T) - np.eye(5)).max() < 0.08
    other = draws(text_dropout(0.3, unknown=100, keep=(8, 6)), TEXT, 300)
    np.testing.assert_array_equal(np.unique(other), [0, 5, 6, 7, 8, 9, 100])
    assert (
        (other != TEXT[None]).any(axis=0) == [False, False, True, False, True, False, False, False]
    ).all()


def test_tokens_are_left_out_and_the_rest_moves_up():
    new = draws(text_dropout(0.4, unknown=None, keep=(6,)), TEXT, 2000)
    possible = {}
    for kept in itertools.product([True, False], repeat=4):
        tokens = [7, *(token for token, here in zip([8, 9, 8, 5], kept, strict=True) if here), 6]
        row = tuple(tokens + [0] * (8 - len(tokens)))
        possible[row] = possible.get(row, 0) + 0.6 ** sum(kept) * 0.4 ** (4 - sum(kept))
    found, counts = np.unique(new, axis=0, return_counts=True)
    assert {tuple(row) for row in found.tolist()} == set(possible)
    expected = 2000 * np.array([possible[tuple(row)] for row in found.tolist()])
    assert ((counts - expected) ** 2 / expected).sum() < 38  # at most 15 degrees of freedom
    np.testing.assert_array_equal(
        draws(text_dropout(1.0, unknown=None), TEXT, 1)[0], [7, 0, 0, 0, 0, 0, 0, 0]
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: spec_augment(-1, 0), "time must be a whole number, 0 or more, got -1"),
        (lambda: spec_augment(0, 1.5), "frequency must be a whole number,.* got 1.5"),
        (lambda: spec_augment(1, 1, masks=0), "masks must be a whole number, 1 or more, got 0"),
        (lambda: wave(shift=-1), "shift must be a whole number"),
        (lambda: wave(gain=-3), "gain=-3 must be from 0 to 120"),
        (lambda: text_dropout(1.5), "rate=1.5 must be from 0 to 1"),
        (lambda: text_dropout(0.1, unknown=0), "unknown=0 must be the id of a token"),
    ],
)
def test_errors_of_options(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("augment", "x", "message"),
    [
        (spec_augment(13, 0), SPECTROGRAM, r"time=13 .*exceed.*\[12, 6\]"),
        (spec_augment(0, 7), SPECTROGRAM, r"frequency=7 .*exceed.*\[12, 6\]"),
        (spec_augment(1, 1), WAVE, r"spectrogram.*float32\[30\]"),
        (wave(shift=30), WAVE, "shift=30 must be smaller than .*30 samples"),
        (wave(), np.ones(3, np.int16), r"wave \[samples\] or .* of floats.*int16\[3\]"),
        (wave(), np.ones((2, 3, 1)), r"float64\[2, 3, 1\]; vmap"),
        (text_dropout(0.1), Series(np.ones((2, 1), int), np.int32(2)), "One text of token ids"),
        (text_dropout(0.1), np.ones(3), r"int\[length\].*float64\[3\]"),
        (text_dropout(0.1), np.ones((2, 3), int), r"int64\[2, 3\]; vmap"),
    ],
)
def test_errors_of_examples(augment, x, message):
    with pytest.raises(ValueError, match=message):
        augment(jax.tree.map(jnp.asarray, x), jax.random.key(0))
