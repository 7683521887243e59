"""Corruptions by name, and curves over their severity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from corrupted_problems import CORRUPTIONS, INPUTS, LENGTH, STEPS, TOKENS, VALID, everything
from problems import assert_close

from metajax import Modalities, Series
from metajax.modalities import corrupt, corruptions, robustness, severity_curve

KEY = jax.random.key(0)


@jax.jit
def corrupted(x, severity, seed):
    return corrupt(x, CORRUPTIONS, severity, jax.random.key(seed))


def test_identity_determinism_and_ranges():
    x = everything()
    assert_close(corrupted(x, 0.0, 0), x, 0)
    half, again, other = corrupted(x, 0.5, 0), corrupted(x, 0.5, 0), corrupted(x, 0.5, 1)
    assert_close(half, again, 0)
    for name in INPUTS:
        changed = [np.asarray(jax.tree.leaves(y.value[name])[0]) for y in (x, half, other)]
        assert (changed[0] != changed[1]).any()
        assert (changed[1] != changed[2]).any()
    strong = corrupted(x, 1.0, 0).value
    assert strong["image"].min() >= 0
    assert strong["image"].max() <= 1
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(strong))
    for dtype in (jnp.float32, jnp.bfloat16):
        narrow = lambda leaf, d=dtype: leaf.astype(d) if leaf.dtype == float else leaf
        short = jax.tree.map(narrow, x)
        like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), short)
        assert jax.eval_shape(corrupted, short, 0.5, 0) == like


def test_a_modality_and_a_row_have_draws_of_their_own():
    x = everything()
    alone = corrupt(x, {"series": CORRUPTIONS["series"]}, 0.5, KEY)
    whole = corrupted(x, 0.5, 0).value
    assert_close(alone.value["series"], whole["series"])
    assert_close(alone.value["image"], x.value["image"])
    others = jax.tree.map(lambda leaf: leaf.at[4:].set(leaf[:2]), x.value)
    again = corrupted(x._replace(value=others), 0.5, 0).value
    for name in ("image", "audio", "stroke", "series"):
        rows = [jax.tree.map(lambda leaf: leaf[:4], value[name]) for value in (whole, again)]
        assert_close(*rows)
    with pytest.raises(ValueError, match=r"\['imagee'\].*'audio', 'image'"):
        corrupt(x, {"imagee": corruptions.image}, 0.5, KEY)


HERE = np.array([True, False, True, True, False, True])
STEP = HERE[:, None, None] & VALID[..., None]
SEQUENCES = ("stroke", "series")


def filled(number):
    """The inputs with a number in absent rows and after the length of sequences; 77 for integers.

    Lengths are data and stay.
    """

    def fill(leaf):
        if leaf.dtype == int:
            return jnp.where(HERE[:, None], leaf, 77)
        rows = STEP if leaf.shape == STEPS.shape else HERE.reshape(-1, *(1,) * (leaf.ndim - 1))
        return jnp.where(rows, leaf, number)

    value = {name: fill(part) for name, part in INPUTS.items() if name not in SEQUENCES}
    value |= {name: Series(fill(INPUTS[name].value), LENGTH) for name in SEQUENCES}
    return everything(HERE)._replace(value=value)


def test_what_is_absent_or_after_the_length_has_no_influence():
    """It is NaN, stays out of values and derivatives, and replaces nothing."""

    def valid(x):
        steps = [np.where(STEP, x.value[name].value, 0) for name in SEQUENCES]
        rows = [np.asarray(x.value[name])[HERE] for name in INPUTS if name not in SEQUENCES]
        return [jnp.asarray(leaf) for leaf in rows + steps]

    clean, damaged = filled(0.0), filled(jnp.nan)
    found = corrupted(damaged, 0.9, 0)
    assert_close(valid(found), valid(corrupted(clean, 0.9, 0)))
    assert not (np.asarray(found.value["text"])[HERE] == 77).any() and TOKENS.max() < 77

    def total(audio, stroke, series):
        value = {"audio": audio, "stroke": Series(stroke, LENGTH), "series": Series(series, LENGTH)}
        part = Modalities(value, {name: jnp.asarray(HERE) for name in value})
        some = {name: CORRUPTIONS[name] for name in value}
        new = corrupt(part, some, 0.9, KEY).value
        steps = sum(jnp.where(STEP, new[name].value, 0).sum() for name in SEQUENCES)
        return new["audio"][HERE].sum() + steps

    leaves = [damaged.value["audio"], *(damaged.value[name].value for name in SEQUENCES)]
    slopes = jax.jit(jax.grad(total, argnums=(0, 1, 2)))(*leaves)
    for slope, counts in zip(slopes, (HERE[:, None], STEP, STEP), strict=True):
        assert np.isfinite(slope).all()
        assert not np.where(counts, 0, slope).any()
        assert np.where(counts, slope, 0).any()


def test_the_curve_equals_a_loop():
    x, severities = everything(), jnp.array([0.0, 0.3, 1.0])
    some = {name: CORRUPTIONS[name] for name in ("audio", "tabular")}

    def score(x):
        return {"distance": sum(jnp.abs(x.value[name] - INPUTS[name]).mean() for name in some)}

    curve = jax.jit(lambda s: severity_curve(score, x, some, s, KEY))(severities)["distance"]
    one = jax.jit(lambda s: score(corrupt(x, some, s, KEY))["distance"])
    assert_close(curve, jnp.stack([one(s) for s in severities]))
    assert curve[0] == 0
    assert (np.diff(curve) > 0).all()


def test_robustness_is_the_area_between_curves():
    severities = jnp.array([0.0, 0.3, 1.0])
    accuracy = jnp.array([[0.9, 0.8, 0.1], [0.9, 0.9, 0.9]])
    baseline = jnp.array([[0.8, 0.6, 0.2], [0.8, 0.8, 0.8]])
    found = robustness(severities, accuracy, baseline)
    areas = [
        np.trapezoid(curve, severities, axis=1) for curve in map(np.asarray, (accuracy, baseline))
    ]
    assert_close(found.relative, jnp.asarray(areas[0] - areas[1]))
    assert_close(found.effective, found.relative - 0.1)
    # It is a mean over severities, so their unit does not matter.
    assert_close(robustness(0.5 * severities, accuracy, baseline), found)
    with pytest.raises(ValueError, match=r"\(3,\).*\(2, 3\).*\(3,\)"):
        robustness(severities, accuracy, baseline[0])
    with pytest.raises(ValueError, match="two severities or more"):
        robustness(severities[:1], accuracy[:, :1], baseline[:, :1])
