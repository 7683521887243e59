"""A picture of one task and of the answers to its queries."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from metajax._checked import checked
from metajax.plots.images import RIGHT, WRONG, draw_image
from metajax.types import Array, Task

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@checked
def task(axes: Axes, task: Task, predictions: Array, *, title: str = "") -> None:
    """Draws a classification task of images, with the support set left and the query set right.

    Each way is a row. The frame of a query is green if the prediction is right, and red if it is
    wrong; then the number of the predicted row, counted from 1, is written into it.

    Args:
        axes: where to draw.
        task: one task, with images [rows, height, width, 1 or 3] from 0 to 1 and labels int[rows].
        predictions: int[queries], the predicted label of each query.
        title: written above the picture.

    Raises:
        ValueError: images of another shape, not one prediction for each query, or labels
            that are negative or above those of the support set.
    """
    _check_task(task, predictions)
    support_y, query_y = np.asarray(task.support.y), np.asarray(task.query.y)
    ways = int(support_y.max()) + 1
    shots = int(np.bincount(support_y).max())
    first_query = shots + 0.5
    columns = first_query + np.bincount(query_y).max()
    for way in range(ways):
        axes.text(-0.15, way + 0.5, str(way + 1), ha="right", va="center")
        for column, image in enumerate(np.asarray(task.support.x)[support_y == way]):
            draw_image(axes, image, column, way, "black")
        of_way = query_y == way
        answers = np.asarray(predictions)[of_way]
        for column, image in enumerate(np.asarray(task.query.x)[of_way]):
            _draw_query(axes, image, first_query + column, way, int(answers[column]))
    axes.set(xlim=(-0.4, columns), ylim=(ways, 0), aspect="equal", title=title)
    axes.text(shots / 2, ways + 0.1, "support", ha="center", va="top")
    axes.text((columns + first_query) / 2, ways + 0.1, "query", ha="center", va="top")
    axes.axis("off")


def _check_task(task: Task, predictions: Array) -> None:
    """Fails unless the task has images, and each query a prediction."""
    shape = np.shape(task.support.x)
    are_images = len(shape) == 4 and shape[-1] in (1, 3)
    if not are_images or np.shape(predictions) != np.shape(task.query.y):
        raise ValueError(
            "Need images [rows, height, width, 1 or 3] and a prediction for each query, got "
            f"{shape} and {np.shape(predictions)} for {np.shape(task.query.y)}."
        )
    largest = np.max(task.support.y)
    labels = np.unique(np.concatenate([task.support.y, task.query.y]))
    if labels[0] < 0 or labels[-1] > largest:
        raise ValueError(
            f"Labels must be from 0 to the largest of the support set, {largest}, got "
            f"{labels.tolist()}; leave out rows without a label."
        )


def _draw_query(axes: Axes, image: np.ndarray, left: float, way: int, answer: int) -> None:
    """Draws one query in the row of its class, and the answer if it is wrong."""
    if answer == way:
        draw_image(axes, image, left, way, RIGHT)
        return
    draw_image(axes, image, left, way, WRONG)
    axes.text(left + 0.90, way + 0.10, str(answer + 1), ha="right", va="top", color=WRONG)
