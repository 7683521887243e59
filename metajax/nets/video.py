"""Video: an encoder of images over the frames, then an encoder of series over time."""

from __future__ import annotations

from metajax._checked import checked
from metajax.nets.image import Conv4
from metajax.nets.sequence import GRU, SequenceTransformer, TemporalConv
from metajax.nets.tokens import FrontEnd, TokenEncoder, read_series
from metajax.types import Array, Series


@checked
class Video(FrontEnd):
    """Each frame becomes a vector, and the vectors of a video are read as a series.

    `Video(Conv4(64, ...), SequenceTransformer(64, ways, ...))` is convolution in space and
    attention in time. Videos of different lengths come as a `Series` of value [n, frames, h, w, c];
    normalisation statistics are over valid frames only.

    Args:
        image: encoder of frames [n, h, w, c].
        sequence: encoder of the vectors: a `GRU`, `TemporalConv` or `SequenceTransformer`. Its
            `inputs` is the width of the output of `image`.

    Raises:
        ValueError: widths that differ.

    >>> import jax, jax.numpy as jnp
    >>> from flax import nnx
    >>> rngs = nnx.Rngs(0)
    >>> net = Video(Conv4(6, width=4, rngs=rngs), GRU(6, 5, width=8, rngs=rngs))
    >>> jax.eval_shape(net, jnp.ones((2, 3, 28, 28, 1))).shape
    (2, 5)
    """

    def __init__(
        self, image: Conv4 | TokenEncoder, sequence: GRU | TemporalConv | SequenceTransformer
    ):
        super().__init__(sequence)
        if image.head.out_features != sequence.inputs:
            raise ValueError(
                f"image gives {image.head.out_features} features and {sequence.inputs=}; "
                "make them equal."
            )
        self.image = image

    def series(self, x: Array | Series, reference: Array | None = None) -> Series:
        """The vectors of the frames.

        Args:
            x: float[n, frames, h, w, c], or a `Series`.
            reference: bool[n], the videos that normalisation statistics are computed from. None
                means all videos.

        Returns:
            A series [n, frames, inputs].
        """
        value, valid = read_series(x)
        counted = valid if reference is None else valid & (reference > 0)[:, None]
        frames = value.reshape(-1, *value.shape[2:])
        vectors = self.image(frames, counted.reshape(-1))
        return Series(vectors.reshape(*value.shape[:2], -1), valid.sum(1))
