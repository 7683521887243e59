"""Controls that show whether the gain of a learner comes from its side information."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from metajax._checked import checked
from metajax._tree import count_tasks, row_weights
from metajax.outer.evaluation import Summary, evaluate
from metajax.types import Array, Batch, Params, PyTree, Size, Task, TaskLoss


@checked
def compare_side_information(
    task_loss: TaskLoss,
    params: Params,
    tasks: Task,
    key: Array,
    *,
    names_only: PyTree | None = None,
    tasks_at_once: Size | None = None,
) -> dict[str, dict[str, Summary]]:
    """Evaluates a learner with its side information, and with controls in place of it.

    Use it before you attribute a result to side information. The rows of the result are

    - "given": the learner as it is;
    - "permuted": each class has the information of the class before it in its task;
    - "random": each class has the information of a class of the task before it;
    - "no shots": all support examples have the weight 0;
    - "names only": with `names_only` as the information, if it is given.

    All rows are of the same tasks, so `per_task` of two rows can be subtracted. If "permuted" and
    "random" are no worse than "given", the learner does not use the information.

    Args:
        task_loss: (params, task, key) -> (scalar, metrics), such as
            `query_loss(adaptive_prototypes(...), loss)`.
        params: what the outer loop learned.
        tasks: two tasks or more along the leading axis, with `support.info`, all of the same number
            of classes: the padding of `info` would be given to classes as information.
        key: as in `evaluate`.
        names_only: [tasks, ways, ...], poorer information of the same structure.
        tasks_at_once: as in `evaluate`.

    Returns:
        {row: {"loss": Summary, and one for each metric}}.

    Raises:
        ValueError: tasks without info, or fewer than two.
    """
    support = tasks.support
    if not jax.tree.leaves(support.info) or count_tasks(tasks) < 2:
        raise ValueError(
            "Controls of side information need two tasks or more, each with support.info."
        )
    no_weight = jax.tree.map(jnp.zeros_like, jax.vmap(row_weights)(support))
    supports = {
        "given": support,
        "permuted": support._replace(info=_roll(support.info, axis=1)),
        "random": support._replace(info=_roll(support.info, axis=0)),
        "no shots": support._replace(weight=no_weight),
    }
    if names_only is not None:
        supports["names only"] = support._replace(info=names_only)

    def summaries(support: Batch) -> dict[str, Summary]:
        changed = tasks._replace(support=support)
        return evaluate(task_loss, params, changed, key, tasks_at_once=tasks_at_once)

    return {row: summaries(support) for row, support in supports.items()}


def _roll(info: PyTree, axis: int) -> PyTree:
    """The information of the class before (axis 1), or of the task before (axis 0)."""
    return jax.tree.map(lambda leaf: jnp.roll(leaf, 1, axis=axis), info)
