import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import assert_close

from metajax import Modalities, Series
from metajax.modalities import corruptions
from metajax.modalities.corruptions import corrupt
from metajax.modalities.severity import robustness, severity_curve

N = 6
RNG = np.random.default_rng(0)
LENGTH = jnp.array([9, 4, 1, 7, 9, 5])
STEPS = jnp.asarray(RNG.normal(size=(N, 9, 4)))
TOKENS = jnp.where(
    jnp.arange(9)[None] < LENGTH[:, None], jnp.asarray(RNG.integers(3, 50, (N, 9))), 0
)
INPUTS = {
    "image": jnp.asarray(RNG.random((N, 2, 12, 10, 1))),  # a video
    "audio": jnp.asarray(RNG.normal(size=(N, 200))),
    "text": TOKENS,
    "stroke": Series(STEPS, LENGTH),
    "series": Series(STEPS, LENGTH),
    "tabular": jnp.asarray(RNG.normal(size=(N, 5))),
}
CORRUPTIONS = {name: jax.jit(getattr(corruptions, name)) for name in INPUTS}


def everything(**present):
    here = {name: jnp.asarray(present.get(name, np.ones(N, bool))) for name in INPUTS}
    return Modalities(dict(INPUTS), here)


image, audio, text, stroke, series, tabular = CORRUPTIONS.values()


def corrupted(x, severity, seed):
    return corrupt(x, CORRUPTIONS, severity, jax.random.key(seed))


def test_identity_determinism_and_ranges():
    x = everything()
    assert_close(corrupted(x, 0.0, 0), x, 0)
    half, again, other = corrupted(x, 0.5, 0), corrupted(x, 0.5, 0), corrupted(x, 0.5, 1)
    assert_close(half, again, 0)
    for name in INPUTS:
        changed = [jax.tree.leaves(y.value[name])[0] for y in (x, half, other)]
        assert (changed[0] != changed[1]).any()
        assert (changed[1] != changed[2]).any()
    strong = corrupted(x, 1.0, 0).value
    assert strong["image"].min() >= 0
    assert strong["image"].max() <= 1
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(strong))
    for dtype in (jnp.float32, jnp.bfloat16):
        short = jax.tree.map(
            lambda leaf, d=dtype: leaf.astype(d) if leaf.dtype == float else leaf, x
        )
        like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), short)
        assert jax.eval_shape(corrupted, short, 0.5, 0) == like


def test_a_modality_has_its_own_draws_and_a_row_too():
    x, key = everything(), jax.random.key(0)
    alone = corrupt(x, {"series": series}, 0.5, key)
    whole = corrupted(x, 0.5, 0).value
    assert_close(alone.value["series"], whole["series"])
    assert_close(alone.value["image"], x.value["image"])
    others = jax.tree.map(lambda leaf: leaf.at[4:].set(leaf[:2]), x.value)
    for name in ("image", "audio", "stroke", "series"):
        first = [
            jax.tree.map(lambda leaf: leaf[:4], value[name])
            for value in (whole, corrupted(x._replace(value=others), 0.5, 0).value)
        ]
        assert_close(*first)
    with pytest.raises(ValueError, match=r"\['imagee'\].*'audio', 'image'"):
        corrupt(x, {"imagee": corruptions.image}, 0.5, key)
    with pytest.raises(ValueError, match="uint8"):
        corruptions.image(jnp.zeros((1, 2, 2, 1), jnp.uint8), 0.5, key)


def test_what_is_absent_or_past_the_length_changes_nothing():
    """NaN in absent rows and past the length: it stays out of values and derivatives, and is no one's replacement."""
    here = np.array([True, False, True, True, False, True])
    x = everything(**dict.fromkeys(INPUTS, here))
    valid = here[:, None, None] & np.asarray(jnp.arange(9)[None] < LENGTH[:, None])[..., None]

    def fill(number):
        def one(leaf):
            rows = valid if leaf.shape == STEPS.shape else here.reshape(-1, *(1,) * (leaf.ndim - 1))
            return jnp.where(rows, leaf, 77 if leaf.dtype == int else number)

        return x._replace(
            value=jax.tree.map(one, x.value) | {"text": jnp.where(here[:, None], TOKENS, 77)}
        )

    def counted(x):
        """What has a meaning, of every modality."""
        steps = [jnp.where(valid, x.value[name].value, 0) for name in ("stroke", "series")]
        return [x.value[name][here] for name in ("image", "audio", "text", "tabular")] + steps

    lengths = {name: Series(x.value[name].value, LENGTH) for name in ("stroke", "series")}
    clean, damaged = (fill(number) for number in (0.0, jnp.nan))
    clean, damaged = (
        y._replace(
            value={
                n: Series(y.value[n].value, LENGTH) if n in lengths else v
                for n, v in y.value.items()
            }
        )
        for y in (clean, damaged)
    )
    found = counted(corrupted(damaged, 0.9, 0))
    assert_close(found, counted(corrupted(clean, 0.9, 0)))
    assert not (found[2] == 77).any()

    def total(audio, stroke, series):
        value = {"audio": audio, "stroke": Series(stroke, LENGTH), "series": Series(series, LENGTH)}
        part = Modalities(value, {name: x.present[name] for name in value})
        new = corrupt(
            part, {name: CORRUPTIONS[name] for name in value}, 0.9, jax.random.key(0)
        ).value
        return new["audio"][here].sum() + sum(
            jnp.where(valid, new[n].value, 0).sum() for n in lengths
        )

    leaves = [damaged.value["audio"], *(damaged.value[name].value for name in lengths)]
    slopes = jax.jit(jax.grad(total, argnums=(0, 1, 2)))(*leaves)
    for slope, counts in zip(slopes, (here[:, None], valid, valid), strict=True):
        assert np.isfinite(slope).all()
        assert not np.where(counts, 0, slope).any()
        assert np.where(counts, slope, 0).any()


def test_image_noise_and_square():
    grey = jnp.full_like(INPUTS["image"], 0.5)
    y = np.concatenate([image(grey, 0.4, jax.random.key(seed)) for seed in range(40)])
    # A square of side 0.2 * 10 is black, and so is noise of deviation 0.2 where it falls below -0.5: P = 0.0062.
    np.testing.assert_allclose((y == 0).mean() * 120, 4 + 116 * 0.00621, atol=0.1)
    assert ((y == 0).all(axis=1).sum((1, 2, 3)) >= 4).all()  # in one place in both frames
    inside = y[(y > 0) & (y < 1)]
    np.testing.assert_allclose(
        [inside.mean(), inside.std()], [0.5, 0.2 * 0.9546], atol=0.003
    )  # of a normal one, cut


def test_audio_has_the_ratio_of_signal_to_noise():
    x = INPUTS["audio"] * jnp.arange(1.0, N + 1)[:, None]
    for severity, decibel in ((0.1, 20), (1.0, 0)):
        noise = audio(x, severity, jax.random.key(0)) - x
        assert_close(
            10 * jnp.log10((x**2).mean(1) / (noise**2).mean(1)), jnp.full(N, 1.0 * decibel), 1e-6
        )
    silent = jax.grad(lambda x: audio(x, 0.5, jax.random.key(0)).sum())(0 * x)
    assert_close(silent, jnp.ones_like(x))


def test_text_drops_and_replaces():
    x = jnp.tile(jnp.arange(1, 41)[None], (500, 1)).at[:, 30:].set(0)
    y = np.asarray(text(x, 0.4, jax.random.key(0)))
    lengths = (y > 0).sum(1)
    np.testing.assert_allclose(lengths.mean(), 1 + 29 * 0.8, atol=0.5)
    assert ((y > 0) == (np.arange(40)[None] < lengths[:, None])).all()  # padding is at the end
    assert y.max() == 30  # a token of the texts
    np.testing.assert_allclose(
        (y[:, 0] != 1).mean(), 0.4 * 29 / 30, atol=0.08
    )  # the first is only ever replaced
    for severity, least in ((1.0, 1), (0.0, 30)):
        assert (text(x, severity, jax.random.key(1)) > 0).sum(1).min() >= least
    assert_close(text(0 * x, 1.0, jax.random.key(1)), 0 * x)


def test_stroke_jitters_and_skips():
    time = jnp.linspace(0, 1, 100)
    x = jnp.stack([time, 0.5 + 0 * time, time, time > 0.3], axis=-1)[None] * jnp.ones((50, 1, 1))
    y = np.asarray(stroke(x, 0.2, jax.random.key(0)))
    assert_close(jnp.asarray(y[..., 2:]), x[..., 2:])
    assert ((y[..., :2] >= [0, 0.5]) & (y[..., :2] <= [1, 0.5])).all()  # within the box
    still = ((np.diff(y[..., 0], axis=1) == 0) & (y[:, 1:, 0] > 0) & (y[:, 1:, 0] < 1)).sum(1)
    assert set(still) <= {0, 10}  # a tenth of the points, or they are held at an edge of the box
    assert np.median(still) == 10
    moved = (y - np.asarray(x))[:, 30:70, 0]
    assert (
        0.015 < np.median(np.abs(moved)) / 0.6745 < 0.03
    )  # the deviation is 0.02, and more in the stretch


def test_series_noise_and_missing_steps():
    x = jnp.asarray(RNG.normal(size=(40, 300, 2)) * [1.0, 5.0])
    y = np.asarray(series(x, 0.4, jax.random.key(0)))
    repeats = (np.diff(y, axis=1) == 0).all(-1)
    np.testing.assert_allclose(repeats.mean(), 0.2, atol=0.02)
    noise = (y - np.asarray(x))[:, 1:][~repeats]
    np.testing.assert_allclose(noise.std(0), [0.4, 2.0], rtol=0.05)


def test_tabular_takes_the_same_feature_of_other_rows():
    x = jnp.arange(200.0)[:, None] + 1000 * jnp.arange(30.0)[None]
    y = np.asarray(tabular(x, 0.3, jax.random.key(0)))
    np.testing.assert_allclose((y != np.asarray(x)).mean(), 0.3, atol=0.02)
    assert (y // 1000 == np.arange(30)[None]).all()
    assert (np.asarray(tabular(x, 1.0, jax.random.key(0))) != np.asarray(x)).all()
    assert_close(corruptions.tabular(x[:1], 1.0, jax.random.key(0)), x[:1])


def test_curve_equals_a_loop_and_robustness():
    x, severities, key = everything(), jnp.array([0.0, 0.3, 1.0]), jax.random.key(0)
    some = {"audio": audio, "tabular": tabular}

    def judge(x):
        return {"distance": sum((jnp.abs(x.value[n] - INPUTS[n])).mean() for n in some)}

    curve = jax.jit(lambda s: severity_curve(judge, x, some, s, key))(severities)["distance"]
    assert_close(
        curve, jnp.stack([judge(corrupt(x, some, s, key))["distance"] for s in severities])
    )
    assert curve[0] == 0
    assert (jnp.diff(curve) > 0).all()
    accuracy, baseline = (
        jnp.array([[0.9, 0.8, 0.1], [0.9, 0.9, 0.9]]),
        jnp.array([[0.8, 0.6, 0.2], [0.8, 0.8, 0.8]]),
    )
    found = robustness(severities, accuracy, baseline)
    areas = [
        np.trapezoid(np.asarray(c), np.asarray(severities), axis=1) for c in (accuracy, baseline)
    ]
    assert_close(found.relative, jnp.asarray(areas[0] - areas[1]))
    assert_close(found.effective, found.relative - 0.1)
    stretched = robustness(
        0.5 * severities, accuracy, baseline
    )  # a mean over severities: their unit does not count
    assert_close(stretched, found)
    with pytest.raises(ValueError, match=r"\(3,\).*\(2, 3\).*\(3,\)"):
        robustness(severities, accuracy, baseline[0])
