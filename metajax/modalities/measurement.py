"""The parts of `ruler`: tasks of features, a grid of weights, and weights that are learned."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metajax._checked import checked
from metajax._checks import not_classes
from metajax._tree import as_floating, count_tasks, row_weights
from metajax.inner.chains import chain
from metajax.losses import cross_entropy
from metajax.modalities.encoding import Encode, encode_batch
from metajax.modalities.heads import late_head, modal_prototypes, modal_scores
from metajax.modalities.rows import weighted_mean
from metajax.modalities.weighting import support_weights
from metajax.nets.adapters import identity_encoder
from metajax.outer.outer_loops import State, outer_loop
from metajax.outer.task_losses import query_loss
from metajax.types import Array, Batch, Modalities, Params, PyTree, Size, Task


def count_shots(tasks: Task, ways: int) -> int:
    """The number of support examples that every class of every task has at least.

    Padded rows do not count.

    Args:
        tasks: along the leading axis.
        ways: number of classes.
    """
    classes_TxNxW = jax.nn.one_hot(tasks.support.y, ways)
    valid_TxN = jax.vmap(row_weights)(tasks.support) > 0
    return int((valid_TxN[..., None] * classes_TxNxW).sum(axis=1).min())


@checked
def first_shots(task: Task, shots: int | Array, ways: Size) -> Task:
    """The same task with fewer shots: weight 0 for all support examples after the first of a class.

    Use it to compare numbers of shots on the same tasks. Shapes stay.

    Args:
        task: one task.
        shots: number of support examples of each class that keep their weight.
        ways: number of classes.

    Raises:
        ValueError: labels outside -1 … ways - 1 in rows whose weight is not 0, where they are
            concrete.

    >>> support = Batch(x=jnp.zeros((4, 1)), y=jnp.array([0, 0, 1, 1]))
    >>> first_shots(Task(support, support), 1, ways=2).support.weight.tolist()
    [1.0, 0.0, 1.0, 0.0]
    """
    weight_N = row_weights(task.support)
    not_classes(task.support.y, ways, task.support.weight, least=-1)
    one_hot_NxW = jax.nn.one_hot(task.support.y, ways, dtype=jnp.int32)
    classes_NxW = one_hot_NxW * (weight_N > 0)[:, None]
    rank_N = (jnp.cumsum(classes_NxW, axis=0) * classes_NxW).sum(axis=1)
    return task._replace(support=task.support._replace(weight=weight_N * (rank_N <= shots)))


@checked
def encode_tasks(encode: Encode, params: Params, tasks: Task, *, tasks_at_once: Size = 16) -> Task:
    """The same tasks with features in place of inputs, for a frozen encoder.

    Use it to encode once what several adaptations read; their encoder is then
    `nets.identity_encoder`. `info` is left out, and so is `reference`, because normalisation has
    been done.

    Args:
        encode: (params, x, key, reference=...) -> {name: [examples, d]}. It gets no key.
        params: of `encode`.
        tasks: along the leading axis.
        tasks_at_once: tasks in one vmap of the encoders.

    Raises:
        ValueError: when traced, tasks whose x is not a `Modalities`.
    """

    def with_features(batch: Batch) -> Batch:
        features = encode_batch(encode, params, batch, None)
        x = Modalities(features, batch.x.present)
        return batch._replace(x=x, info=(), reference=None)

    def one(task: Task) -> Task:
        support, query = with_features(task.support), with_features(task.query)
        return task._replace(support=support, query=query)

    return jax.lax.map(one, tasks, batch_size=tasks_at_once)


def simplex_grid(names: int, grid: int) -> np.ndarray:
    """All weights that are multiples of 1/grid and sum to 1, followed by the equal weights.

    Args:
        names: number of modalities.
        grid: number of steps on each edge of the simplex.

    Returns:
        [points, names].

    >>> simplex_grid(2, 2).tolist()
    [[0.0, 1.0], [0.5, 0.5], [1.0, 0.0], [0.5, 0.5]]
    """
    parts = itertools.product(range(grid + 1), repeat=names - 1)
    inside = np.array([part for part in parts if sum(part) <= grid], int).reshape(-1, names - 1)
    last = grid - inside.sum(axis=1, keepdims=True)
    points = np.concatenate([inside, last], axis=1) / grid
    return np.concatenate([points, np.full((1, names), 1 / names)])


def grid_accuracies(names: Sequence[str], ways: int, points_GxM: Array, tasks: Task) -> Array:
    """The accuracy of each point of a grid of weights in each task, with nearest class means.

    Args:
        names: the modalities, in the order of the columns of the grid.
        ways: number of classes.
        points_GxM: weights [points, modalities].
        tasks: tasks of features, along the leading axis.

    Returns:
        [tasks, points].
    """

    def one(task: Task) -> Array:
        scores_MxNxW, prior_W = _query_scores(names, ways, task)
        weighted_GxNxW = jnp.einsum(
            "gm,mnw->gnw", points_GxM.astype(scores_MxNxW.dtype), scores_MxNxW
        )
        predicted_GxN = (weighted_GxNxW + prior_W[None, None]).argmax(axis=2)
        correct_GxN = predicted_GxN == task.query.y[None]
        return jax.vmap(weighted_mean, (0, None))(correct_GxN, row_weights(task.query))

    return jax.vmap(one)(tasks)


def _query_scores(names: Sequence[str], ways: int, task: Task) -> tuple[Array, Array]:
    """(scores of the query set [modalities, examples, ways], prior [ways]) by class means."""
    write = modal_prototypes(identity_encoder, ways)
    adapted = write.adapt(Params({}, ()), task.support, jax.random.key(0))
    head, x = adapted.fast["head"], task.query.x
    scores = modal_scores(x.value, x.present, head)
    return jnp.stack([scores[name] for name in names]), head["prior"]


def calibrated(names: Sequence[str], ways: int, validation: Task) -> Array:
    """The factor of features with which the plain sum of scores is calibrated.

    Scores are squared distances. Those of large features saturate the softmax, and a loss whose
    gradient has vanished teaches nothing; those of small features are all alike. The factor that is
    returned makes the cross-entropy of the validation tasks smallest, among powers of √2 times the
    factor with which scores have the standard deviation 1. So what is learned with it does not
    depend on the scale of the features.

    Args:
        names: the modalities.
        ways: number of classes.
        validation: tasks of features, along the leading axis.

    Returns:
        A scalar c. The scores of features times c are those of the features times c².
    """

    def one(task: Task) -> tuple[Array, Array]:
        scores_MxNxW, prior_W = _query_scores(names, ways, task)
        return scores_MxNxW.sum(axis=0), prior_W

    total_TxNxW, prior_TxW = jax.vmap(one)(validation)
    total_TxNxW = total_TxNxW - total_TxNxW.mean(axis=2, keepdims=True)
    weight_TxN = jax.vmap(row_weights)(validation.query)
    y_TxN = jnp.where(weight_TxN > 0, validation.query.y, 0)  # padding may have any label
    square = weighted_mean((total_TxNxW**2).mean(axis=2).ravel(), weight_TxN.ravel())
    unit = 1 / jnp.sqrt(jnp.where(square > 0, square, 1))

    def loss(power: Array) -> Array:
        logits_TxNxW = 2**power * unit * total_TxNxW + prior_TxW[:, None]
        log_p_TxNxW = jax.nn.log_softmax(logits_TxNxW)
        log_p_TxN = jnp.take_along_axis(log_p_TxNxW, y_TxN[..., None], 2)[..., 0]
        return -weighted_mean(log_p_TxN.ravel(), weight_TxN.ravel())

    powers = jnp.arange(-8.0, 9.0)
    best = powers[jnp.argmin(jax.lax.map(loss, powers))]
    return jnp.sqrt(2**best * unit)


def multiplied(tasks: Task, factor: Array) -> Task:
    """The tasks with all features times a factor."""

    def times(batch: Batch) -> Batch:
        value = {name: as_floating(leaf) for name, leaf in batch.x.value.items()}
        value = {name: leaf * factor.astype(leaf.dtype) for name, leaf in value.items()}
        return batch._replace(x=batch.x._replace(value=value))

    return tasks._replace(support=times(tasks.support), query=times(tasks.query))


def learned_weights(
    names: Sequence[str], ways: int, steps: int, validation: Task, test: Task, key: Array
) -> tuple[Array, Array, Array]:
    """Trains `support_weights` on the validation tasks and applies them to both.

    The features are first multiplied by the factor of `calibrated`.

    Args:
        names: the modalities.
        ways: number of classes.
        steps: outer steps of Adam, 32 tasks each.
        validation: tasks of features, along the leading axis.
        test: tasks of features, along the leading axis.
        key: for the start of the network and the draws of tasks.

    Returns:
        (accuracy [validation tasks], accuracy [test tasks], weights [test tasks, modalities]). The
        weights of a task sum to 1.
    """
    factor = calibrated(names, ways, validation)
    validation, test = multiplied(validation, factor), multiplied(test, factor)
    init_key, train_key, test_key = jax.random.split(key, 3)
    encode = identity_encoder
    adaptation = chain(support_weights(encode, ways), modal_prototypes(encode, ways))
    task_loss = query_loss(adaptation, cross_entropy(late_head(encode)))
    start = Params({"modality_weights": dict.fromkeys(names, 0.0)}, ())
    outer = outer_loop(task_loss, optax.adam(optax.cosine_decay_schedule(1e-2, steps)))

    number = count_tasks(validation)
    size = min(32, number)

    def step(state: State, key: Array) -> tuple[State, None]:
        row_key, step_key = jax.random.split(key)
        rows = jax.random.choice(row_key, number, (size,), replace=False)
        tasks = jax.tree.map(lambda leaf: leaf[rows], validation)
        state, _ = outer.step(state, tasks, step_key)
        return state, None

    state: PyTree = outer.init(adaptation.init(start, init_key))
    state, _ = jax.lax.scan(step, state, jax.random.split(train_key, steps))

    def measure(task: Task) -> tuple[Array, Array]:
        adapted = adaptation.adapt(state.params, task.support, test_key)
        log_weights = adapted.fast["modality_weights"]
        weights_M = jax.nn.softmax(jnp.stack([log_weights[name] for name in names]))
        _, metrics = task_loss(state.params, task, test_key)
        return metrics["accuracy"], weights_M

    on_validation_T, _ = jax.vmap(measure)(validation)
    return on_validation_T, *jax.vmap(measure)(test)
