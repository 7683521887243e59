"""The one place where pictures are decoded: from files, from bytes and from arrays."""

from __future__ import annotations

import functools
import io
import os
import pathlib
import warnings
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from jax.typing import ArrayLike

from metajax._checked import checked
from metajax._checks import check_count, check_names
from metajax.types import Size

Prepare: TypeAlias = Callable[[Any], ArrayLike]
"""(feature of one example, as TensorFlow Datasets decodes it) -> array, always of one shape."""

BrokenFile: TypeAlias = Callable[[pathlib.Path], object]
"""What is called with each file that cannot be read as a picture."""

MOST_PIXELS = 64_000_000
"""The largest width times height of a picture, unless another one is given."""

RESAMPLES = {"bicubic": "BICUBIC", "box": "BOX"}
"""Pillow's name of each way to resize."""

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's name for each number of channels


@checked
def square(
    size: Size, *, grey: bool = False, resample: str = "bicubic", invert: bool = False
) -> Prepare:
    """A function that cuts out the middle square of a picture and resizes it.

    Use it as `tfds(..., prepare=square(84))` for photographs of different sizes.

    Values stay as they are, so that paper is 255 and ink 0. `omniglot` has them inverted, in one
    channel and resized by averages: `square(28, grey=True, resample="box", invert=True)` makes the
    same pictures of the Omniglot of TensorFlow Datasets; the default differs by up to 67 grey
    levels.

    Args:
        size: height and width of the result in pixels.
        grey: one channel. False keeps the channels that the picture has.
        resample: "bicubic", or "box", the average of the pixels that become one.
        invert: 255 - value, after resizing, so that ink on paper becomes 255 on 0.

    Returns:
        uint8[height, width, channels] -> uint8[size, size, channels].

    Raises:
        ValueError: size below 1, or another `resample`. When it is called: to invert a picture with
            opacity or with more than 8 bits in a value.
        ImportError: Pillow is missing.

    >>> ink = np.zeros((4, 4, 3), np.uint8)
    >>> square(2, grey=True, invert=True)(ink)[..., 0].tolist()
    [[255, 255], [255, 255]]
    """
    _pillow()
    check_names([resample], RESAMPLES, "the values of resample")
    return functools.partial(
        decode_picture,
        channels=1 if grey else None,
        size=size,
        as_stored=True,
        resample=resample,
        invert=invert,
    )


def decode_picture(
    source: bytes | str | os.PathLike[str] | ArrayLike,
    channels: int | None,
    *,
    size: int | None = None,
    as_stored: bool = False,
    most_pixels: int = MOST_PIXELS,
    resample: str = "bicubic",
    invert: bool = False,
) -> np.ndarray:
    """A picture as an array uint8[height, width, channels].

    Photographs are turned upright as their camera noted it, and transparent places become white.

    Args:
        source: the bytes of an image file, its path, or an array [height, width, channels].
        channels: 1 (grey), 3 (red, green, blue) or 4 (with opacity). None keeps the channels and
            the dtype that the picture has.
        size: if given, the middle square is resized to this height and width.
        as_stored: neither turns the picture nor makes transparent places white. TensorFlow decodes
            pictures in this way.
        most_pixels: the largest width times height; a small file may hold a huge picture.
        resample: how it is resized, "bicubic" or "box".
        invert: 255 - value, after resizing.

    Raises:
        ValueError: a picture that cannot be decoded, that is too large, or that has more than 8
            bits in each value and would have to be converted or inverted. The text says why.
        ImportError: Pillow is missing.
    """
    image_module, operations = _pillow()
    try:
        with _open(source) as opened:
            picture = opened
            if picture.width * picture.height > most_pixels:
                raise ValueError(
                    f"it has {picture.width} x {picture.height} pixels, and most_pixels is "
                    f"{most_pixels}"
                )
            if not as_stored:
                picture = operations.exif_transpose(picture)
            if channels is not None:
                _check_depth(picture)
            if not as_stored and picture.has_transparency_data:
                picture = _on_white(picture)
            if channels is not None:
                picture = picture.convert(_MODES[channels])
            if size is not None:
                method = image_module.Resampling[RESAMPLES[resample]]
                picture = operations.fit(picture, (size, size), method)
            if invert:
                _check_inverted(picture)
                picture = operations.invert(picture)
            return np.asarray(picture).reshape(picture.height, picture.width, -1)
    except Exception as error:  # the decoders of damaged files raise many kinds
        raise ValueError(str(error) or type(error).__name__) from error


def read_pictures(
    paths: list[pathlib.Path],
    size: int | None,
    grey: bool,
    broken: BrokenFile | None,
    most_pixels: int = MOST_PIXELS,
    resample: str = "bicubic",
    invert: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """The middle square of each file, resized.

    Args:
        paths: the files.
        size: height and width of the images.
        grey: one channel instead of three.
        broken: called with each file that cannot be read. None makes the first of them an error.
        most_pixels: the largest width times height of a file.
        resample: how they are resized, "bicubic" or "box".
        invert: 255 - value, after resizing.

    Returns:
        (images uint8[read, size, size, 1 or 3], bool[paths] which were read).

    Raises:
        ValueError: size below 1, another `resample`, or a file that cannot be read and no `broken`.
        ImportError: Pillow is missing.
    """
    _pillow()
    check_count("size", size)
    check_names([resample], RESAMPLES, "the values of resample")
    channels = 1 if grey else 3
    images = []
    read = np.ones(len(paths), bool)
    for row, path in enumerate(paths):
        try:
            image = decode_picture(
                path,
                channels,
                size=size,
                most_pixels=most_pixels,
                resample=resample,
                invert=invert,
            )
            images.append(image)
        except ValueError as error:
            if broken is None:
                raise ValueError(
                    f"{path} cannot be read as an image ({error}); repair it, "
                    "or leave such files out with broken=."
                ) from error
            broken(path)
            read[row] = False
    if not images:
        shape: Any = (0, size, size, channels)
        return np.zeros(shape, np.uint8), read
    return np.stack(images), read


def _pillow() -> tuple[Any, Any]:
    """The modules Image and ImageOps of Pillow."""
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ImportError("Pictures need Pillow: pip install 'metajax[data]'.") from error
    return Image, ImageOps


def _open(source: Any) -> Any:
    """A picture of Pillow, which a `with` statement closes.

    Raises:
        ValueError: a path that is not a regular file. Reading a pipe would wait for ever.
    """
    image_module, _ = _pillow()
    if isinstance(source, str | os.PathLike) and not pathlib.Path(source).is_file():
        raise ValueError("it is not a regular file")
    with warnings.catch_warnings():
        # `most_pixels` is the limit; Pillow warns of another one, without decoding anything.
        warnings.simplefilter("ignore", image_module.DecompressionBombWarning)
        if isinstance(source, bytes):
            return image_module.open(io.BytesIO(source))
        if isinstance(source, str | os.PathLike):
            return image_module.open(source)
    array = np.asarray(source)
    return image_module.fromarray(array[..., 0] if array.shape[-1] == 1 else array)


def _check_depth(picture: Any) -> None:
    """Refuses pictures whose values Pillow would cut: all but the darkest would become white."""
    if picture.mode.startswith(("I", "F")):
        raise ValueError("it has more than 8 bits for a value")


def _check_inverted(picture: Any) -> None:
    """Refuses pictures whose values do not all run from 0 to 255, or one of which is opacity."""
    if picture.mode not in ("L", "RGB"):
        raise ValueError(
            f"only 8-bit grey or colour can be inverted, and it is {picture.mode}; take grey=True"
        )


def _on_white(picture: Any) -> Any:
    """The picture in front of a white background."""
    image_module, _ = _pillow()
    clear = picture.convert("RGBA")
    background = image_module.new("RGBA", clear.size, "white")
    return image_module.alpha_composite(background, clear)
