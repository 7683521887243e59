"""Trainings that leave examples out, beside what was predicted of them."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax._checked import checked
from metajax._checks import check_loss_value, shapes
from metajax._tree import count_rows, row_weights
from metajax.diagnostics.trainings import check_queries, check_training, float_weights
from metajax.outer.evaluation import Summary, summarize
from metajax.types import Adaptation, Array, Batch, Loss, Params, PyTree, Size


class Removals(NamedTuple):
    """Query losses of trainings that leave examples out.

    Attributes:
        score: the linear datamodelling score: over queries, the mean and the interval of the rank
            correlation of `predicted` and `true`. Queries whose true change is constant, such as
            those of loss 0, are not among them. Where only the prediction is constant, the
            correlation counts as 0.
        correlations: [queries], the rank correlation of each query, NaN for those that are not
            among them.
        predicted: [trainings, queries], the change of the loss that the scores predict.
        true: [trainings, queries], the change of the loss that was found.
    """

    score: Summary
    correlations: np.ndarray
    predicted: np.ndarray
    true: np.ndarray


@checked
def lds(
    adaptation: Adaptation,
    loss: Loss,
    params: Params,
    support: Batch,
    queries: PyTree,
    scores: Array,
    key: Array,
    *,
    leave_out: float = 0.01,
    trainings: Size = 100,
    at_once: Size | None = None,
    seed: int = 0,
) -> Removals:
    """Whether scores of examples predict what trainings without some of them do (LDS).

    Each training leaves out another random share S of the examples, on the same start, batches and
    random draws. The predicted change of a query loss is -Σ_{i in S} wᵢ scoreᵢ with the weights w
    of the support set. The score is Spearman's correlation of the predicted and the true change
    over trainings, for each query. Padding, which has weight 0, is not among what is left out.

    Batches stay as they are: the weights of the examples that are left out become the least
    positive number, so that samplers such as `minibatch` do not draw others for them. They still
    count in statistics of norms, and a batch of nothing else counts them in full, because losses
    divide by the sum of weights.

    Args:
        adaptation: the training, as for `attribute`.
        loss: (params, batch, key) -> (scalar, metrics), of a query.
        params: start, slow weights and rule.
        support: the examples to learn from.
        queries: leaves [queries, examples, ...].
        scores: [queries, examples], such as `attribute(...).examples`, or those of another method.
        key: as for `attribute`.
        leave_out: share of the examples that a training leaves out, between 0 and 1.
        trainings: number of trainings.
        at_once: trainings that run side by side; None takes all.
        seed: of the examples that are left out.

    Raises:
        ValueError: a share that leaves out none or all; scores of another shape; fewer than 3
            trainings; a training that diverges; no query whose loss changes; what `attribute`
            refuses.

    Source: Park et al. 2023, arXiv 2303.14186, section 2; Ilyas and Engstrom 2025,
    arXiv 2504.16430, for one fixed start and order of the data.
    """
    import scipy.stats

    check_training(adaptation, params, support)
    number, examples = check_queries(support, queries), count_rows(support)
    weights = np.asarray(row_weights(support), np.float64)
    candidates = np.flatnonzero(weights > 0)
    left_out = round(leave_out * len(candidates))
    if not 0 < left_out < len(candidates):
        raise ValueError(
            f"{leave_out=} leaves out {left_out} of {len(candidates)} examples; it must be from "
            f"1 / {len(candidates)} to below 1."
        )
    if jnp.shape(scores) != (number, examples):
        raise ValueError(
            f"scores must be [queries, examples] = [{number}, {examples}], got {shapes(scores)}; "
            "transpose them, or give one row for each query."
        )
    if trainings < 3:
        raise ValueError(f"{trainings=} must be 3 or more for a correlation.")
    adapt_key, query_key = jax.random.split(key)
    rng = np.random.default_rng(seed)
    rows = np.stack([rng.permutation(candidates)[:left_out] for _ in range(trainings)])

    @jax.jit
    def losses(params: Params, support: Batch, queries: PyTree, kept: Array) -> Array:
        weight = float_weights(support, params)

        def train(kept: Array) -> Array:
            least = jnp.minimum(weight, jnp.finfo(weight.dtype).tiny)
            of_train = support._replace(weight=jnp.where(kept, weight, least))
            trained = adaptation.adapt(params, of_train, adapt_key)
            value = lambda query: check_loss_value(loss(trained, query, query_key))
            return jax.vmap(value)(queries)

        return jax.lax.map(train, kept, batch_size=at_once or len(kept))

    kept = np.ones((trainings + 1, examples), bool)
    np.put_along_axis(kept[1:], rows, False, axis=1)
    whole, *others = np.asarray(losses(params, support, queries, kept), np.float64)
    true = np.stack(others) - whole
    if not np.isfinite(true).all():
        raise ValueError("A training diverges, or a query loss is not finite; see attribute().")
    predicted = -(np.asarray(scores, np.float64) * weights)[:, rows].sum(axis=2).T

    def correlate(predicted: np.ndarray, true: np.ndarray) -> float:
        if np.ptp(true) == 0:
            return math.nan
        return scipy.stats.spearmanr(predicted, true).statistic if np.ptp(predicted) > 0 else 0.0

    correlations = np.array([correlate(*pair) for pair in zip(predicted.T, true.T, strict=True)])
    counted = correlations[~np.isnan(correlations)]
    if not len(counted):
        raise ValueError("No query has a loss that changes where examples are left out.")
    return Removals(summarize(jnp.asarray(counted)), correlations, predicted, true)
