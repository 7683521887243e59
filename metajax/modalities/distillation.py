"""One modality teaches another, and which one is to teach is learned (MetaKD).

The teacher is held: a loss has no derivative by what the teacher says. That is so in the first derivative only. That of
a student's step by the weights of its teacher is there, as `stop_gradient` would not have it, so that the derivatives
through the steps of an inner loop are exact. But the steps descend no function then, and what relies on a symmetric
Hessian is wrong: differentiate by `unroll()`, not by `implicit()` or `mixed_mode()`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from metajax.modalities.heads import Encode
from metajax.modalities.pairs import Measure, both_present, check_known, encode_present
from metajax.types import Array, Batch, Loss, Metrics, Params


def distill_logits(
    student: Array, teacher: Array, *, temperature: float | Array = 2.0, weight: Array | None = None
) -> Array:
    """The student is to answer as softly as the teacher: T² Σᵢ wᵢ KL(softmax(tᵢ/T) ‖ softmax(sᵢ/T)) / Σᵢ wᵢ.

    T² keeps the size of the gradient, which is T (softmax(s/T) - softmax(t/T)), the same for all T that are large.

    Args:
        student: s [n, ways].
        teacher: t [n, ways], held.
        temperature: T > 0.
        weight: [n]; None counts every row once. What stands in a row of weight 0 has no meaning.

    Raises:
        ValueError: shapes that do not fit.

    Source: Hinton, Vinyals and Dean 2015, arXiv 1503.02531.

    >>> answers = jnp.array([[1.0, 0.0]])
    >>> distill_logits(answers, answers).item(), round(distill_logits(answers, -answers, temperature=1.0).item(), 4)
    (0.0, 0.4621)
    """
    if jnp.ndim(student) != 2:
        raise ValueError(f"Logits must be [n, ways], got shape {jnp.shape(student)}.")
    rows = _rows(student, teacher, weight)
    return _soft_answers(*rows, jnp.asarray(temperature, rows[0].dtype))


def distill_features(student: Array, teacher: Array, *, weight: Array | None = None) -> Array:
    """The student is to see what the teacher sees: Σᵢ wᵢ |sᵢ - tᵢ|² / Σᵢ wᵢ, the square averaged over the features.

    Args:
        student: s [n, ...].
        teacher: t [n, ...], held.
        weight: [n]; None counts every row once. What stands in a row of weight 0 has no meaning.

    Raises:
        ValueError: shapes that do not fit.

    Source: Gupta, Hoffman and Malik 2016, arXiv 1507.00448.

    >>> distill_features(jnp.array([[1.0, 3.0], [0.0, 0.0]]), jnp.zeros((2, 2)), weight=jnp.array([1.0, 0.0])).item()
    5.0
    """
    return _square(*_rows(student, teacher, weight))


def meta_distillation(
    encode: Encode, *, measure: Measure = distill_features, importance: str = "importance"
) -> Loss:
    """MetaKD: every modality teaches every other, the important ones more: L = Σᵢ≠ⱼ (ωᵢ/ωⱼ) D(fⱼ, fᵢ), ω = softmax ℓ.

    ℓ is in `params.slow[importance]`, {name: scalar}, so that ωᵢ/ωⱼ = exp(ℓᵢ - ℓⱼ); equal ones give the plain sum. It
    has to be learned by an outer loss on other examples, for this loss is lowest where the teacher is nearest and not
    where it is best. The inner loop learns the task and is taught:

        def loss(params, batch, key):
            value, metrics = task(params, batch, key)  # such as a cross-entropy
            return value + 0.1 * teach(params, batch, key)[0], metrics  # teach = meta_distillation(encode)

        metakd = query_loss(inner_loop(loss, optax.sgd(0.1), steps=5), task)

    A row counts for a pair by `batch.weight`, where both modalities are there; a pair that is in no row says nothing.

    Args:
        encode: (params, x, key, reference=...) -> {name: [examples, ...]}, features of one shape, or logits.
        measure: (student, teacher, weight=[examples]) -> scalar; `distill_features`, or `distill_logits`. The paper's
            code has the mean of absolute differences.
        importance: the entry of `params.slow` with ℓ.

    Raises:
        ValueError: when called, fewer than two modalities, an importance of other modalities, or a batch whose x is no
            `Modalities`.

    Source: Wang et al. 2024, arXiv 2405.07155.
    """

    def loss(params: Params, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        features = encode_present(encode, params, batch, key)
        if len(features) < 2:
            raise ValueError(
                f"One modality has none to teach; need two or more, got {sorted(features)}."
            )
        logits = params.slow.get(importance, {}) if isinstance(params.slow, dict) else {}
        check_known(logits, features)
        if missing := sorted(features.keys() - logits.keys()):
            raise ValueError(
                f"params.slow[{importance!r}] has {sorted(logits)}, which lack the modalities {missing}."
            )
        total = jnp.zeros(())
        for teacher, student in itertools.permutations(sorted(features), 2):
            taught = measure(
                features[student], features[teacher], weight=both_present(batch, student, teacher)
            )
            total = total + jnp.exp(logits[teacher] - logits[student]) * taught
        return total, {}

    return loss


def _hold_teacher(measure: Callable[..., Array]) -> Callable[..., Array]:
    """measure(student, teacher, *rest) without a derivative by the teacher, in the first derivative only."""
    held = jax.custom_jvp(measure)

    @held.defjvp
    def _(primals: Any, tangents: Any) -> tuple[Array, Array]:
        (student, teacher, *rest), (moves, _, *rest_moves) = primals, tangents
        of_student = lambda student, *rest: measure(student, teacher, *rest)
        # The value is `held` again: a derivative of it, taken from outside, is to be without the teacher's, too.
        return held(*primals), jax.jvp(of_student, (student, *rest), (moves, *rest_moves))[1]

    return held


@_hold_teacher
def _soft_answers(student: Array, teacher: Array, weight_N: Array, temperature: Array) -> Array:
    log_p, log_q = (jax.nn.log_softmax(logits / temperature) for logits in (teacher, student))
    return temperature**2 * _mean((jnp.exp(log_p) * (log_p - log_q)).sum(axis=-1), weight_N)


@_hold_teacher
def _square(student: Array, teacher: Array, weight_N: Array) -> Array:
    return _mean(((student - teacher) ** 2).reshape(len(weight_N), -1).mean(axis=1), weight_N)


def _rows(student: Array, teacher: Array, weight: Array | None) -> tuple[Array, Array, Array]:
    """Both in float32 or wider, with zeros in the rows that do not count, and the weights [n]."""
    shapes = (
        jnp.shape(student),
        jnp.shape(teacher),
        jnp.shape(student)[:1] if weight is None else jnp.shape(weight),
    )
    if shapes[0] != shapes[1] or len(shapes[0]) < 2 or shapes[2] != shapes[0][:1]:
        raise ValueError(
            f"Student and teacher must be [n, ...] of one shape with weights [n], got shapes {shapes}."
        )
    dtype = jnp.promote_types(jnp.result_type(student, teacher), jnp.float32)
    weight_N = jnp.ones(shapes[2], dtype) if weight is None else weight.astype(dtype)
    counts = (weight_N > 0).reshape(-1, *(1,) * (len(shapes[0]) - 1))
    return (
        jnp.where(counts, student, 0).astype(dtype),
        jnp.where(counts, teacher, 0).astype(dtype),
        weight_N,
    )


def _mean(values_N: Array, weight_N: Array) -> Array:
    """Mean by weight; zero where nothing counts."""
    total = weight_N.sum()
    return (values_N * weight_N).sum() / jnp.where(total > 0, total, 1)
