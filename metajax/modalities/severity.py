"""Accuracy against the severity of a corruption, and how it compares with a baseline's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax.modalities.corruptions import Corruption, corrupt
from metajax.types import Array, Modalities, PyTree


class Robustness(NamedTuple):
    """How a curve of accuracy stands to a baseline's; see `robustness`.

    Attributes:
        relative: mean lead in accuracy over all severities.
        effective: the same without the lead that there is at the first severity.
    """

    relative: Array
    effective: Array


def severity_curve(
    judge: Callable[[Modalities], PyTree],
    x: Modalities,
    corruptions: Mapping[str, Corruption],
    severities: Array,
    key: Array,
) -> PyTree:
    """What a model is worth at each severity, all in one compiled call.

    All severities share their random draws, so that curves are smooth and differences of two models paired. For many
    tasks, `vmap` it over tasks and keys and give the result to `metajax.summarize`.

    Args:
        judge: Modalities -> pytree of arrays, such as {"accuracy": scalar}; it may close over an adapted model.
        x: n examples.
        corruptions: {name: corruption}; the others stay clean.
        severities: [s], from 0 to 1.
        key: of the corruptions.

    Returns:
        The judge's pytree with a leading axis [s].

    Raises:
        ValueError: a name that is not a modality of x.
    """
    return jax.lax.map(lambda severity: judge(corrupt(x, corruptions, severity, key)), severities)


def robustness(severities: Array, accuracy: Array, baseline: Array) -> Robustness:
    """The area between two curves of accuracy over severity, as it is and from a common start.

    relative = ∫ (a(s) - b(s)) ds / (s₁ - s₀) and effective = relative - (a(s₀) - b(s₀)), by trapezoids. Of MultiBench's
    measures the relative one is the area under a curve, of which this is the difference of two, and the effective one
    the sum over s of a(s) - b(s) - (a(s₀) - b(s₀)).

    Args:
        severities: [s], ascending, from s₀ (which should be 0) to s₁.
        accuracy: a [..., s].
        baseline: b [..., s], such as of late fusion.

    Raises:
        ValueError: fewer than two severities, or curves of another length or shape.

    Source: Liang et al. 2021 (MultiBench), arXiv 2107.07502; Taori et al. 2020, arXiv 2007.00644.

    >>> robustness(jnp.array([0.0, 1.0]), jnp.array([1.0, 0.5]), jnp.array([0.75, 0.25])).relative.item()
    0.25
    """
    if (
        len(severities) < 2
        or accuracy.shape != baseline.shape
        or accuracy.shape[-1:] != severities.shape
    ):
        raise ValueError(
            f"Need two severities or more and curves [..., severities] of one shape, got severities "
            f"{severities.shape}, accuracy {accuracy.shape} and baseline {baseline.shape}."
        )
    lead, width = accuracy - baseline, jnp.diff(severities)
    relative = ((lead[..., 1:] + lead[..., :-1]) / 2) @ width / width.sum()
    return Robustness(relative, relative - lead[..., 0])
