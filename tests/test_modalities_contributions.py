"""All subsets in one call equal a loop, and Shapley values keep their axioms."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import assert_close

from metajax import Modalities
from metajax.modalities import all_subsets, presence, restrict, shapley, subsets

NAMES = ["audio", "image", "series", "text"]


def score(x):
    """Depends on presence in a way that is not additive."""
    rows = [jnp.where(x.present[name][:, None], x.value[name], 0) for name in sorted(x.value)]
    return {"logit": jnp.tanh(sum(rows)).sum(1) * presence(x).sum(1), "any": presence(x).any(1)}


def test_all_subsets_equal_a_loop():
    rng = np.random.default_rng(0)
    value = {name: jnp.asarray(rng.normal(size=(6, 3))) for name in reversed(NAMES)}
    x = Modalities(value, {name: jnp.asarray(rng.random(6) < 0.7) for name in value})
    together = jax.jit(lambda x: all_subsets(score, x))(x)
    masks = np.asarray(subsets(NAMES))
    assert masks.shape == (16, 4)
    assert len({tuple(row) for row in masks}) == 16
    alone = jax.jit(score)
    for row, mask in enumerate(masks):
        kept = [name for name, here in zip(NAMES, mask, strict=True) if here]
        expected = alone(restrict(x, kept))
        assert_close(jax.tree.map(lambda leaf, row=row: leaf[row], together), expected, 1e-6)


def test_shapley_values():
    """The axioms, and the definition: the mean gain over all orders in which modalities come."""
    rng = np.random.default_rng(0)
    masks = np.asarray(subsets(NAMES))
    first, second = rng.normal(size=(2, 16, 5))
    of = jax.jit(shapley)
    values = of(first)
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
    assert_close(of(2 * first - second), 2 * values - of(second))
    equals = np.sqrt(masks.sum(1))
    assert_close(of(equals), jnp.full(4, 0.5))
    without = first[[index[(*mask[:2], False, mask[3])] for mask in masks.tolist()]]
    assert_close(of(without)[2], jnp.zeros(5))  # the third changes nothing
    with pytest.raises(ValueError, match="got 6 values"):
        shapley(jnp.ones(6))
