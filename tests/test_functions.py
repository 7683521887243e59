"""Waves, Gaussian processes and images as functions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import metajax as mj
from metajax.data.tasks.functions import (
    gaussian_processes,
    harmonics,
    image_completion,
    matern,
    rbf,
)

KEY = jax.random.key(0)


def draw(sample, number, seed=0, source=()):
    return jax.tree.map(
        np.asarray, jax.jit(mj.data.meta_batch(sample, number))(source, jax.random.key(seed))
    )


def joined(tasks):
    return (
        np.concatenate([getattr(tasks.support, n), getattr(tasks.query, n)], axis=1)[..., 0].astype(
            float
        )
        for n in "xy"
    )


def test_harmonics_are_a_wave_and_its_overtone():
    tasks = draw(harmonics(5, 60), 60)
    x, y = joined(tasks)
    assert tasks.support.x.shape == (60, 5, 1) and tasks.query.y.dtype == np.float32
    found = []
    for one_x, one_y in zip(x, y, strict=True):
        fits = []
        for frequency in np.linspace(5, 7, 401):
            phase = frequency * one_x
            design = np.stack(
                [np.sin(phase), np.cos(phase), np.sin(2 * phase), np.cos(2 * phase)], axis=1
            )
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


@pytest.mark.parametrize(
    "family", [harmonics, gaussian_processes, functools.partial(gaussian_processes, kernel=matern)]
)
def test_noise_has_its_size_and_leaves_the_functions_alone(family):
    quiet, noisy = (draw(family(5, 30, noise=noise), 100) for noise in (0.0, 0.3))
    np.testing.assert_array_equal(quiet.query.x, noisy.query.x)
    for part in ("support", "query"):
        error = getattr(noisy, part).y - getattr(quiet, part).y
        assert 0.27 < error.std() < 0.33 and abs(error.mean()) < 0.04


@pytest.mark.parametrize("kernel", [rbf, matern])
def test_kernels_are_as_in_the_books(kernel):
    distance = np.linspace(0, 5, 50)
    book = {
        rbf: np.exp(-(distance**2) / 2),
        matern: (1 + np.sqrt(5) * distance + 5 / 3 * distance**2) * np.exp(-np.sqrt(5) * distance),
    }
    np.testing.assert_allclose(kernel(jnp.asarray(distance)), book[kernel], rtol=1e-12)


@pytest.mark.parametrize("kernel", [rbf, matern])
def test_draws_have_the_covariance_of_the_process(kernel):
    """In the directions of the true covariance, the values are independent and standard normal."""
    options = {"kernel": kernel, "length": (0.4, 0.4), "scale": (0.7, 0.7), "noise": 0.1}
    x, y = joined(draw(gaussian_processes(4, 8, **options), 800))

    def white(length, scale):
        covariance = scale**2 * np.asarray(
            kernel(np.abs(x[:, :, None] - x[:, None]) / length)
        ) + 0.1**2 * np.eye(12)
        return np.linalg.solve(np.linalg.cholesky(covariance), y[..., None]).reshape(-1)

    assert scipy.stats.kstest(white(0.4, 0.7), "norm").pvalue > 1e-3
    assert scipy.stats.kstest(white(0.6, 0.7), "norm").pvalue < 1e-3, "another length is told apart"
    assert scipy.stats.kstest(white(0.4, 0.8), "norm").pvalue < 1e-3
    assert -2 <= x.min() < -1.9 and 1.9 < x.max() <= 2


def test_length_and_scale_are_drawn_for_each_task():
    _, y = joined(
        draw(gaussian_processes(5, 100, length=(0.05, 0.05), scale=(0.5, 4.0), noise=0), 400)
    )
    deviation = y.std(axis=1)
    assert deviation.min() < 0.8 and deviation.max() > 3.2 and 1.9 < deviation.mean() < 2.5
    _, smooth = joined(
        draw(gaussian_processes(5, 100, length=(50.0, 50.0), scale=(1.0, 1.0), noise=0), 50)
    )
    assert smooth.std(axis=1).max() < 0.3, "hardly anything changes over one length"


@pytest.mark.parametrize(("length", "size"), [(0.1, 250), (10.0, 250), (10.0, 2)])
@pytest.mark.parametrize("kernel", [rbf, matern])
def test_the_factorisation_is_stable_in_float32(kernel, length, size):
    task = draw(
        gaussian_processes(size, size, kernel=kernel, length=(length, length), noise=0),
        1000 // size,
    )
    assert np.isfinite(task.query.y).all() and task.query.y.dtype == np.float32


def pictures(channels=3):
    image = np.random.default_rng(0).permutation(4 * 5 * 6 * channels).reshape(4, 5, 6, channels)
    return mj.data.dataset(image.astype(np.float32), np.array([0, 0, 0, 1]))


def test_completion_shows_pixels_where_they_are():
    source = pictures()
    image, seen = np.asarray(source.x), []
    tasks = draw(image_completion(7, 9), 400, source=source)
    for n in range(400):
        pieces = [
            jax.tree.map(lambda leaf: leaf[n], batch) for batch in (tasks.support, tasks.query)
        ]  # noqa: B023
        x, y = (np.concatenate([getattr(piece, name) for piece in pieces]) for name in "xy")
        row, column = (
            np.rint((x[:, 0] + 1) / 2 * 4).astype(int),
            np.rint((x[:, 1] + 1) / 2 * 5).astype(int),
        )
        number = next(
            number for number in range(4) if (image[number, row[0], column[0]] == y[0]).all()
        )
        np.testing.assert_array_equal(image[number, row, column], y)
        np.testing.assert_allclose(
            x, np.stack([2 * row / 4 - 1, 2 * column / 5 - 1], axis=1), atol=1e-6
        )
        assert len({*zip(row, column, strict=True)}) == 16, (
            "without replacement, and the query set is others"
        )
        seen.append((number, row[0] * 6 + column[0]))
    for which, total in ((0, 4), (1, 30)):
        assert (
            scipy.stats.chisquare(np.bincount([one[which] for one in seen], minlength=total)).pvalue
            > 1e-3
        )
    assert tasks.support.x.dtype == np.float32 and tasks.support.y.shape == (400, 7, 3)


def test_completion_may_ask_for_all_of_the_image():
    source = mj.data.dataset(
        np.repeat(np.array([255, 85], np.uint8), 12).reshape(2, 3, 4, 1), np.arange(2)
    )
    task = image_completion(5)(source, KEY)
    corners = [[-1, -1], [-1, 1], [1, -1], [1, 1]]
    np.testing.assert_array_equal(np.asarray(task.query.x)[[0, 3, 8, 11]], corners)
    assert task.query.y.shape == (12, 1) and task.query.y.dtype == jnp.float32
    assert float(task.query.y[0, 0]) in (1.0, np.float32(1 / 3))


@pytest.mark.parametrize(
    "sample",
    [harmonics(3, 4), gaussian_processes(3, 4), image_completion(3, 4)],
    ids=["waves", "gp", "image"],
)
def test_a_task_depends_on_the_key_only(sample):
    source = pictures()
    close = functools.partial(
        np.testing.assert_allclose, rtol=1e-4, atol=1e-5
    )  # compiled sums and sines differ a little
    eager = sample(source, KEY)
    jax.tree.map(close, eager, jax.jit(sample)(source, KEY))
    batched = jax.vmap(sample, (None, 0))(source, jnp.stack([KEY, jax.random.key(1)]))
    jax.tree.map(lambda one, both: close(one, both[0]), eager, batched)
    assert not np.array_equal(batched.support.x[0], batched.support.x[1])


def test_errors_say_what_to_do():
    for make in (harmonics, gaussian_processes):
        with pytest.raises(ValueError, match="shots must be a whole number, 1 or more, got 0"):
            make(0, 1)
        with pytest.raises(ValueError, match="queries must be a whole number"):
            make(1, 0)
        with pytest.raises(ValueError, match=r"noise=-1 must be a standard deviation"):
            make(1, 1, noise=-1)
    for wrong in ((0, 1), (2, 1), (1, float("inf"))):
        with pytest.raises(ValueError, match=r"length must be its least and greatest value"):
            gaussian_processes(1, 1, length=wrong)
        with pytest.raises(ValueError, match=r"scale must be its least and greatest value"):
            gaussian_processes(1, 1, scale=wrong)
    with pytest.raises(ValueError, match="pixels must be a whole number"):
        image_completion(0)
    with pytest.raises(ValueError, match="queries must be a whole number"):
        image_completion(1, 0)
    with pytest.raises(ValueError, match="pixels=20 and queries=11 must not exceed the 30 pixels"):
        image_completion(20, 11)(pictures(), KEY)
    with pytest.raises(ValueError, match=r"Completion needs images .* got \(4, 2\)"):
        image_completion(1)(mj.data.dataset(np.zeros((4, 2)), np.arange(4)), KEY)
    with pytest.raises(ValueError, match="Completion needs images"):
        image_completion(1)(
            mj.data.dataset(mj.data.as_modalities({"a": np.zeros((4, 2))}), np.arange(4)), KEY
        )
