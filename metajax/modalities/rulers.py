"""The ruler: what each modality is worth in a distribution of tasks, and what is gained by weighing them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax.modalities.heads import Encode
from metajax.modalities.measurement import (
    count_shots,
    encode_tasks,
    grid_accuracy,
    learn_weights,
    simplex,
)
from metajax.outer.evaluation import Summary, summarize
from metajax.types import Array, Modalities, Params, Task

ROWS = ("equal", "static", "learned", "oracle")
"""The rows of a ruler besides the modalities."""


class Ruler(NamedTuple):
    """What `ruler` measured; accuracies are fractions.

    Attributes:
        accuracy: {row: Summary over test tasks}: each modality by its name, then "equal", "static", "learned" and
            "oracle"; `per_task` of any two rows are of the same tasks.
        best_single: the modality that was best on the validation tasks.
        static: {name: weight}, chosen on the validation tasks; weights sum to 1.
        learned: {name: [test tasks]}, the learned weights of each test task, which sum to 1.
        shots: the number of shots of all of the above.
        curve: {shots: accuracy of the best single modality with so many}, by powers of two.
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
        """The share of the oracle's gain over the best single modality that learned weights have, or NaN."""
        single, learned, oracle = (
            float(self.accuracy[r].mean) for r in (self.best_single, "learned", "oracle")
        )
        return (learned - single) / (oracle - single) if oracle > single else float("nan")

    def shots_equivalent(self) -> float:
        """How many shots of the best single modality are worth `shots` of all, weighed by what was learned.

        Where `curve` first reaches that accuracy, linearly between its points; 0 where its first point lies above, and
        infinite where no number of shots in it is enough.
        """
        return first_crossing(
            {k: float(one.mean) for k, one in self.curve.items()},
            float(self.accuracy["learned"].mean),
        )


def first_crossing(curve: Mapping[float, float], target: float) -> float:
    """Where a curve {x: y} first reaches the target, linearly between its points; 0 below it, infinite beyond it.

    >>> first_crossing({1: 0.5, 2: 0.7, 4: 0.6}, 0.6)
    1.5
    """
    (x, y), *points = sorted(curve.items())
    if y >= target:
        return float(x) if y == target else 0.0
    for next_x, next_y in points:
        if next_y >= target:
            return x + (next_x - x) * (target - y) / (next_y - y)
        x, y = next_x, next_y
    return float("inf")


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
    task the point of the grid that answers its queries best, so it has seen their labels. "equal", which is in both
    choices, adds the scores as they are: bring them to one scale in `encode`. With an encoder that normalises by batch,
    the statistics are those of the shots that count, and of the queries: transductive.

    Args:
        encode: (params, x, key, reference=...) -> {name: [examples, d]}.
        params: of `encode`.
        validation: tasks along the leading axis, of classes that the features were not trained on.
        test: tasks along the leading axis, of classes that are in neither.
        key: for the training of the learned weights.
        ways: number of classes in a task.
        shots: numbers of support examples of each class to measure with; the tasks have as many or more, and `curve`
            goes by powers of two through what the test tasks have.
        grid: points on each edge of the simplex, less one.
        steps: outer steps of Adam, 32 tasks each, for the learned weights.
        tasks_at_once: tasks in one vmap of the encoders.

    Raises:
        ValueError: tasks without several modalities or with different ones, with fewer shots in a class than asked for,
            a modality that is called like a row; `grid` or `steps` below 1.

    Returns:
        {shots: Ruler}.

    Not under `jax.jit`: it trains and chooses, and compiles its own parts.
    """
    parts = (validation, test)
    if any(
        not isinstance(tasks.support.x, Modalities) or len(tasks.support.x.value) < 2
        for tasks in parts
    ):
        raise ValueError(
            "The ruler compares modalities: x of the tasks must be a Modalities of two or more."
        )
    if grid < 1 or steps < 1:
        raise ValueError(f"{grid=} and {steps=} must be 1 or more.")
    names = sorted(test.support.x.value)
    if sorted(validation.support.x.value) != names or set(names) & set(ROWS):
        raise ValueError(
            f"Validation and test tasks need the same modalities, none called {ROWS}; got {names} in the test and "
            f"{sorted(validation.support.x.value)} in the validation tasks."
        )
    most = [count_shots(tasks, ways) for tasks in (validation, test)]
    if not 1 <= min(shots) <= max(shots) <= min(most):
        raise ValueError(
            f"{shots=} must be 1 to the {most[0]} and {most[1]} shots of validation and test tasks."
        )
    points_GxM = simplex(len(names), grid)
    encoded = lambda tasks, number: encode_tasks(encode, params, tasks, number, ways, tasks_at_once)
    judge = lambda tasks: grid_accuracy(names, ways, jnp.asarray(points_GxM), tasks)
    steps_of_curve = [2**power for power in range(most[1].bit_length())]
    tests = {number: encoded(test, number) for number in sorted({*shots, *steps_of_curve, most[1]})}
    curve = {number: judge(tasks) for number, tasks in tests.items()}
    return {
        number: _measure(
            names,
            ways,
            points_GxM,
            encoded(validation, number),
            tests[number],
            curve,
            number,
            steps,
            k,
        )
        for number, k in zip(shots, jax.random.split(key, len(shots)), strict=True)
    }


def _measure(
    names: list[str],
    ways: int,
    points_GxM: np.ndarray,
    validation: Task,
    test: Task,
    curve: dict[int, Array],
    shots: int,
    steps: int,
    key: Array,
) -> Ruler:
    """One number of shots, from features."""
    validated_G = grid_accuracy(names, ways, jnp.asarray(points_GxM), validation).mean(axis=0)
    corner = {name: int(points_GxM[:, m].argmax()) for m, name in enumerate(names)}
    best_single = max(names, key=lambda name: float(validated_G[corner[name]]))
    static, tested_TxG = int(validated_G.argmax()), curve[shots]
    learned_T, weights_TxM = learn_weights(names, ways, validation, test, steps, key)
    accuracy = {name: tested_TxG[:, corner[name]] for name in names}
    rows = (tested_TxG[:, -1], tested_TxG[:, static], learned_T, tested_TxG.max(axis=1))
    accuracy |= dict(zip(ROWS, rows, strict=True))
    return Ruler(
        accuracy={row: summarize(per_task) for row, per_task in accuracy.items()},
        best_single=best_single,
        static=dict(zip(names, points_GxM[static].tolist(), strict=True)),
        learned=dict(zip(names, weights_TxM.T, strict=True)),
        shots=shots,
        curve={
            number: summarize(per_TxG[:, corner[best_single]]) for number, per_TxG in curve.items()
        },
    )


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
        values = (
            100 * value for value in (summary.mean, summary.interval, paired.mean, paired.interval)
        )
        lines.append("{:<20}{:>7.1f} ± {:>3.1f}   {:+.1f} ± {:.1f}".format(row, *values))
    return "\n".join(lines)
