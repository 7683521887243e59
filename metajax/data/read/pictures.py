"""The one place where pictures are decoded and resized."""

from __future__ import annotations

import io
import pathlib
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from jax.typing import ArrayLike

Prepare: TypeAlias = Callable[[Any], ArrayLike]
"""What an example's feature is, as TensorFlow Datasets decodes it -> array of one shape."""

Broken: TypeAlias = Callable[[pathlib.Path], object]


def _pictures(
    paths: list[pathlib.Path], size: int | None, grey: bool, broken: Broken | None
) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8[read, size, size, 1 or 3], and which paths were read."""
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ImportError("Images need Pillow: pip install 'metajax[data]'.") from error
    if size is None or size < 1:
        raise ValueError(f"{size=} must be the height and width of the images, 1 or more.")
    images, read = [], np.ones(len(paths), bool)
    for row, path in enumerate(paths):
        try:
            with Image.open(path) as file:
                picture = ImageOps.exif_transpose(file)
                if picture.mode.startswith(
                    ("I", "F")
                ):  # converted, all but the darkest would be white
                    raise ValueError("it has more than 8 bits for a value")
                if picture.has_transparency_data:
                    clear = picture.convert("RGBA")
                    picture = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear)
                square = ImageOps.fit(picture.convert("L" if grey else "RGB"), (size, size))
                images.append(np.asarray(square).reshape(size, size, -1))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            if broken is None:
                raise ValueError(
                    f"{path} cannot be read as an image ({error}); mend it, or leave such out by broken=."
                ) from error
            broken(path)
            read[row] = False
    return np.stack(images) if images else np.zeros(
        (0, size, size, 1 if grey else 3), np.uint8
    ), read


def _picture(jpeg: np.ndarray, offset: np.ndarray, row: int, size: int) -> np.ndarray:
    """The middle square of one picture, uint8[size, size, 3]."""
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ImportError("Photographs need Pillow: pip install 'metajax[data]'.") from error
    try:
        with Image.open(io.BytesIO(jpeg[offset[row] : offset[row + 1]].tobytes())) as picture:
            return np.asarray(ImageOps.fit(picture.convert("RGB"), (size, size)))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"The photograph in row {row} cannot be decoded ({error}); make the pack again."
        ) from error


def _picture_of(feature: Any) -> Prepare:
    """Decodes an image to the channels of its feature, which `tfds.data_source` does not: black and white, or grey."""
    from PIL import Image

    mode = {1: "L", 3: "RGB", 4: "RGBA"}[feature.shape[-1] or 3]

    def decode(stored: Any) -> np.ndarray:
        if isinstance(stored, np.ndarray) and stored.ndim:  # TensorFlow has decoded it
            return stored
        with Image.open(io.BytesIO(stored)) as picture:
            decoded = np.asarray(picture.convert(mode))
        return decoded if decoded.ndim == 3 else decoded[..., None]

    return decode


def square(size: int) -> Prepare:
    """The middle square of a picture, resized: uint8[height, width, channels] -> uint8[size, size, channels].

    Raises:
        ValueError: size below 1.
        ImportError: Pillow is missing.
    """
    if size < 1:
        raise ValueError(f"{size=} must be 1 or more.")
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ImportError("Photographs need Pillow: pip install 'metajax[data]'.") from error

    def resize(picture: ArrayLike) -> np.ndarray:
        picture = np.asarray(picture)
        flat = picture[..., 0] if picture.shape[-1] == 1 else picture
        return np.asarray(ImageOps.fit(Image.fromarray(flat), (size, size))).reshape(size, size, -1)

    return resize
