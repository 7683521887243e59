"""How far the answers on one task can be trusted, from its support set alone."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtri

from metajax._checked import checked
from metajax._checks import check_labels, not_classes
from metajax._tree import widened
from metajax.diagnostics.cross_validation import HeldOut
from metajax.types import Array, Gaussian


class Trust(NamedTuple):
    """What a support set says of the accuracy on its task.

    Attributes:
        accuracy: share of the examples that are predicted right where they are left out; NaN if
            none is usable, as with one shot, or where an output or a label is wrong.
        low: lower end of the interval, 0 if none is usable.
        high: upper end of the interval, 1 if none is usable.
        number: int, how many examples are usable.
    """

    accuracy: Array
    low: Array
    high: Array
    number: Array


@checked
def trust(held_out: HeldOut, *, confidence: float = 0.95) -> Trust:
    """The accuracy to expect on one task, with an interval, without further labelled examples.

    Each example of the support set was predicted by an adaptation that leaves it out. The interval
    is Wilson's, which treats the examples as independent: with 25 examples it is about 0.3 wide.
    They are not quite, as all adaptations share most examples: an interval of 95 % held the true
    accuracy in 83 % of 200 tasks of handwritten digits.
    A class without support is not judged: the accuracy is that on the classes that have some.
    An adaptation to one example less is a little worse, so that the accuracy is a little low,
    most with two shots. With one shot no class is left to be predicted: then nothing is known, and
    the interval goes from 0 to 1.

    Args:
        held_out: of `cross_predict`, logits as outputs.
        confidence: of the interval, between 0 and 1.

    Raises:
        ValueError: labels that are not int[n], fewer than two ways, or a confidence that is not
            between 0 and 1.

    Source: Wilson 1927, J. Am. Stat. Assoc. 22, for the interval; on single few-shot tasks,
    Shimabucoro, Hospedales and Gouk 2023, arXiv 2307.02732.
    """
    _check_logits(held_out)
    if not 0 < confidence < 1:
        raise ValueError(f"{confidence=} must be between 0 and 1.")
    right = held_out.support.argmax(axis=1) == held_out.y
    wrong = not_classes(held_out.y, held_out.support.shape[1], held_out.counts, least=-1)
    failed = wrong | ~jnp.isfinite(held_out.support).all(axis=1)
    number = held_out.usable.sum()
    share = (right & held_out.usable).sum() / number
    share = jnp.where((failed & held_out.usable).any(), jnp.nan, share)
    low, high = wilson_interval(share, number, confidence)
    return Trust(share, low, high, number)


def _check_logits(held_out: HeldOut) -> None:
    """Checks that the labels are int[n], and the outputs logits of two classes or more."""
    check_labels(held_out.y)
    shape = jnp.shape(held_out.support)
    if len(shape) != 2 or shape[1] < 2:
        raise ValueError(f"The outputs must be logits [n, ways] of two or more ways, got {shape}.")


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
def conformal_sets(held_out: HeldOut, *, coverage: float = 0.9) -> Array:
    """For each query, the labels that cannot be ruled out with the stated coverage.

    A label k stays in the set of query x if  Σᵢ [sᵢ < sᵢ(x, k)] < coverage · (n + 1),

    where sᵢ = 1 - p(yᵢ | xᵢ) is by the adaptation that leaves example i out, and sᵢ(x, k) =
    1 - p(k | x) by the same adaptation. n counts the usable examples. With fewer than
    coverage / (1 - coverage) of them, nine for 0.9, every label stays, and so it does in compiled
    code where a label of the support set is no class. A set may be empty, where no label is as
    likely as most true ones were.

    The coverage is that of all queries together, not of each class: a class without support, whose
    queries no example stands for, may be in no set. If one example at a time was left out, every
    class has two or more, and support set and queries are drawn alike, it is proven to be
    2 · coverage - 1 or more; what is found is near `coverage`, over many tasks.

    Args:
        held_out: of `cross_predict` with `queries=`, logits as outputs.
        coverage: share of the queries whose label should be in the set, between 0 and 1.

    Returns:
        bool[queries, ways].

    Raises:
        ValueError: a coverage that is not between 0 and 1, no queries, labels that are not int[n],
            or fewer than two ways.

    Source: Barber et al. 2021, Annals of Statistics 49, the CV+ of Vovk 2015; for few shots, Park,
    Cohen and Simeone 2022, arXiv 2210.03067.
    """
    _check_coverage(held_out, coverage)
    _check_logits(held_out)
    y = held_out.y
    wrong_N = not_classes(y, held_out.support.shape[1], held_out.counts, least=-1)
    own_NxW = jax.nn.softmax(widened(held_out.support))
    score_N = 1 - jnp.take_along_axis(own_NxW, jnp.maximum(y, 0)[:, None], axis=1)[:, 0]
    score_FxQxW = 1 - jax.nn.softmax(widened(held_out.queries))
    is_below_NxQxW = score_N[:, None, None] < score_FxQxW[held_out.fold]
    count_QxW = (is_below_NxQxW & held_out.usable[:, None, None]).sum(axis=0)
    stays_QxW = count_QxW < coverage * (held_out.usable.sum() + 1)
    return stays_QxW | wrong_N.any()


@checked
def conformal_intervals(held_out: HeldOut, *, coverage: float = 0.9) -> tuple[Array, Array]:
    """For each query of a regression task, an interval with the stated coverage.

    With rᵢ = |yᵢ - fᵢ(xᵢ)| by the adaptation that leaves example i out, the interval of x goes from
    the ⌊(1 - coverage) (n + 1)⌋-th least of fᵢ(x) - rᵢ to the ⌈coverage (n + 1)⌉-th least of
    fᵢ(x) + rᵢ. n counts the usable examples. With too few, nine for 0.9, it is infinite. Where the
    outputs are a `Gaussian`, rᵢ is counted in standard deviations of fᵢ, so that the interval is
    wide where the net is not sure. If one example at a time was left out, and support set and
    queries are drawn alike, a coverage of 2 · coverage - 1 is proven. All are NaN if the gap of a
    usable example is.

    Args:
        held_out: of `cross_predict` with `queries=`; outputs [n, d], or a `Gaussian` of them.
        coverage: share of the queries whose value should be in the interval, above 0.5 and below 1.

    Returns:
        (low, high), [queries, d] each. An interval is for one output at a time.

    Raises:
        ValueError: a coverage that is not above 0.5 and below 1, no queries, or outputs and values
            that are not both [n, d].

    Source: Barber et al. 2021, Annals of Statistics 49, "Predictive inference with the jackknife+".
    """
    _check_coverage(held_out, coverage, least=0.5)
    mean_NxD, std_NxD = _mean_and_std(held_out.support)
    mean_FxQxD, std_FxQxD = _mean_and_std(held_out.queries)
    if mean_NxD.ndim != 2 or jnp.shape(held_out.y) != mean_NxD.shape:
        raise ValueError(
            f"The outputs are {mean_NxD.shape}, and the values of the support set "
            f"{jnp.shape(held_out.y)}; give both as [n, d]."
        )
    gap_NxD = jnp.abs(held_out.y - mean_NxD) / std_NxD
    half_NxQxD = gap_NxD[:, None] * std_FxQxD[held_out.fold]
    middle_NxQxD = mean_FxQxD[held_out.fold]
    number = held_out.usable.sum()
    usable = held_out.usable[:, None, None]
    least_first = lambda ends: jnp.sort(jnp.where(usable, ends, jnp.inf), axis=0)
    # The small number is for products such as 0.9 * 10, which are not whole in floating point.
    to_leave = jnp.floor((1 - coverage) * (number + 1) + 1e-6).astype(jnp.int32)
    place = jnp.ceil(coverage * (number + 1) - 1e-6).astype(jnp.int32)
    low = least_first(middle_NxQxD - half_NxQxD)[jnp.maximum(to_leave - 1, 0)]
    high = least_first(middle_NxQxD + half_NxQxD)[jnp.minimum(place, len(usable)) - 1]
    is_known = to_leave >= 1
    is_nan_NxQxD = usable & (jnp.isnan(half_NxQxD) | jnp.isnan(middle_NxQxD))
    nan_or_zero = jnp.where(is_nan_NxQxD.any(axis=0), jnp.nan, 0)
    low = jnp.where(is_known, low, -jnp.inf) + nan_or_zero
    return low, jnp.where(is_known, high, jnp.inf) + nan_or_zero


def _mean_and_std(outputs: Any) -> tuple[Array, Array]:
    """Of a `Gaussian`; the standard deviation of an array is 1."""
    if isinstance(outputs, Gaussian):
        return widened(outputs.mean), jnp.sqrt(widened(outputs.variance))
    return widened(outputs), jnp.ones_like(widened(outputs))


def _check_coverage(held_out: HeldOut, coverage: float, least: float = 0) -> None:
    """Checks what prediction sets and intervals need."""
    if not least < coverage < 1:
        raise ValueError(f"{coverage=} must be between {least} and 1.")
    if held_out.queries is None:
        raise ValueError("Give cross_predict the inputs that sets are wanted for, as queries=.")
