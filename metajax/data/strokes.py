"""Pen trajectories: any number of points brought to a fixed number, and drawn as the video of the drawing."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from metajax.types import Array

_PEN = 1.5  # width of the line in pixels

_FILLED = (
    5 / 7
)  # share of the frame that [-1, 1] fills: 20 of 28 pixels, as in written digits and glyphs


def resample(
    points: ArrayLike, starts: ArrayLike, offsets: ArrayLike, *, number: int
) -> np.ndarray:
    """Trajectories of any lengths as `number` points each: float32[drawings, number, (x, y, t, start)].

    The drawings lie one after the other, as in the packs. The points stand evenly along the way of the pen while it is
    down: every stroke has one point, the others are shared out by length, and within a stroke they are equidistant and
    reach from its first place to its last. A stroke with one point is at its first place.

    x and y are centred and divided by half of the longer side, so that they lie in [-1, 1] and the aspect is kept.
    t goes from 0 to 1 with the time, or with the way of the pen where there is no clock. start is 1 at the first point
    of each stroke, else 0.

    Args:
        points: [rows, (x, y)] or [rows, (x, y, time)].
        starts: bool[rows], where the pen is put down; the first row of a drawing counts as one.
        offsets: int[drawings + 1], ascending: drawing i has the rows from offsets[i] to offsets[i + 1].
        number: points of each result.

    Raises:
        ValueError: shapes that do not fit, values that are not finite, a drawing without points, or one with more
            strokes than `number`.

    >>> resample([[0, 0], [4, 0], [4, 2], [0, 2]], [1, 0, 1, 0], [0, 4], number=4)[0].tolist()[1:3]
    [[1.0, -0.5, 0.5, 0.0], [1.0, 0.5, 0.5, 1.0]]
    """
    rows, first, last, down = _checked(points, starts, offsets)
    drawing = np.repeat(np.arange(len(first)), last - first + 1)
    step = np.where(down[1:], 0.0, np.linalg.norm(np.diff(rows[:, :2], axis=0), axis=1))
    way = np.concatenate([[0.0], np.cumsum(step)])  # in float64, over all drawings
    start = np.flatnonzero(down)
    end = np.concatenate([start[1:], [len(down)]]) - 1
    share = _share(way[end] - way[start], drawing[start], number)
    # Between strokes the place jumps by 1, so that one interpolation serves all drawings and joins no two strokes.
    place = way + np.cumsum(down)
    stroke = np.repeat(np.arange(len(share)), share)
    rank = np.arange(len(stroke)) - np.repeat(np.cumsum(share) - share, share)
    fraction = rank / np.maximum(share[stroke] - 1, 1)
    wanted = place[start][stroke] + fraction * (way[end] - way[start])[stroke]
    low, high = np.minimum.reduceat(rows, first), np.maximum.reduceat(rows, first)
    half = (high - low)[:, :2].max(axis=1, keepdims=True) / 2
    clock = rows[:, 2] - low[drawing, 2] if rows.shape[1] == 3 else way - way[first][drawing]
    total = np.maximum.reduceat(clock, first)
    columns = [
        *((rows[:, :2] - (low + high)[drawing, :2] / 2) / np.where(half > 0, half, 1)[drawing]).T,
        clock / np.where(total > 0, total, 1)[drawing],
    ]
    result = np.stack(
        [*(np.interp(wanted, place, column) for column in columns), rank == 0], axis=1
    )
    return result.astype(np.float32).reshape(len(first), number, 4)


def draw(strokes: Array, *, frames: int, size: int) -> Array:
    """The video of each drawing, [n, frames, size, size, 1] from 0 to 1, ink bright.

    Frame i shows what was drawn at the time (i + 1)/frames, a line as far as it had come: the last frame is the
    finished picture, and with `frames=1` it is the only one. A pixel at the distance d (in pixels) from the nearest
    line has the ink min(1, max(0, (w + 1)/2 - d)), w = 1.5 the width of the pen. [-1, 1] fills 5/7 of a frame.

    Args:
        strokes: [n, points, (x, y, t, start)], as `resample` makes them.
        frames: of each video.
        size: height and width of a frame in pixels.

    Raises:
        ValueError: not four columns; `frames` or `size` below 1.
    """
    if strokes.ndim != 3 or strokes.shape[-1] != 4 or min(frames, size) < 1:
        raise ValueError(
            f"Need strokes [n, points, (x, y, t, start)] and positive {frames=}, {size=}; got {strokes.shape}."
        )
    now = jnp.arange(1, frames + 1, dtype=strokes.dtype) / frames
    middle = ((jnp.arange(size, dtype=strokes.dtype) + 0.5) * (2 / size) - 1) / _FILLED
    right, down = jnp.tile(middle, size), jnp.repeat(middle, size)
    of_frames = jax.vmap(_distance, (None, 0, None, None))
    distance = jax.vmap(of_frames, (0, None, None, None))(strokes, now, right, down)
    ink = jnp.clip((_PEN + 1) / 2 - distance * (size / 2 * _FILLED), 0, 1)
    return ink.reshape(len(strokes), frames, size, size, 1)


def _distance(points_Px4: Array, now: Array, right_Q: Array, down_Q: Array) -> Array:
    """From each pixel to the nearest line of one drawing that is there by now, [pixels]; large where there is none.

    Written elementwise, without an axis for x and y, so that the compiler can fuse it: a tenth of the time.
    """
    x, y, time, _ = points_Px4.T
    ahead = jnp.roll(points_Px4, -1, axis=0)
    lasts = ahead[:, 2] - time
    done = jnp.where(lasts > 0, jnp.clip((now - time) / jnp.where(lasts > 0, lasts, 1), 0, 1), 1)
    done = jnp.where(
        ahead[:, 3] > 0.5, 0, done
    )  # a stroke follows, after the last point the first: this one is a dot
    across, along = (ahead[:, 0] - x) * done, (ahead[:, 1] - y) * done
    square = across**2 + along**2
    right, down = right_Q[:, None] - x[None], down_Q[:, None] - y[None]
    part = (right * across[None] + down * along[None]) / jnp.where(square > 0, square, 1)[None]
    part = jnp.clip(part, 0, 1)
    away = (right - part * across[None]) ** 2 + (down - part * along[None]) ** 2
    nearest = jnp.where((time <= now)[None], away, 1e4).min(axis=1)
    return jnp.sqrt(jnp.where(nearest > 1e-12, nearest, 1e-12))  # a finite slope on the line itself


def _share(length: np.ndarray, drawing: np.ndarray, number: int) -> np.ndarray:
    """Points for each stroke, 1 or more, `number` in each drawing: by length, the largest remainders rounded up."""
    strokes = np.bincount(drawing)
    if (crowded := np.flatnonzero(strokes > number)).size:
        raise ValueError(
            f"Drawings {crowded[:10].tolist()} have up to {strokes.max()} strokes; {number=} points are too few."
        )
    total = np.bincount(drawing, weights=length)
    weight = np.where(
        total[drawing] > 0, length / np.where(total > 0, total, 1)[drawing], 1 / strokes[drawing]
    )
    exact = weight * (number - strokes)[drawing]
    share = np.floor(exact).astype(int)
    left = number - strokes - np.bincount(drawing, weights=share).astype(int)
    order = np.lexsort((share - exact, drawing))  # in each drawing, the largest remainder first
    rank = np.arange(len(order)) - np.repeat(np.cumsum(strokes) - strokes, strokes)
    share[order] += rank < left[drawing]
    return share + 1


def _checked(
    points: ArrayLike, starts: ArrayLike, offsets: ArrayLike
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Points in float64, the first and last row of each drawing, and where strokes start."""
    rows, bounds, down = np.asarray(points, np.float64), np.asarray(offsets), np.array(starts, bool)
    if rows.ndim != 2 or rows.shape[1] not in (2, 3) or down.shape != rows.shape[:1]:
        raise ValueError(
            f"Need points [rows, 2 or 3] and starts [rows], got {rows.shape} and {down.shape}."
        )
    if bounds.ndim != 1 or len(bounds) < 2 or bounds[0] != 0 or bounds[-1] != len(rows):
        raise ValueError(f"offsets must go from 0 to the {len(rows)} rows of points, got {bounds}.")
    if (np.diff(bounds) < 1).any():
        raise ValueError(
            f"Drawings {np.flatnonzero(np.diff(bounds) < 1)[:10].tolist()} have no points; drop them."
        )
    if not np.isfinite(rows).all():
        raise ValueError(
            f"points are not finite in rows {np.flatnonzero(~np.isfinite(rows).all(axis=1))[:10].tolist()}."
        )
    down[bounds[:-1]] = True
    return rows, bounds[:-1], bounds[1:] - 1, down
