"""Annotations of examples: modalities that are predicted and never read."""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
import optax

from metajax._checked import checked
from metajax._checks import not_classes
from metajax._tree import keep_rows, reference_rows, row_weights
from metajax.modalities.checks import check_modalities
from metajax.modalities.missing import remove_modalities
from metajax.modalities.rows import weighted_mean
from metajax.types import Apply, Array, Batch, Loss, Metrics, Params


@checked
def annotated(
    loss: Loss, heads: Mapping[str, Apply], *, weight: float | Mapping[str, float | Array] = 1.0
) -> Loss:
    """A loss plus auxiliary losses that predict annotations: L + Σₐ λₐ Lₐ.

    Use it where examples have annotations that a query will not have: a coarse label, an alphabet,
    a number of strokes. An annotation is a modality in `batch.x`, with its presence. Lₐ is the mean
    over rows in which the annotation is present, by `batch.weight`, and 0 without such rows.

    - Integers int[n] and bool[n] are classes: Lₐ = -log softmax(headₐ(x))[a].
    - Real numbers [n] and [n, k] are regressed: Lₐ = |headₐ(x) - a|² / k.

    `loss` and the heads do not see the annotations. An adaptation must not see them either: use
    `remove_modalities` in front of its encoder. Give all annotations in one call; a second call
    would let its loss see those of the first.

    It is a loss like any other, for `inner_loop` and for `query_loss`. Where no row has an
    annotation, as at test time, it equals `loss`; x must still have its entry, marked as absent.

    Args:
        loss: (params, batch, key) -> (scalar, metrics), on the other modalities.
        heads: {annotation: (params, x, key, reference=...) -> [n, classes] or [n, k]}. They may
            share features with the learner: `linear_head(embed, entry="strokes")` has its weights
            in `params.fast["strokes"]`, and `partial(apply, method="strokes")` is a part of a net.
        weight: λ of all annotations, or {annotation: λ}.

    Returns:
        A loss with the metrics of `loss` and those of each annotation: "strokes/loss", and for
        classes "strokes/accuracy".

    Raises:
        ValueError: no head, or weights of other annotations; when traced, x that is not a
            `Modalities` or lacks an annotation, a head whose output has another shape, or
            concrete classes that the head has no output for.

    >>> import jax, metajax as mj
    >>> value = {"image": jnp.ones((2, 3)), "strokes": jnp.array([1, 7])}
    >>> x = mj.data.as_modalities(value, {"strokes": jnp.array([True, False])})
    >>> params = Params({"strokes": {"kernel": jnp.zeros((3, 4)), "bias": jnp.zeros(4)}}, {})
    >>> head = mj.linear_head(lambda params, x, key, reference: x.value["image"], entry="strokes")
    >>> plain = lambda params, batch, key: (jnp.zeros(()), {})
    >>> loss = annotated(plain, {"strokes": head}, weight=0.5)
    >>> value, metrics = loss(params, Batch(x, y=jnp.array([0, 1])), jax.random.key(0))
    >>> round(value.item(), 4)  # half of log 4
    0.6931

    Source: Caruana 1997, doi 10.1023/A:1007379606734 (auxiliary tasks that share features).
    """
    weights = dict(weight) if isinstance(weight, Mapping) else dict.fromkeys(heads, weight)
    if not heads or weights.keys() != heads.keys():
        raise ValueError(
            f"Each annotation needs a head and a weight, got {sorted(heads)} and {sorted(weights)}."
        )

    @checked
    def total(params: Params, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        check_modalities(batch.x)
        seen = batch._replace(x=remove_modalities(batch.x, heads))
        value, metrics = loss(params, seen, key)
        for name, head in heads.items():
            # The same key as in `loss`: features that both share are then computed once under jit.
            outputs = head(params, seen.x, key, reference=reference_rows(seen))
            weight_N = row_weights(batch) * batch.x.present[name]
            own = _annotation_metrics(name, outputs, batch.x.value[name], weight_N)
            value = value + weights[name] * own[f"{name}/loss"]
            metrics = {**metrics, **own}
        return value, metrics

    return total


def _annotation_metrics(name: str, outputs: Array, target: Array, weight_N: Array) -> Metrics:
    """The loss of one annotation, and the accuracy if it is a class.

    Rows of weight 0 are cleared before anything is computed.
    """
    is_class = target.dtype == bool or jnp.issubdtype(target.dtype, jnp.integer)
    _check_outputs(name, outputs, target, is_class)
    wide = outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32))
    outputs_NxK, target = keep_rows(weight_N > 0, (wide.reshape(len(wide), -1), target))
    if not is_class:
        target_NxK = target.reshape(outputs_NxK.shape).astype(outputs_NxK.dtype)
        square_N = ((outputs_NxK - target_NxK) ** 2).mean(axis=1)
        return {f"{name}/loss": weighted_mean(square_N, weight_N)}
    label_N = target.astype(jnp.int32) if target.dtype == bool else target
    wrong_N = not_classes(label_N, outputs_NxK.shape[1])
    # A factor, so that the gradient is NaN as well.
    one_or_nan = jnp.where(wrong_N.any(), jnp.nan, 1).astype(outputs_NxK.dtype)
    label_N = jnp.where(wrong_N, 0, label_N)
    loss_N = optax.softmax_cross_entropy_with_integer_labels(outputs_NxK, label_N)
    correct_N = (outputs_NxK.argmax(axis=1) == label_N).astype(outputs_NxK.dtype)
    return {
        f"{name}/loss": weighted_mean(loss_N, weight_N) * one_or_nan,
        f"{name}/accuracy": weighted_mean(correct_N, weight_N) * one_or_nan,
    }


def _check_outputs(name: str, outputs: Array, target: Array, is_class: bool) -> None:
    """Checks that the outputs of a head fit its annotation.

    Raises:
        ValueError: another shape.
    """
    if is_class:
        fits = target.ndim == 1 and outputs.ndim == 2 and len(outputs) == len(target)
        wanted = f"[{len(target)}, classes]"
    else:
        fits = outputs.shape in (target.shape, (*target.shape, 1))
        wanted = f"{list(target.shape)}"
    if not fits:
        raise ValueError(
            f"The head of {name!r} must give {wanted} for {target.dtype}{list(target.shape)}, got "
            f"{list(outputs.shape)}."
        )
