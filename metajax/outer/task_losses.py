"""What the outer loop descends: the loss of a whole task as a function of the meta-parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from metajax._checks import shapes
from metajax._tree import concatenate, count_rows, reference_rows, row_weights
from metajax.types import (
    Adaptation,
    Array,
    Batch,
    Loss,
    Metrics,
    Modalities,
    Params,
    Task,
    TaskLoss,
)


def query_loss(
    adaptation: Adaptation,
    loss: Loss,
    *,
    inductive: bool = False,
    step_weights: Callable[[Any], Array] | None = None,
) -> TaskLoss:
    """Adapts on the support set and takes the loss of the query set: L(adapt(params, support), query).

    Args:
        adaptation: how the fast weights are rewritten.
        loss: (params, batch, key) -> (scalar, metrics). It gets a key, so dropout is on in both passes; to judge
            without, build the loss and the adaptation on an `apply` that drops the key.
        inductive: whether normalisation statistics of the query pass come from the support set only, so that the
            answer to one query does not depend on the others. False is transductive, as MAML was published; Reptile's
            published figures on Omniglot differ by 0.5 to 2.3 points between the two, so say which one yours are. The
            loss must count by `batch.weight` and hand on `batch.reference`, as those of `metajax.losses` do.
        step_weights: task.context -> [steps], how much the query loss after each step of an adaptation with `path=True`
            counts: Σₖ wₖ L(θₖ, query), the multi-step loss of MAML++ (Antoniou et al. 2019, arXiv 1810.09502). Metrics
            are those of the last step. `lambda context: weights` where they never change.

    Raises:
        ValueError: step_weights without a path, or a path without them; when traced, step_weights of another shape than
            [steps], or if support and query differ in structure, dtype or shape of an example.
    """
    if adaptation.path != (step_weights is not None):
        raise ValueError(
            "query_loss(step_weights=...) and inner_loop(path=True) need each other; give both or neither."
        )

    def task_loss(params: Params, task: Task, key: Array) -> tuple[Array, Metrics]:
        _check_alike(task)
        adapt_key, query_key = jax.random.split(key)
        adapted = adaptation.adapt(params, task.support, adapt_key)
        query = _after_support(task.support, task.query) if inductive else task.query
        if step_weights is None:
            return loss(adapted, query, query_key)
        counts, steps = step_weights(task.context), len(jax.tree.leaves(adapted.fast)[0])
        if jnp.shape(counts) != (steps,):
            raise ValueError(
                f"step_weights must give shape ({steps},), one for each step, got {jnp.shape(counts)}."
            )
        losses, metrics = jax.vmap(
            lambda fast: loss(adapted._replace(fast=fast), query, query_key)
        )(adapted.fast)
        return (losses * counts).sum(), jax.tree.map(lambda leaf: leaf[-1], metrics)

    return task_loss


def reptile(adaptation: Adaptation) -> TaskLoss:
    """A task loss whose gradient is Reptile's direction: ½|θ - θ'|² with θ' = adapt(θ) held constant.

    Its gradient with respect to the fast weights is θ - θ', so `outer_loop(reptile(...), optax.sgd(ε))` moves the start
    a fraction ε toward the mean of the adapted weights. The inner loop may be `first_order()`, for no derivative passes
    through it. Adapts on the support set; the query set is not read.

    Raises:
        ValueError: when traced, slow weights or a rule, which would never be trained, or an adaptation that changes
            the shapes of the fast weights.

    Source: Nichol, Achiam and Schulman 2018, arXiv 1803.02999.
    """

    def task_loss(params: Params, task: Task, key: Array) -> tuple[Array, Metrics]:
        if jax.tree.leaves((params.slow, params.rule)):
            raise ValueError(
                "Reptile trains fast weights only; make all of the net fast, and use no learned rule."
            )
        adapted = jax.lax.stop_gradient(adaptation.adapt(params, task.support, key).fast)
        if shapes(adapted) != shapes(params.fast):
            raise ValueError(
                "Reptile needs an adaptation that keeps the shapes of the fast weights: an inner_loop."
            )
        squares = jax.tree.map(lambda start, end: ((start - end) ** 2).sum(), params.fast, adapted)
        return 0.5 * sum(jax.tree.leaves(squares), jnp.zeros(())), {}

    return task_loss


def supervised(loss: Loss) -> TaskLoss:
    """Ordinary training, on batches in the place of tasks: the pretraining of transfer learning.

    Feed it `data.batches`: the union of all classes, one head for all of them.

    Raises:
        ValueError: when traced, if it is given a `Task`.
    """

    def task_loss(params: Params, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        if not isinstance(batch, Batch):
            raise ValueError(
                f"supervised() trains on a Batch, got {type(batch).__name__}; sample with data.batches."
            )
        return loss(params, batch, key)

    return task_loss


def _after_support(support: Batch, query: Batch) -> Batch:
    """Support rows that count nothing but give the statistics, then query rows that count and give none."""
    reference = reference_rows(support)
    reference = jnp.ones(count_rows(support), bool) if reference is None else reference > 0
    return concatenate(
        support._replace(weight=jnp.zeros(count_rows(support), jnp.float32), reference=reference),
        query._replace(
            weight=row_weights(query),
            reference=jnp.zeros(count_rows(query), bool),
            info=support.info,
        ),
    )


def _check_alike(task: Task) -> None:
    """Fails where an example of the support set is not of the same kind as one of the query set."""
    if isinstance(task.support.x, Modalities) and isinstance(task.query.x, Modalities):
        names = [sorted(batch.x.value) for batch in (task.support, task.query)]
        if names[0] != names[1]:
            raise ValueError(
                f"The support set has the modalities {names[0]}, the query set {names[1]}; name all of them in both, "
                "with present set to False where one is missing."
            )
    support, query = (
        jax.tree.map(
            lambda leaf: f"{jnp.result_type(leaf)}{list(jnp.shape(leaf)[1:])}", (batch.x, batch.y)
        )
        for batch in (task.support, task.query)
    )
    if support != query:
        raise ValueError(f"Support and query examples must be alike, got {support=} and {query=}.")
