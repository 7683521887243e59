"""Families of functions to regress on, beyond those of `regressions`: waves, Gaussian processes, images."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from metajax._types import Array, Batch, Task
from metajax.data.arrays import Dataset, check_whole
from metajax.data.episodes import Sample, rows_of

_JITTER = 2e-7  # for each example: what float32 makes of a covariance is otherwise not positive definite


def harmonics(shots: int, queries: int, *, noise: float = 0.0) -> Sample[Task]:
    """Regression on a wave and its first overtone, y = a₁ sin(ωx + b₁) + a₂ sin(2ωx + b₂) + noise ε.

    ω is uniform in [5, 7], b in [0, 2π], a standard normal; x is normal with deviation 1 about a centre of the task,
    uniform in [-4, 4]. So a task shows a piece of its wave only, and where that is says nothing of what the wave is.

    Args:
        shots: support examples of each task.
        queries: query examples of each task.
        noise: standard deviation, in support and query set. With the same key the functions and x are the same.

    Returns:
        (dataset, key) -> Task with x and y float32[shots or queries, 1]; the dataset is ignored, pass ().

    Raises:
        ValueError: sizes below 1, or noise below 0.

    Source: Lacoste et al. 2018, arXiv 1806.07528; amplitudes as in torchmeta, github.com/tristandeleu/pytorch-meta.

    >>> harmonics(shots=5, queries=10)((), jax.random.key(0)).query.y.shape
    (10, 1)
    """
    _check(noise, shots=shots, queries=queries)

    def sample(dataset: object, key: Array) -> Task:
        number_key, amplitude_key, x_key, noise_key = jax.random.split(key, 4)
        least, most = jnp.array([5.0, 0, 0, -4], jnp.float32), jnp.array([7, 2 * jnp.pi, 2 * jnp.pi, 4], jnp.float32)
        frequency, low_phase, high_phase, centre = jax.random.uniform(number_key, (4,), jnp.float32, least, most)
        low, high = jax.random.normal(amplitude_key, (2,), jnp.float32)
        x = centre + jax.random.normal(x_key, (shots + queries, 1), jnp.float32)
        y = low * jnp.sin(frequency * x + low_phase) + high * jnp.sin(2 * frequency * x + high_phase)
        return _task(x, y + noise * jax.random.normal(noise_key, x.shape, jnp.float32), shots)

    return sample


def rbf(distance: Array) -> Array:
    """exp(-d² / 2), the kernel of functions that are smooth everywhere."""
    return jnp.exp(-(distance**2) / 2)


def matern(distance: Array) -> Array:
    """(1 + √5 d + 5 d² / 3) exp(-√5 d), Matérn's kernel of order 5/2, of functions with two derivatives."""
    scaled = math.sqrt(5) * distance
    return (1 + scaled + scaled**2 / 3) * jnp.exp(-scaled)


def gaussian_processes(
    shots: int,
    queries: int,
    *,
    kernel: Callable[[Array], Array] = rbf,
    length: tuple[float, float] = (0.1, 0.6),
    scale: tuple[float, float] = (0.1, 1.0),
    noise: float = 0.02,
) -> Sample[Task]:
    """Regression on draws of a Gaussian process, y = f(x) + noise ε with cov(f(x), f(x')) = σ² k(|x - x'| / l).

    x is uniform in [-2, 2]; l and σ are drawn for each task, uniformly. Given these two, no prediction is better than
    the posterior mean of the process. So that float32 can factor the covariance of n examples, f has an error of its
    own with deviation σ √(2e-7 n), 0.4 % of σ for 100.

    Args:
        shots: support examples of each task.
        queries: query examples of each task.
        kernel: k, of distances [n, n] with k(0) = 1: `rbf`, `matern`, or one of your own.
        length: least and greatest l, in units of x.
        scale: least and greatest σ.
        noise: standard deviation, in support and query set. With the same key the functions and x are the same.

    Returns:
        (dataset, key) -> Task with x and y float32[shots or queries, 1]; the dataset is ignored, pass ().

    Raises:
        ValueError: sizes below 1, a range that is not positive and ascending, or noise below 0.

    Sources: Garnelo et al. 2018, arXiv 1807.01622, and Kim et al. 2019, arXiv 1901.05761; ranges as in the authors'
    code, github.com/google-deepmind/neural-processes.

    >>> gaussian_processes(5, 10, kernel=matern)((), jax.random.key(0)).support.x.shape
    (5, 1)
    """
    _check(noise, shots=shots, queries=queries)
    for name, (low, high) in {"length": length, "scale": scale}.items():
        if not 0 < low <= high < math.inf:
            raise ValueError(f"{name} must be its least and greatest value, both positive, got {(low, high)}.")

    def sample(dataset: object, key: Array) -> Task:
        number_key, x_key, value_key, noise_key = jax.random.split(key, 4)
        least, most = (jnp.array([length[end], scale[end]], jnp.float32) for end in (0, 1))
        unit, deviation = jax.random.uniform(number_key, (2,), jnp.float32, least, most)
        x = jax.random.uniform(x_key, (shots + queries, 1), jnp.float32, -2.0, 2.0)
        covariance = kernel(jnp.abs(x - x.T) / unit) + _JITTER * len(x) * jnp.eye(len(x), dtype=jnp.float32)
        values = jnp.linalg.cholesky(covariance) @ jax.random.normal(value_key, x.shape, jnp.float32)
        return _task(x, deviation * values + noise * jax.random.normal(noise_key, x.shape, jnp.float32), shots)

    return sample


def completion(pixels: int, queries: int | None = None) -> Sample[Task]:
    """Image completion: a task is one image, an example a pixel, x where it is and y what colour it has.

    Args:
        pixels: support pixels, drawn without replacement.
        queries: query pixels, drawn from the others; None asks for all of the image, in order, the given ones too.

    Returns:
        (dataset, key) -> Task with x float32[n, 2], row and column from -1 to 1, and y [n, channels], of images uint8
        in [0, 1]. The image is drawn uniformly from all rows of the data set.

    Raises:
        ValueError: sizes below 1; when called, data that are not images, or more pixels than an image has.

    Source: Garnelo et al. 2018, arXiv 1807.01613, section 4.2.

    >>> import numpy as np
    >>> from metajax.data.arrays import dataset
    >>> source = dataset(np.zeros((3, 8, 8, 1), np.uint8), np.arange(3))
    >>> task = completion(pixels=10)(source, jax.random.key(0))
    >>> task.support.x.shape, task.query.y.shape
    ((10, 2), (64, 1))
    """
    _check(0, pixels=pixels, queries=1 if queries is None else queries)

    def sample(dataset: Dataset, key: Array) -> Task:
        if not hasattr(dataset.x, "ndim") or dataset.x.ndim != 4:
            got = jax.tree.map(jnp.shape, dataset.x)
            raise ValueError(f"Completion needs images [examples, height, width, channels], got {got}.")
        _, height, width, channels = dataset.x.shape
        if pixels + (queries or 0) > height * width:
            raise ValueError(f"{pixels=} and {queries=} must not exceed the {height * width} pixels of an image.")
        image_key, pixel_key = jax.random.split(key)
        image = jax.random.randint(image_key, (1,), 0, len(dataset.y), jnp.int32)
        y = rows_of(dataset, image).reshape(height * width, channels)
        sides = (jnp.linspace(-1, 1, size, dtype=jnp.float32) for size in (height, width))
        x = jnp.stack(jnp.meshgrid(*sides, indexing="ij"), axis=-1).reshape(height * width, 2)
        order = jax.random.permutation(pixel_key, height * width)
        given, asked = order[:pixels], order[pixels : pixels + queries] if queries else jnp.arange(height * width)
        return Task(support=Batch(x=x[given], y=y[given]), query=Batch(x=x[asked], y=y[asked]))

    return sample


def _check(noise: float, **sizes: int) -> None:
    check_whole(**sizes)
    if not noise >= 0:
        raise ValueError(f"{noise=} must be a standard deviation, 0 or more.")


def _task(x: Array, y: Array, shots: int) -> Task:
    return Task(support=Batch(x=x[:shots], y=y[:shots]), query=Batch(x=x[shots:], y=y[shots:]))
