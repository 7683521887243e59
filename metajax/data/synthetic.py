"""Tasks that are made rather than drawn from a data set."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from metajax._types import Array, Batch, Task
from metajax.data.arrays import check_whole
from metajax.data.episodes import Sample


def sinusoids(shots: int, queries: int) -> Sample[Task]:
    """Regression on y = A sin(x - φ), with A in [0.1, 5], φ in [0, π] and x in [-5, 5], all uniform.

    Returns:
        (dataset, key) -> Task with x and y float32[shots or queries, 1]; the dataset is ignored, pass ().

    Source: Finn, Abbeel and Levine 2017, arXiv 1703.03400, section 5.1.
    """
    check_whole(shots=shots, queries=queries)

    def sample(dataset: object, key: Array) -> Task:
        amplitude_key, phase_key, support_key, query_key = jax.random.split(key, 4)
        amplitude = jax.random.uniform(amplitude_key, (), jnp.float32, 0.1, 5.0)
        phase = jax.random.uniform(phase_key, (), jnp.float32, 0.0, jnp.pi)

        def batch(key: Array, size: int) -> Batch:
            x = jax.random.uniform(key, (size, 1), jnp.float32, -5.0, 5.0)
            return Batch(x=x, y=amplitude * jnp.sin(x - phase))

        return Task(support=batch(support_key, shots), query=batch(query_key, queries))

    return sample
