"""Images that are rotated, scaled, sheared and shifted."""

from typing import NamedTuple

import numpy as np
import pytest
import scipy.ndimage
from drawn_tasks import augmented_examples

from metajax.data.augment.geometry import affine

HEIGHT, WIDTH = 21, 17
ALL = {"degrees": 25.0, "translate": 0.15, "scale": (0.8, 1.25), "shear": 15.0}
LOW = np.array([-25, -0.15, -0.15, 0.8, -15])
HIGH = np.array([25, 0.15, 0.15, 1.25, 15])


class Measured(NamedTuple):
    """Where the pixels p of an augmented image come from: M p + o.

    Attributes:
        image: [height, width, 4], what became of the planes row, column, ones and noise.
        matrix: M, [2, 2].
        offset: o, [2].
        parameters: angle, right, down, size and slant of `affine`.
    """

    image: np.ndarray
    matrix: np.ndarray
    offset: np.ndarray
    parameters: np.ndarray


ROWS, COLUMNS = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
ONES = np.ones_like(ROWS)
NOISE = np.random.default_rng(0).random(ROWS.shape, np.float32)


def measure(image):
    """Fits what became of the coordinates, where the plane of ones shows the inside."""
    image = image.astype(float)
    design = np.stack([ROWS, COLUMNS, ONES], axis=2).reshape(-1, 3)
    inside = np.abs(image[..., 2].reshape(-1) - 1) < 1e-6
    assert inside.sum() > 20
    target = image[..., :2].reshape(-1, 2)[inside]
    solution = np.linalg.lstsq(design[inside], target, rcond=None)[0]
    np.testing.assert_allclose(design[inside] @ solution, target, atol=1e-4)
    matrix, offset = solution[:2].T, solution[2]
    size = 1 / np.hypot(*matrix[0])
    angle = np.arctan2(-matrix[0, 1], matrix[0, 0])
    slant = np.arctan(-size * (matrix[1, 0] * np.cos(angle) - matrix[1, 1] * np.sin(angle)))
    centre = np.array([HEIGHT - 1, WIDTH - 1]) / 2
    down, right = np.linalg.solve(matrix, centre - offset) - centre
    parameters = [np.rad2deg(angle), right / WIDTH, down / HEIGHT, size, np.rad2deg(slant)]
    return Measured(image, matrix, offset, np.array(parameters))


def measured(options, number):
    planes = np.stack([ROWS, COLUMNS, ONES, NOISE], axis=2)
    return [measure(image) for image in augmented_examples(affine(**options), planes, number)]


def parameters(draws):
    return np.array([one.parameters for one in draws])


def resampled(plane, one, fill=0.0):
    """What scipy makes of a plane."""
    return scipy.ndimage.affine_transform(
        plane.astype(float), one.matrix, one.offset, order=1, mode="grid-constant", cval=fill
    )


def test_affine_is_that_of_scipy_and_its_parameters_are_uniform_and_independent():
    draws = measured(ALL, 300)
    for one in draws[:40]:
        np.testing.assert_allclose(one.image[..., 2], resampled(ONES, one), atol=1e-3)
        np.testing.assert_allclose(one.image[..., 3], resampled(NOISE, one), atol=1e-3)
    part = (parameters(draws) - LOW) / (HIGH - LOW)
    assert part.min() > -1e-3 and part.max() < 1 + 1e-3
    np.testing.assert_allclose(part.mean(axis=0), [0.5] * 5, atol=0.06)
    np.testing.assert_allclose(part.std(axis=0), [12**-0.5] * 5, atol=0.03)
    assert np.abs(np.corrcoef(part.T) - np.eye(5)).max() < 0.2


@pytest.mark.parametrize(
    ("option", "moved"), [("degrees", [0]), ("translate", [1, 2]), ("scale", [3]), ("shear", [4])]
)
def test_each_option_of_affine_moves_its_own_parameter(option, moved):
    found = parameters(measured({option: ALL[option]}, 30))
    still = np.delete(np.arange(5), moved)
    identity = np.broadcast_to([0, 0, 0, 1, 0], (30, 5))
    np.testing.assert_allclose(found[:, still], identity[:, still], atol=2e-3)
    assert (np.ptp(found[:, moved], axis=0) > 0.7 * (HIGH - LOW)[moved]).all()


def test_affine_fills_what_lies_outside():
    draws = measured({**ALL, "fill": 0.25}, 20)
    for one in draws:
        np.testing.assert_allclose(one.image[..., 3], resampled(NOISE, one, 0.25), atol=1e-3)
    assert any((one.image[..., 3] == 0.25).any() for one in draws)


def test_affine_turns_by_any_angle():
    angle = parameters(measured({"degrees": 180.0}, 200))[:, 0]
    assert angle.min() < -165 and angle.max() > 165
