"""Annotations of each example: modalities that are predicted, and never read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import jax.numpy as jnp
import optax

from metajax._tree import reference_rows, row_weights
from metajax.types import Apply, Array, Batch, Loss, Metrics, Modalities, Params


def annotated(
    loss: Loss, heads: Mapping[str, Apply], *, weight: float | Mapping[str, float | Array] = 1.0
) -> Loss:
    """A loss with auxiliary ones: L + Σₐ λₐ Lₐ, where head a predicts annotation a from what the learner may read.

    An annotation (a coarse label, an alphabet, a number of strokes) stands in `batch.x` like any other modality, with
    its presence. Integers int[n], or bool[n], are classes, Lₐ = -log softmax(headₐ(x))[a]; real numbers [n] or [n, k]
    are regressed, Lₐ = |headₐ(x) - a|² / k. The mean is over the rows in which the annotation is present, by
    `batch.weight`, and 0 if there are none; what stands elsewhere changes nothing. Neither `loss` nor a head gets to
    see an annotation, and an adaptation must not either: `remove_modalities` takes it out of what `embed` reads. Give
    all of them in one call, for what another call adds is not known to it.

    It is a loss like any other, for `inner_loop` or for `query_loss`; without annotations at test time it is `loss`.

    Args:
        loss: (params, batch, key) -> (scalar, metrics), on the other modalities.
        heads: {annotation: (params, x, key, reference=...) -> [n, classes] or [n, k]}, which share the features with
            the learner: `linear_head(embed, head="strokes")` has its weights in `params.fast["strokes"]`, and a
            module of its own is `partial(apply, method="strokes")`.
        weight: λ of all annotations, or {annotation: λ} for each.

    Returns:
        A loss whose metrics are those of `loss` and, for each annotation, "strokes/loss" and, of classes,
        "strokes/accuracy".

    Raises:
        ValueError: no head, or weights of other annotations; when traced, an x that is no `Modalities` or lacks an
            annotation, or a head whose answer does not fit.

    >>> x = Modalities({"image": jnp.ones((2, 3)), "strokes": jnp.array([1, 7])},
    ...                {"image": jnp.array([True, True]), "strokes": jnp.array([True, False])})
    >>> head = lambda params, x, key=None, *, reference=None: x.value["image"] @ params.slow
    >>> plain = lambda params, batch, key: (jnp.zeros(()), {"left": jnp.array(len(batch.x.value))})
    >>> params, batch = Params(fast={}, slow=jnp.zeros((3, 4))), Batch(x=x, y=jnp.array([0, 1]))
    >>> value, metrics = annotated(plain, {"strokes": head}, weight=0.5)(params, batch, None)
    >>> round(float(value), 4), int(metrics["left"])  # half of log 4
    (0.6931, 1)

    Source: auxiliary tasks that share features, Caruana 1997, doi 10.1023/A:1007379606734.
    """
    share = dict(weight) if isinstance(weight, Mapping) else dict.fromkeys(heads, weight)
    if not heads or share.keys() != heads.keys():
        raise ValueError(
            f"Each annotation needs a head and a weight, got {sorted(heads)} and {sorted(share)}."
        )

    def total(params: Params, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        if not isinstance(batch.x, Modalities):
            raise ValueError(
                f"Annotations stand in a Modalities, got {type(batch.x).__name__}; see data.as_modalities."
            )
        seen = batch._replace(x=remove_modalities(batch.x, heads))
        value, metrics = loss(params, seen, key)
        for name, head in heads.items():
            # The same key as the learner's: features that they share are computed once under jit.
            says = head(params, seen.x, key, reference=reference_rows(seen))
            own, accuracy = _judge(
                name, says, batch.x.value[name], row_weights(batch) * batch.x.present[name]
            )
            value = value + share[name] * own
            metrics = {**metrics, f"{name}/loss": own} | (
                {} if accuracy is None else {f"{name}/accuracy": accuracy}
            )
        return value, metrics

    return total


def remove_modalities(x: Modalities, names: Iterable[str]) -> Modalities:
    """The others alone; unlike `restrict`, it leaves no trace of those removed.

    Raises:
        ValueError: a name that is not a modality of x.

    >>> here = jnp.ones(1, bool)
    >>> x = Modalities({"image": jnp.ones((1, 2)), "alphabet": jnp.ones(1, int)}, {"image": here, "alphabet": here})
    >>> list(remove_modalities(x, ["alphabet"]).value)
    ['image']
    """
    gone = set(names)
    if unknown := sorted(gone - x.value.keys()):
        raise ValueError(f"{unknown} are not among the modalities, which are {sorted(x.value)}.")
    return Modalities(
        *({name: leaf for name, leaf in part.items() if name not in gone} for part in x)
    )


def _judge(name: str, says: Array, target: Array, weight_N: Array) -> tuple[Array, Array | None]:
    """Mean loss, and of classes the accuracy; what is not to count is made harmless before anything is computed."""
    target = target.astype(jnp.int32) if target.dtype == bool else target
    classes = jnp.issubdtype(target.dtype, jnp.integer)
    fits = (
        target.ndim == 1 and says.ndim == 2
        if classes
        else says.shape in (target.shape, (*target.shape, 1))
    )
    if not fits or len(says) != len(target):
        wanted = f"[{len(target)}, classes]" if classes else f"{list(target.shape)}"
        raise ValueError(
            f"The head of {name!r} must give {wanted} for {target.dtype}{list(target.shape)}, got {list(says.shape)}."
        )
    says = says.astype(jnp.promote_types(says.dtype, jnp.float32)).reshape(len(says), -1)
    counts_N = weight_N > 0
    says = jnp.where(counts_N[:, None], says, jnp.zeros_like(says))
    here = counts_N if classes else counts_N[:, None]
    target = target if classes else target.reshape(says.shape).astype(says.dtype)
    target = jnp.where(here, target, jnp.zeros_like(target))
    mean = lambda value_N: (weight_N * value_N).sum() / jnp.where(counts_N.any(), weight_N.sum(), 1)
    if not classes:
        return mean(((says - target) ** 2).mean(axis=1)), None
    right_N = (says.argmax(axis=1) == target).astype(says.dtype)
    return mean(optax.softmax_cross_entropy_with_integer_labels(says, target)), mean(right_N)
