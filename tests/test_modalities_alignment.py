"""Losses between paired features: values, derivatives, and rows of weight 0."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import assert_close

from metajax.modalities import cca, info_nce, recall, sigmoid_loss, triplet

N = 7


def make(seed=0):
    """Two views [N, 3] that share two directions."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(N, 2))
    views = (shared @ rng.normal(size=(2, 3)) + rng.normal(size=(N, 3)) for _ in range(2))
    return [jnp.asarray(view) for view in views]


def cosines(first, second):
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in map(np.asarray, (first, second))]
    return unit[0] @ unit[1].T


def test_values_against_loops():
    """Rows of weight 0 are no anchors and no negatives."""
    first, second = make()
    weight = np.array([1.0, 0.5, 0.0, 2.0, 1.0, 0.0, 3.0])
    s, rows = cosines(first, second), np.flatnonzero(weight)
    info, sigmoid, ranked, hits = 0.0, 0.0, 0.0, 0.0
    for i in rows:
        for one in (s, s.T):
            share = np.exp(one[i, i] / 0.5) / np.exp(one[i, rows] / 0.5).sum()
            info -= weight[i] / 2 * np.log(share)
            ranked += weight[i] * max(0.0, 0.4 - one[i, i] + max(one[i, j] for j in rows if j != i))
            for j in rows:
                logit = (1 if i == j else -1) * (3 * one[i, j] - 1)
                sigmoid += weight[i] / 2 * np.log1p(np.exp(-logit))
        hits += weight[i] * (sorted(s[i, rows]).index(s[i, i]) >= len(rows) - 2)
    expected = np.array([info, sigmoid, ranked, hits]) / weight.sum()

    @jax.jit
    def all_of_them(first, second, weight):
        return jnp.array(
            [
                info_nce(first, second, temperature=0.5, weight=weight),
                sigmoid_loss(first, second, scale=3.0, bias=-1.0, weight=weight),
                triplet(first, second, margin=0.4, weight=weight),
                recall(first, second, 2, weight=weight),
            ]
        )

    ours = all_of_them(first, second, jnp.asarray(weight))
    np.testing.assert_allclose(ours, expected, rtol=1e-12)
    assert 0 < hits / weight.sum() < 1
    assert_close(info_nce(first, second, weight=jnp.ones(N)), info_nce(first, second))


@jax.jit
def losses(first, second, weight):
    measures = (info_nce, sigmoid_loss, triplet, cca)
    return jnp.stack([loss(first, second, weight=weight) for loss in measures])


gradients = jax.jit(jax.jacrev(losses, argnums=(0, 1)))


def test_rows_of_weight_0_have_no_influence():
    """They may be NaN. If all weights are 0, there is no gradient at all."""
    first, second = make()
    weight = jnp.array([1.0, 2.0, 1.0, 1.0, 0.0, 1.0, 1.0])
    damaged = [x.at[4].set(jnp.nan) for x in (first, second)]
    assert_close(losses(*damaged, weight), losses(first, second, weight))
    assert_close(gradients(*damaged, weight), gradients(first, second, weight))
    assert not any(g[:, 4].any() for g in gradients(*damaged, weight))
    nothing = jnp.array([0, 0, 0, -0.003])  # of CCA, δ for each correlation
    assert_close(losses(first, second, 0 * weight), nothing)
    assert not any(g.any() for g in gradients(first, second, 0 * weight))


def test_derivatives():
    """Along a line, against finite differences: first order in both modes, and second order."""
    pair, ways, weight = make(), make(seed=1), jnp.arange(1.0, N + 1)

    def along(t):
        return losses(*(x + t * way for x, way in zip(pair, ways, strict=True)), weight)

    first = jax.jit(lambda t: (jax.jacfwd(along)(t), jax.jacrev(along)(t)))
    second = jax.jit(jax.jacfwd(jax.jacrev(along)))
    step = 1e-5
    slope = (along(step) - along(-step)) / (2 * step)
    curvature = (first(step)[1] - first(-step)[1]) / (2 * step)
    assert_close(first(0.0), (slope, slope), 1e-7)
    assert_close(second(0.0), curvature, 1e-7)
    assert np.abs(slope).min() > 1e-3
    assert np.abs(curvature).min() > 1e-3
    short = losses(*(x.astype(jnp.float32) for x in pair), weight.astype(jnp.float32))
    assert short.dtype == jnp.float32
    np.testing.assert_allclose(short, along(0.0), rtol=1e-5)


def test_temperature_scale_and_bias_are_learned():
    pair = make()

    def loss(t):
        return info_nce(*pair, temperature=t[0]) + sigmoid_loss(*pair, scale=t[1], bias=t[2])

    run = jax.jit(jax.value_and_grad(loss))
    t, step = jnp.array([0.3, 2.0, -1.0]), 1e-5 * jnp.eye(3)
    expected = jnp.stack([(run(t + d)[0] - run(t - d)[0]) / 2e-5 for d in step])
    assert_close(run(t)[1], expected, 1e-7)


def test_equal_features_retrieve_nothing():
    ones = jnp.ones((4, 2))
    assert_close(info_nce(ones, ones), jnp.log(4.0))
    assert recall(ones, ones, 3) == 0
    assert recall(ones, ones, 4) == 1
    zeros = jnp.zeros((N, 3))
    assert all(np.isfinite(g).all() for g in gradients(zeros, zeros + 1, jnp.ones(N)))


def test_without_a_negative_the_ranking_loss_is_zero():
    ones = jnp.ones((1, 2))
    value, slope = jax.jit(jax.value_and_grad(lambda x: triplet(x, ones)))(2 * ones)
    assert_close((value, slope), (jnp.zeros(()), jnp.zeros((1, 2))))


def test_errors_say_what_is_wrong():
    with pytest.raises(ValueError, match=r"\(4, 2\), \(3, 2\)"):
        info_nce(jnp.ones((4, 2)), jnp.ones((3, 2)))
    with pytest.raises(ValueError, match=r"\(4, 2\), \(4, 3\)"):
        triplet(jnp.ones((4, 2)), jnp.ones((4, 3)))
    with pytest.raises(ValueError, match=r"must be \[n, d\]"):
        sigmoid_loss(jnp.ones(4), jnp.ones(4))
    with pytest.raises(ValueError, match="k must be a whole number, 1 or more, got 0"):
        recall(jnp.ones((4, 2)), jnp.ones((4, 2)), 0)
