"""Corrupted modalities, and accuracy as a function of the severity of a corruption."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax._checked import checked
from metajax._checks import check_names, is_concrete
from metajax._tree import along
from metajax.modalities.corruptions import Corruption
from metajax.types import Array, Modalities, PyTree


class Robustness(NamedTuple):
    """How a curve of accuracy compares with that of a baseline; see `robustness`.

    Attributes:
        relative: the mean lead in accuracy over all severities.
        effective: the same, minus the lead at the first severity.
    """

    relative: Array
    effective: Array


@checked
def corrupt(
    x: Modalities, corruptions: Mapping[str, Corruption], severity: float | Array, key: Array
) -> Modalities:
    """Corrupts some modalities of the examples that have them.

    Values of absent modalities do not change, and replace no other value.

    Args:
        x: n examples.
        corruptions: {name of a modality: corruption}, such as {"image": corruptions.image}.
        severity: scalar in [0, 1].
        key: each modality gets a key of its own, whatever else is corrupted.

    Raises:
        ValueError: a name that is not a modality of x, or a severity outside [0, 1], where it is
            concrete.

    >>> from metajax.modalities import corruptions
    >>> present = {"table": jnp.ones(2, bool)}
    >>> x = Modalities({"table": jnp.array([[0.0, 1.0], [2.0, 3.0]])}, present)
    >>> corrupt(x, {"table": corruptions.tabular}, 1.0, jax.random.key(0)).value["table"].tolist()
    [[2.0, 3.0], [0.0, 1.0]]
    """
    check_names(corruptions, x.value)
    _check_severity(severity)
    value = dict(x.value)
    for number, name in enumerate(sorted(x.value)):
        if name in corruptions:
            modality_key = jax.random.fold_in(key, number)
            value[name] = _corrupt_present(
                corruptions[name], x.value[name], x.present[name], severity, modality_key
            )
    return x._replace(value=value)


@checked
def severity_curve(
    score: Callable[[Modalities], PyTree],
    x: Modalities,
    corruptions: Mapping[str, Corruption],
    severities: Array,
    key: Array,
) -> PyTree:
    """Scores a model at each severity, in one compiled call.

    All severities share their random draws, so curves are smooth and differences of two models are
    paired. For many tasks, `vmap` it over tasks and keys, and give the result to
    `metajax.summarize`.

    Args:
        score: Modalities -> pytree of arrays, such as {"accuracy": scalar}. It may close over an
            adapted model.
        x: n examples.
        corruptions: {name: corruption}. The other modalities are not corrupted.
        severities: [s], from 0 to 1.
        key: for the corruptions.

    Returns:
        The pytree of `score` with a leading axis [s].

    Raises:
        ValueError: a name that is not a modality of x, or a severity outside [0, 1], where they are
            concrete.
    """
    _check_severity(severities)

    def score_at(severity: Array) -> PyTree:
        return score(corrupt(x, corruptions, severity, key))

    return jax.lax.map(score_at, severities)


@checked
def robustness(severities: Array, accuracy: Array, baseline: Array) -> Robustness:
    """The area between two curves of accuracy over severity, as it is and from a common start.

    relative = ∫ (a(s) - b(s)) ds / (s₁ - s₀) and effective = relative - (a(s₀) - b(s₀)), by the
    trapezoidal rule. MultiBench's relative robustness is the area under one curve, and its
    effective robustness is the sum over s of a(s) - b(s) - (a(s₀) - b(s₀)).

    Args:
        severities: [s], ascending from s₀, which should be 0, to s₁.
        accuracy: a [..., s].
        baseline: b [..., s], such as that of late fusion.

    Raises:
        ValueError: fewer than two severities, severities that do not ascend, where they are
            concrete, or curves of another length or shape.

    >>> severities = jnp.array([0.0, 1.0])
    >>> robustness(severities, jnp.array([1.0, 0.5]), jnp.array([0.75, 0.25])).relative.item()
    0.25

    Source: Liang et al. 2021 (MultiBench), arXiv 2107.07502; Taori et al. 2020, arXiv 2007.00644.
    """
    same_shape = accuracy.shape == baseline.shape
    if len(severities) < 2 or not same_shape or accuracy.shape[-1:] != severities.shape:
        raise ValueError(
            "Need two severities or more and curves [..., severities] of one shape, got severities "
            f"{severities.shape}, accuracy {accuracy.shape} and baseline {baseline.shape}."
        )
    width = jnp.diff(severities)
    if is_concrete(width) and not (width > 0).all():
        raise ValueError(f"Severities must ascend, got {severities}.")
    lead = accuracy - baseline
    relative = ((lead[..., 1:] + lead[..., :-1]) / 2) @ width / width.sum()
    return Robustness(relative, relative - lead[..., 0])


def _check_severity(severity: float | Array) -> None:
    """Checks that severities are from 0 to 1, where they are concrete.

    Raises:
        ValueError: they are not; NaN is not, either.
    """
    if (
        is_concrete(severity)
        and not ((np.asarray(severity) >= 0) & (np.asarray(severity) <= 1)).all()
    ):
        raise ValueError(f"A severity must be in [0, 1], got {severity}.")


def _corrupt_present(
    corruption: Corruption, x: PyTree, present_N: Array, severity: float | Array, key: Array
) -> PyTree:
    """Corrupts one modality where it is present.

    Corruptions may take replacements from other rows, so rows without the modality are first filled
    with rows that have it.
    """
    rows_N = _rows_to_read(present_N)
    filled = jax.tree.map(lambda leaf: leaf[rows_N], x)
    corrupted = corruption(filled, severity, key)
    return jax.tree.map(lambda new, old: jnp.where(along(present_N, new), new, old), corrupted, x)


def _rows_to_read(present_N: Array) -> Array:
    """For each example itself, or for an absent one a present one, each in turn; int[n]."""
    number_N = jnp.arange(len(present_N))
    present_first_N = jnp.argsort(~present_N, stable=True)
    others_N = present_first_N[number_N % jnp.maximum(present_N.sum(), 1)]
    return jnp.where(present_N, number_N, others_N)
