"""Outer losses of the worst tasks."""

from __future__ import annotations

from typing import Any

import jax

from metajax._checked import checked
from metajax._checks import check_loss_value, check_metric_names
from metajax.outer.task_losses import with_step
from metajax.types import Array, Metrics, Params, TaskLoss


@checked
def tail_loss(task_loss: TaskLoss, share: float, *, entry: str = "tail_threshold") -> TaskLoss:
    """The mean loss of the worst share of the tasks (conditional value at risk), for an outer loop.

    CVaR(L) = min over t of  t + E[max(L - t, 0)] / share.

    The threshold t is learned with the rest. It ends near the loss that a share of the tasks
    exceeds, and a task below it has no gradient. So tasks need not be compared with each other, and
    it works for any batch, in chunks and over devices. Add it to the slow weights before training,
    at about the first loss, with an optimizer that can move it by a few units:

        params._replace(slow={**params.slow, "tail_threshold": jnp.array(1.5)})

    Args:
        task_loss: (params, task, key) -> (scalar, metrics).
        share: of the tasks, above 0 and up to 1. 1 is the mean.
        entry: of the slow weights, where t is.

    Returns:
        A task loss with the metric "task_loss", and those of `task_loss`.

    Raises:
        ValueError: a share that is not above 0 and up to 1; when called, slow weights without the
            entry, or a metric with that name.

    Source: Rockafellar and Uryasev 2000, Journal of Risk 2; for meta-learning, Collins, Mokhtari
    and Shakkottai 2020, arXiv 2002.04766 (the worst task alone).
    """
    if not 0 < share <= 1:
        raise ValueError(f"{share=} must be above 0 and up to 1.")

    @checked
    def tail(
        params: Params, task: Any, key: Array, step: Array | None = None
    ) -> tuple[Array, Metrics]:
        if not isinstance(params.slow, dict) or entry not in params.slow:
            raise ValueError(
                f"params.slow needs an entry {entry!r}, a number near the first loss, such as "
                f"params._replace(slow={{**params.slow, {entry!r}: jnp.array(1.5)}})."
            )
        run = task_loss if step is None else with_step(task_loss, step)
        value, metrics = returned = run(params, task, key)
        check_loss_value(returned)
        check_metric_names(metrics, ["task_loss"])
        threshold = params.slow[entry]
        above = jax.nn.relu(value - threshold) / share
        return threshold + above, {"task_loss": value, **metrics}

    return tail
