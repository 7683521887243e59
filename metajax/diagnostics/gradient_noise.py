"""How much of an outer gradient is signal, and what more tasks would buy."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax._checked import checked
from metajax._checks import check_loss_value
from metajax._learnable import check_weights
from metajax._tree import count_tasks
from metajax.types import Array, Params, PyTree, Size, TaskLoss


class GradientNoise(NamedTuple):
    """The gradient of a random task, g = G + noise, with squared lengths over all weights.

    Attributes:
        signal: |G|², without the bias that noise gives it. It may come out at 0 or below where G
            is small beside the noise.
        of_tasks: mean of |noise|² that comes from the choice of the task, 0 where it comes out
            below; NaN for one task. With one draw, it includes the noise of draws.
        of_draws: mean of |noise|² that comes from random draws within a task; NaN for one draw.
        rounding: |g₃₂ - g₆₄| / |g₆₄|, of the gradient in float32 and in float64, or NaN.
    """

    signal: float
    of_tasks: float
    of_draws: float
    rounding: float

    @property
    def noise(self) -> float:
        """|noise|² of one task with one draw."""
        return float(np.nansum([self.of_tasks, self.of_draws]))

    @property
    def critical_batch(self) -> float:
        """The number of tasks whose mean gradient has as much signal as noise."""
        return self.noise / self.signal if self.signal > 0 else math.inf

    def cosine(self, tasks: int) -> float:
        """About the cosine of G and of the mean gradient of so many tasks.

        It is 1 / √(1 + critical_batch / tasks).
        """
        return 1 / math.sqrt(1 + self.critical_batch / tasks)

    def __repr__(self) -> str:
        """One line: the critical batch, and the cosine with G for it and for 4 and 16 times it."""
        if not math.isfinite(self.critical_batch):
            return "no signal that stands out from the noise"
        batches = [max(1, round(self.critical_batch * factor)) for factor in (1, 4, 16)]
        cosines = ", ".join(f"{self.cosine(batch):.2f} of {batch}" for batch in batches)
        of_what = "draws" if math.isnan(self.of_tasks) else "tasks"
        return (
            f"critical batch {self.critical_batch:.3g} {of_what}; cosine with the truth {cosines}"
        )


@checked
def measure_noise(
    task_loss: TaskLoss,
    params: Params,
    tasks: PyTree,
    key: Array,
    *,
    draws: Size = 2,
    double: bool = False,
) -> GradientNoise:
    """The signal-to-noise ratio of an outer gradient, over tasks and over random draws.

    The gradient of every task is taken with several keys. Its variance within a task is that of
    draws, such as minibatches of an inner loop, and the rest of its variance is that of tasks.

    Args:
        task_loss: (params, task, key) -> (scalar, metrics).
        params: where the gradient is taken.
        tasks: tasks along the leading axis of every leaf, as many as you can afford; at least 2, or
            one task with at least 2 draws.
        key: for the task losses.
        draws: keys of each task.
        double: whether the gradient is also computed in float64. It needs a task loss that draws no
            random numbers, for JAX draws others in float64.

    Raises:
        ValueError: one task and one draw; params that are not floats; a gradient that is not
            finite; with `double`, params that are not float32, one draw, or draws that differ.

    >>> task_loss = lambda params, target, key: ((params.slow - target) ** 2 / 2, {})
    >>> params = Params({}, jnp.array(3.0))
    >>> found = measure_noise(task_loss, params, jnp.array([0.0, 2.0]), jax.random.key(0))
    >>> found.signal, found.of_tasks, found.of_draws
    (3.0, 2.0, 0.0)

    Source: McCandlish et al. 2018, arXiv 1812.06162, whose critical batch size counts examples.
    """
    check_weights(params)
    number = count_tasks(tasks)
    if number == 1 and draws == 1:
        raise ValueError("Noise needs two tasks or more, or draws=2 or more.")
    keys = jax.vmap(lambda key: jax.random.split(key, draws))(jax.random.split(key, number))
    gradients = _gradients(task_loss, params, tasks, keys)
    if not np.isfinite(gradients).all():
        raise ValueError("The gradient of a task is not finite; see check_meta_gradient.")
    rounding = math.nan
    if double:
        if draws == 1 or np.ptp(gradients, axis=1).any():
            raise ValueError(
                "double=True needs draws=2 or more and gradients that do not depend on the key."
            )
        rounding = _rounding(task_loss, params, tasks, keys, gradients)
    of_draws = of_means = math.nan
    if draws > 1:
        of_draws = float(gradients.var(axis=1, ddof=1).mean(axis=0).sum())
    of_tasks = math.nan
    if number > 1:
        of_means = float(gradients.mean(axis=1).var(axis=0, ddof=1).sum())
        of_tasks = max(0.0, of_means - float(np.nan_to_num(of_draws)) / draws)
    variance_of_mean = of_means / number if number > 1 else of_draws / draws
    signal = float((gradients.mean(axis=(0, 1)) ** 2).sum()) - variance_of_mean
    return GradientNoise(signal, of_tasks, of_draws, rounding)


def _gradients(task_loss: TaskLoss, params: Params, tasks: PyTree, keys: Array) -> np.ndarray:
    """The gradient of every task with every key, float64[tasks, draws, weights]."""

    def of_task(task: Any, keys: Array) -> Array:
        value = lambda params, key: check_loss_value(task_loss(params, task, key))

        def of_key(key: Array) -> Array:
            leaves = jax.tree.leaves(jax.grad(value)(params, key))
            return jnp.concatenate([jnp.ravel(leaf) for leaf in leaves])

        return jax.lax.map(of_key, keys)

    run = jax.jit(lambda tasks, keys: jax.lax.map(lambda pair: of_task(*pair), (tasks, keys)))
    return np.asarray(run(tasks, keys), np.float64)


def _rounding(
    task_loss: TaskLoss, params: Params, tasks: PyTree, keys: Array, gradients: np.ndarray
) -> float:
    """Relative difference of the mean gradient from that in float64."""
    if any(leaf.dtype != jnp.float32 for leaf in jax.tree.leaves(params)):
        raise ValueError("double=True compares float32 with float64; give params in float32.")
    with jax.enable_x64(True):
        wide = lambda leaf: leaf.astype(jnp.float64) if leaf.dtype == jnp.float32 else leaf
        wide_params, wide_tasks = jax.tree.map(wide, (params, tasks))
        exact = _gradients(task_loss, wide_params, wide_tasks, keys)
    difference = gradients.mean(axis=(0, 1)) - exact.mean(axis=(0, 1))
    return float(np.linalg.norm(difference) / np.linalg.norm(exact.mean(axis=(0, 1))))
