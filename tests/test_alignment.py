import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from problems import assert_close

from metajax.modalities.alignment import cca, info_nce, recall, sigmoid_loss, triplet

N = 7


def make(seed=0, number=N, features=(3, 3)):
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(number, 2))
    return [
        jnp.asarray(shared @ rng.normal(size=(2, d)) + rng.normal(size=(number, d)))
        for d in features
    ]


def cosines(first, second):
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in map(np.asarray, (first, second))]
    return unit[0] @ unit[1].T


def test_values_against_loops():
    """With weights, of which some are zero: those rows are no anchors and no negatives."""
    first, second = make()
    weight = np.array([1.0, 0.5, 0.0, 2.0, 1.0, 0.0, 3.0])
    s, rows = cosines(first, second), np.flatnonzero(weight)
    info, sigmoid, ranked, hits = 0.0, 0.0, 0.0, 0.0
    for i in rows:
        for one in (s, s.T):
            info -= (
                weight[i] / 2 * np.log(np.exp(one[i, i] / 0.5) / np.exp(one[i, rows] / 0.5).sum())
            )
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

    np.testing.assert_allclose(
        all_of_them(first, second, jnp.asarray(weight)), expected, rtol=1e-12
    )
    assert 0 < hits / weight.sum() < 1
    assert_close(info_nce(first, second, weight=jnp.ones(N)), info_nce(first, second))


def minus_sum(squares):
    return jnp.asarray(-np.sqrt(squares + 1e-6).sum())


def test_canonical_correlations():
    """Without regularisation: cosines of the angles between the column spaces; with it: a generalised eigenproblem."""
    first, second = make(number=30, features=(3, 5))
    x, y = (np.asarray(z - z.mean(0)[None]) for z in (first, second))
    angles = scipy.linalg.subspace_angles(x, y)
    assert_close(cca(first, second, regularisation=1e-13), minus_sum(np.cos(angles) ** 2), 1e-8)
    mixing = jnp.asarray(np.random.default_rng(1).normal(size=(5, 5)))
    assert_close(
        cca(first, second @ mixing, regularisation=1e-13), minus_sum(np.cos(angles) ** 2), 1e-8
    )
    a, b, c = x.T @ x / 30 + 0.5 * np.eye(3), y.T @ y / 30 + 0.5 * np.eye(5), x.T @ y / 30
    squares = scipy.linalg.eigh(c @ np.linalg.solve(b, c.T), a, eigvals_only=True)
    assert_close(cca(first, second, regularisation=0.5), minus_sum(squares), 1e-10)
    assert_close(
        cca(second, first, regularisation=0.5), cca(first, second, regularisation=0.5), 1e-10
    )
    doubled = [jnp.concatenate([z, z[:4]]) for z in (first, second)]
    weight = jnp.ones(30).at[:4].set(2.0)
    assert_close(cca(first, second, weight=weight), cca(*doubled), 1e-10)


@jax.jit
def losses(first, second, weight):
    pair = (first, second)
    return jnp.stack(
        [loss(*pair, weight=weight) for loss in (info_nce, sigmoid_loss, triplet, cca)]
    )


@jax.jit
def gradients(first, second, weight):
    return jax.jacrev(losses, argnums=(0, 1))(first, second, weight)


def test_what_does_not_count_is_inert():
    """It may be NaN, and changes no value and no gradient; where nothing counts, there is no gradient at all."""
    first, second = make()
    weight = jnp.array([1.0, 2.0, 1.0, 1.0, 0.0, 1.0, 1.0])
    damaged = [x.at[4].set(jnp.nan) for x in (first, second)]
    assert_close(losses(*damaged, weight), losses(first, second, weight))
    assert_close(gradients(*damaged, weight), gradients(first, second, weight))
    assert not any(g[:, 4].any() for g in gradients(*damaged, weight))
    assert_close(
        losses(first, second, 0 * weight), jnp.array([0, 0, 0, -0.003])
    )  # δ for each correlation
    assert not any(g.any() for g in gradients(first, second, 0 * weight))


def test_derivatives():
    """Along a line, against finite differences: of first order in both modes, and of second order."""
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

    @jax.jit
    def loss(t):
        return info_nce(*pair, temperature=t[0]) + sigmoid_loss(*pair, scale=t[1], bias=t[2])

    t, step = jnp.array([0.3, 2.0, -1.0]), 1e-5 * jnp.eye(3)
    expected = jnp.stack([(loss(t + d) - loss(t - d)) / 2e-5 for d in step])
    assert_close(jax.jit(jax.grad(loss))(t), expected, 1e-7)


def test_cca_where_correlations_vanish_and_coincide():
    """Fewer rows than features, as in a support set, and one side twice; where that of `svd` is not finite."""
    support = [jnp.concatenate([x, jnp.zeros((4, 3))]) for x in make(number=3)]
    square = jnp.array([[1.0, 1.0, 0.0], [1.0, -1.0, 0.0], [-1.0, 1.0, 0.0], [-1.0, -1.0, 0.0]])
    square = jnp.concatenate([square, jnp.zeros((3, 3))])
    ways = make(seed=1)

    def along(t, first, second, weight):
        moved = [x + t * way for x, way in zip((first, second), ways, strict=True)]
        return cca(*moved, regularisation=0.01, weight=weight)

    value, slope = jax.jit(along), jax.jit(jax.grad(along))
    curvature = jax.jit(jax.grad(jax.grad(along)))
    for first, second, rows in ((*support, 3), (square, square, 4)):
        batch = (first, second, (jnp.arange(N) < rows) * 1.0)
        step = 1e-4  # the root of a correlation of zero rounds to 1e-13: over 2e-5 that were 1e-6 of the slope
        difference = (value(step, *batch) - value(-step, *batch)) / (2 * step)
        np.testing.assert_allclose(slope(0.0, *batch), difference, rtol=1e-6)
        step = 1e-5
        difference = (slope(step, *batch) - slope(-step, *batch)) / (2 * step)
        np.testing.assert_allclose(curvature(0.0, *batch), difference, rtol=1e-4)
        short = [x.astype(jnp.float32) for x in batch]
        np.testing.assert_allclose(slope(jnp.float32(0), *short), slope(0.0, *batch), rtol=1e-3)


def test_alike_features_retrieve_nothing():
    ones = jnp.ones((4, 2))
    assert_close(info_nce(ones, ones), jnp.log(4.0))
    assert recall(ones, ones, 3) == 0
    assert recall(ones, ones, 4) == 1
    zeros = jnp.zeros((N, 3))
    assert all(np.isfinite(g).all() for g in gradients(zeros, zeros + 1, jnp.ones(N)))
    one = jax.value_and_grad(lambda x: triplet(x, ones[:1]))(ones[:1] * 2)
    assert_close(one, (jnp.zeros(()), jnp.zeros((1, 2))))  # without a negative


def test_errors_say_what_is_wrong():
    with pytest.raises(ValueError, match=r"\(4, 2\), \(3, 2\)"):
        info_nce(jnp.ones((4, 2)), jnp.ones((3, 2)))
    with pytest.raises(ValueError, match=r"\(4, 2\), \(4, 3\)"):
        triplet(jnp.ones((4, 2)), jnp.ones((4, 3)))
    with pytest.raises(ValueError, match="weights"):
        cca(jnp.ones((4, 2)), jnp.ones((4, 3)), weight=jnp.ones(3))
    with pytest.raises(ValueError, match="k=0"):
        recall(jnp.ones((4, 2)), jnp.ones((4, 2)), 0)
