"""One image in a frame, the element that pictures of tasks and data sets consist of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RIGHT = "#2a9d4a"
"""The colour of a right answer."""

WRONG = "#d1372c"
"""The colour of a wrong answer."""

MARGIN = 0.06
"""Free space on each side of an image, in a square of side 1."""


def draw_image(axes: Axes, image: np.ndarray, left: float, top: float, colour: str) -> None:
    """Draws an image with a frame into the square of side 1 at this place, inset by `MARGIN`.

    An image of one channel is drawn with its large values dark, as ink.

    Args:
        axes: where to draw.
        image: [height, width, 1 or 3], from 0 to 1.
        left: x of the left side of the square.
        top: y of the upper side of the square, where y grows downward.
        colour: colour of the frame.
    """
    from matplotlib.patches import Rectangle

    shown = 1 - image[..., 0] if image.shape[-1] == 1 else image
    side = 1 - 2 * MARGIN
    x, y = left + MARGIN, top + MARGIN
    axes.imshow(shown, cmap="gray", vmin=0, vmax=1, extent=(x, x + side, y + side, y))
    axes.add_patch(Rectangle((x, y), side, side, fill=False, edgecolor=colour, linewidth=1.6))
