"""Video: an encoder of images over the frames, then an encoder of series over time."""

from __future__ import annotations

from metajax.nets.attention import TokenEncoder
from metajax.nets.image import Conv4
from metajax.nets.sequence import GRU, Front, SequenceTransformer, TemporalConv, read
from metajax.types import Array, Series


class Video(Front):
    """Each frame becomes a vector, and the vectors of a video are read as a series.

    `Video(Conv4(64, ...), SequenceTransformer(64, ways, ...))` is convolution in space and attention in time. Where
    videos differ in length give a `Series` of value [n, frames, h, w, c]; statistics count no frame without a meaning.

    Args:
        image: from frames [n, h, w, c] to vectors.
        sequence: from vectors to the answer: its `inputs` is as wide as the output of `image`.

    Raises:
        ValueError: widths that differ.
    """

    def __init__(
        self, image: Conv4 | TokenEncoder, sequence: GRU | TemporalConv | SequenceTransformer
    ):
        super().__init__(sequence)
        if image.head.out_features != sequence.inputs:
            raise ValueError(
                f"image gives {image.head.out_features} features and {sequence.inputs=}; make them equal."
            )
        self.image = image

    def series(self, x: Array | Series, reference: Array | None = None) -> Series:
        """[n, frames, h, w, c] -> a series [n, frames, inputs]."""
        value, valid = read(x)
        counted = valid if reference is None else valid & (reference > 0)[:, None]
        frames = self.image(value.reshape(-1, *value.shape[2:]), counted.reshape(-1))
        return Series(frames.reshape(*value.shape[:2], -1), valid.sum(1))
