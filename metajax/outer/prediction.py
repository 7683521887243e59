"""Predictions of an adapted model for new inputs."""

from __future__ import annotations

from typing import Any

import jax

from metajax._checks import check_no_list
from metajax._tree import count_rows
from metajax.outer.task_losses import after_support
from metajax.types import Adaptation, Apply, Array, Batch, Params, PyTree


def predict(
    adaptation: Adaptation,
    apply: Apply,
    params: Params,
    support: Batch,
    x: PyTree,
    key: Array,
    *,
    inductive: bool = False,
) -> Any:
    """Adapts to a support set and predicts the outputs of new inputs.

    apply(adapt(params, support), x).

    Args:
        adaptation: how the fast weights are rewritten.
        apply: (params, x, key, reference=...) -> outputs [examples, ...]. It gets no key, so it is
            deterministic.
        params: what the outer loop learned.
        support: a few labelled examples.
        x: inputs [examples, ...].
        key: for the adaptation.
        inductive: as in `query_loss`. Set it if the inputs come one at a time and the net
            normalises by batch.

    Raises:
        ValueError: an adaptation with `path`.
    """
    if adaptation.path:
        raise ValueError("predict() needs the last fast weights; use an inner_loop without path.")
    check_no_list(support.x, "x of the support set")
    check_no_list(x, "x")
    adapted = adaptation.adapt(params, support, key)
    if not inductive:
        return apply(adapted, x)
    rows = after_support(support._replace(y=()), Batch(x=x, y=()))
    outputs = apply(adapted, rows.x, reference=rows.reference)
    return jax.tree.map(lambda leaf: leaf[count_rows(support) :], outputs)
