"""What the outer loop descends: the loss of a whole task as a function of the meta-parameters."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from metajax._checked import checked
from metajax._checks import check_integers, check_no_list, shapes, signed, takes
from metajax._tree import concatenate, count_rows, reference_rows, row_weights
from metajax.types import (
    Adaptation,
    Array,
    Batch,
    Loss,
    Metrics,
    Modalities,
    Params,
    PyTree,
    Task,
    TaskLoss,
)

StepWeights: TypeAlias = Callable[[Array | None], Array]
"""Outer step, or None at the end of training -> weights [inner steps]."""


@checked
def query_loss(
    adaptation: Adaptation,
    loss: Loss,
    *,
    inductive: bool = False,
    step_weights: StepWeights | None = None,
) -> TaskLoss:
    """Adapts to the support set and takes the loss of the query set.

    L(adapt(params, support), query). `adapt_key, query_key = split(key)` are the keys of the two.

    Args:
        adaptation: how the fast weights are rewritten.
        loss: (params, batch, key) -> (scalar, metrics). It gets a key, so dropout is on in both
            passes. To evaluate without dropout, build the loss and the adaptation on
            `nets.deterministic(apply)`.
        inductive: whether normalisation statistics of the query pass come from the support set
            only, so that the prediction for one query does not depend on the others. False is
            transductive, as MAML was published. Reptile's published figures on Omniglot differ by
            0.5 to 2.3 points between the two, so state which one yours are. The loss must use
            `batch.weight` and hand on `batch.reference`, as `cross_entropy` and `squared_error` do;
            `sequence_cross_entropy` hands on no reference.
        step_weights: outer step -> weights [inner steps] of the query loss after each step of an
            adaptation with `path=True`: Σₖ wₖ L(θₖ, query), the multi-step loss of MAML++. The
            outer step is None in evaluation. Metrics are those of the last inner step.

    Raises:
        ValueError: step_weights without a path, or a path without them; when traced, step_weights
            of another shape than [inner steps], or support and query examples that differ in
            structure, dtype or shape.

    Source: the multi-step loss, Antoniou et al. 2019, arXiv 1810.09502.
    """
    if adaptation.path != (step_weights is not None):
        raise ValueError(
            "query_loss(step_weights=...) and inner_loop(path=True) need each other; give both or "
            "neither."
        )

    @checked
    def task_loss(
        params: Params, task: Task, key: Array, step: Array | None = None
    ) -> tuple[Array, Metrics]:
        check_alike(task)
        adapt_key, query_key = jax.random.split(key)
        adapted = adaptation.adapt(params, task.support, adapt_key)
        query = after_support(task.support, task.query) if inductive else task.query
        if step_weights is None:
            return loss(adapted, query, query_key)
        return _weighted_loss(loss, adapted, query, query_key, step_weights(step))

    return task_loss


@checked
def reptile(adaptation: Adaptation, loss: Loss | None = None) -> TaskLoss:
    """A task loss whose gradient is Reptile's direction.

    It is ½|θ - θ'|² with the adapted weights θ' = adapt(θ) held constant. Its gradient with respect
    to the fast weights is θ - θ', so `outer_loop(reptile(...), optax.sgd(ε))` moves the start a
    fraction ε toward the mean of the adapted weights. No derivative passes through the inner loop,
    so it may be `first_order()`.

    Args:
        adaptation: an `inner_loop`, which adapts to the support set.
        loss: None does not read the query set. With a loss, the metrics are the loss and the
            metrics of the adapted model on the query set, {"query_loss": ...}.

    Raises:
        ValueError: when traced, slow weights or a rule, which would never be trained, or an
            adaptation that changes the shapes of the fast weights.

    Source: Nichol, Achiam and Schulman 2018, arXiv 1803.02999.
    """

    @checked
    def task_loss(params: Params, task: Task, key: Array) -> tuple[Array, Metrics]:
        if jax.tree.leaves((params.slow, params.rule)):
            raise ValueError(
                "Reptile trains fast weights only; make all of the net fast, and use no learned "
                "rule."
            )
        adapted = jax.lax.stop_gradient(adaptation.adapt(params, task.support, key))
        if shapes(adapted.fast) != shapes(params.fast):
            raise ValueError(
                "Reptile needs an adaptation that keeps the shapes of the fast weights: an "
                "inner_loop."
            )
        squares = jax.tree.map(lambda a, b: ((a - b) ** 2).sum(), params.fast, adapted.fast)
        distance = 0.5 * sum(jax.tree.leaves(squares), jnp.zeros(()))
        if loss is None:
            return distance, {}
        value, metrics = loss(adapted, task.query, key)
        return distance, {"query_loss": value, **metrics}

    return task_loss


@checked
def supervised(loss: Loss) -> TaskLoss:
    """Ordinary training on batches in place of tasks: the pretraining of transfer learning.

    Sample with `data.batches`, which draws from the union of all classes, with one head for all.

    Args:
        loss: (params, batch, key) -> (scalar, metrics).

    Raises:
        ValueError: when traced, a `Task` instead of a `Batch`.
    """

    @checked
    def task_loss(params: Params, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        if not isinstance(batch, Batch):
            got = type(batch).__name__
            raise ValueError(
                f"supervised() trains on a Batch, got {got}; sample with data.batches."
            )
        return loss(params, batch, key)

    return task_loss


@checked
def switch_at(at: int, before: TaskLoss, after: TaskLoss) -> TaskLoss:
    """One task loss until an outer step, and another one from then on.

    MAML++ anneals the order of derivatives in this way: `before` is built on `first_order()`, and
    costs no second derivatives while it is in use. In evaluation it is `after`.

    Args:
        at: the first outer step of `after`.
        before: task loss of the outer steps 0 to at - 1.
        after: task loss of the other steps, with the same metrics.

    Source: derivative-order annealing, Antoniou et al. 2019, arXiv 1810.09502.
    """

    @checked
    def task_loss(
        params: Params, task: Any, key: Array, step: Array | None = None
    ) -> tuple[Array, Metrics]:
        if step is None:
            return after(params, task, key)
        branches = [with_step(task_loss, step) for task_loss in (before, after)]
        return jax.lax.cond(step < at, *branches, params, task, key)

    return task_loss


@checked
def with_queries(task: Task) -> Task:
    """The task with its queries in the support set, too, without their labels (transductive).

    The label of a row that stands for a query is -1. An adaptation that reads unlabelled rows, such
    as `soft_kmeans`, then learns from the queries.

    Raises:
        ValueError: labels that are not integers.

    >>> support = Batch(jnp.array([[0.0], [9.0]]), jnp.array([0, 1]))
    >>> query = Batch(jnp.array([[8.0]]), jnp.array([1]))
    >>> with_queries(Task(support, query)).support.y.tolist()
    [0, 1, -1]
    """
    support, query = (part._replace(y=_labels_of(part)) for part in (task.support, task.query))
    unlabelled = query._replace(y=-jnp.ones_like(query.y))
    return task._replace(support=concatenate(support, unlabelled), query=query)


def _labels_of(batch: Batch) -> Array:
    """The labels of a batch in a type that has -1."""
    check_integers("Labels", batch.y, jnp.shape(batch.y))
    return signed(batch.y)


def with_step(task_loss: TaskLoss, step: Array) -> TaskLoss:
    """The task loss at an outer step. A task loss without the keyword `step` stays as it is."""
    if not takes(task_loss, "step"):
        return task_loss
    return functools.partial(task_loss, step=step)  # type: ignore[call-arg]


def after_support(support: Batch, query: Batch) -> Batch:
    """Support rows of weight 0 that give the statistics, then query rows that give none."""
    reference = reference_rows(support)
    if reference is None:
        reference = jnp.ones(count_rows(support), bool)
    silent = support._replace(
        weight=jnp.zeros(count_rows(support), jnp.float32), reference=reference > 0
    )
    asked = query._replace(
        weight=row_weights(query),
        reference=jnp.zeros(count_rows(query), bool),
        info=support.info,
    )
    return concatenate(silent, asked)


def _weighted_loss(
    loss: Loss, adapted: Params, query: Batch, key: Array, weights: Array
) -> tuple[Array, Metrics]:
    """The query loss after every inner step, weighted and added up."""
    steps = len(jax.tree.leaves(adapted.fast)[0])
    if jnp.shape(weights) != (steps,):
        raise ValueError(
            f"step_weights must give shape ({steps},), one for each step, got {jnp.shape(weights)}."
        )
    of_step = lambda fast: loss(adapted._replace(fast=fast), query, key)
    losses, metrics = jax.vmap(of_step)(adapted.fast)
    return (losses * weights).sum(), jax.tree.map(lambda leaf: leaf[-1], metrics)


def check_alike(task: Task) -> None:
    """Checks that support and query examples have the same structure, dtype and shape.

    Raises:
        ValueError: what differs.
    """
    if isinstance(task.support.x, Modalities) and isinstance(task.query.x, Modalities):
        in_support, in_query = sorted(task.support.x.value), sorted(task.query.x.value)
        if in_support != in_query:
            raise ValueError(
                f"The support set has the modalities {in_support}, the query set {in_query}; name "
                "all of them in both, with present set to False where one is missing."
            )
    check_no_list(task.support.x, "x of the support set")
    check_no_list(task.query.x, "x of the query set")
    support = _example_shapes((task.support.x, task.support.y))
    query = _example_shapes((task.query.x, task.query.y))
    if support != query:
        raise ValueError(f"Support and query examples must be alike, got {support=} and {query=}.")


def check_same_scale(support_x: PyTree, x: PyTree) -> None:
    """Checks that inputs are integers where those of the support set are, and floats otherwise.

    Images of uint8 are from 0 to 255, and those of floats from 0 to 1.

    Raises:
        ValueError: the dtypes and shapes of both.
    """
    is_float = lambda leaf: jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
    structures: list[Any] = [jax.tree.structure(tree) for tree in (support_x, x)]
    in_support, in_query = (list(map(is_float, jax.tree.leaves(tree))) for tree in (support_x, x))
    if structures[0] == structures[1] and in_support != in_query:
        support, query = _example_shapes(support_x), _example_shapes(x)
        raise ValueError(f"Support and query examples must be alike, got {support=} and {query=}.")


def _example_shapes(tree: PyTree) -> PyTree:
    """Dtype and shape of one example of each leaf."""
    one = lambda leaf: f"{jnp.result_type(leaf)}{list(jnp.shape(leaf)[1:])}"
    return jax.tree.map(one, tree)
