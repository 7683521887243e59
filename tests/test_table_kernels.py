"""The kernel of a table and its Gaussian process: against loops, NumPy and scikit-learn."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import PairwiseKernel

from metajax.nets import table_kernels as tk

ROWS, COLUMNS, TARGETS = 7, 3, 2


@functools.cache
def problem():
    """Labelled cells with gaps and equal ones, two rows more to predict, targets and a kernel."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS + 2, COLUMNS)).round(1)
    x[:, 1] = rng.integers(3, size=ROWS + 2)
    x[[0, 4, 7], [0, 2, 0]] = np.nan
    cells = tk.cells_of(jnp.asarray(x[:ROWS]), jnp.ones(ROWS, bool))
    known = jnp.asarray(rng.normal(size=(TARGETS, ROWS)))
    kernel = tk.Kernel(
        jnp.asarray(rng.normal(size=(TARGETS, COLUMNS, tk.FORMS + tk.DISTANCES)) - 1),
        jnp.asarray(rng.normal(size=(TARGETS, 3)) - 1),
    )
    return x, cells, known, kernel


def covariance_by_loops(first, second, known, weights, of_table):
    """k(a, b) of the docstring of `Kernel`, where the ranks are those of the labelled rows."""
    found = np.zeros((len(first), len(second)))
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            single = far = 0.0
            for c in range(known.shape[1]):
                column = known[:, c][~np.isnan(known[:, c])]
                rank = lambda cell, of=column: np.mean((of < cell) + 0.5 * (of == cell))
                if np.isnan(a[c]) and np.isnan(b[c]):
                    continue
                if np.isnan(a[c]) or np.isnan(b[c]):
                    there = b[c] if np.isnan(a[c]) else a[c]
                    away = 6 * (rank(there) - 0.5) ** 2 + tk.AWAY
                    far += weights[c, tk.FORMS :] @ [away, 1]
                    continue
                gap = rank(a[c]) - rank(b[c])
                value = lambda cell, of=column: (cell - of.mean()) / of.std()
                forms = [np.exp(-((gap / d) ** 2) / 2) for d in tk.WINDOWS]
                forms += [float(a[c] == b[c]), value(a[c]) * value(b[c])]
                single += weights[c, : tk.FORMS] @ forms
                far += weights[c, tk.FORMS :] @ [6 * gap**2, float(a[c] != b[c])]
            found[i, j] = single + of_table[0] * np.exp(-far) + of_table[1]
    return found


def test_the_kernel_is_that_of_its_equation():
    x, cells, _, kernel = problem()
    labelled, rows = tk.seen(cells.values, cells), tk.seen(jnp.asarray(x), cells)
    _, found = tk.covariance_of(kernel, rows, labelled)
    own = tk.variance_of(kernel, rows)
    for target in range(TARGETS):
        weights, of_table = np.exp(kernel.of_columns[target]), np.exp(kernel.of_table[target])
        expected = covariance_by_loops(x, x, x[:ROWS], weights, of_table)
        np.testing.assert_allclose(found[target], expected[:, :ROWS], rtol=1e-10)
        np.testing.assert_allclose(own[target], np.diagonal(expected), rtol=1e-10)


def test_predictions_are_those_of_scikit_learn():
    x, cells, known, kernel = problem()
    labelled, queries = tk.seen(cells.values, cells), tk.seen(jnp.asarray(x[ROWS:]), cells)
    solved = tk.solve(kernel, labelled, known, cells.counts)
    mean, variance = tk.posterior(kernel, solved, queries, labelled, cells.counts)
    left = tk.left_out(solved, known)
    for target in range(TARGETS):
        weights, of_table = np.exp(kernel.of_columns[target]), np.exp(kernel.of_table[target])
        full = covariance_by_loops(x, x, x[:ROWS], weights, of_table)
        noise = of_table[2] + tk.LEAST_NOISE * np.diagonal(full)[:ROWS].mean()
        np.testing.assert_allclose(solved.noise[target], noise)
        numbers = np.arange(ROWS + 2)[:, None]
        look_up = lambda a, b, gamma, full=full: full[int(a[0]), int(b[0])]
        process = GaussianProcessRegressor(
            PairwiseKernel(metric=look_up), alpha=noise, optimizer=None
        )
        process.fit(numbers[:ROWS], known[target])
        expected, deviation = process.predict(numbers[ROWS:], return_std=True)
        np.testing.assert_allclose(mean[target], expected, rtol=1e-6)
        np.testing.assert_allclose(variance[target], deviation**2 + noise, rtol=1e-6)
        for row in range(ROWS):
            others = np.delete(np.arange(ROWS), row)
            process.fit(numbers[others], known[target, others])
            expected, deviation = process.predict(numbers[[row]], return_std=True)
            np.testing.assert_allclose(left[0][target, row], expected[0], rtol=1e-6)
            np.testing.assert_allclose(left[1][target, row], deviation[0] ** 2 + noise, rtol=1e-6)


def test_slopes_are_the_derivatives_of_the_evidence():
    _, cells, known, kernel = problem()
    labelled = tk.seen(cells.values, cells)
    floor = tk.solve(kernel, labelled, known, cells.counts).noise - jnp.exp(kernel.of_table[:, 2])

    def evidence(kernel):
        _, covariance = tk.covariance_of(kernel, labelled, labelled)
        noise = jnp.exp(kernel.of_table[:, 2]) + floor
        covariance += noise[:, None, None] * jnp.eye(ROWS)[None]
        normal = jax.scipy.stats.multivariate_normal.logpdf
        return jax.vmap(lambda t, k: normal(t, jnp.zeros(ROWS), k))(known, covariance).sum()

    solved = tk.solve(kernel, labelled, known, cells.counts)
    found = tk.slopes_of(kernel, labelled, solved, cells.counts)
    expected = jax.grad(evidence)(kernel)
    np.testing.assert_allclose(found.of_columns, expected.of_columns, rtol=1e-7, atol=1e-12)
    np.testing.assert_allclose(found.of_table, expected.of_table, rtol=1e-7)
    # The evidence is that of SciPy.
    _, covariance = tk.covariance_of(kernel, labelled, labelled)
    covariance += solved.noise[:, None, None] * jnp.eye(ROWS)[None]
    of_scipy = sum(
        stats.multivariate_normal.logpdf(t, np.zeros(ROWS), k)
        for t, k in zip(np.asarray(known), np.asarray(covariance), strict=True)
    )
    np.testing.assert_allclose(evidence(kernel), of_scipy)


def test_the_kernel_is_positive_definite_with_many_missing_cells():
    x = jnp.concatenate([jnp.linspace(0, 1, 64), jnp.full(64, jnp.nan)])[:, None]
    cells = tk.cells_of(x, jnp.ones(128, bool))
    labelled = tk.seen(cells.values, cells)
    for weight in (-3.0, -1.0, 1.0, 3.0):
        of_columns = (
            jnp.full((1, 1, tk.FORMS + tk.DISTANCES), -40.0).at[..., tk.FORMS :].set(weight)
        )
        kernel = tk.Kernel(of_columns, jnp.array([[0.0, -40.0, -40.0]]))
        _, covariance = tk.covariance_of(kernel, labelled, labelled)
        assert np.linalg.eigvalsh(covariance[0]).min() > -1e-10


def test_rows_that_do_not_count_change_nothing():
    x, cells, known, kernel = problem()
    more = tk.cells_of(jnp.asarray(x), jnp.arange(len(x)) < ROWS)
    padded = jnp.pad(known, ((0, 0), (0, 2)))
    found, expected = (
        tk.solve(kernel, tk.seen(one.values, one), targets, one.counts)
        for one, targets in ((more, padded), (cells, known))
    )
    np.testing.assert_allclose(found.alpha[:, :ROWS], expected.alpha, rtol=1e-10)
    np.testing.assert_allclose(found.noise, expected.noise, rtol=1e-10)
    several = []
    for one, solved in ((more, found), (cells, expected)):
        labelled, queries = tk.seen(one.values, one), tk.seen(jnp.asarray(x[ROWS:]), one)
        slopes = tk.slopes_of(kernel, labelled, solved, one.counts)
        several.append([*slopes, *tk.posterior(kernel, solved, queries, labelled, one.counts)])
    for pair in zip(*several, strict=True):
        np.testing.assert_allclose(*pair, rtol=1e-8, atol=1e-10)
