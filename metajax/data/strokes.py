"""Pen trajectories: resampled to a fixed number of points, and drawn as videos."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from metajax._checked import checked
from metajax._tree import largest
from metajax.types import Array, Size

_PEN = 1.5  # width of the line in pixels

# Share of a frame that [-1, 1] fills: 20 of 28 pixels, as in written digits and glyphs.
_FILLED = 5 / 7


class _Trajectories(NamedTuple):
    """Points of all drawings, one after the other.

    Attributes:
        points: float64[rows, (x, y)] or [rows, (x, y, time)].
        starts: bool[rows], the first point of each stroke.
        first: int[drawings], the first row of each drawing.
        drawing: int[rows], the drawing of each row.
    """

    points: np.ndarray
    starts: np.ndarray
    first: np.ndarray
    drawing: np.ndarray


@checked
def resample(
    points: ArrayLike, starts: ArrayLike, offsets: ArrayLike, *, number: int
) -> np.ndarray:
    """Trajectories of any lengths as `number` points each.

    The drawings lie one after the other, as in the data files. The new points are spaced evenly
    along the path of the pen while it is down: every stroke has one point, the others are shared
    out by length, and within a stroke they are equidistant and reach from its first place to its
    last. A stroke with one point has it at its first place.

    x and y are centred and divided by half of the longer side, so that they lie in [-1, 1] and the
    aspect is kept. t goes from 0 to 1 with the time, or with the length of the path where there is
    no clock. start is 1 at the first point of each stroke, else 0.

    Args:
        points: [rows, (x, y)] or [rows, (x, y, time)].
        starts: bool[rows], where the pen is put down. The first row of a drawing always counts.
        offsets: int[drawings + 1], ascending: drawing i has the rows from offsets[i] to
            offsets[i + 1].
        number: points of each result.

    Returns:
        float32[drawings, number, (x, y, t, start)].

    Raises:
        ValueError: shapes that do not fit, values that are not finite, a drawing without points, or
            one with more strokes than `number`.

    >>> corner = [[0, 0], [4, 0], [4, 2], [0, 2]]
    >>> resample(corner, [1, 0, 1, 0], [0, 4], number=4)[0].tolist()[1:3]
    [[1.0, -0.5, 0.5, 0.0], [1.0, 0.5, 0.5, 1.0]]
    """
    given = _check_trajectories(points, starts, offsets)
    down = given.starts
    step = np.linalg.norm(np.diff(given.points[:, :2], axis=0), axis=1)
    step = np.where(down[1:], 0.0, step)
    way = np.concatenate([[0.0], np.cumsum(step)])  # over all drawings

    start = np.flatnonzero(down)
    end = np.concatenate([start[1:], [len(down)]]) - 1
    length = way[end] - way[start]
    share = _share_points(length, given.drawing[start], number)
    stroke = np.repeat(np.arange(len(share)), share)  # of each new point
    rank = np.arange(len(stroke)) - np.repeat(np.cumsum(share) - share, share)
    fraction = rank / np.maximum(share[stroke] - 1, 1)

    # Between strokes the place jumps by 1, so that one interpolation serves all drawings and joins
    # no two strokes.
    place = way + np.cumsum(down)
    wanted = place[start][stroke] + fraction * length[stroke]
    columns = [np.interp(wanted, place, column) for column in _normalize(given, way)]
    result = np.stack([*columns, rank == 0], axis=1)
    return result.astype(np.float32).reshape(len(given.first), number, 4)


@checked
def draw(strokes: Array, *, frames: Size, size: Size) -> Array:
    """The video of each drawing, [n, frames, size, size, 1] from 0 to 1, ink bright.

    Frame i shows what was drawn at the time (i + 1)/frames; of a line, the part drawn so far. The
    last frame is the finished picture, and with `frames=1` it is the only one. A pixel at the
    distance d (in pixels) from the nearest line has the ink min(1, max(0, (w + 1)/2 - d)), with w =
    1.5 the width of the pen. [-1, 1] fills 5/7 of a frame.

    Args:
        strokes: [n, points, (x, y, t, start)], as `resample` makes them.
        frames: of each video.
        size: height and width of a frame in pixels.

    Raises:
        ValueError: not four columns; `frames` or `size` below 1.
    """
    if strokes.ndim != 3 or strokes.shape[-1] != 4:
        raise ValueError(f"Need strokes [n, points, (x, y, t, start)], got {strokes.shape}.")
    now = jnp.arange(1, frames + 1, dtype=strokes.dtype) / frames
    middle = ((jnp.arange(size, dtype=strokes.dtype) + 0.5) * (2 / size) - 1) / _FILLED
    right = jnp.tile(middle, size)
    down = jnp.repeat(middle, size)
    of_frames = jax.vmap(_distance, (None, 0, None, None))
    of_drawings = jax.vmap(of_frames, (0, None, None, None))
    distance = of_drawings(strokes, now, right, down)
    ink = jnp.clip((_PEN + 1) / 2 - distance * (size / 2 * _FILLED), 0, 1)
    return ink.reshape(len(strokes), frames, size, size, 1)


def _distance(points_Px4: Array, now: Array, right_Q: Array, down_Q: Array) -> Array:
    """Distance from each pixel to the nearest line of one drawing that is there by now, [pixels].

    It is large where there is no line yet. Written elementwise, without an axis for x and y, so
    that the compiler can fuse it: a tenth of the time.
    """
    x, y, time, _ = points_Px4.T
    ahead = jnp.roll(points_Px4, -1, axis=0)
    lasts = ahead[:, 2] - time
    done = jnp.where(lasts > 0, jnp.clip((now - time) / jnp.where(lasts > 0, lasts, 1), 0, 1), 1)
    # A point before the start of another stroke is a dot. After the last point comes the first.
    done = jnp.where(ahead[:, 3] > 0.5, 0, done)
    across = (ahead[:, 0] - x) * done
    along = (ahead[:, 1] - y) * done
    square = across**2 + along**2
    right = right_Q[:, None] - x[None]
    down = down_Q[:, None] - y[None]
    part = (right * across[None] + down * along[None]) / jnp.where(square > 0, square, 1)[None]
    part = jnp.clip(part, 0, 1)
    away = (right - part * across[None]) ** 2 + (down - part * along[None]) ** 2
    nearest = -largest(jnp.where((time <= now)[None], -away, -1e4), 1)
    return jnp.sqrt(jnp.where(nearest > 1e-12, nearest, 1e-12))  # a finite slope on the line itself


def _normalize(given: _Trajectories, way: np.ndarray) -> list[np.ndarray]:
    """x, y and t of the given points, each [rows]."""
    low = np.minimum.reduceat(given.points, given.first)
    high = np.maximum.reduceat(given.points, given.first)
    drawing = given.drawing
    half = (high - low)[:, :2].max(axis=1, keepdims=True) / 2
    centred = given.points[:, :2] - (low + high)[drawing, :2] / 2
    x, y = (centred / np.where(half > 0, half, 1)[drawing]).T
    if given.points.shape[1] == 3:
        clock = given.points[:, 2] - low[drawing, 2]
    else:
        clock = way - way[given.first][drawing]
    total = np.maximum.reduceat(clock, given.first)
    return [x, y, clock / np.where(total > 0, total, 1)[drawing]]


def _share_points(length: np.ndarray, drawing: np.ndarray, number: int) -> np.ndarray:
    """Points for each stroke, int[strokes], 1 or more, `number` in each drawing.

    They are shared out by length, and the largest remainders are rounded up.

    Args:
        length: [strokes].
        drawing: int[strokes], ascending.
        number: points of each drawing.

    Raises:
        ValueError: a drawing with more strokes than points.
    """
    strokes = np.bincount(drawing)
    if (crowded := np.flatnonzero(strokes > number)).size:
        raise ValueError(
            f"Drawings {crowded[:10].tolist()} have up to {strokes.max()} strokes; "
            f"{number=} points are too few."
        )
    total = np.bincount(drawing, weights=length)[drawing]
    by_length = length / np.where(total > 0, total, 1)
    weight = np.where(total > 0, by_length, 1 / strokes[drawing])
    exact = weight * (number - strokes)[drawing]
    share = np.floor(exact).astype(int)
    left = number - strokes - np.bincount(drawing, weights=share).astype(int)
    order = np.lexsort((share - exact, drawing))  # in each drawing, the largest remainder first
    rank = np.arange(len(order)) - np.repeat(np.cumsum(strokes) - strokes, strokes)
    share[order] += rank < left[drawing]
    return share + 1


def _check_trajectories(points: ArrayLike, starts: ArrayLike, offsets: ArrayLike) -> _Trajectories:
    """Checks what `resample` is given, and marks the first row of each drawing as a start."""
    rows = np.asarray(points, np.float64)
    bounds = np.asarray(offsets)
    down = np.array(starts, bool)
    if rows.ndim != 2 or rows.shape[1] not in (2, 3) or down.shape != rows.shape[:1]:
        raise ValueError(
            f"Need points [rows, 2 or 3] and starts [rows], got {rows.shape} and {down.shape}."
        )
    if bounds.ndim != 1 or len(bounds) < 2 or bounds[0] != 0 or bounds[-1] != len(rows):
        raise ValueError(f"offsets must go from 0 to the {len(rows)} rows of points, got {bounds}.")
    number = np.diff(bounds)
    if (number < 1).any():
        empty = np.flatnonzero(number < 1)[:10].tolist()
        raise ValueError(f"Drawings {empty} have no points; drop them.")
    if not np.isfinite(rows).all():
        wrong = np.flatnonzero(~np.isfinite(rows).all(axis=1))[:10].tolist()
        raise ValueError(f"points are not finite in rows {wrong}.")
    first = bounds[:-1]
    down[first] = True
    return _Trajectories(rows, down, first, np.repeat(np.arange(len(first)), number))
