import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import assert_close

from metajax import Modalities
from metajax.modalities.missing import (
    all_subsets,
    drop_modalities,
    learned_dropout,
    presence,
    restrict,
    shapley,
    subsets,
)

NAMES = ["audio", "image", "series", "text"]


def make(number, present=None):
    rng = np.random.default_rng(0)
    value = {name: jnp.asarray(rng.normal(size=(number, 3))) for name in reversed(NAMES)}
    if present is None:
        present = rng.random((number, 4)) < 0.7
    return Modalities(
        value, {name: jnp.asarray(present[:, m]) for m, name in reversed(list(enumerate(NAMES)))}
    )


def test_presence_and_restrict():
    x = make(20)
    expected = np.stack([x.present[name] for name in NAMES], 1)
    np.testing.assert_array_equal(presence(x), expected)
    np.testing.assert_array_equal(
        presence(restrict(x, ["text", "audio"])), expected & [[True, False, False, True]]
    )
    for call in (
        lambda: restrict(x, ["imagee"]),
        lambda: drop_modalities(x, {"imagee": 0.5}, jax.random.key(0)),
    ):
        with pytest.raises(ValueError, match=r"\['imagee'\].*audio.*image.*series.*text"):
            call()


def test_dropout_takes_away_at_the_rate_and_leaves_one():
    x = make(
        20000,
        np.repeat(
            np.array([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]], bool), 5000, axis=0
        ),
    )
    drop = jax.jit(drop_modalities, static_argnames="keep_one")
    key = jax.random.key(3)
    before = presence(x)
    assert_close(presence(drop(x, 0.0, key)), before)
    assert not presence(drop(x, 1.0, key, keep_one=False)).any()
    last = presence(drop(x, 1.0, key))
    np.testing.assert_array_equal(last.sum(1), before.any(1))  # exactly one where there was any
    assert not (last & ~before).any()
    np.testing.assert_allclose(
        last[:5000].mean(0), 0.25, atol=0.025
    )  # and each as likely: 4 standard errors
    np.testing.assert_allclose(last[5000:10000, :2].mean(0), 0.5, atol=0.029)
    some = presence(drop(x, {"audio": 0.2, "text": 0.7}, key, keep_one=False))
    np.testing.assert_allclose(some[:5000].mean(0), [0.8, 1, 1, 0.3], atol=0.026)
    assert_close(drop(x, 0.5, key).value, x.value)


def exact_expectation(rate, loss_of):
    """Over all outcomes for an example with the first three of four modalities, one kept at least."""
    total = 0.0
    for kept in itertools.product([0, 1], repeat=3):
        chance = math.prod([1.0 * (1 - r if k else r) for k, r in zip(kept, rate, strict=True)])
        if any(kept):
            total += chance * loss_of[(*kept, 0)]
        else:
            total += chance * sum(loss_of[(*row, 0)] for row in np.eye(3, dtype=int)) / 3
    return total


def test_the_rate_can_be_learned():
    """The derivative is that of the exact expectation over all masks, and `Batch.weight` makes it (n - 1)/n of that."""
    number = 200_000
    x = make(number, np.tile([[True, True, True, False]], (number, 1)))
    losses = np.random.default_rng(1).normal(size=(2, 2, 2, 2)) + 1
    key = jax.random.key(0)

    def sampled(rate):
        dropped, weight_N = learned_dropout(x, dict(zip(NAMES[:3], rate, strict=True)), key)
        loss_N = jnp.asarray(losses)[tuple(presence(dropped).astype(int).T)]
        pairs = (weight_N * loss_N).reshape(-1, 2).sum(1) / weight_N.reshape(-1, 2).sum(1)
        return jnp.array([(weight_N * loss_N).mean(), pairs.mean()]), presence(dropped)

    rate = jnp.array([0.3, 0.6, 0.4])
    gradient = jax.jit(jax.jacobian(lambda rate: sampled(rate)[0]))(rate)
    exact = np.array(
        [
            (exact_expectation(rate + d, losses) - exact_expectation(rate - d, losses)) / 2e-5
            for d in 1e-5 * np.eye(3)
        ]
    )
    (value, _), drawn = sampled(rate)
    np.testing.assert_allclose(value, exact_expectation(rate, losses), atol=0.02)
    np.testing.assert_allclose(gradient[0], exact, atol=0.03)
    np.testing.assert_allclose(gradient[1], exact / 2, atol=0.03)
    assert np.abs(exact).min() > 0.1
    same = drop_modalities(x, dict(zip(NAMES[:3], rate, strict=True)), key)
    np.testing.assert_array_equal(drawn, presence(same))
    free = jax.jit(jax.grad(lambda r: (learned_dropout(x, r, key, keep_one=False)[1] * 1.0).mean()))
    assert abs(free(0.3)) < 0.03  # the chances of all masks sum to 1


def judge(x):
    """Nothing that stands in an absent modality may count, and presence enters in a way that is not additive."""
    rows = [jnp.where(x.present[name][:, None], x.value[name], 0) for name in sorted(x.value)]
    return {"logit": jnp.tanh(sum(rows)).sum(1) * presence(x).sum(1), "any": presence(x).any(1)}


def test_all_subsets_equal_a_loop():
    x = make(6)
    together = jax.jit(lambda x: all_subsets(judge, x))(x)
    masks = np.asarray(subsets(NAMES))
    assert masks.shape == (16, 4)
    assert len({tuple(row) for row in masks}) == 16
    for row, mask in enumerate(masks):
        alone = judge(restrict(x, [name for name, kept in zip(NAMES, mask, strict=True) if kept]))
        assert_close(jax.tree.map(lambda leaf, row=row: leaf[row], together), alone, 1e-6)


def test_shapley_values():
    """The axioms, and the definition: the mean gain over all orders in which modalities can come."""
    rng = np.random.default_rng(0)
    masks = np.asarray(subsets(NAMES))
    first, second = rng.normal(size=(2, 16, 5))
    values = jax.jit(shapley)(first)
    index = {tuple(mask): row for row, mask in enumerate(masks.tolist())}
    expected = np.zeros((4, 5))
    for order in itertools.permutations(range(4)):
        mask = [False] * 4
        for m in order:
            before = first[index[tuple(mask)]]
            mask[m] = True
            expected[m] += (first[index[tuple(mask)]] - before) / 24
    assert_close(values, jnp.asarray(expected))
    assert_close(values.sum(0), jnp.asarray(first[15] - first[0]))
    assert_close(
        shapley(jnp.asarray(2 * first - second)), 2 * values - shapley(jnp.asarray(second))
    )
    by_size = np.sqrt(masks.sum(1))  # equals share equally
    assert_close(shapley(jnp.asarray(by_size)), jnp.full(4, 0.5))
    without = first[
        [index[(*mask[:2], False, mask[3])] for mask in masks.tolist()]
    ]  # the third changes nothing
    assert_close(shapley(jnp.asarray(without))[2], jnp.zeros(5))
    with pytest.raises(ValueError, match="got 6 values"):
        shapley(jnp.ones(6))


@pytest.mark.parametrize("rate", [30, -0.5, jnp.array([0.1, 0.2]), {"image": 1.5}])
def test_a_rate_that_is_no_probability_is_an_error(rate):
    here = jnp.ones(2, bool)
    x = Modalities(
        {"audio": jnp.ones((2, 1)), "image": jnp.ones((2, 1))}, {"audio": here, "image": here}
    )
    with pytest.raises(ValueError, match="must be one probability"):
        drop_modalities(x, rate, jax.random.key(0))
