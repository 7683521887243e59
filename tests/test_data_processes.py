"""Draws of Gaussian processes."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from drawn_tasks import draw, joined

from metajax.data.tasks.processes import gaussian_processes, matern, rbf

BOTH = pytest.mark.parametrize("kernel", [rbf, matern])


@BOTH
def test_kernels_are_as_in_the_books(kernel):
    distance = np.linspace(0, 5, 50)
    root = np.sqrt(5) * distance
    book = {
        rbf: np.exp(-(distance**2) / 2),
        matern: (1 + root + 5 / 3 * distance**2) * np.exp(-root),
    }
    np.testing.assert_allclose(kernel(jnp.asarray(distance)), book[kernel], rtol=1e-12)


@BOTH
def test_draws_have_the_covariance_of_the_process(kernel):
    """In the directions of the true covariance, the values are independent and standard normal."""
    options = {"kernel": kernel, "length": (0.4, 0.4), "scale": (0.7, 0.7), "noise": 0.1}
    x, y = joined(draw(gaussian_processes(4, 8, **options), 800))
    distance = np.abs(x[:, :, None] - x[:, None])

    def white(length, scale):
        covariance = scale**2 * np.asarray(kernel(distance / length)) + 0.1**2 * np.eye(12)
        return np.linalg.solve(np.linalg.cholesky(covariance), y[..., None]).reshape(-1)

    assert scipy.stats.kstest(white(0.4, 0.7), "norm").pvalue > 1e-3
    assert scipy.stats.kstest(white(0.6, 0.7), "norm").pvalue < 1e-3, "of another length"
    assert scipy.stats.kstest(white(0.4, 0.8), "norm").pvalue < 1e-3, "of another scale"
    assert -2 <= x.min() < -1.9 and 1.9 < x.max() <= 2


def test_length_and_scale_are_drawn_for_each_task():
    rough = gaussian_processes(5, 95, length=(0.05, 0.05), scale=(0.5, 4.0), noise=0)
    deviation = joined(draw(rough, 400))[1].std(axis=1)
    assert deviation.min() < 0.8 and deviation.max() > 3.2 and 1.9 < deviation.mean() < 2.5
    smooth = gaussian_processes(5, 95, length=(50.0, 50.0), scale=(1.0, 1.0), noise=0)
    deviation = joined(draw(smooth, 50))[1].std(axis=1)
    assert deviation.max() < 0.3, "hardly anything changes over one length"


@pytest.mark.parametrize(("length", "size"), [(0.1, 250), (10.0, 250), (10.0, 2)])
@BOTH
def test_the_factorisation_is_stable_in_float32(kernel, length, size):
    sample = gaussian_processes(size, size, kernel=kernel, length=(length, length), noise=0)
    task = draw(sample, 1000 // size)
    assert np.isfinite(task.query.y).all() and task.query.y.dtype == np.float32


@pytest.mark.parametrize("wrong", [(0, 1), (2, 1), (1, float("inf"))])
def test_bad_ranges_are_refused(wrong):
    what = "(its least and greatest value|.a finite real number, a finite real number.)"
    with pytest.raises(ValueError, match=f"length must be {what}, "):
        gaussian_processes(1, 1, length=wrong)
    with pytest.raises(ValueError, match=f"scale must be {what}, "):
        gaussian_processes(1, 1, scale=wrong)
