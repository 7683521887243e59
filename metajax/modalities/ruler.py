"""The ruler: what each modality is worth in a distribution of tasks, and what is gained by weighing them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metajax._adaptation import chain
from metajax._evaluate import Summary, summarize
from metajax._outer_loop import count_tasks, outer_loop
from metajax._task_losses import episode
from metajax._tree import references
from metajax._types import Array, Batch, Modalities, Params, Task
from metajax.losses import cross_entropy
from metajax.modalities.late import Encode, late_head, modal_prototypes, scores
from metajax.modalities.weights import support_weights


class Ruler(NamedTuple):
    """What `ruler` measured; accuracies are fractions.

    Attributes:
        accuracy: {row: Summary over test tasks}: each modality by its name, then "equal", "static", "learned" and
            "oracle"; `per_task` of any two rows are of the same tasks.
        best_single: the modality that was best on the validation tasks.
        static: {name: weight}, chosen on the validation tasks; weights sum to 1.
        learned: {name: [test tasks]}, the learned weights of each test task, which sum to 1.
        shots: the number of shots of all of the above.
        curve: {shots: accuracy of the best single modality with so many}.
    """

    accuracy: dict[str, Summary]
    best_single: str
    static: dict[str, float]
    learned: dict[str, Array]
    shots: int
    curve: dict[int, Summary]

    def against(self, row: str, other: str) -> Summary:
        """The paired difference of two rows, accuracy of the first minus that of the second."""
        return summarize(self.accuracy[row].per_task - self.accuracy[other].per_task)

    def gap_closed(self) -> float:
        """The share of what the oracle gains over the best single modality that the learned weights gain."""
        single, learned, oracle = (self.accuracy[r].mean for r in (self.best_single, "learned", "oracle"))
        return float((learned - single) / (oracle - single))

    def shots_equivalent(self) -> float:
        """How many shots of the best single modality are worth `shots` of all, weighed by what was learned.

        By linear interpolation of `curve`; infinite where no number of shots in it is enough.
        """
        shots, means = list(self.curve), [float(summary.mean) for summary in self.curve.values()]
        target = float(self.accuracy["learned"].mean)
        return float(np.interp(target, np.maximum.accumulate(means), shots, right=np.inf))


def ruler(
    encode: Encode,
    params: Params,
    validation: Task,
    test: Task,
    key: Array,
    *,
    ways: int,
    shots: Sequence[int] = (1, 5),
    grid: int = 10,
    steps: int = 400,
    tasks_at_once: int = 16,
) -> dict[int, Ruler]:
    """Measures every modality alone, equal, static, learned and oracle weights, on features that are already trained.

    A task is answered by nearest class means in each modality and a weighted sum of their scores (`modal_prototypes`,
    `late_head`). Static weights are the point of a grid over the simplex that is best on the validation tasks; learned
    ones come from the support set by `support_weights`, trained on the validation tasks; the oracle takes for each test
    task the point of the grid that answers its queries best, so it has seen their labels. "equal" adds the scores as
    they are: bring them to one scale in `encode`.

    Args:
        encode: (params, x, key, reference=...) -> {name: [examples, d]}.
        params: of `encode`.
        validation: tasks along the leading axis, of classes that the features were not trained on.
        test: tasks along the leading axis, of classes that are in neither.
        key: for the training of the learned weights.
        ways: number of classes in a task.
        shots: numbers of support examples of each class to measure with; the tasks have as many or more, and `curve`
            goes through all of those of the test tasks.
        grid: points on each edge of the simplex, less one.
        steps: outer steps of Adam, 32 tasks each, for the learned weights.
        tasks_at_once: tasks in one vmap of the encoders.

    Raises:
        ValueError: tasks without several modalities, or with fewer shots than asked for; `grid` or `steps` below 1.

    Returns:
        {shots: Ruler}.

    Not under `jax.jit`: it trains and chooses, and compiles its own parts.
    """
    if not isinstance(test.support.x, Modalities) or len(test.support.x.value) < 2:
        raise ValueError("The ruler compares modalities: x of the tasks must be a Modalities of two or more.")
    if grid < 1 or steps < 1:
        raise ValueError(f"{grid=} and {steps=} must be 1 or more.")
    names = sorted(test.support.x.value)
    embedded = [_embed(encode, params, tasks, tasks_at_once) for tasks in (validation, test)]
    most = [int((tasks.support.y[0] == 0).sum()) for tasks in embedded]
    if not 1 <= min(shots) <= max(shots) <= min(most):
        raise ValueError(f"{shots=} must be 1 to the {most[0]} and {most[1]} shots of validation and test tasks.")
    simplex_GxM = _simplex(len(names), grid)
    points_GxM = jnp.asarray(np.concatenate([simplex_GxM, np.ones((1, len(names)))]))  # the last one is "equal"
    judge = jax.jit(lambda tasks, number: _grid_accuracy(names, ways, points_GxM, tasks, number))
    curve_TxG = {number: judge(embedded[1], number) for number in range(1, most[1] + 1)}
    corner = {name: int(simplex_GxM[:, m].argmax()) for m, name in enumerate(names)}
    measured = {}
    for number in shots:
        validated_G, tested_TxG = judge(embedded[0], number).mean(axis=0), curve_TxG[number]
        best_single = max(names, key=lambda name: validated_G[corner[name]])
        static = int(validated_G[:-1].argmax())
        learned_T, weights_TxM = _learn(names, ways, embedded[0], embedded[1], number, steps, key)
        accuracy = {name: tested_TxG[:, corner[name]] for name in names}
        accuracy |= {"equal": tested_TxG[:, -1], "static": tested_TxG[:, static], "learned": learned_T}
        accuracy["oracle"] = tested_TxG[:, :-1].max(axis=1)
        measured[number] = Ruler(
            accuracy={row: summarize(per_task) for row, per_task in accuracy.items()},
            best_single=best_single,
            static=dict(zip(names, simplex_GxM[static].tolist(), strict=True)),
            learned=dict(zip(names, weights_TxM.T, strict=True)),
            shots=number,
            curve={k: summarize(per_TxG[:, corner[best_single]]) for k, per_TxG in curve_TxG.items()},
        )
    return measured


def ruler_table(measured: Ruler) -> str:
    """The rows of a ruler in text, with intervals and the paired difference from the best single modality.

    >>> row = summarize(jnp.array([0.5, 0.7]))
    >>> names = ("image", "audio", "equal", "static", "learned", "oracle")
    >>> one = Ruler({name: row for name in names}, "image", {"image": 1.0, "audio": 0.0}, {}, 1, {1: row})
    >>> print(ruler_table(one).splitlines()[0])
    1 shot                accuracy, %   minus image
    """
    shots = f"{measured.shots} shot{'s' * (measured.shots > 1)}"
    lines = [f"{shots:<20}{'accuracy, %':>13}   minus {measured.best_single}"]
    for row, summary in measured.accuracy.items():
        paired = measured.against(row, measured.best_single)
        values = (100 * value for value in (summary.mean, summary.interval, paired.mean, paired.interval))
        lines.append("{:<20}{:>7.1f} ± {:>3.1f}   {:+.1f} ± {:.1f}".format(row, *values))
    return "\n".join(lines)


def _embed(encode: Encode, params: Params, tasks: Task, tasks_at_once: int) -> Task:
    """The same tasks with features in the place of inputs."""

    def run(params: Params, tasks: Task) -> Task:
        def embed(task: Task) -> Task:
            return Task(features(task.support), features(task.query))

        def features(batch: Batch) -> Batch:
            made = encode(params, batch.x, None, reference=references(batch))
            return batch._replace(x=Modalities(made, batch.x.present), info=())

        return jax.lax.map(embed, tasks, batch_size=tasks_at_once)

    return jax.jit(run)(params, tasks)


def _known(params: Params, x: Modalities, key: Array | None = None, *, reference: Array | None = None) -> Any:
    """The encoder of what is encoded already."""
    return x.value


def _first(task: Task, shots: int | Array, ways: int) -> Task:
    """The task with weight 0 for the support examples after the first `shots` of each class."""
    classes_NxW = jax.nn.one_hot(task.support.y, ways, dtype=jnp.int32)
    rank_N = (jnp.cumsum(classes_NxW, axis=0) * classes_NxW).sum(axis=1)
    given = 1.0 if task.support.weight is None else task.support.weight
    return task._replace(support=task.support._replace(weight=given * (rank_N <= shots)))


def _grid_accuracy(names: list[str], ways: int, points_GxM: Array, tasks: Task, shots: int | Array) -> Array:
    """Accuracy [tasks, points] of every point of the grid in every task."""

    def one(task: Task) -> Array:
        task = _first(task, shots, ways)
        head = modal_prototypes(_known, ways).adapt(Params({}, ()), task.support, jax.random.key(0)).fast["head"]
        says = scores(task.query.x.value, task.query.x.present, head)
        says_MxQxW = jnp.stack([says[name] for name in names])
        logits_GxQxW = jnp.einsum("gm,mqw->gqw", points_GxM.astype(says_MxQxW.dtype), says_MxQxW)
        right_GxQ = (logits_GxQxW + head["prior"][None, None]).argmax(axis=2) == task.query.y[None]
        return right_GxQ.mean(axis=1)

    return jax.vmap(one)(tasks)


def _learn(
    names: list[str], ways: int, validation: Task, test: Task, shots: int, steps: int, key: Array
) -> tuple[Array, Array]:
    """Accuracy [test tasks] of learned weights, and the weights [test tasks, modalities] themselves."""
    adaptation = chain(support_weights(_known, ways), modal_prototypes(_known, ways))
    task_loss = episode(adaptation, cross_entropy(late_head(_known)))
    init_key, key = jax.random.split(key)
    params = adaptation.init(Params({"weights": dict.fromkeys(names, 0.0)}, ()), init_key)
    outer = outer_loop(task_loss, optax.adam(optax.cosine_decay_schedule(1e-2, steps)))
    # The written weights are no parameters: what stands in their place is only a name for the modalities.
    number, size = count_tasks(validation), min(32, count_tasks(validation))

    def run(state: Any, keys: Array, validation: Task) -> Any:
        def step(state: Any, key: Array) -> tuple[Any, None]:
            rows = jax.random.choice(key, number, (size,), replace=False)
            picked = jax.vmap(lambda task: _first(task, shots, ways))(jax.tree.map(lambda leaf: leaf[rows], validation))
            return outer.step(state, picked, key)[0], None

        return jax.lax.scan(step, state, keys)[0]

    def judge(params: Params, task: Task) -> tuple[Array, Array]:
        task = _first(task, shots, ways)
        adapted = adaptation.adapt(params, task.support, key)
        weights_M = jax.nn.softmax(jnp.stack([adapted.fast["weights"][name] for name in names]))
        return task_loss(params, task, key)[1]["accuracy"], weights_M

    state = jax.jit(run)(outer.init(params), jax.random.split(key, steps), validation)
    return jax.jit(jax.vmap(judge, (None, 0)))(state.params, test)


def _simplex(names: int, grid: int) -> np.ndarray:
    """All weights [points, names] that are multiples of 1/grid and sum to 1."""
    parts = itertools.product(range(grid + 1), repeat=names - 1)
    inside = np.array([part for part in parts if sum(part) <= grid], float).reshape(-1, names - 1) / grid
    return np.concatenate([inside, 1 - inside.sum(axis=1, keepdims=True)], axis=1)
