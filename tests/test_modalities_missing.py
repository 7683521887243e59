"""Modalities that are taken away: by name, at random, and at a rate that is learned."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import assert_close

from metajax import Modalities
from metajax.modalities import (
    drop_modalities,
    learned_dropout,
    presence,
    remove_modalities,
    restrict,
)

NAMES = ["audio", "image", "series", "text"]
KEY = jax.random.key(3)


def make(number, present=None):
    """Examples of four modalities, whose names are not in order."""
    rng = np.random.default_rng(0)
    value = {name: jnp.asarray(rng.normal(size=(number, 3))) for name in reversed(NAMES)}
    if present is None:
        present = rng.random((number, 4)) < 0.7
    columns = dict(zip(NAMES, np.asarray(present).T, strict=True))
    return Modalities(value, {name: jnp.asarray(columns[name]) for name in value})


def test_presence_and_restrict():
    x = make(20)
    expected = np.stack([x.present[name] for name in NAMES], 1)
    np.testing.assert_array_equal(presence(x), expected)
    some = restrict(x, ["text", "audio"])
    np.testing.assert_array_equal(presence(some), expected & [[True, False, False, True]])
    assert_close(some.value, x.value, 0)


def test_remove_modalities_leaves_no_trace():
    x = make(5)
    others = remove_modalities(x, ["text", "image"])
    assert set(others.value) == set(others.present) == {"audio", "series"}
    assert_close(others.value["audio"], x.value["audio"], 0)


def test_unknown_names_are_errors():
    x = make(5)
    calls = (
        lambda: restrict(x, ["imagee"]),
        lambda: remove_modalities(x, ["imagee"]),
        lambda: drop_modalities(x, {"imagee": 0.5}, KEY),
    )
    for call in calls:
        with pytest.raises(ValueError, match=r"\['imagee'\].*audio.*image.*series.*text"):
            call()


def test_dropout_takes_away_at_the_rate_and_leaves_one():
    kinds = [[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    x = make(20000, np.repeat(np.array(kinds, bool), 5000, axis=0))
    drop = jax.jit(drop_modalities, static_argnames="keep_one")
    before = presence(x)
    rates = dict.fromkeys(NAMES, 0.0)
    assert_close(presence(drop(x, rates, KEY)), before)
    all_of_them = dict.fromkeys(NAMES, 1.0)
    assert not presence(drop(x, all_of_them, KEY, keep_one=False)).any()
    last = presence(drop(x, all_of_them, KEY))
    np.testing.assert_array_equal(last.sum(1), before.any(1))  # exactly one where there was any
    assert not (last & ~before).any()
    # Each is as likely to be kept: 4 standard errors.
    np.testing.assert_allclose(last[:5000].mean(0), 0.25, atol=0.025)
    np.testing.assert_allclose(last[5000:10000, :2].mean(0), 0.5, atol=0.029)
    some = presence(drop(x, rates | {"audio": 0.2, "text": 0.7}, KEY, keep_one=False))
    np.testing.assert_allclose(some[:5000].mean(0), [0.8, 1, 1, 0.3], atol=0.026)
    assert_close(drop_modalities(x, 0.5, KEY).value, x.value)
    partial = presence(drop_modalities(x, {"audio": 1.0}, KEY))[:5000]
    np.testing.assert_array_equal(partial.mean(0), [0, 1, 1, 1])  # a name left out has rate 0


def exact_expectation(rate, loss_of):
    """Over all masks of an example with the first three of four modalities, at least one kept."""
    total = 0.0
    for kept in itertools.product([0, 1], repeat=3):
        chance = math.prod([1.0 * (1 - r if k else r) for k, r in zip(kept, rate, strict=True)])
        if any(kept):
            total += chance * loss_of[(*kept, 0)]
        else:
            total += chance * sum(loss_of[(*row, 0)] for row in np.eye(3, dtype=int)) / 3
    return total


def test_the_rate_can_be_learned():
    """The derivative is that of the exact expectation, and (n - 1)/n of it as `Batch.weight`."""
    number = 200_000
    x = make(number, np.tile([[True, True, True, False]], (number, 1)))
    losses = np.random.default_rng(1).normal(size=(2, 2, 2, 2)) + 1
    named = lambda rate: dict(zip(NAMES[:3], rate, strict=True))

    def sampled(rate):
        dropped, weight_N = learned_dropout(x, named(rate), KEY)
        masks = presence(dropped)
        loss_N = jnp.asarray(losses)[tuple(masks.astype(int).T)]
        sums, weights = (leaf.reshape(-1, 2).sum(1) for leaf in (weight_N * loss_N, weight_N))
        means = jnp.array([(weight_N * loss_N).mean(), (sums / weights).mean()])
        return means, (means[0], masks)

    rate = jnp.array([0.3, 0.6, 0.4])
    gradient, (value, drawn) = jax.jit(jax.jacobian(sampled, has_aux=True))(rate)
    step = 1e-5
    expectation = lambda rate: exact_expectation(np.asarray(rate), losses)
    exact = np.array(
        [(expectation(rate + d) - expectation(rate - d)) / (2 * step) for d in step * np.eye(3)]
    )
    np.testing.assert_allclose(value, expectation(rate), atol=0.02)
    np.testing.assert_allclose(gradient[0], exact, atol=0.03)
    np.testing.assert_allclose(gradient[1], exact / 2, atol=0.03)
    assert np.abs(exact).min() > 0.1
    same = jax.jit(lambda rate: presence(drop_modalities(x, named(rate), KEY)))(rate)
    np.testing.assert_array_equal(drawn, same)
    free = jax.grad(lambda rate: learned_dropout(x, rate, KEY, keep_one=False)[1].mean())
    assert abs(jax.jit(free)(0.3)) < 0.03  # the probabilities of all masks sum to 1


@pytest.mark.parametrize("rate", [30, -0.5, jnp.array([0.1, 0.2]), {"image": 1.5}])
def test_a_rate_that_is_no_probability_is_an_error(rate):
    with pytest.raises(ValueError, match="must be one probability"):
        drop_modalities(make(2), rate, KEY)
