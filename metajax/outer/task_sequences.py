"""Tasks that are learned one after the other, and what is forgotten of the earlier ones."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from metajax._checked import checked
from metajax._checks import check_loss_value
from metajax._tree import count_tasks
from metajax.types import Adaptation, Array, Batch, Loss, Metrics, Params, PyTree, Task, TaskLoss


@checked
def continual_loss(adaptation: Adaptation, loss: Loss, *, metric: str = "accuracy") -> TaskLoss:
    """Learns the tasks of a sequence in turn, and asks for all of them after each.

    θₜ = adapt(θₜ₋₁, support of task t),  A[t, j] = metric(θₜ, query of task j)

    The loss is the mean of the query losses after the last task. With `evaluate`, the matrix and
    its summaries have intervals over sequences; with `outer_loop` it is descended.

    Args:
        adaptation: how one task changes the fast weights.
        loss: (params, batch, key) -> (scalar, metrics), of a query set.
        metric: which of the metrics makes the matrix; the larger, the better.

    Returns:
        (params, sequence, key) -> (loss, metrics) with a sequence such as `data.continual` draws,
        leaves [tasks, ...]. The metrics are means over tasks after the last one, and of `metric`

        - "matrix": [tasks, tasks], A. Above the diagonal are tasks that were not yet learned.
        - "learned": the mean of A[j, j], what was known of each task right after it.
        - "forgotten": the mean over all tasks j but the last of maxₜ A[t, j] - A[last, j], with t
          from j to the last but one; 0 of a single task.

    Raises:
        ValueError: when traced, a loss without that metric, or an adaptation with `path`.

    Source: Lopez-Paz and Ranzato 2017, arXiv 1706.08840, for the matrix; Chaudhry et al. 2018,
    arXiv 1801.10112, for forgetting.
    """
    if adaptation.path:
        raise ValueError("continual_loss() takes an adaptation without path=True.")

    @checked
    def task_loss(params: Params, task: Task, key: Array) -> tuple[Array, Metrics]:
        number = count_tasks(task.support)

        def ask(adapted: Params, query: Batch, key: Array) -> tuple[Array, Metrics]:
            returned = loss(adapted, query, key)
            return check_loss_value(returned), returned[1]

        def learn(fast: PyTree, part: tuple[Batch, Array]) -> tuple[PyTree, tuple[Array, Metrics]]:
            support, index = part
            adapt_key, query_key = jax.random.split(jax.random.fold_in(key, index))
            adapted = adaptation.adapt(params._replace(fast=fast), support, adapt_key)
            found = jax.vmap(ask, (None, 0, None))(adapted, task.query, query_key)
            return adapted.fast, found

        parts = task.support, jnp.arange(number)
        _, (losses, metrics) = jax.lax.scan(learn, params.fast, parts)
        if metric not in metrics:
            raise ValueError(f"The loss has no metric {metric!r}, it has {sorted(metrics)}.")
        means = {name: values[-1].mean() for name, values in metrics.items()}
        return losses[-1].mean(), means | _forgetting(metrics[metric])

    return task_loss


def _forgetting(matrix: Array) -> Metrics:
    """What is known and forgotten, of A[t, j], what is known of task j after task t."""
    number = len(matrix)
    learned = jnp.diagonal(matrix).mean()
    if number == 1:
        return {"matrix": matrix, "learned": learned, "forgotten": jnp.zeros_like(learned)}
    was_learned = jnp.tril(jnp.ones((number, number), bool))
    before_last = jnp.where(was_learned, matrix, -jnp.inf)[:-1, :-1].max(axis=0)
    forgotten = (before_last - matrix[-1, :-1]).mean()
    return {"matrix": matrix, "learned": learned, "forgotten": forgotten}
