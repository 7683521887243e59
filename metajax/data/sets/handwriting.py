"""Omniglot: handwritten characters of 50 alphabets, as images and as pen strokes."""

from __future__ import annotations

import numpy as np

from metajax._checked import checked
from metajax.data.datasets import Dataset, dataset
from metajax.data.prepare.omniglot import OMNIGLOT, OMNIGLOT_STROKES
from metajax.data.read.data_files import read_data_file
from metajax.data.read.rows import all_present
from metajax.data.strokes import resample


@checked
def omniglot() -> Dataset:
    """Omniglot: 1 623 characters of 50 alphabets, each drawn by 20 people.

    Images are uint8[28, 28, 1] with ink = 255; drawn images are float32 in [0, 1]. Names are
    "images_background/Alphabet/character01", or "images_evaluation/..." for the 20 alphabets that
    Lake et al. keep for testing.

    Reads `omniglot.npz`: image uint8[32460, 28, 28], label int[32460] and names [1623], the
    drawings of github.com/brendenlake/omniglot made smaller by Pillow's BOX and inverted. The file
    is looked for in the folder that METAJAX_DATA names, then in the user's cache folder. If neither
    has it, its origin is downloaded at one commit, checked, and prepared in the cache, once.
    Licence: MIT, © 2015 Brenden Lake.

    TensorFlow Datasets has the same drawings, named "Greek/Greek_0", without their drawers:
    `tfds("omniglot", split="train+test", label=("alphabet", "label"), prepare=square(28,
    grey=True, resample="box", invert=True))` gives the same pictures.

    Raises:
        FileNotFoundError: METAJAX_DATA names no folder.
        ConnectionError: the file is not at hand, and its origin cannot be reached.
        ValueError: the file is damaged.

    Source: Lake, Salakhutdinov and Tenenbaum 2015, doi 10.1126/science.aab3050.
    """
    stored = read_data_file(OMNIGLOT, ("image", "label", "names"))
    names = stored["names"].tolist()
    image = stored["image"][..., None]
    return dataset(image, stored["label"], names=names, scale=255, credit=OMNIGLOT.credit)


@checked
def omniglot_strokes(*, points: int = 64) -> Dataset:
    """Omniglot as image and pen: 242 characters of 8 of its 50 alphabets, 20 drawings of each.

    x is a `Modalities` of image uint8[28, 28, 1] and stroke float32[points, (x, y, t, start)] as
    `resample` makes it and `draw` shows it, with the pen's own clock. Both are always present, and
    the scale of the image is 255. Names are "Balinese/character01".

    The clock stops at 65.5 seconds, in the 20 drawings that last longer.

    Reads `omniglot_strokes.npz`, which is found or downloaded as `omniglot` says: image, stroke
    uint16[722053, (16 x, 16 y, milliseconds, start)], offset, label, names. Licence: MIT, © 2015
    Brenden Lake.

    Args:
        points: number of points of each trajectory; the drawing with the most strokes has 29.

    Raises:
        FileNotFoundError: METAJAX_DATA names no folder.
        ConnectionError: the file is not at hand, and its origin cannot be reached.
        ValueError: the file is damaged, or fewer points than a drawing has strokes.

    Source: Lake, Salakhutdinov and Tenenbaum 2015, doi 10.1126/science.aab3050.
    """
    arrays = ("image", "stroke", "offset", "label", "names")
    stored = read_data_file(OMNIGLOT_STROKES, arrays)
    rows = stored["stroke"].astype(np.float64)
    stroke = resample(rows[:, :3], rows[:, 3] > 0, stored["offset"], number=points)
    x = all_present({"image": stored["image"][..., None], "stroke": stroke}, len(stroke))
    return dataset(
        x,
        stored["label"],
        names=stored["names"].tolist(),
        scale={"image": 255},
        credit=OMNIGLOT_STROKES.credit,
    )
