"""Families of functions of one number."""

import functools

import jax
import numpy as np
import pytest
from drawn_tasks import KEY, draw, joined

from metajax import data
from metajax.data.tasks.functions import harmonics, regressions, sinusoids

# Of each family: the columns whose combinations its functions are, given c [..., 1].
DESIGN = {
    "sinusoid": lambda x, c: [np.sin(x), np.cos(x)],
    "line": lambda x, c: [x, np.ones_like(x)],
    "quadratic": lambda x, c: [x**2, x, np.ones_like(x)],
    "tanh": lambda x, c: [np.tanh(x - c), np.ones_like(x)],
    "absolute": lambda x, c: [np.abs(x - c), np.ones_like(x)],
}
CURVED = ("tanh", "absolute")


@functools.cache
def family_tasks():
    """150 tasks of each family, drawn in one compiled program."""
    families = regressions(5, 40)
    keys = jax.random.split(KEY, 150)

    @jax.jit
    def sample(keys):
        return {name: jax.vmap(sample, (None, 0))((), keys) for name, sample in families.items()}

    return jax.tree.map(np.asarray, sample(keys))


def find_centre(family, x, y):
    """The c of a grid whose function correlates best with y."""
    grid = np.linspace(-3, 3, 241)
    column = DESIGN[family](x[None], grid[:, None])[0]
    column -= column.mean(axis=1, keepdims=True)
    correlation = np.abs(column @ (y - y.mean()) / np.linalg.norm(column, axis=1))
    return grid[correlation.argmax()]


def coefficients(family, x, y):
    """The coefficients of each function, which must fit."""
    found = []
    for one_x, one_y in zip(x, y, strict=True):
        centre = find_centre(family, one_x, one_y) if family in CURVED else 0.0
        design = np.stack(DESIGN[family](one_x, centre), axis=1)
        solution = np.linalg.lstsq(design, one_y, rcond=None)[0]
        assert np.abs(design @ solution - one_y).max() < (0.1 if family in CURVED else 1e-3)
        found.append(solution)
    return np.array(found)


@pytest.mark.parametrize("family", DESIGN)
def test_a_family_has_the_functions_and_ranges_of_the_paper(family):
    tasks = family_tasks()[family]
    assert tasks.support.x.dtype == tasks.query.y.dtype == np.float32
    assert tasks.support.y.shape == (150, 5, 1)
    x, y = joined(tasks)
    assert -5 <= x.min() < -4.9 and 4.9 < x.max() <= 5
    found = coefficients(family, x, y)
    first, last = found[:, 0], found[:, -1]
    if family == "sinusoid":  # a sin(x - c) = a cos c · sin x - a sin c · cos x
        size = np.hypot(first, last)
        assert 0.1 <= size.min() < 0.3 and 4.7 < size.max() <= 5.01 and (last <= 1e-3).all()
        return
    assert 0.3 < (first > 0).mean() < 0.7
    if family == "quadratic":
        assert 0.0199 < np.abs(first).min() < 0.03 and 0.14 < np.abs(first).max() < 0.1501
    else:
        assert 2.8 < np.abs(first).max() < 3.2 and np.abs(first).min() < 0.15
        assert 2.8 < np.abs(last).max() < 3.2


def test_sinusoids_are_sinusoids():
    tasks = draw(sinusoids(shots=5, queries=50), 100)
    assert tasks.support.x.shape == (100, 5, 1)
    x, y = joined(tasks)
    found = coefficients("sinusoid", x, y)
    size = np.hypot(*found.T)
    assert 0.1 <= size.min() < 0.4 and 4.6 < size.max() <= 5.01
    assert (found[:, 1] <= 1e-3).all() and -5 <= x.min() < -4.9 and 4.9 < x.max() <= 5


def test_harmonics_are_a_wave_and_its_overtone():
    tasks = draw(harmonics(5, 60), 60)
    x, y = joined(tasks)
    assert tasks.support.x.shape == (60, 5, 1) and tasks.query.y.dtype == np.float32
    found = []
    for one_x, one_y in zip(x, y, strict=True):
        fits = []
        for frequency in np.linspace(5, 7, 401):
            low, high = frequency * one_x, 2 * frequency * one_x
            design = np.stack([np.sin(low), np.cos(low), np.sin(high), np.cos(high)], axis=1)
            solution = np.linalg.lstsq(design, one_y, rcond=None)[0]
            fits.append((np.abs(design @ solution - one_y).max(), frequency, *solution))
        found.append(min(fits))
    error, frequency, *sizes = np.array(found).T
    assert error.max() < 0.05, "of a grid of 0.005 in frequency"
    assert frequency.min() < 5.2 and frequency.max() > 6.8
    for sine, cosine in (sizes[:2], sizes[2:]):  # a sin b and a cos b of a normal a and a uniform b
        assert 0.8 < np.hypot(sine, cosine).std() / 0.603 < 1.25 and abs(np.mean(sine)) < 0.4
        assert (sine > 0).any() and (sine < 0).any() and (cosine > 0).any() and (cosine < 0).any()
    centre = x.mean(axis=1)
    assert -4.5 < centre.min() < -3 and 3 < centre.max() < 4.5
    np.testing.assert_allclose(x.std(axis=1).mean(), 1, atol=0.05)


FAMILIES = {
    "harmonics": harmonics,
    "tanh": lambda shots, queries, noise: regressions(shots, queries, noise=noise)["tanh"],
    "rbf": data.gaussian_processes,
    "matern": functools.partial(data.gaussian_processes, kernel=data.matern),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_noise_has_its_size_and_leaves_the_functions_alone(name):
    quiet, noisy = (draw(FAMILIES[name](5, 30, noise=noise), 100) for noise in (0.0, 0.3))
    np.testing.assert_array_equal(quiet.query.x, noisy.query.x)
    for part in ("support", "query"):
        error = getattr(noisy, part).y - getattr(quiet, part).y
        assert 0.27 < error.std() < 0.33 and abs(error.mean()) < 0.04


@pytest.mark.parametrize("family", [sinusoids, regressions, harmonics, data.gaussian_processes])
def test_bad_options_are_refused(family):
    with pytest.raises(ValueError, match="shots must be a whole number, 1 or more, got 0"):
        family(0, 1)
    with pytest.raises(ValueError, match=r"queries must be a whole number,.* got True"):
        family(1, True)
    if family is not sinusoids:
        with pytest.raises(ValueError, match="noise=-1 must be a standard deviation"):
            family(1, 1, noise=-1)
        with pytest.raises(ValueError, match="noise must be a finite real number, got nan"):
            family(1, 1, noise=float("nan"))
