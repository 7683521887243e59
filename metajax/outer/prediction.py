"""Predictions of an adapted model for new inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from metajax._checked import checked
from metajax._checks import check_no_list, shapes
from metajax._tree import count_rows
from metajax.outer.task_losses import after_support, check_same_scale
from metajax.types import Adaptation, Array, Batch, Params, PyTree


@checked
def predict(
    adaptation: Adaptation,
    apply: Callable[..., Any],
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
        adaptation: how the fast weights are rewritten. Of one with `path`, as MAML++ has, the last
            step predicts.
        apply: (params, x, reference=...) -> outputs [examples, ...]. It gets no key, so it is
            deterministic; `reference` is given only if `inductive`.
        params: what the outer loop learned.
        support: a few labelled examples.
        x: inputs [examples, ...].
        key: for the adaptation.
        inductive: as in `query_loss`. Set it if the inputs come one at a time and the net
            normalises by batch.

    Raises:
        ValueError: inputs that are a list, or integers where those of the support set are floats,
            or the other way round; or, if inductive, inputs whose shape is not that of the support
            set's.
    """
    check_no_list(support.x, "x of the support set")
    check_no_list(x, "x")
    check_same_scale(support.x, x)
    if inductive:
        _check_same_shapes(support.x, x)
    adapted = adaptation.adapt(params, support, key)
    if adaptation.path:
        last = jax.tree.map(lambda leaf: leaf[-1], adapted.fast)
        adapted = adapted._replace(fast=last)
    if not inductive:
        return apply(adapted, x)
    rows = after_support(support._replace(y=()), Batch(x=x, y=()))
    outputs = apply(adapted, rows.x, reference=rows.reference)
    return jax.tree.map(lambda leaf: leaf[count_rows(support) :], outputs)


def _check_same_shapes(support_x: PyTree, x: PyTree) -> None:
    """Checks that inputs have the structure and shape, rows aside, of those of a support set."""

    def of_rows(tree: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf: jnp.shape(leaf)[1:], tree)

    if of_rows(support_x) != of_rows(x):
        raise ValueError(
            f"x must have the shapes of the support set's, rows aside: it has {shapes(x)}, and the "
            f"support set {shapes(support_x)}."
        )
