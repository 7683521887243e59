"""Pictures: each function draws into the matplotlib axes that it is given, and returns nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import jax
import numpy as np

from metajax._checks import shapes
from metajax.data.datasets import Dataset
from metajax.data.strokes import draw
from metajax.types import Array, Modalities, PyTree, Series, Task

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RIGHT, WRONG = "#2a9d4a", "#d1372c"


def task(axes: Axes, task: Task, predictions: Array, *, title: str = "") -> None:
    """A classification task of images: its support set on the left, each way a row, and its query set on the right.

    A query that is answered rightly stands in a green frame, in the row of its class; a wrong one in a red frame, with
    the row that was answered beside it.

    Args:
        axes: where to draw.
        task: one task with images [rows, height, width, 1 or 3] in [0, 1], labels int[rows].
        predictions: int[queries], the label answered for each query.
        title: above the picture.

    Raises:
        ValueError: images of another shape, or not one prediction for each query.
    """
    support_x, query_x = np.asarray(task.support.x), np.asarray(task.query.x)
    support_y, query_y, answers = (
        np.asarray(values) for values in (task.support.y, task.query.y, predictions)
    )
    if support_x.ndim != 4 or support_x.shape[-1] not in (1, 3) or answers.shape != query_y.shape:
        raise ValueError(
            f"Need images [rows, height, width, 1 or 3] and a prediction for each query, got {support_x.shape} and "
            f"{answers.shape} for {query_y.shape}."
        )
    ways, shots = int(support_y.max()) + 1, int(np.bincount(support_y).max())
    columns = shots + 0.5 + np.bincount(query_y).max()
    for way in range(ways):
        for place, image in enumerate(support_x[support_y == way]):
            _image(axes, image, place, way, "black")
        for place, row in enumerate(np.flatnonzero(query_y == way)):
            right = answers[row] == way
            _image(axes, query_x[row], shots + 0.5 + place, way, RIGHT if right else WRONG)
            if not right:
                axes.text(
                    shots + 1.42 + place,
                    way + 0.04,
                    str(answers[row] + 1),
                    ha="right",
                    va="top",
                    color=WRONG,
                )
        axes.text(-0.15, way + 0.5, str(way + 1), ha="right", va="center")
    axes.set(xlim=(-0.4, columns), ylim=(ways, 0), aspect="equal", title=title)
    axes.text(shots / 2, ways + 0.1, "support", ha="center", va="top")
    axes.text((columns + shots + 0.5) / 2, ways + 0.1, "query", ha="center", va="top")
    axes.axis("off")


def contact_sheet(
    axes: Axes, dataset: Dataset, *, classes: int = 6, examples: int = 8, title: str = ""
) -> None:
    """A look at a data set: a class a row, spread evenly over the data set, with its first examples.

    Images [height, width, 1 or 3] are shown, of videos the last one, strokes as `data.draw` draws them, and waves and
    real numbers [time] or [time, at most 8 channels], also as a `Series`, as curves between their least and greatest
    value. Of anything else type and shape are written. Several modalities stand one below the other, with a dash where
    one is absent.

    Args:
        axes: where to draw.
        dataset: what to look at; `data.describe` says it in numbers.
        classes: rows at most.
        examples: of each class at most.
        title: above the picture.

    Raises:
        ValueError: `classes` or `examples` below 1.
    """
    if min(classes, examples) < 1:
        raise ValueError(f"{classes=} and {examples=} must be 1 or more.")
    views = dataset.x.value if isinstance(dataset.x, Modalities) else {"": dataset.x}
    present = dataset.x.present if isinstance(dataset.x, Modalities) else {}
    chosen = (
        np.linspace(0, dataset.classes - 1, min(classes, dataset.classes))
        .round()
        .astype(int)
        .tolist()
    )
    block = 1 if len(views) == 1 else len(views) + 0.25
    for place, label in enumerate(chosen):
        rows = int(dataset.start[label]) + np.arange(min(examples, int(dataset.count[label])))
        top = place * block
        axes.text(-0.15, top + 0.5, dataset.names[label], ha="right", va="center", fontsize="small")
        for line, (name, value) in enumerate(views.items(), start=1):
            there = np.asarray(present[name])[rows] if name in present else np.ones(len(rows), bool)
            shown = jax.tree.map(lambda leaf: np.asarray(leaf[rows]), value)  # noqa: B023
            axes.text(
                examples + 0.15, top + line - 0.5, name, va="center", color="grey", fontsize="small"
            )
            for column, here in enumerate(there.tolist()):
                example = jax.tree.map(lambda leaf: leaf[column], shown) if here else None  # noqa: B023
                _example(axes, example, column, top + line - 1)
    axes.set(xlim=(-0.4, examples), ylim=(len(chosen) * block, 0), aspect="equal", title=title)
    axes.axis("off")


def curves(
    axes: Axes,
    lines: Mapping[str, tuple[Sequence[float], Sequence[float], Sequence[float] | None]],
    *,
    xlabel: str,
    ylabel: str,
    title: str = "",
) -> None:
    """Lines with their 95 % intervals as bands.

    Args:
        axes: where to draw.
        lines: {name: (x, mean, half the width of the interval or None)}.
        xlabel: what x is, with its unit.
        ylabel: what y is, with its unit.
        title: above the picture.
    """
    for name, (x, mean, interval) in lines.items():
        (line,) = axes.plot(x, mean, marker="o" if len(x) < 15 else None, markersize=4, label=name)
        if interval is not None:
            low, high = np.subtract(mean, interval), np.add(mean, interval)
            axes.fill_between(x, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)


def accuracies(
    axes: Axes, measured: Mapping[str, Mapping[str, tuple[float, float]]], *, title: str = ""
) -> None:
    """Accuracies as points with 95 % intervals, a line of the picture for each row, a colour for each setting.

    Args:
        axes: where to draw.
        measured: {setting: {row: (mean, half the width of the interval)}}, as fractions; such as, of what
            `modalities.ruler` measured, {f"{k} shots": {row: (s.mean, s.interval) for row, s in one.accuracy.items()}
            for k, one in measured.items()}. The rows of all settings are those of the first.
        title: above the picture.
    """
    rows = list(next(iter(measured.values())))
    for number, (setting, values) in enumerate(measured.items()):
        mean, interval = 100 * np.array([values[row] for row in rows], float).T
        place = np.arange(len(rows)) + 0.16 * (number - (len(measured) - 1) / 2)
        axes.errorbar(mean, place, xerr=interval, fmt="o", markersize=5, capsize=2, label=setting)
        if "learned" in rows:
            axes.axvline(
                mean[rows.index("learned")], color=f"C{number}", alpha=0.3, linewidth=1, zorder=0
            )
    axes.set(yticks=range(len(rows)), yticklabels=rows, xlabel="accuracy, %", title=title)
    axes.invert_yaxis()
    axes.grid(alpha=0.3, axis="x")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small")


def _image(axes: Axes, image: np.ndarray, left: float, top: float, colour: str) -> None:
    """One image in a frame, ink dark where it has one channel."""
    from matplotlib.patches import Rectangle

    shown = 1 - image[..., 0] if image.shape[-1] == 1 else image
    axes.imshow(
        shown,
        cmap="gray",
        vmin=0,
        vmax=1,
        extent=(left + 0.06, left + 0.94, top + 0.94, top + 0.06),
    )
    axes.add_patch(
        Rectangle(
            (left + 0.06, top + 0.06), 0.88, 0.88, fill=False, edgecolor=colour, linewidth=1.6
        )
    )


def _example(axes: Axes, example: PyTree, left: float, top: float) -> None:
    """One example in a square of side 1; None is absent."""
    value = example.value[: int(example.length)] if isinstance(example, Series) else example
    shape = getattr(value, "shape", None)
    if shape and len(shape) in (3, 4) and shape[-1] in (1, 3):
        image = value.reshape(-1, *shape[-3:])[-1]
        _image(
            axes,
            np.clip(image / 255 if image.dtype == np.uint8 else image, 0, 1),
            left,
            top,
            "lightgrey",
        )
    elif (
        shape
        and len(shape) == 2
        and shape[1] == 4
        and set(np.unique(value[:, 3])) <= {0, 1}
        and value[0, 3] == 1
    ):
        _image(axes, np.asarray(draw(value[None], frames=1, size=56))[0, 0], left, top, "lightgrey")
    elif shape and _is_curve(value):
        curve = value.reshape(len(value), -1).astype(float)
        low, high = curve.min(), max(curve.max(), curve.min() + 1e-9)
        across = left + np.linspace(0.06, 0.94, len(curve))
        for channel, values in enumerate(curve.T):
            height = top + 0.9 - 0.8 * (values - low) / (high - low)
            axes.plot(across, height, color=f"C{channel}", linewidth=0.7)
    else:
        text = "–" if example is None else str(shapes(example))
        axes.text(
            left + 0.5, top + 0.5, text, ha="center", va="center", color="grey", fontsize="xx-small"
        )


def _is_curve(value: Array) -> bool:
    """Whether it is a sequence of numbers that are no ids."""
    numbers = value.dtype == np.int16 or np.issubdtype(value.dtype, np.floating)
    return bool(numbers and value.ndim <= 2 and len(value) > 1 and np.prod(value.shape[1:]) <= 8)
