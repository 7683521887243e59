"""Compares modalities, and ways to weigh them, by their accuracy in many tasks."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax._checked import checked
from metajax._checks import check_counts, not_classes
from metajax._tree import keep_rows, row_weights
from metajax.modalities.encoding import Encode
from metajax.modalities.measurement import (
    count_shots,
    encode_tasks,
    first_shots,
    grid_accuracies,
    learned_weights,
    simplex_grid,
)
from metajax.outer.evaluation import Summary, summarize
from metajax.types import Array, Modalities, Params, Task

ROWS = ("equal", "static", "learned", "chosen", "oracle")
"""The rows of a ruler after those of the modalities."""

LEAK = 0.15
"""A warning is given where validation tasks are easier than test tasks by more than this."""


class Ruler(NamedTuple):
    """What `ruler` measured. Accuracies are fractions.

    Attributes:
        accuracy: {row: Summary over test tasks}. The rows are each modality by its name, then
            "equal", "static", "learned", "chosen" and "oracle". All rows are of the same tasks, so
            `per_task` of two rows can be subtracted.
        best_single: the modality that was best on the validation tasks.
        static: {name: weight}, chosen on the validation tasks. The weights sum to 1.
        learned: {name: [test tasks]}, the learned weights. Those of a task sum to 1.
        shots: number of shots that all of this was measured with.
        curve: {shots: accuracy of the best single modality with this number of shots}.
    """

    accuracy: dict[str, Summary]
    best_single: str
    static: dict[str, float]
    learned: dict[str, Array]
    shots: int
    curve: dict[int, Summary]

    def against(self, row: str, other: str) -> Summary:
        """The paired difference of two rows: the accuracy of the first minus that of the other."""
        return summarize(self.accuracy[row].per_task - self.accuracy[other].per_task)

    def gap_closed(self) -> float:
        """The share of the oracle's gain over the best single modality that learned weights reach.

        It is NaN where the oracle gains nothing.
        """
        single = float(self.accuracy[self.best_single].mean)
        learned = float(self.accuracy["learned"].mean)
        oracle = float(self.accuracy["oracle"].mean)
        return (learned - single) / (oracle - single) if oracle > single else float("nan")

    def shots_equivalent(self) -> float:
        """The shots of the best single modality that reach the accuracy of learned weights.

        It is where `curve` first reaches this accuracy, linear between its points: 0 if the first
        point already lies above it, and infinite if no point reaches it.
        """
        curve: dict[float, float] = {
            shots: float(summary.mean) for shots, summary in self.curve.items()
        }
        return first_crossing(curve, float(self.accuracy["learned"].mean))


@checked
def first_crossing(curve: Mapping[float, float], target: float) -> float:
    """Where a curve {x: y} first reaches a target, linear between its points.

    It is 0 if the first point already lies above the target, and infinite if no point reaches it.

    Raises:
        ValueError: a curve without points.

    >>> first_crossing({1: 0.5, 2: 0.7, 4: 0.6}, 0.6)
    1.5
    """
    if not curve:
        raise ValueError("A curve must have at least one point, got none.")
    (x, y), *points = sorted(curve.items())
    if y > target:
        return 0.0
    if y == target:
        return float(x)
    for next_x, next_y in points:
        if next_y >= target:
            return x + (next_x - x) * (target - y) / (next_y - y)
        x, y = next_x, next_y
    return float("inf")


@checked
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
    """Compares ways to weigh modalities, on features that are already trained.

    Use it to see whether a distribution of tasks gains from several modalities, and from learned
    weights. A task is classified by nearest class means in each modality and a weighted sum of
    their scores (`modal_prototypes`, `late_head`). The rows of the result are

    - each modality alone;
    - "equal": the plain sum of scores, so bring them to one scale in `encode`;
    - "static": the point of a grid over the simplex that is best on the validation tasks;
    - "learned": `support_weights`, trained on the validation tasks, on features whose scale
      calibrates the sum of scores there, so that the scale of the features does not matter;
    - "chosen": the best single modality or the learned weights, whichever is better on the
      validation tasks. It is what to use;
    - "oracle": for each test task the point of the grid that classifies its query set best. It has
      seen the query labels, so it is an upper bound for weights from this grid.

    Equal weights are a point of the grid. An encoder that normalises by batch takes its statistics
    from the shots that count, and from the query set: it is transductive.

    It trains and chooses, and compiles its own parts: do not call it under `jax.jit`.

    Args:
        encode: (params, x, key, reference=...) -> {name: [examples, d]}.
        params: of `encode`.
        validation: tasks along the leading axis, of classes that the features were not trained on.
        test: tasks along the leading axis, of yet other classes.
        key: for the training of the learned weights.
        ways: number of classes in a task.
        shots: numbers of support examples of each class to measure with. The tasks must have at
            least as many. `Ruler.curve` has the powers of two up to the shots of the test tasks.
        grid: number of steps on each edge of the simplex.
        steps: outer steps of Adam, 32 tasks each, for the learned weights.
        tasks_at_once: tasks in one vmap of the encoders.

    Returns:
        {shots: Ruler}.

    Raises:
        ValueError: tasks that have fewer than two modalities, different modalities, a modality with
            the name of a row, features that are not finite, labels that are no class, or fewer
            shots of a class than asked for; ways, grid or steps below 1.
    """
    check_counts(ways=ways, grid=grid, steps=steps)
    names = _check_names(validation, test)
    most_shots = _check_shots(validation, test, ways, shots)
    points_GxM = simplex_grid(len(names), grid)

    features, grid_of, learn = _programs(
        encode,  # type: ignore[arg-type]  # a function can be hashed
        tuple(names),
        ways,
        grid,
        steps,
        tasks_at_once,
    )

    powers = [2**power for power in range(most_shots.bit_length())]
    numbers = sorted({*shots, *powers, most_shots})
    test_features = {number: features(params, test, number) for number in numbers}
    _check_finite("test", test_features[most_shots])
    _check_finite("validation", features(params, validation, most_shots))
    test_grids = {number: grid_of(tasks) for number, tasks in test_features.items()}

    measured = {}
    for number, learn_key in zip(shots, jax.random.split(key, len(shots)), strict=True):
        validation_features = features(params, validation, number)
        validation_G = grid_of(validation_features).mean(axis=0)
        learned = learn(validation_features, test_features[number], learn_key)
        _warn_of_leak(number, validation_G, test_grids[number].mean(axis=0))
        measured[number] = _ruler(names, points_GxM, validation_G, test_grids, learned, number)
    return measured


@functools.lru_cache(maxsize=8)
def _programs(
    encode: Encode, names: tuple[str, ...], ways: int, grid: int, steps: int, tasks_at_once: int
) -> tuple[Callable[..., Task], Callable[..., Array], Callable[..., tuple[Array, Array, Array]]]:
    """What `ruler` compiles: features, accuracies of the grid, learned weights.

    They are kept, so that a second call with the same encoder compiles nothing.
    """
    points_GxM = jnp.asarray(simplex_grid(len(names), grid))

    @jax.jit
    def features(params: Params, tasks: Task, number: Array) -> Task:
        fewer = jax.vmap(lambda task: first_shots(task, number, ways))(tasks)
        return encode_tasks(encode, params, fewer, tasks_at_once=tasks_at_once)

    grid_of = jax.jit(functools.partial(grid_accuracies, names, ways, points_GxM))
    learn = jax.jit(functools.partial(learned_weights, names, ways, steps))
    return features, grid_of, learn


def _warn_of_leak(shots: int, validation_G: Array, test_G: Array) -> None:
    """Warns where validation tasks are much easier than test tasks."""
    validation, test = float(validation_G.max()), float(test_G.max())
    if validation - test > LEAK:
        warnings.warn(
            f"With {shots} shots, the best weights of the grid have an accuracy of "
            f"{validation:.2f} on the validation tasks and {test:.2f} on the test tasks. If rows "
            "or classes of the validation tasks were used to train the encoder, what is chosen "
            "and learned on them is not what is best for new tasks; draw them from classes of "
            "their own.",
            stacklevel=3,
        )


def _check_finite(part: str, tasks: Task) -> None:
    """Checks the features of all modalities where they are present: with NaN, none is the largest.

    Args:
        part: of the tasks, for the message.
        tasks: tasks of features, along the leading axis.
    """
    for batch in (tasks.support, tasks.query):
        counts_TxN = jax.vmap(row_weights)(batch) > 0
        for name, features_TxNxD in batch.x.value.items():
            given_TxN = batch.x.present[name] & counts_TxN
            is_bad = ~jnp.isfinite(keep_rows(given_TxN, features_TxNxD)).all(axis=(1, 2))
            if is_bad.any():
                raise ValueError(
                    f"The features of {name!r} are not finite in {int(is_bad.sum())} {part} tasks, "
                    f"the first of which is {int(is_bad.argmax())}; mend the encoder or the data, "
                    "or mark the modality as absent there."
                )


def _check_names(validation: Task, test: Task) -> list[str]:
    """The names of the modalities, after a check that all tasks have the same ones."""
    for tasks in (validation, test):
        x = tasks.support.x
        if not isinstance(x, Modalities) or len(x.value) < 2:
            raise ValueError(
                "The ruler compares modalities: x of the tasks must be a Modalities of two or more."
            )
    names, others = sorted(test.support.x.value), sorted(validation.support.x.value)
    if names != others or set(names) & set(ROWS):
        raise ValueError(
            f"Validation and test tasks need the same modalities, none called {ROWS}; got {names} "
            f"in the test and {others} in the validation tasks."
        )
    return names


def _check_shots(validation: Task, test: Task, ways: int, shots: Sequence[int]) -> int:
    """The number of shots of the test tasks, after a check that all tasks have enough."""
    for tasks in (validation, test):
        for batch in (tasks.support, tasks.query):
            weight = jnp.ones(batch.y.shape) if batch.weight is None else batch.weight
            not_classes(batch.y.reshape(-1), ways, weight.reshape(-1))
    number, other = count_shots(test, ways), count_shots(validation, ways)
    if not shots or not 1 <= min(shots) <= max(shots) <= min(number, other):
        raise ValueError(
            f"{shots=} must be 1 to the {other} and {number} shots of validation and test tasks."
        )
    return number


def _ruler(
    names: list[str],
    points_GxM: np.ndarray,
    validation_G: Array,
    test_grids: dict[int, Array],
    learned: tuple[Array, Array, Array],
    shots: int,
) -> Ruler:
    """The ruler of one number of shots, from the accuracies of the points of the grid."""
    column = {name: int(points_GxM[:, m].argmax()) for m, name in enumerate(names)}
    best_single = max(names, key=lambda name: float(validation_G[column[name]]))
    static = int(validation_G.argmax())
    learned_on_validation_T, learned_T, weights_TxM = learned
    is_learned_better = learned_on_validation_T.mean() > validation_G[column[best_single]]
    test_TxG = test_grids[shots]
    per_task = {name: test_TxG[:, column[name]] for name in names}
    per_task["equal"] = test_TxG[:, -1]
    per_task["static"] = test_TxG[:, static]
    per_task["learned"] = learned_T
    per_task["chosen"] = learned_T if is_learned_better else per_task[best_single]
    per_task["oracle"] = test_TxG.max(axis=1)
    curve = {number: test_TxG[:, column[best_single]] for number, test_TxG in test_grids.items()}
    return Ruler(
        accuracy={row: summarize(values_T) for row, values_T in per_task.items()},
        best_single=best_single,
        static=dict(zip(names, points_GxM[static].tolist(), strict=True)),
        learned=dict(zip(names, weights_TxM.T, strict=True)),
        shots=shots,
        curve={number: summarize(values_T) for number, values_T in curve.items()},
    )


@checked
def ruler_table(measured: Ruler) -> str:
    """The rows of a ruler as text, with intervals and the difference from the best single modality.

    >>> row = summarize(jnp.array([0.5, 0.7]))
    >>> rows = {name: row for name in ("image", "audio", *ROWS)}
    >>> one = Ruler(rows, "image", {"image": 1.0, "audio": 0.0}, {}, 1, {1: row})
    >>> print(ruler_table(one).splitlines()[0])
    1 shot                accuracy, %   minus image
    """
    shots = "1 shot" if measured.shots == 1 else f"{measured.shots} shots"
    lines = [f"{shots:<20}{'accuracy, %':>13}   minus {measured.best_single}"]
    for row, summary in measured.accuracy.items():
        paired = measured.against(row, measured.best_single)
        mean, interval = 100 * summary.mean, 100 * summary.interval
        difference, width = 100 * paired.mean, 100 * paired.interval
        lines.append(f"{row:<20}{mean:>7.1f} ± {interval:>3.1f}   {difference:+.1f} ± {width:.1f}")
    return "\n".join(lines)
