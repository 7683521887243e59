"""Canonical correlations: against angles and eigenvalues, and where they vanish or coincide."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from problems import assert_close

from metajax.modalities import cca

N = 7
of = jax.jit(cca)


def make(seed=0, number=N, features=(3, 3)):
    """Two views that share two directions."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(number, 2))
    return [
        jnp.asarray(shared @ rng.normal(size=(2, d)) + rng.normal(size=(number, d)))
        for d in features
    ]


def minus_sum(squares):
    return jnp.asarray(-np.sqrt(squares + 1e-6).sum())


def test_canonical_correlations():
    """Cosines of the angles between the column spaces; regularised, a generalised eigenproblem."""
    first, second = make(number=30, features=(3, 5))
    x, y = (np.asarray(z - z.mean(0)[None]) for z in (first, second))
    angles = minus_sum(np.cos(scipy.linalg.subspace_angles(x, y)) ** 2)
    assert_close(of(first, second, regularisation=1e-13), angles, 1e-8)
    mixing = np.random.default_rng(1).normal(size=(5, 5))
    assert_close(of(first, second @ mixing, regularisation=1e-13), angles, 1e-8)
    a, b, c = x.T @ x / 30 + 0.5 * np.eye(3), y.T @ y / 30 + 0.5 * np.eye(5), x.T @ y / 30
    squares = scipy.linalg.eigh(c @ np.linalg.solve(b, c.T), a, eigvals_only=True)
    assert_close(of(first, second, regularisation=0.5), minus_sum(squares), 1e-10)
    assert_close(of(second, first, regularisation=0.5), minus_sum(squares), 1e-10)
    doubled = [np.concatenate([z, z[:4]]) for z in (first, second)]
    weight = jnp.ones(30).at[:4].set(2.0)
    assert_close(of(first, second, weight=weight), of(*doubled), 1e-10)


def test_where_correlations_vanish_and_coincide():
    """Fewer rows than features, as in a support set, and one side twice; `svd` gives NaN there."""
    support = [jnp.concatenate([x, jnp.zeros((4, 3))]) for x in make(number=3)]
    square = np.array([[1.0, 1.0, 0.0], [1.0, -1.0, 0.0], [-1.0, 1.0, 0.0], [-1.0, -1.0, 0.0]])
    square = jnp.asarray(np.concatenate([square, np.zeros((3, 3))]))
    ways = make(seed=1)

    def along(t, first, second, weight):
        moved = [x + t * way for x, way in zip((first, second), ways, strict=True)]
        return cca(*moved, regularisation=0.01, weight=weight)

    run = jax.jit(jax.value_and_grad(along))
    curvature = jax.jit(jax.grad(jax.grad(along)))
    for first, second, rows in ((*support, 3), (square, square, 4)):
        batch = (first, second, (jnp.arange(N) < rows) * 1.0)
        step = 1e-4  # the root of a correlation of 0 rounds to 1e-13: a smaller step is too noisy
        difference = (run(step, *batch)[0] - run(-step, *batch)[0]) / (2 * step)
        np.testing.assert_allclose(run(0.0, *batch)[1], difference, rtol=1e-6)
        step = 1e-5
        difference = (run(step, *batch)[1] - run(-step, *batch)[1]) / (2 * step)
        np.testing.assert_allclose(curvature(0.0, *batch), difference, rtol=1e-4)
        short = [x.astype(jnp.float32) for x in batch]
        np.testing.assert_allclose(run(jnp.float32(0), *short)[1], run(0.0, *batch)[1], rtol=1e-3)


def test_errors_say_what_is_wrong():
    with pytest.raises(ValueError, match="weights"):
        cca(jnp.ones((4, 2)), jnp.ones((4, 3)), weight=jnp.ones(3))
    with pytest.raises(ValueError, match=r"must be \[n, d\] and \[n, e\], got .*\(4,\)"):
        cca(jnp.ones((4, 2)), jnp.ones(4))
