"""The workloads that metajax and its peers are timed on, as arrays. No framework is imported here.

- W1: sinusoids. A net of 40 and 40 hidden units, 25 tasks of 10 shots and 10 queries, 5 steps of
  SGD.
- W2: images. Conv4-64 of 28x28 images with max-pool and batch statistics, 5-way 1-shot, 15 queries
  a class, 8 tasks (or 32), 5 steps of SGD.

Both are MAML, differentiated to second order, with a step of Adam outside. Kernels are [in, out]
and [height, width, in, out], images [height, width, channels].
"""

from typing import NamedTuple

import numpy as np


class Workload(NamedTuple):
    """Arrays and settings of one workload.

    Attributes:
        tasks: number of tasks of a step.
        weights: {name: array}.
        data: {"support" or "query": (x [tasks, rows, ...], y [tasks, rows, ...])}.
        steps: inner steps.
        inner_rate: step size of SGD.
        outer_rate: step size of Adam.
        repeats: number of turns, enough for a stable median.
        steps_a_turn: more than one where a step ends before the caches are warm again.
    """

    tasks: int
    weights: dict
    data: dict
    steps: int
    inner_rate: float
    outer_rate: float
    repeats: int
    steps_a_turn: int


def sinusoids(tasks=25, width=40):
    """W1."""
    rng = np.random.default_rng(0)
    sizes = {"layers/0": (1, width), "layers/1": (width, width), "head": (width, 1)}
    weights = {}
    for name, shape in sizes.items():
        weights[f"{name}/kernel"] = rng.normal(size=shape) / shape[0] ** 0.5
    for name, shape in sizes.items():
        weights[f"{name}/bias"] = 0.1 * rng.normal(size=shape[1])
    x = rng.uniform(-5, 5, (2, tasks, 10, 1))
    amplitude = rng.uniform(0.1, 5, (1, tasks, 1, 1))
    phase = rng.uniform(0, np.pi, (1, tasks, 1, 1))
    y = amplitude * np.sin(x - phase)
    data = {"support": (x[0], y[0]), "query": (x[1], y[1])}
    return make(tasks, weights, data, 5, 0.01, 1e-3, 40, 10)


def images(tasks=8, width=64, size=28, ways=5, shots=1, queries=15):
    """W2."""
    rng = np.random.default_rng(0)
    weights = image_weights(rng, width, size, ways)
    # Every class is a picture of its own under noise, so that there is something to learn.
    classes = rng.uniform(size=(tasks, ways, 1, size, size, 1))

    def draw(rows):
        noise = rng.uniform(size=(tasks, ways, rows, size, size, 1))
        x = 0.7 * classes + 0.3 * noise
        y = np.tile(np.repeat(np.arange(ways), rows), (tasks, 1))
        return x.reshape(tasks, -1, size, size, 1), y

    data = {"support": draw(shots), "query": draw(queries)}
    return make(tasks, weights, data, 5, 0.1, 1e-3, 20, 1)


def image_weights(rng, width, size, ways):
    """Weights of a Conv4."""
    weights = {}
    for i, channels in enumerate((1, width, width, width)):
        scale = (2 / (9 * channels)) ** 0.5
        weights[f"convolutions/{i}/kernel"] = rng.normal(size=(3, 3, channels, width)) * scale
        weights[f"norms/{i}/scale"] = 1 + 0.1 * rng.normal(size=width)
        weights[f"norms/{i}/shift"] = 0.1 * rng.normal(size=width)
    features = width * (size // 16) ** 2
    weights["head/kernel"] = rng.normal(size=(features, ways)) / features**0.5
    weights["head/bias"] = np.zeros(ways)
    return weights


def as_floats(tree, dtype):
    """Arrays of floats in this dtype, labels as int32."""
    if isinstance(tree, dict):
        return {name: as_floats(leaf, dtype) for name, leaf in tree.items()}
    if isinstance(tree, tuple):
        return tuple(as_floats(leaf, dtype) for leaf in tree)
    return tree.astype(dtype if tree.dtype.kind == "f" else np.int32)


def make(tasks, weights, data, *settings):
    """A workload in float32."""
    return Workload(tasks, as_floats(weights, np.float32), as_floats(data, np.float32), *settings)


def double(workload):
    """The same numbers in float64, where gradients can be compared.

    In float32 some of the millions of arguments of ReLU and max-pool lie so near a kink that
    rounding decides the side.
    """
    weights = as_floats(workload.weights, np.float64)
    return workload._replace(weights=weights, data=as_floats(workload.data, np.float64))


def is_double(workload):
    """Whether the numbers are in float64."""
    return workload.weights["head/bias"].dtype == np.float64


WORKLOADS = {
    "W1": sinusoids,
    "W2": images,
    "W2, 32 tasks": lambda: images(tasks=32)._replace(repeats=8),
}
TINY = {
    "W1": lambda: sinusoids(tasks=2, width=4)._replace(repeats=2),
    "W2": lambda: images(tasks=2, width=4, size=16, queries=2)._replace(repeats=2),
    "W2, 32 tasks": lambda: images(tasks=4, width=4, size=16, queries=2)._replace(repeats=2),
}
