"""Draws of a Gaussian process to regress on."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from metajax._checked import checked
from metajax.data.tasks.functions import check_noise, first_and_rest
from metajax.types import Array, PyTree, Sample, Size, Task

_JITTER = 2e-7
"""Added to the diagonal for each example: rounding to float32 would make it indefinite."""


@checked
def rbf(distance: Array) -> Array:
    """exp(-d² / 2), the kernel of functions that are smooth everywhere.

    >>> round(float(rbf(jnp.array(2.0))), 3)
    0.135
    """
    return jnp.exp(-(distance**2) / 2)


@checked
def matern(distance: Array) -> Array:
    """(1 + √5 d + 5 d² / 3) exp(-√5 d), Matérn's kernel of order 5/2: two derivatives exist.

    >>> round(float(matern(jnp.array(2.0))), 3)
    0.139
    """
    scaled = math.sqrt(5) * distance
    return (1 + scaled + scaled**2 / 3) * jnp.exp(-scaled)


@checked
def gaussian_processes(
    shots: Size,
    queries: Size,
    *,
    kernel: Callable[[Array], Array] = rbf,
    length: tuple[float, float] = (0.1, 0.6),
    scale: tuple[float, float] = (0.1, 1.0),
    noise: float = 0.02,
) -> Sample[Task]:
    """Draws functions from a Gaussian process to regress on.

    y = f(x) + noise ε with cov(f(x), f(x')) = σ² k(|x - x'| / l). x is uniform in [-2, 2]; l and σ
    are drawn for each task, uniformly. Given l and σ, no prediction is better than the posterior
    mean of the process. So that float32 can factor the covariance of n examples, f has noise of its
    own, with deviation σ √(2e-7 n): 0.4 % of σ for 100 examples.

    Args:
        shots: support examples of each task.
        queries: query examples of each task.
        kernel: k, a function of distances [n, n] with k(0) = 1: `rbf`, `matern`, or your own.
        length: least and greatest l, in units of x.
        scale: least and greatest σ.
        noise: standard deviation of the noise in support and query set. With the same key the
            functions and x are the same for any noise.

    Returns:
        Sampler (dataset, key) -> Task with x and y float32[shots or queries, 1]. The data set is
        ignored; pass ().

    Raises:
        ValueError: sizes below 1, a range that is not positive and ascending, or noise below 0.

    >>> gaussian_processes(5, 10, kernel=matern)((), jax.random.key(0)).support.x.shape
    (5, 1)

    Sources: Garnelo et al. 2018, arXiv 1807.01622, and Kim et al. 2019, arXiv 1901.05761; ranges as
    in the authors' code, github.com/google-deepmind/neural-processes.
    """
    check_noise(noise)
    _check_range("length", length)
    _check_range("scale", scale)

    @checked
    def sample(dataset: PyTree, key: Array) -> Task:
        number_key, x_key, value_key, noise_key = jax.random.split(key, 4)
        least = jnp.array([length[0], scale[0]], jnp.float32)
        greatest = jnp.array([length[1], scale[1]], jnp.float32)
        unit, deviation = jax.random.uniform(number_key, (2,), jnp.float32, least, greatest)
        x = jax.random.uniform(x_key, (shots + queries, 1), jnp.float32, -2.0, 2.0)
        jitter = _JITTER * len(x) * jnp.eye(len(x), dtype=jnp.float32)
        covariance = kernel(jnp.abs(x - x.T) / unit) + jitter
        normal = jax.random.normal(value_key, x.shape, jnp.float32)
        values = jnp.linalg.cholesky(covariance) @ normal
        y = deviation * values + noise * jax.random.normal(noise_key, x.shape, jnp.float32)
        return first_and_rest(x, y, shots)

    return sample


def _check_range(name: str, bounds: tuple[float, float]) -> None:
    """Checks a least and a greatest value."""
    low, high = bounds
    if not 0 < low <= high < math.inf:
        raise ValueError(
            f"{name} must be its least and greatest value, both positive, got {(low, high)}."
        )
