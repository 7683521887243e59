"""Alignment of two modalities as a loss on the pairs of a task."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from metajax._checked import checked
from metajax._checks import check_names
from metajax._tree import row_weights
from metajax.modalities.alignment import info_nce
from metajax.modalities.encoding import Encode, encode_batch
from metajax.types import Array, Batch, Loss, Metrics, Params

Measure: TypeAlias = Callable[..., Array]
"""(first, second, weight=[n]) -> scalar, of features [n, ...]: `info_nce`, `distill_logits`, ..."""


@checked
def pair_loss(encode: Encode, first: str, second: str, measure: Measure = info_nce) -> Loss:
    """The loss D(f_first, f_second) between two modalities, over the examples that have both.

    It needs no labels. As the loss of an inner loop, it aligns the modalities of a task from a few
    pairs, and the outer loss is what the alignment is for: this is CroMA. For example, images have
    labels and queries are strokes. The support set also has unlabelled pairs; their label is -1,
    which is no class:

        def image(params, x, key=None, *, reference=None):
            return encode(params, x, key, reference=reference)["image"]

        def stroke(params, x, key=None, *, reference=None):
            return encode(params, x, key, reference=reference)["stroke"]

        align = inner_loop(pair_loss(encode, "image", "stroke"), optax.sgd(0.1), steps=5)
        croma = query_loss(
            chain(align, prototypes(image, ways)), cross_entropy(linear_head(stroke))
        )

    `query_loss(align, pair_loss(...))` learns to align new pairs. With a measure of
    `metajax.modalities.distillation`, the first modality is the student and the second its teacher.

    Each row has its `batch.weight`. A row that lacks one of the modalities has the weight 0.

    Args:
        encode: (params, x, key, reference=...) -> {name: [examples, ...]}, features or logits.
        first: name of a modality.
        second: name of another modality.
        measure: (first, second, weight=[examples]) -> scalar. With `functools.partial(recall, k=1)`
            the result is the recall of retrieval.

    Returns:
        A loss without metrics.

    Raises:
        ValueError: twice the same modality; when called, a name that is not a modality, or a batch
            whose x is not a `Modalities`.

    >>> import jax.numpy as jnp, metajax as mj
    >>> x = mj.data.as_modalities({"image": jnp.eye(3), "stroke": jnp.eye(3)})
    >>> loss = pair_loss(mj.nets.identity_encoder, "image", "stroke")
    >>> round(loss(Params({}, {}), Batch(x, y=-jnp.ones(3, int)), None)[0].item(), 4)
    0.0

    Source: Liang et al. 2020, arXiv 2012.02813.
    """
    if first == second:
        raise ValueError(f"A pair needs two modalities, got {first!r} twice.")

    @checked
    def loss(params: Params, batch: Batch, key: Array | None) -> tuple[Array, Metrics]:
        features = encode_batch(encode, params, batch, key)
        check_names([first, second], features)
        weight_N = pair_weights(batch, first, second)
        return measure(features[first], features[second], weight=weight_N), {}

    return loss


def pair_weights(batch: Batch, first: str, second: str) -> Array:
    """The weight of each row as a pair, [examples]: 0 where one of the modalities is absent."""
    weight_N = row_weights(batch)
    both_N = batch.x.present[first] & batch.x.present[second]
    return weight_N * both_N.astype(weight_N.dtype)
