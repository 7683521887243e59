"""Batches of the tasks that are expected to be hard."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from metajax._checked import checked
from metajax._checks import check_positive
from metajax._tree import as_floating
from metajax.data.tasks.drawing import at_step, with_step_of
from metajax.types import Array, PyTree, Sample, Size, Task


@checked
def risky_batch(
    sample: Sample[Task],
    risk: Callable[[Any, Task], Array],
    *,
    tasks: Size,
    drawn: Size,
    temperature: float = 1.0,
) -> Sample[Task]:
    """Draws many tasks and keeps those with a high predicted risk, for `outer_loop`.

    Of the drawn tasks, as many as wanted are chosen without replacement, with probabilities in
    proportion to exp(risk / temperature). It stands in the place of `meta_batch`. A uniform choice
    is the control: a temperature of 1e6.

    Args:
        sample: sampler of one task.
        risk: (source, task) -> scalar, the predicted loss. It is run for every drawn task, so it
            should cost little, such as a mean of recent losses by class. Where each class of the
            data set has its number as side information, `task.support.info` has the classes. A task
            whose risk is NaN is kept last.
        tasks: how many to keep.
        drawn: how many to draw, no fewer than `tasks`.
        temperature: in the unit of the risk, above 0. Small ones keep the tasks with most risk.

    Returns:
        Sampler (source, key) -> tasks, leaves [tasks, ...].

    Raises:
        ValueError: fewer tasks drawn than kept, a temperature that is not above 0; when traced, a
            risk that is not one number.
    """
    check_positive("temperature", temperature)
    if drawn < tasks:
        raise ValueError(f"{drawn=} must not be below {tasks=}.")

    @checked
    def sample_risky(source: PyTree, key: Array, *, step: Array | None = None) -> Task:
        draw_key, choice_key = jax.random.split(key)
        keys = jax.random.split(draw_key, drawn)
        found = jax.vmap(at_step(sample, step), (None, 0))(source, keys)
        risks = as_floating(jax.vmap(risk, (None, 0))(source, found))
        if jnp.shape(risks) != (drawn,):
            raise ValueError(f"risk must be one number for each task, got {jnp.shape(risks)[1:]}.")
        noise = jax.random.gumbel(choice_key, (drawn,), risks.dtype)
        scores = jnp.where(jnp.isnan(risks), -jnp.inf, risks / temperature + noise)
        kept = jax.lax.top_k(scores, tasks)[1]
        return jax.tree.map(lambda leaf: leaf[kept], found)

    return with_step_of(sample_risky, sample)
