"""How far the answers on one task can be trusted, from its support set alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtri

from metajax._checked import checked
from metajax._checks import check_labels, not_classes
from metajax._tree import widened
from metajax.diagnostics.cross_validation import HeldOut, cross_predict
from metajax.types import Adaptation, Array, Batch, Params, Size


class Trust(NamedTuple):
    """What a support set says of the accuracy on its task.

    Attributes:
        accuracy: share of the examples that are predicted right where they are left out; NaN if
            none is usable, as with one shot, or where an output or a label is wrong.
        low: lower end of the interval, 0 if none is usable.
        high: upper end of the interval, 1 if none is usable.
        number: int, how many examples are usable.
        held_out: the outputs that it is from, for `conformal_sets`.
    """

    accuracy: Array
    low: Array
    high: Array
    number: Array
    held_out: HeldOut


@checked
def trust(
    adaptation: Adaptation,
    apply: Callable[..., Any],
    params: Params,
    support: Batch,
    key: Array,
    *,
    folds: Size | None = None,
    at_once: Size | None = None,
    inductive: bool = False,
    confidence: float = 0.95,
) -> Trust:
    """The accuracy to expect on one task, with an interval, without a label to spare.

    Each example of the support set is predicted by an adaptation that leaves it out. The interval
    is Wilson's, which treats the examples as independent: with 25 examples it is about 0.3 wide.
    An adaptation to one example less is a little worse, so that the accuracy is a little low,
    most with two shots. With one shot no class is left to be predicted: then nothing is known, and
    the interval goes from 0 to 1.

    Args:
        adaptation: how the fast weights are rewritten.
        apply: (params, x, reference=...) -> logits [examples, ways].
        params: what the outer loop learned.
        support: examples of one task, with labels int[n].
        key: for the adaptations.
        folds: as for `cross_predict`.
        at_once: as for `cross_predict`.
        inductive: as for `predict`.
        confidence: of the interval, between 0 and 1.

    Raises:
        ValueError: labels that are not int[n], a confidence that is not between 0 and 1, and what
            `cross_predict` refuses.

    Source: Wilson 1927, J. Am. Stat. Assoc. 22, for the interval; on single few-shot tasks,
    Shimabucoro, Hospedales and Gouk 2023, arXiv 2307.02732.
    """
    check_labels(support.y)
    if not 0 < confidence < 1:
        raise ValueError(f"{confidence=} must be between 0 and 1.")
    held_out = cross_predict(
        adaptation,
        apply,
        params,
        support,
        key,
        folds=folds,
        at_once=at_once,
        inductive=inductive,
    )
    right = held_out.support.argmax(axis=1) == support.y
    wrong = not_classes(support.y, held_out.support.shape[1], support.weight, least=-1)
    failed = wrong | ~jnp.isfinite(held_out.support).all(axis=1)
    number = held_out.usable.sum()
    share = (right & held_out.usable).sum() / number
    share = jnp.where((failed & held_out.usable).any(), jnp.nan, share)
    low, high = wilson_interval(share, number, confidence)
    return Trust(share, low, high, number, held_out)


def wilson_interval(share: Array, number: Array, confidence: float) -> tuple[Array, Array]:
    """The interval of a share of so many; (0, 1) of none."""
    z = ndtri(jnp.asarray((1 + confidence) / 2, share.dtype))
    safe = jnp.maximum(number, 1)
    middle = share + z**2 / (2 * safe)
    half = z * jnp.sqrt(share * (1 - share) / safe + (z / (2 * safe)) ** 2)
    scale = 1 + z**2 / safe
    is_known = number > 0
    low = jnp.where(is_known, (middle - half) / scale, 0)
    high = jnp.where(is_known, (middle + half) / scale, 1)
    return jnp.clip(low, 0, 1), jnp.clip(high, 0, 1)


@checked
def conformal_sets(held_out: HeldOut, y: Array, *, coverage: float = 0.9) -> Array:
    """For each query, the labels that cannot be ruled out with the stated coverage.

    A label k stays in the set of query x if  Σᵢ [sᵢ < sᵢ(x, k)] < coverage · (n + 1),

    where sᵢ = 1 - p(yᵢ | xᵢ) is by the adaptation that leaves example i out, and sᵢ(x, k) =
    1 - p(k | x) by the same adaptation. n counts the usable examples. With fewer than
    coverage / (1 - coverage) of them, nine for 0.9, every label stays. What is proven is a coverage
    of 2 · coverage - 1; what is found is near `coverage`.

    Args:
        held_out: of `cross_predict` with `queries=`, logits as outputs.
        y: int[n], the labels of the support set.
        coverage: share of the queries whose label should be in the set, between 0 and 1.

    Returns:
        bool[queries, ways].

    Raises:
        ValueError: a coverage that is not between 0 and 1, no queries, or labels of another number.

    Source: Barber et al. 2021, Annals of Statistics 49, the CV+ of Vovk 2015; for few shots, Park,
    Cohen and Simeone 2022, arXiv 2210.03067.
    """
    if not 0 < coverage < 1:
        raise ValueError(f"{coverage=} must be between 0 and 1.")
    if held_out.queries is None:
        raise ValueError("Give cross_predict the inputs that sets are wanted for, as queries=.")
    check_labels(y)
    if len(y) != len(held_out.fold):
        raise ValueError(f"There are {len(y)} labels for {len(held_out.fold)} examples.")
    not_classes(y, held_out.support.shape[1], least=-1)
    own_NxW = jax.nn.softmax(widened(held_out.support))
    score_N = 1 - jnp.take_along_axis(own_NxW, jnp.maximum(y, 0)[:, None], axis=1)[:, 0]
    score_FxQxW = 1 - jax.nn.softmax(widened(held_out.queries))
    is_below_NxQxW = score_N[:, None, None] < score_FxQxW[held_out.fold]
    count_QxW = (is_below_NxQxW & held_out.usable[:, None, None]).sum(axis=0)
    return count_QxW < coverage * (held_out.usable.sum() + 1)
