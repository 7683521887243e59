"""Which unlabelled examples of a task to label next."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from metajax._checked import checked
from metajax._checks import is_concrete
from metajax._tree import as_floating, widened
from metajax.types import Array, Size


@checked
def choose_labels(score: Callable[[Array], Array], candidates: Size, number: Size) -> Array:
    """Chooses candidates to label, one after the other, each with the highest score.

    Args:
        score: bool[candidates] of those that are chosen already -> [candidates].
            `lambda chosen: jax.random.uniform(key, chosen.shape)` is the control.
        candidates: how many there are.
        number: how many to choose.

    Returns:
        int32[number], no candidate twice; of equal scores the first. In compiled code candidates
        whose score is NaN come last.

    Raises:
        ValueError: a number above that of the candidates, or scores of another shape; where they
            are concrete, scores that are NaN.

    >>> confidence = jnp.array([0.9, 0.4, 0.6])
    >>> choose_labels(lambda chosen: -confidence, 3, 2).tolist()
    [1, 2]
    """
    if number > candidates:
        raise ValueError(f"{number=} must not exceed {candidates=}.")
    first = score(jnp.zeros(candidates, bool))
    if first.shape != (candidates,):
        raise ValueError(f"score must give [{candidates}], got {first.shape}.")
    if is_concrete(first) and jnp.isnan(first).any():
        raise ValueError(f"score must be a number for every candidate, got {first}.")

    def choose(chosen: Array, _: None) -> tuple[Array, Array]:
        scores = as_floating(score(chosen))
        least = jnp.finfo(scores.dtype).min
        scores = jnp.maximum(jnp.where(jnp.isnan(scores), least, scores), least)
        best = jnp.where(chosen, -jnp.inf, scores).argmax().astype(jnp.int32)
        return chosen.at[best].set(True), best

    return jax.lax.scan(choose, jnp.zeros(candidates, bool), length=number)[1]


@checked
def candidate_statistics(
    logits: Array, features: Array, labelled: Array, chosen: Array
) -> dict[str, Array]:
    """What is known of each candidate for a label.

    Scores for `choose_labels`: "entropy" is uncertainty sampling, "distance" is coverage (greedy
    k-centres). All together are statistics for `fit_predictor`, which learns on validation tasks
    what a label gains.

    Args:
        logits: [n, ways], of the candidates, by the adaptation to what is labelled.
        features: [n, d], of the candidates.
        labelled: [m, d], features of what is labelled.
        chosen: bool[n], the candidates that were chosen already.

    Returns:
        {name: [n]}: the "entropy" of the answer, the "margin" between its two greatest
        probabilities, the "distance" to the nearest example that is labelled or chosen, and the
        "remoteness", the mean distance to all candidates. Distances are divided by the mean
        remoteness.

    Raises:
        ValueError: arrays of other axes, numbers of rows or widths, fewer than two ways, or nothing
            that is labelled.

    Source: Settles 2009, "Active learning literature survey"; Sener and Savarese 2018, arXiv
    1708.00489 (coverage); Konyushkova et al. 2017, arXiv 1703.03365 (a learned gain).
    """
    rows, axes = len(features), [jnp.ndim(one) for one in (logits, features, labelled, chosen)]
    shapes = logits.shape, features.shape, labelled.shape, chosen.shape
    if (
        axes != [2, 2, 2, 1]
        or logits.shape[0] != rows
        or chosen.shape != (rows,)
        or features.shape[1:] != labelled.shape[1:]
    ):
        raise ValueError(
            f"logits [n, ways], features [n, d], labelled [m, d] and chosen [n] are needed, got "
            f"{shapes}."
        )
    if logits.shape[1] < 2 or not len(labelled):
        raise ValueError(
            f"A task needs two or more classes and a labelled example, got logits {logits.shape} "
            f"and labelled {labelled.shape}."
        )
    features, labelled = widened(as_floating(features)), widened(as_floating(labelled))
    share = jax.nn.softmax(widened(logits))
    two = jax.lax.top_k(share, 2)[0]
    between = lambda a, b: jnp.sqrt(((a[:, None] - b[None]) ** 2).sum(axis=2))
    to_others = between(features, features)
    unit = jnp.maximum(to_others.mean(), 1e-12)
    to_chosen = jnp.where(chosen[None], to_others, jnp.inf).min(axis=1)
    nearest = jnp.minimum(between(features, labelled).min(axis=1), to_chosen)
    return {
        "entropy": jax.scipy.special.entr(share).sum(axis=1),
        "margin": two[:, 0] - two[:, 1],
        "distance": nearest / unit,
        "remoteness": to_others.mean(axis=1) / unit,
    }
