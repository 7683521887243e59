"""A look at a data set: examples of some classes side by side."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from metajax._checked import checked
from metajax._checks import shapes
from metajax.data.datasets import Dataset
from metajax.data.strokes import draw
from metajax.data.values import scaled
from metajax.plots.images import MARGIN, draw_image
from metajax.types import Modalities, PyTree, Series, Size

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_CHANNELS = 8
"""A sequence with more channels than this is not drawn as curves."""


@checked
def contact_sheet(
    axes: Axes, dataset: Dataset, *, classes: Size = 6, examples: Size = 8, title: str = ""
) -> None:
    """Draws the first examples of some classes, which are spread evenly over the data set.

    Use it before training, to see what the sampler will draw: values are divided by the data
    set's `scale`. Each class is a row. Several modalities are drawn one below the other, with a
    dash where one is absent. How an example is drawn depends on its array:

    - [height, width, 1 or 3] is an image, from 0 to 1. For a video [time, height, width, 1 or 3],
      the last frame is drawn. An image of integers without a declared scale looks white.
    - Strokes [points, (x, y, t, start)] are drawn by `data.draw`.
    - [time] or [time, at most 8 channels] of real numbers, or of integers with a declared scale,
      is drawn as curves between their least and greatest value, also in a `Series`.
    - For anything else, such as indices of words, the dtype and shape are written.

    Args:
        axes: where to draw.
        dataset: what to look at. `data.describe` sums it up in numbers.
        classes: largest number of classes.
        examples: largest number of examples of each class.
        title: written above the picture.

    Raises:
        ValueError: `classes` or `examples` is not a whole number, 1 or more.
    """
    chosen = _spread(dataset.classes, classes)
    modalities = len(dataset.x.value) if isinstance(dataset.x, Modalities) else 1
    height = 1 if modalities == 1 else modalities + 0.25
    for place, label in enumerate(chosen):
        name_y = place * height + 0.5
        name = dataset.names[label]
        axes.text(-0.15, name_y, name, ha="right", va="center", fontsize="small")
        lines = _lines_of_class(dataset, label, examples)
        for number, (modality, line) in enumerate(lines):
            top = place * height + number
            _write_modality(axes, modality, examples + 0.15, top + 0.5)
            for column, example in enumerate(line):
                _draw_example(axes, example, column, top)
    bottom = len(chosen) * height
    axes.set(xlim=(-0.4, examples), ylim=(bottom, 0), aspect="equal", title=title)
    axes.axis("off")


def _spread(total: int, most: int) -> list[int]:
    """Indices from 0 to total - 1 at even distances, at most so many."""
    return np.linspace(0, total - 1, min(most, total)).round().astype(int).tolist()


def _lines_of_class(
    dataset: Dataset, label: int, most: int
) -> Iterator[tuple[str, list[PyTree | None]]]:
    """(modality, its first examples of this class, None where absent) for each modality."""
    number = min(most, int(dataset.count[label]))
    rows = int(dataset.start[label]) + np.arange(number)
    x = jax.tree.map(lambda leaf: np.asarray(leaf[rows]), dataset.x)
    x = scaled(x, dataset.scale)
    if not isinstance(x, Modalities):
        yield "", [_row(x, row) for row in range(number)]
        return
    for name, value in x.value.items():
        present = x.present[name]
        yield name, [_row(value, row) if present[row] else None for row in range(number)]


def _row(tree: PyTree, row: int) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[row], tree)


def _draw_example(axes: Axes, example: PyTree | None, left: float, top: float) -> None:
    """Draws one example into the square of side 1 at this place; None is absent."""
    value = example.value[: int(example.length)] if isinstance(example, Series) else example
    if value is None:
        _write(axes, "–", left, top)
    elif not isinstance(value, np.ndarray):
        _write(axes, str(shapes(example)), left, top)
    elif _is_image_or_video(value):
        _draw_last_image(axes, value, left, top)
    elif _is_stroke(value):
        drawing = np.asarray(draw(jnp.asarray(value)[None], frames=1, size=56))[0]
        _draw_last_image(axes, drawing, left, top)
    elif _is_curve(value):
        _draw_curve(axes, value, left, top)
    else:
        _write(axes, str(shapes(example)), left, top)


def _is_image_or_video(value: np.ndarray) -> bool:
    return value.ndim in (3, 4) and value.shape[-1] in (1, 3)


def _is_stroke(value: np.ndarray) -> bool:
    """Whether it is [points, (x, y, t, start)], where start is 0 or 1 and the first is 1."""
    if value.ndim != 2 or value.shape[1] != 4 or len(value) == 0:
        return False
    starts = value[:, 3]
    return starts[0] == 1 and set(np.unique(starts)) <= {0, 1}


def _is_curve(value: np.ndarray) -> bool:
    """Whether it is a sequence of real numbers, with few channels."""
    if value.ndim not in (1, 2) or not np.issubdtype(value.dtype, np.floating):
        return False
    channels = 1 if value.ndim == 1 else value.shape[1]
    return len(value) > 1 and channels <= MOST_CHANNELS


def _draw_last_image(axes: Axes, value: np.ndarray, left: float, top: float) -> None:
    image = value[-1] if value.ndim == 4 else value
    draw_image(axes, np.clip(image, 0, 1), left, top, "lightgrey")


def _draw_curve(axes: Axes, value: np.ndarray, left: float, top: float) -> None:
    """Draws each channel, all between the same least and greatest value."""
    curve = value.reshape(len(value), -1).astype(float)
    low = curve.min()
    high = max(curve.max(), low + 1e-9)
    x = left + np.linspace(MARGIN, 1 - MARGIN, len(curve))
    for channel, values in enumerate(curve.T):
        y = top + 0.9 - 0.8 * (values - low) / (high - low)
        axes.plot(x, y, color=f"C{channel}", linewidth=0.7)


def _write(axes: Axes, text: str, left: float, top: float) -> None:
    """Writes a small text into the middle of the square."""
    x, y = left + 0.5, top + 0.5
    axes.text(x, y, text, ha="center", va="center", color="grey", fontsize="xx-small")


def _write_modality(axes: Axes, name: str, x: float, y: float) -> None:
    axes.text(x, y, name, va="center", color="grey", fontsize="small")
