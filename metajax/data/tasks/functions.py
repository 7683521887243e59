"""Regression tasks of one-dimensional functions: sinusoids, lines, waves."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax._checked import checked
from metajax.types import Array, Batch, PyTree, Sample, Size, Task


@checked
def sinusoids(shots: Size, queries: Size) -> Sample[Task]:
    """Draws sinusoids to regress on.

    y = A sin(x - φ) with A in [0.1, 5], φ in [0, π] and x in [-5, 5], all uniform.

    Args:
        shots: support examples of each task.
        queries: query examples of each task.

    Returns:
        Sampler (dataset, key) -> Task with x and y float32[shots or queries, 1]. The data set is
        ignored; pass ().

    Raises:
        ValueError: sizes below 1.

    >>> sinusoids(shots=5, queries=10)((), jax.random.key(0)).support.x.shape
    (5, 1)

    Source: Finn, Abbeel and Levine 2017, arXiv 1703.03400, section 5.1.
    """

    @checked
    def sample(dataset: PyTree, key: Array) -> Task:
        amplitude_key, phase_key, support_key, query_key = jax.random.split(key, 4)
        amplitude = jax.random.uniform(amplitude_key, (), jnp.float32, 0.1, 5.0)
        phase = jax.random.uniform(phase_key, (), jnp.float32, 0.0, jnp.pi)

        def batch(key: Array, size: int) -> Batch:
            x = jax.random.uniform(key, (size, 1), jnp.float32, -5.0, 5.0)
            return Batch(x=x, y=amplitude * jnp.sin(x - phase))

        return Task(support=batch(support_key, shots), query=batch(query_key, queries))

    return sample


class _Family(NamedTuple):
    """A family of functions y = a g(x - c) + b; a, b and c are uniform.

    Attributes:
        shape: g.
        slope: range of |a|.
        signed: whether a may be negative.
        centre: range of c.
        offset: range of b.
    """

    shape: Callable[[Array], Array]
    slope: tuple[float, float]
    signed: bool
    centre: tuple[float, float]
    offset: tuple[float, float]


_FAMILIES = {
    "sinusoid": _Family(jnp.sin, (0.1, 5.0), False, (0.0, np.pi), (0.0, 0.0)),
    "line": _Family(lambda x: x, (0.0, 3.0), True, (0.0, 0.0), (-3.0, 3.0)),
    "quadratic": _Family(jnp.square, (0.02, 0.15), True, (-3.0, 3.0), (-3.0, 3.0)),
    "tanh": _Family(jnp.tanh, (0.0, 3.0), True, (-3.0, 3.0), (-3.0, 3.0)),
    "absolute": _Family(jnp.abs, (0.0, 3.0), True, (-3.0, 3.0), (-3.0, 3.0)),
}


@checked
def regressions(shots: Size, queries: Size, *, noise: float = 0.0) -> dict[str, Sample[Task]]:
    """Five families of functions to regress on, as modes for `task_modes`.

    y = a g(x - c) + b + noise ε with x uniform in [-5, 5], ε standard normal, and a, b and c
    uniform:

        "sinusoid"   g = sin,  a in [0.1, 5],           c in [0, π],   b = 0, as in `sinusoids`
        "line"       g(x) = x, a in [-3, 3],            c = 0,         b in [-3, 3]
        "quadratic"  g(x) = x², |a| in [0.02, 0.15],    c in [-3, 3],  b in [-3, 3]
        "tanh"       g = tanh, a in [-3, 3],            c in [-3, 3],  b in [-3, 3]
        "absolute"   g(x) = |x|, a in [-3, 3],          c in [-3, 3],  b in [-3, 3]

    Args:
        shots: support examples of each task.
        queries: query examples of each task.
        noise: standard deviation of the noise in support and query set; 0.3 in the paper. No mean
            squared error is below its square. With the same key the functions and x are the same
            for any noise.

    Returns:
        {family: sampler (dataset, key) -> Task} with x and y float32[shots or queries, 1]. The data
        set is ignored; pass ().

    Raises:
        ValueError: sizes below 1, or noise below 0.

    >>> families = regressions(shots=5, queries=10)
    >>> families["line"]((), jax.random.key(0)).query.y.shape
    (10, 1)

    Source: Vuorio et al. 2019, arXiv 1910.13616; ranges as in the authors' code,
    github.com/vuoristo/MMAML-Regression.
    """
    check_noise(noise)
    return {
        name: _sample_family(family, shots, queries, noise) for name, family in _FAMILIES.items()
    }


def _sample_family(family: _Family, shots: int, queries: int, noise: float) -> Sample[Task]:
    """Sampler of one family."""
    least = (-float(family.signed), family.centre[0], family.offset[0])
    greatest = (1.0, family.centre[1], family.offset[1])
    low, high = family.slope

    @checked
    def sample(dataset: PyTree, key: Array) -> Task:
        number_key, x_key, noise_key = jax.random.split(key, 3)
        # The three numbers are one draw, because draws take most of the time of compilation.
        part, centre, offset = jax.random.uniform(
            number_key,
            (3,),
            jnp.float32,
            jnp.array(least, jnp.float32),
            jnp.array(greatest, jnp.float32),
        )
        slope = jnp.sign(part) * (low + jnp.abs(part) * (high - low))
        x = jax.random.uniform(x_key, (shots + queries, 1), jnp.float32, -5.0, 5.0)
        y = slope * family.shape(x - centre) + offset
        y = y + noise * jax.random.normal(noise_key, x.shape, jnp.float32)
        return first_and_rest(x, y, shots)

    return sample


@checked
def harmonics(shots: Size, queries: Size, *, noise: float = 0.0) -> Sample[Task]:
    """Draws waves with their first overtone to regress on.

    y = a₁ sin(ωx + b₁) + a₂ sin(2ωx + b₂) + noise ε, with ω uniform in [5, 7], b in [0, 2π], and a
    and ε standard normal. x is normal with deviation 1 about a centre of the task, uniform in
    [-4, 4]: a task shows only a part of its wave, and the place of that part carries no information
    about the wave.

    Args:
        shots: support examples of each task.
        queries: query examples of each task.
        noise: standard deviation of the noise in support and query set. With the same key the
            functions and x are the same for any noise.

    Returns:
        Sampler (dataset, key) -> Task with x and y float32[shots or queries, 1]. The data set is
        ignored; pass ().

    Raises:
        ValueError: sizes below 1, or noise below 0.

    >>> harmonics(shots=5, queries=10)((), jax.random.key(0)).query.y.shape
    (10, 1)

    Source: Lacoste et al. 2018, arXiv 1806.07528; amplitudes as in torchmeta,
    github.com/tristandeleu/pytorch-meta.
    """
    check_noise(noise)

    @checked
    def sample(dataset: PyTree, key: Array) -> Task:
        number_key, amplitude_key, x_key, noise_key = jax.random.split(key, 4)
        least = jnp.array([5.0, 0, 0, -4], jnp.float32)
        greatest = jnp.array([7, 2 * jnp.pi, 2 * jnp.pi, 4], jnp.float32)
        numbers = jax.random.uniform(number_key, (4,), jnp.float32, least, greatest)
        frequency, low_phase, high_phase, centre = numbers
        low, high = jax.random.normal(amplitude_key, (2,), jnp.float32)
        x = centre + jax.random.normal(x_key, (shots + queries, 1), jnp.float32)
        first = low * jnp.sin(frequency * x + low_phase)
        overtone = high * jnp.sin(2 * frequency * x + high_phase)
        y = first + overtone + noise * jax.random.normal(noise_key, x.shape, jnp.float32)
        return first_and_rest(x, y, shots)

    return sample


def check_noise(noise: float) -> None:
    """Checks a standard deviation.

    Raises:
        ValueError: below 0, or NaN.
    """
    if not noise >= 0:
        raise ValueError(f"{noise=} must be a standard deviation, 0 or more.")


def first_and_rest(x: Array, y: Array, shots: int) -> Task:
    """The task whose support set is the first rows, and whose query set is the other rows."""
    support = Batch(x=x[:shots], y=y[:shots])
    return Task(support=support, query=Batch(x=x[shots:], y=y[shots:]))
