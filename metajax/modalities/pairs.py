"""Alignment of two modalities as something to be learned within a task, from the pairs that it has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from metajax._tree import clear_absent, reference_rows, row_weights
from metajax.modalities.alignment import info_nce
from metajax.modalities.heads import Encode
from metajax.types import Array, Batch, Loss, Metrics, Modalities, Params

Measure: TypeAlias = Callable[..., Array]
"""(first, second, weight=[n]) -> scalar, of features [n, ...]: `info_nce`, `triplet`, `distill_logits`, ..."""


def pair_loss(encode: Encode, first: str, second: str, measure: Measure = info_nce) -> Loss:
    """The loss between two modalities of the same examples: D(f_first, f_second), over the rows that have both.

    It needs no labels. As the loss of an inner loop it aligns the modalities of a task from its few pairs, and an outer
    loss says what the alignment is for; that is CroMA. Answer for strokes where only images have labels, with y = -1,
    which is no class, in the rows of the support set that are unlabelled pairs:

        image, stroke = (lambda params, x, key=None, *, reference=None, n=n: encode(params, x, key)[n] for n in names)
        align = inner_loop(pair_loss(encode, "image", "stroke"), optax.sgd(0.1), steps=5)
        croma = query_loss(chain(align, prototypes(image, ways)), cross_entropy(linear_head(stroke)))

    With `pair_loss` as the outer loss as well, `query_loss(align, pair_loss(...))` learns to align new pairs. With a
    measure of `metajax.modalities.distillation` the first modality is the student, the second its teacher. A row counts
    by `batch.weight`; one that lacks a modality does not, and what stands there changes no value and no gradient.

    Args:
        encode: (params, x, key, reference=...) -> {name: [examples, ...]}, features or logits.
        first: name of a modality.
        second: name of another.
        measure: (first, second, weight=[examples]) -> scalar. `functools.partial(recall, k=1)` judges retrieval.

    Raises:
        ValueError: one modality twice; when called, an unknown one, or a batch whose x is no `Modalities`.

    Source: Liang et al. 2020, arXiv 2012.02813.

    >>> import jax.numpy as jnp, metajax as mj
    >>> x = mj.data.as_modalities({"image": jnp.eye(3), "stroke": jnp.eye(3)}, {"stroke": jnp.array([True, True, False])})
    >>> loss = pair_loss(lambda params, x, key, reference: x.value, "image", "stroke")
    >>> round(loss(Params({}, {}), Batch(x, y=-jnp.ones(3, int)), None)[0].item(), 4)
    0.0
    """
    if first == second:
        raise ValueError(f"A pair is of two modalities, got {first!r} twice.")

    def loss(params: Params, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        features = encode_present(encode, params, batch, key)
        check_known([first, second], features)
        return measure(
            features[first], features[second], weight=both_present(batch, first, second)
        ), {}

    return loss


def encode_present(encode: Encode, params: Params, batch: Batch, key: Array) -> dict[str, Array]:
    """The features of every modality, of inputs in which what is absent is zero."""
    if not isinstance(batch.x, Modalities):
        raise ValueError(f"Need a batch whose x is a Modalities, got {type(batch.x).__name__}.")
    features = encode(params, clear_absent(batch.x), key, reference=reference_rows(batch))
    check_known(features, batch.x.value)
    return features


def both_present(batch: Batch, first: str, second: str) -> Array:
    """What each row counts as a pair, [examples]: its weight where both modalities are there, else 0."""
    count_N = row_weights(batch)
    return count_N * (batch.x.present[first] & batch.x.present[second]).astype(count_N.dtype)


def check_known(names: Iterable[str], features: Mapping[str, Any]) -> None:
    """Fails on names that are not those of modalities."""
    if unknown := sorted(set(names) - set(features)):
        raise ValueError(f"{unknown} are not among the modalities, which are {sorted(features)}.")
