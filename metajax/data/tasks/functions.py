"""Families of functions to regress on: sinusoids, lines, waves, Gaussian processes, images."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from metajax._checks import check_counts
from metajax.data.datasets import Dataset
from metajax.data.tasks.drawing import rows_of
from metajax.types import Array, Batch, Sample, Task


def sinusoids(shots: int, queries: int) -> Sample[Task]:
    """Regression on y = A sin(x - φ), with A in [0.1, 5], φ in [0, π] and x in [-5, 5], all uniform.

    Returns:
        (dataset, key) -> Task with x and y float32[shots or queries, 1]; the dataset is ignored, pass ().

    Source: Finn, Abbeel and Levine 2017, arXiv 1703.03400, section 5.1.
    """
    check_counts(shots=shots, queries=queries)

    def sample(dataset: object, key: Array) -> Task:
        amplitude_key, phase_key, support_key, query_key = jax.random.split(key, 4)
        amplitude = jax.random.uniform(amplitude_key, (), jnp.float32, 0.1, 5.0)
        phase = jax.random.uniform(phase_key, (), jnp.float32, 0.0, jnp.pi)

        def batch(key: Array, size: int) -> Batch:
            x = jax.random.uniform(key, (size, 1), jnp.float32, -5.0, 5.0)
            return Batch(x=x, y=amplitude * jnp.sin(x - phase))

        return Task(support=batch(support_key, shots), query=batch(query_key, queries))

    return sample


# name: (shape, range of |a|, whether a may be negative, range of c, range of b), for y = a shape(x - c) + b
_FAMILIES: dict[str, tuple[Callable[[Array], Array], tuple[float, float], bool, tuple, tuple]] = {
    "sinusoid": (jnp.sin, (0.1, 5.0), False, (0.0, np.pi), (0.0, 0.0)),
    "line": (lambda x: x, (0.0, 3.0), True, (0.0, 0.0), (-3.0, 3.0)),
    "quadratic": (jnp.square, (0.02, 0.15), True, (-3.0, 3.0), (-3.0, 3.0)),
    "tanh": (jnp.tanh, (0.0, 3.0), True, (-3.0, 3.0), (-3.0, 3.0)),
    "absolute": (jnp.abs, (0.0, 3.0), True, (-3.0, 3.0), (-3.0, 3.0)),
}


def regressions(shots: int, queries: int, *, noise: float = 0.0) -> dict[str, Sample[Task]]:
    """Five families of functions of one number, y = a g(x - c) + b + noise ε, with x in [-5, 5] and ε normal.

    "sinusoid" a in [0.1, 5], c in [0, π], b = 0, as in `sinusoids`; "line" a in [-3, 3], c = 0; "quadratic" |a| in
    [0.02, 0.15] of either sign; "tanh" and "absolute" a in [-3, 3]; where not said, b and c are in [-3, 3]. All
    uniform.

    Args:
        shots: support examples of each task.
        queries: query examples of each task.
        noise: standard deviation, in support and query set; 0.3 in the paper. No error is below its square. With the
            same key the functions and x are the same, whatever the noise.

    Returns:
        {family: (dataset, key) -> Task} with x and y float32[shots or queries, 1], for `task_modes`; the dataset is
        ignored, pass ().

    Raises:
        ValueError: sizes below 1, or noise below 0.

    Source: Vuorio et al. 2019, arXiv 1910.13616; ranges as in the authors' code, github.com/vuoristo/MMAML-Regression.
    """
    check_counts(shots=shots, queries=queries)
    if not noise >= 0:
        raise ValueError(f"{noise=} must be a standard deviation, 0 or more.")
    return {name: _family(name, shots, queries, noise) for name in _FAMILIES}


def _family(name: str, shots: int, queries: int, noise: float) -> Sample[Task]:
    shape, (small, large), signed, (first, last), (low, high) = _FAMILIES[name]

    def sample(dataset: object, key: Array) -> Task:
        number_key, x_key, noise_key = jax.random.split(
            key, 3
        )  # few draws, which are most of what is to compile
        least, most = (
            jnp.array([-float(signed), first, low], jnp.float32),
            jnp.array([1.0, last, high], jnp.float32),
        )
        part, centre, offset = jax.random.uniform(number_key, (3,), jnp.float32, least, most)
        slope = jnp.sign(part) * (small + jnp.abs(part) * (large - small))
        x = jax.random.uniform(x_key, (shots + queries, 1), jnp.float32, -5.0, 5.0)
        y = (
            slope * shape(x - centre)
            + offset
            + noise * jax.random.normal(noise_key, x.shape, jnp.float32)
        )
        return Task(support=Batch(x=x[:shots], y=y[:shots]), query=Batch(x=x[shots:], y=y[shots:]))

    return sample


_JITTER = (
    2e-7  # for each example: what float32 makes of a covariance is otherwise not positive definite
)


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
        least, most = (
            jnp.array([5.0, 0, 0, -4], jnp.float32),
            jnp.array([7, 2 * jnp.pi, 2 * jnp.pi, 4], jnp.float32),
        )
        frequency, low_phase, high_phase, centre = jax.random.uniform(
            number_key, (4,), jnp.float32, least, most
        )
        low, high = jax.random.normal(amplitude_key, (2,), jnp.float32)
        x = centre + jax.random.normal(x_key, (shots + queries, 1), jnp.float32)
        y = low * jnp.sin(frequency * x + low_phase) + high * jnp.sin(
            2 * frequency * x + high_phase
        )
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
            raise ValueError(
                f"{name} must be its least and greatest value, both positive, got {(low, high)}."
            )

    def sample(dataset: object, key: Array) -> Task:
        number_key, x_key, value_key, noise_key = jax.random.split(key, 4)
        least, most = (jnp.array([length[end], scale[end]], jnp.float32) for end in (0, 1))
        unit, deviation = jax.random.uniform(number_key, (2,), jnp.float32, least, most)
        x = jax.random.uniform(x_key, (shots + queries, 1), jnp.float32, -2.0, 2.0)
        covariance = kernel(jnp.abs(x - x.T) / unit) + _JITTER * len(x) * jnp.eye(
            len(x), dtype=jnp.float32
        )
        values = jnp.linalg.cholesky(covariance) @ jax.random.normal(
            value_key, x.shape, jnp.float32
        )
        return _task(
            x,
            deviation * values + noise * jax.random.normal(noise_key, x.shape, jnp.float32),
            shots,
        )

    return sample


def image_completion(pixels: int, queries: int | None = None) -> Sample[Task]:
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
    >>> from metajax.data.datasets import dataset
    >>> source = dataset(np.zeros((3, 8, 8, 1), np.uint8), np.arange(3))
    >>> task = image_completion(pixels=10)(source, jax.random.key(0))
    >>> task.support.x.shape, task.query.y.shape
    ((10, 2), (64, 1))
    """
    _check(0, pixels=pixels, queries=1 if queries is None else queries)

    def sample(dataset: Dataset, key: Array) -> Task:
        if not hasattr(dataset.x, "ndim") or dataset.x.ndim != 4:
            got = jax.tree.map(jnp.shape, dataset.x)
            raise ValueError(
                f"Completion needs images [examples, height, width, channels], got {got}."
            )
        _, height, width, channels = dataset.x.shape
        if pixels + (queries or 0) > height * width:
            raise ValueError(
                f"{pixels=} and {queries=} must not exceed the {height * width} pixels of an image."
            )
        image_key, pixel_key = jax.random.split(key)
        image = jax.random.randint(image_key, (1,), 0, len(dataset.y), jnp.int32)
        y = rows_of(dataset, image).reshape(height * width, channels)
        sides = (jnp.linspace(-1, 1, size, dtype=jnp.float32) for size in (height, width))
        x = jnp.stack(jnp.meshgrid(*sides, indexing="ij"), axis=-1).reshape(height * width, 2)
        order = jax.random.permutation(pixel_key, height * width)
        given, asked = (
            order[:pixels],
            order[pixels : pixels + queries] if queries else jnp.arange(height * width),
        )
        return Task(support=Batch(x=x[given], y=y[given]), query=Batch(x=x[asked], y=y[asked]))

    return sample


def _check(noise: float, **sizes: int) -> None:
    check_counts(**sizes)
    if not noise >= 0:
        raise ValueError(f"{noise=} must be a standard deviation, 0 or more.")


def _task(x: Array, y: Array, shots: int) -> Task:
    return Task(support=Batch(x=x[:shots], y=y[:shots]), query=Batch(x=x[shots:], y=y[shots:]))
