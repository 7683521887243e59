"""One modality teaches another, and how much each one teaches is learned (MetaKD).

The teacher is frozen, but only in the first derivative. Let D(s, t) be the loss of the student's
features s and the teacher's features t.

- ∂D/∂t is 0, as with `stop_gradient`: training moves the student and not the teacher.
- The student's gradient ∂D/∂s depends on t, and its derivative with respect to t is the true one.
  With `stop_gradient` it would be 0. An inner loop that descends D therefore has exact
  derivatives: the meta-gradient includes how a different teacher would have moved the student.

The gradient that the inner loop follows is then not the gradient of any function: its Jacobian is
not symmetric, because ∂/∂t of ∂D/∂s is not 0, and ∂/∂s of ∂D/∂t is. For the strategies of
`metajax.differentiate` this means:

- `unroll()` differentiates the steps as they are, and is right.
- `implicit()` and `mixed_mode()` rely on a symmetric Hessian, and give a wrong gradient.
  `check_meta_gradient` reports it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from metajax._checked import checked
from metajax._checks import check_names, check_no_modality_missing, check_positive
from metajax.modalities.encoding import Encode, encode_batch
from metajax.modalities.pairs import Measure, pair_weights
from metajax.modalities.rows import paired_rows, weighted_mean
from metajax.types import Array, Batch, Loss, Metrics, Params, Scalar


@checked
def distill_logits(
    student: Array, teacher: Array, *, temperature: Scalar = 2.0, weight: Array | None = None
) -> Array:
    """Distils soft predictions: T² Σᵢ wᵢ KL(softmax(tᵢ/T) ‖ softmax(sᵢ/T)) / Σᵢ wᵢ.

    The gradient is T (softmax(s/T) - softmax(t/T)). The factor T² keeps its size the same at all
    high temperatures. The teacher is frozen in the first derivative; see this module.

    Args:
        student: s [n, ways].
        teacher: t [n, ways].
        temperature: T > 0.
        weight: [n]. None gives every row the weight 1. Values in rows of weight 0 are ignored.

    Raises:
        ValueError: logits that are not of one shape [n, ways], weights that are not [n], or a
            temperature that is not above 0.

    >>> logits = jnp.array([[1.0, 0.0]])
    >>> distill_logits(logits, logits).item()
    0.0
    >>> round(distill_logits(logits, -logits, temperature=1.0).item(), 4)
    0.4621

    Source: Hinton, Vinyals and Dean 2015, arXiv 1503.02531.
    """
    check_positive("temperature", temperature)
    if jnp.ndim(student) != 2:
        raise ValueError(f"Logits must be [n, ways], got shape {jnp.shape(student)}.")
    student, teacher, weight_N = _rows(student, teacher, weight)
    return _soft_divergence(student, teacher, weight_N, jnp.asarray(temperature, student.dtype))


@checked
def distill_features(student: Array, teacher: Array, *, weight: Array | None = None) -> Array:
    """Distils features: Σᵢ wᵢ |sᵢ - tᵢ|² / (d Σᵢ wᵢ), for d features of each example.

    The teacher is frozen in the first derivative; see this module.

    Args:
        student: s [n, ...].
        teacher: t [n, ...].
        weight: [n]. None gives every row the weight 1. Values in rows of weight 0 are ignored.

    Raises:
        ValueError: features that are not of one shape [n, ...], or weights that are not [n].

    >>> student = jnp.array([[1.0, 3.0], [0.0, 0.0]])
    >>> distill_features(student, jnp.zeros((2, 2)), weight=jnp.array([1.0, 0.0])).item()
    5.0

    Source: Gupta, Hoffman and Malik 2016, arXiv 1507.00448.
    """
    return _squared_distance(*_rows(student, teacher, weight))


@checked
def meta_distillation(
    encode: Encode, *, measure: Measure = distill_features, entry: str = "importance"
) -> Loss:
    """Every modality teaches every other, and important ones teach more (MetaKD).

    L = Σᵢ≠ⱼ (ωᵢ/ωⱼ) D(fⱼ, fᵢ), with ω = softmax ℓ, teacher i and student j. The importance ℓ is in
    `params.slow[entry]`, {name: scalar}, and ωᵢ/ωⱼ = exp(ℓᵢ - ℓⱼ). Equal importance gives the plain
    sum.

    Learn the importance through an outer loss on other examples: this loss itself is lowest where
    the teacher is nearest, not where it is best. The inner loop learns the task and is taught:

        teach = meta_distillation(encode)

        def loss(params, batch, key):
            value, metrics = task(params, batch, key)  # such as a cross-entropy
            return value + 0.1 * teach(params, batch, key)[0], metrics

        metakd = query_loss(inner_loop(loss, optax.sgd(0.1), steps=5), task)

    The inner loop must use `unroll()`, its default: see the note on frozen teachers in this module.

    A pair of modalities reads the rows that have both, with their `batch.weight`. A pair without
    such rows adds 0.

    Args:
        encode: (params, x, key, reference=...) -> {name: [examples, ...]}, features of one shape,
            or logits.
        measure: (student, teacher, weight=[examples]) -> scalar: `distill_features` or
            `distill_logits`. The paper's code has the mean of absolute differences.
        entry: the entry of `params.slow` with ℓ.

    Returns:
        A loss without metrics.

    Raises:
        ValueError: when called, fewer than two modalities, an importance of other modalities, or a
            batch whose x is not a `Modalities`.

    Source: Wang et al. 2024, arXiv 2405.07155.
    """

    @checked
    def loss(params: Params, batch: Batch, key: Array | None) -> tuple[Array, Metrics]:
        features = encode_batch(encode, params, batch, key)
        if len(features) < 2:
            raise ValueError(f"Distillation needs two modalities or more, got {sorted(features)}.")
        importance = params.slow.get(entry, {}) if isinstance(params.slow, dict) else {}
        check_names(importance, features)
        check_no_modality_missing(importance, features, f"params.slow[{entry!r}]")
        total = jnp.zeros(())
        for teacher, student in itertools.permutations(sorted(features), 2):
            weight_N = pair_weights(batch, student, teacher)
            value = measure(features[student], features[teacher], weight=weight_N)
            total = total + jnp.exp(importance[teacher] - importance[student]) * value
        return total, {}

    return loss


def _freeze_teacher(measure: Callable[..., Array]) -> Callable[..., Array]:
    """measure(student, teacher, *rest) without the first derivative by the teacher."""
    frozen = jax.custom_jvp(measure)

    @frozen.defjvp
    def _(primals: Any, tangents: Any) -> tuple[Array, Array]:
        student, teacher, *rest = primals
        student_tangent, _, *rest_tangents = tangents

        def of_student(student: Array, *rest: Array) -> Array:
            return measure(student, teacher, *rest)

        _, tangent = jax.jvp(of_student, (student, *rest), (student_tangent, *rest_tangents))
        # The value is `frozen` again, so that an outer derivative of the value also omits the
        # teacher. The tangent is not, so that it has a derivative by the teacher.
        return frozen(*primals), tangent

    return frozen


@_freeze_teacher
def _soft_divergence(student: Array, teacher: Array, weight_N: Array, temperature: Array) -> Array:
    """T² times the mean divergence of the student's soft predictions from the teacher's."""
    log_p = jax.nn.log_softmax(teacher / temperature)
    log_q = jax.nn.log_softmax(student / temperature)
    divergence_N = (jnp.exp(log_p) * (log_p - log_q)).sum(axis=-1)
    return temperature**2 * weighted_mean(divergence_N, weight_N)


@_freeze_teacher
def _squared_distance(student: Array, teacher: Array, weight_N: Array) -> Array:
    """The mean squared difference of the features."""
    square_NxD = ((student - teacher) ** 2).reshape(len(weight_N), -1)
    return weighted_mean(square_NxD.mean(axis=1), weight_N)


def _rows(student: Array, teacher: Array, weight: Array | None) -> tuple[Array, Array, Array]:
    """Student, teacher and weights, in one type, with zeros in the rows of weight 0.

    Raises:
        ValueError: student and teacher of different shapes, or weights that are not [n].
    """
    shapes = (jnp.shape(student), jnp.shape(teacher))
    if shapes[0] != shapes[1]:
        raise ValueError(f"Student and teacher must have one shape [n, ...], got {shapes}.")
    return paired_rows(student, teacher, weight)
