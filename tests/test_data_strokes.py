"""Trajectories: where the points stand, and what the video shows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.data.strokes import draw, resample


def wiggle(seed, rows, scale=1.0):
    return scale * np.random.default_rng(seed).normal(size=(rows, 2)).cumsum(axis=0)


def test_points_are_equidistant_along_the_way():
    angle = np.linspace(0, 1.5 * np.pi, 400) ** 1.3  # unevenly spaced on a circle
    circle = 7 + 3 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    (result,) = resample(circle, np.zeros(400), [0, 400], number=33)
    gaps = np.linalg.norm(np.diff(result[:, :2], axis=0), axis=1)
    np.testing.assert_allclose(gaps, gaps.mean(), rtol=0.02)
    # Centred, and of half side 1.
    np.testing.assert_allclose(np.hypot(result[:, 0], result[:, 1]), 1, atol=0.01)
    np.testing.assert_allclose(result[[0, -1], :2], (circle[[0, -1]] - 7) / 3, atol=0.01)
    np.testing.assert_allclose(result[:, 2], np.linspace(0, 1, 33), atol=1e-6)
    assert result.dtype == np.float32 and result[:, 3].tolist() == [1.0] + [0.0] * 32


def test_strokes_share_the_points_by_length_and_are_not_joined():
    # lengths 6, 2 and 0 (a dot): of 3 + 8 points they get 1 + 6, 1 + 2 and 1
    points = [[0, 0], [6, 0], [6, 3], [4, 3], [2, 1]]
    (result,) = resample(points, [True, False, True, False, True], [0, 5], number=11)
    assert np.flatnonzero(result[:, 3]).tolist() == [0, 7, 10]
    first = np.stack([np.arange(7) / 3 - 1, np.full(7, -0.5)], axis=1)
    np.testing.assert_allclose(result[:7, :2], first, atol=1e-6)
    np.testing.assert_allclose(result[7:10, :2], [[1, 0.5], [2 / 3, 0.5], [1 / 3, 0.5]], atol=1e-6)
    np.testing.assert_allclose(result[10], [-1 / 3, -1 / 6, 1, 1], atol=1e-6)


def test_many_drawings_are_as_one_and_do_not_depend_on_place_size_and_sampling():
    drawings = [wiggle(seed, rows) for seed, rows in [(0, 9), (1, 2), (2, 40)]]
    starts = [np.arange(len(drawing)) % 5 == 0 for drawing in drawings]
    offsets = np.cumsum([0, *map(len, drawings)])
    together = resample(np.concatenate(drawings), np.concatenate(starts), offsets, number=16)
    for row, (drawing, start) in enumerate(zip(drawings, starts, strict=True)):
        alone = resample(30 * drawing - 4, start, [0, len(drawing)], number=16)[0]
        np.testing.assert_allclose(together[row], alone, atol=1e-5)
    finer = np.insert(drawings[2], 7, 0.3 * drawings[2][6] + 0.7 * drawings[2][7], axis=0)
    same = resample(finer, np.insert(starts[2], 7, False), [0, 41], number=16)[0]
    np.testing.assert_allclose(together[2], same, atol=1e-5)
    assert np.abs(together[:, :, :2]).max() <= 1 + 1e-6


def test_the_clock_is_followed_where_there_is_one():
    (result,) = resample([[0, 0, 10], [1, 0, 40], [2, 0, 50]], [1, 0, 0], [0, 3], number=5)
    np.testing.assert_allclose(result[:, 2], [0, 0.375, 0.75, 0.875, 1], atol=1e-6)
    (dot,) = resample([[5, 5, 9]], [1], [0, 1], number=3)
    np.testing.assert_array_equal(dot, [[0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0]])


@pytest.mark.parametrize(
    ("points", "starts", "offsets", "message"),
    [
        (
            np.zeros((3, 2)),
            [1, 1, 1],
            [0, 3],
            r"Drawings \[0\] have up to 3 strokes; number=2 points are too few",
        ),
        (np.zeros((3, 2)), [1, 0, 0], [0, 2, 2, 3], r"Drawings \[1\] have no points"),
        (np.zeros((3, 2)), [1, 0, 0], [0, 2], "offsets must go from 0 to the 3 rows"),
        (np.zeros((3, 2)), [1, 0], [0, 3], r"got \(3, 2\) and \(2,\)"),
        (np.zeros((3, 4)), [1, 0, 0], [0, 3], r"got \(3, 4\) and \(3,\)"),
        ([[0, 0], [np.nan, 1]], [1, 0], [0, 2], r"not finite in rows \[1\]"),
    ],
)
def test_wrong_trajectories_are_refused(points, starts, offsets, message):
    with pytest.raises(ValueError, match=message):
        resample(points, starts, offsets, number=2)


def reference(points, now, size):
    """The frame by loops over pixels and lines, each line as 2000 points."""
    places = []
    for number, (x, y, t, _) in enumerate(points):
        if t > now:
            continue
        places.append(np.array([[x, y]]))
        if number + 1 < len(points) and points[number + 1, 3] == 0:
            end = points[number + 1]
            part = min(1.0, (now - t) / (end[2] - t)) if end[2] > t else 1.0
            places.append(np.linspace([x, y], [x, y] + part * (end[:2] - [x, y]), 2000))
    places = (np.concatenate(places) * 5 / 7 + 1) / 2 * size - 0.5
    frame = np.zeros((size, size))
    for row in range(size):
        for column in range(size):
            distance = np.linalg.norm(places - [column, row], axis=1).min()
            frame[row, column] = np.clip(1.25 - distance, 0, 1)
    return frame


def test_the_video_shows_what_is_drawn_by_then():
    points = [wiggle(3, 8), wiggle(4, 8)]
    starts = np.tile([1, 0, 0, 1, 0, 0, 0, 1], 2)
    strokes = resample(np.concatenate(points), starts, [0, 8, 16], number=7)
    strokes = jnp.asarray(strokes, jnp.float64)
    video = jax.jit(lambda strokes: draw(strokes, frames=3, size=12))(strokes)
    assert video.shape == (2, 3, 12, 12, 1)
    for row in range(2):
        for frame in range(3):
            expected = reference(np.asarray(strokes[row]), (frame + 1) / 3, 12)
            np.testing.assert_allclose(video[row, frame, :, :, 0], expected, atol=2e-3)
    assert (jnp.diff(video, axis=1) > -1e-9).all(), "ink stays"
    whole = jax.jit(lambda strokes: draw(strokes, frames=1, size=12))(strokes)
    np.testing.assert_allclose(whole[:, 0], video[:, -1], atol=1e-12)


def test_the_video_has_finite_derivatives_where_a_pixel_lies_on_the_line():
    line = jnp.array([[[-0.7, 0.35, 0.0, 1.0], [0.7, 0.35, 1.0, 0.0], [0.7, 0.35, 1.0, 0.0]]])
    moved = jax.jit(jax.grad(lambda strokes: (draw(strokes, frames=2, size=5) ** 2).sum()))
    assert jnp.isfinite(moved(line)).all()


def test_the_compiled_derivative_of_the_video_is_that_of_finite_differences():
    strokes = jnp.array([[[-0.6, 0.5, 0.1, 1.1], [0.8, 0.4, 1.1, 0.1], [0.7, 0.3, 1.2, 0.0]]])

    def ink(strokes):
        return (draw(strokes, frames=2, size=5) ** 2).sum()

    gradient = jax.jit(jax.grad(ink))(strokes)
    direction = jnp.sin(jnp.arange(12.0)).reshape(1, 3, 4)
    slope = (ink(strokes + 1e-6 * direction) - ink(strokes - 1e-6 * direction)) / 2e-6
    np.testing.assert_allclose((gradient * direction).sum(), slope, rtol=1e-7)


def test_bad_requests_for_a_video_are_refused():
    with pytest.raises(ValueError, match="frames must be a whole number, 1 or more, got 0"):
        draw(jnp.zeros((1, 3, 4)), frames=0, size=8)
    with pytest.raises(ValueError, match="size must be a whole number, 1 or more, got 0"):
        draw(jnp.zeros((1, 3, 4)), frames=1, size=0)
    with pytest.raises(ValueError, match=r"got \(1, 3, 3\)"):
        draw(jnp.zeros((1, 3, 3)), frames=1, size=8)
