"""What a learner says of the examples of one support set, each held out from the adaptation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metajax._checked import checked
from metajax._checks import has_integers
from metajax._tree import count_rows, row_weights
from metajax.outer.prediction import predict
from metajax.types import Adaptation, Array, Batch, Params, PyTree, Size


class HeldOut(NamedTuple):
    """Outputs of adaptations that leave out a part of the support set, and of one to all of it.

    Attributes:
        support: [n, ...], the output for each example, by the adaptation that leaves it out.
        fitted: [n, ...], the output for each example, by the adaptation to all.
        queries: [folds, q, ...], the outputs for the queries, by each adaptation that leaves out;
            None without queries.
        answers: [q, ...], the outputs for the queries, by the adaptation to all; None without
            queries.
        fold: int[n], which adaptation leaves an example out.
        y: [n, ...], the labels of the support set.
        counts: bool[n], whether an example has a weight and a label.
        usable: bool[n], whether the output of an example that is left out says anything: the
            example counts, and its class has another one that was not left out.
    """

    support: Any
    fitted: Any
    queries: Any
    answers: Any
    fold: Array
    y: Any
    counts: Array
    usable: Array


@checked
def cross_predict(
    adaptation: Adaptation,
    apply: Callable[..., Any],
    params: Params,
    support: Batch,
    key: Array,
    *,
    queries: PyTree = None,
    folds: Size | None = None,
    at_once: Size | None = None,
    inductive: bool = False,
) -> HeldOut:
    """Predicts every example of a support set by an adaptation that leaves it out.

    Examples are left out by weight 0, so that all adaptations have one shape and are mapped. They
    still count in normalisation statistics of an adaptation that is not inductive. It may be
    compiled, and mapped over tasks.

    Args:
        adaptation: how the fast weights are rewritten. It must honour weights, as those of metajax
            do.
        apply: as for `predict`.
        params: what the outer loop learned.
        support: n examples of one task.
        key: for the adaptations.
        queries: inputs [q, ...] that every adaptation predicts, for `conformal_sets` and
            `conformal_intervals`; None means none.
        folds: parts that are left out in turn, of equal size and with equal shares of every class
            up to one example. None leaves out one example at a time. Rows without a label stay.
        at_once: adaptations that run side by side; None takes all.
        inductive: as for `predict`.

    Raises:
        ValueError: fewer than 2 folds, or more than there are examples.

    Source: Lachenbruch and Mickey 1968, Technometrics 10; Stone 1974, J. R. Stat. Soc. B 36.
    """
    rows = count_rows(support)
    number = rows if folds is None else folds
    if folds is not None and not 2 <= folds <= rows:
        raise ValueError(f"{folds=} must be from 2 to the number of examples, {rows}.")
    weight = row_weights(support)
    is_classified = has_integers(support.y) and jnp.ndim(support.y) == 1
    classes = support.y if is_classified else jnp.zeros(rows, jnp.int32)
    has_label = (weight > 0) & (classes >= 0)
    same_class = (classes[:, None] == classes[None]) & has_label[None]
    place = jnp.argsort(jnp.argsort(classes))  # where the rows are sorted by class
    fold = jnp.arange(rows) if folds is None else place % folds

    def outputs(weight: Array, one_key: Array) -> tuple[Any, Any]:
        kept = support._replace(weight=weight)
        say = lambda x: predict(adaptation, apply, params, kept, x, one_key, inductive=inductive)
        return say(support.x), None if queries is None else say(queries)

    def without(part: Array) -> tuple[Any, Any]:
        is_out = (fold == part) & has_label  # a row without a label tells nothing of its answer
        return outputs(jnp.where(is_out, 0, weight), jax.random.fold_in(key, part))

    left_out, of_queries = jax.lax.map(without, jnp.arange(number), batch_size=at_once or number)
    own = jax.tree.map(lambda leaf: leaf[fold, jnp.arange(rows)], left_out)
    others = (same_class & (fold[:, None] != fold[None])).any(axis=1)
    fitted, answers = outputs(weight, key)
    return HeldOut(own, fitted, of_queries, answers, fold, support.y, has_label, has_label & others)
