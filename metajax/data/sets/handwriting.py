"""Omniglot: handwritten characters of 50 alphabets, as images and as pen strokes."""

from __future__ import annotations

import numpy as np

from metajax.data.datasets import Dataset, dataset
from metajax.data.read.data_files import all_present, read_pack
from metajax.data.strokes import resample

_LIFT = (
    4 * 16,
    200,
)  # the pen was lifted where it moved farther, in 1/16 of a pixel of 105, within more milliseconds


def omniglot() -> Dataset:
    """Omniglot: 1 623 characters of 50 alphabets, each drawn by 20 people, as uint8 images [28, 28, 1], ink = 255.

    Names are "images_background/Alphabet/character01", or "images_evaluation/..." for the 20 alphabets that Lake et al.
    keep for testing. Reads `omniglot.npz` with image uint8[32460, 28, 28], label int[32460] and names [1623]: the
    drawings of github.com/brendenlake/omniglot, made smaller and inverted.

    Raises:
        FileNotFoundError: METAJAX_DATA is not set, or the file is not there.
        ValueError: the file is damaged.

    Source: Lake, Salakhutdinov and Tenenbaum 2015, doi 10.1126/science.aab3050.
    """
    pack = read_pack("omniglot.npz", ("image", "label", "names"))
    return dataset(pack["image"][..., None], pack["label"], names=pack["names"].tolist())


def omniglot_strokes(*, points: int = 64) -> Dataset:
    """Omniglot as image and pen: 242 characters of 8 of its 50 alphabets, 20 drawings of each.

    x is a `Modalities` of image uint8[28, 28, 1] and stroke float32[points, (x, y, t, start)] as `resample` makes it
    and `draw` shows it, with the pen's own clock; both are always present. Names are "Balinese/character01".

    The pack does not tell where the pen was lifted. It was where it moved more than 4 of 105 pixels in more than 200
    milliseconds: a pen that is down and moves gives a point about every 12. (The clock stops at 65.5 seconds; in the
    20 drawings that last longer the distance decides alone from there on.)

    Reads `omniglot_strokes.npz`: image, stroke uint16[722053, (16 x, 16 y, milliseconds, start)], offset, label, names.

    Args:
        points: of each trajectory; the drawing with the most strokes has 17.

    Raises:
        FileNotFoundError: METAJAX_DATA is not set, or the file is not there.
        ValueError: the file is damaged, or fewer points than a drawing has strokes.

    Source: Lake, Salakhutdinov and Tenenbaum 2015, doi 10.1126/science.aab3050.
    """
    pack = read_pack("omniglot_strokes.npz", ("image", "stroke", "offset", "label", "names"))
    rows = pack["stroke"].astype(np.float64)
    moved, took = np.linalg.norm(np.diff(rows[:, :2], axis=0), axis=1), np.diff(rows[:, 2])
    unknown = rows[1:, 2] == np.iinfo(np.uint16).max
    lifted = (moved > _LIFT[0]) & ((took > _LIFT[1]) | unknown)
    starts = (rows[:, 3] > 0) | np.concatenate([[True], lifted])
    stroke = resample(rows[:, :3], starts, pack["offset"], number=points)
    x = all_present(image=pack["image"][..., None], stroke=stroke)
    return dataset(x, pack["label"], names=pack["names"].tolist())
