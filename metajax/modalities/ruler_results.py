"""What `ruler` measured: the accuracy of each modality, and of each way to weigh them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from metajax._checked import checked
from metajax.outer.evaluation import Summary, summarize
from metajax.types import Array

ROWS = ("equal", "static", "learned", "chosen", "oracle")
"""The rows of a ruler after those of the modalities."""


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


def make_ruler(
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

    >>> row = summarize(np.array([0.5, 0.7]))
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
