"""What is asked of a training and of queries before a training is differentiated or repeated."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from metajax._checks import check_row_weights, check_rows, shapes
from metajax._learnable import check_weights
from metajax._tree import count_rows, row_weights
from metajax.differentiate.strategies import Inner, descend
from metajax.outer.task_losses import check_alike
from metajax.types import Adaptation, Array, Batch, Params, PyTree, Task


def check_training(adaptation: Adaptation, params: Params, support: Batch) -> None:
    """Checks that a training ends in one set of weights, and that its weights of examples are such.

    Raises:
        ValueError: an adaptation with `path`, params that are not floats, or negative weights.
    """
    if adaptation.path:
        raise ValueError("Give an inner_loop without path=True: the last fast weights are needed.")
    check_weights(params)
    check_row_weights(support.weight, count_rows(support))


def check_queries(support: Batch, queries: PyTree) -> int:
    """Checks that queries have an axis of their own, and returns their number.

    Raises:
        ValueError: they have not, leaves differ in the number of queries, or the examples of a
            query are not like those of the support set.
    """
    if any(jnp.ndim(leaf) < 2 for leaf in jax.tree.leaves(queries)):
        raise ValueError(
            "Every leaf of queries must be [queries, examples, ...], got "
            f"{shapes(queries)}; jax.tree.map(lambda leaf: leaf[:, None], batch) makes each row of "
            "a batch a query."
        )
    number = check_rows(queries, "queries")
    check_alike(Task(support, jax.tree.map(lambda leaf: leaf[0], queries)))
    return number


def float_weights(support: Batch, params: Params) -> Array:
    """The weight of each example in the dtype of the params, or in float32 if that is wider."""
    dtype = jnp.result_type(*jax.tree.leaves(params))
    return row_weights(support).astype(jnp.promote_types(dtype, jnp.float32))


def check_trained(
    adaptation: Adaptation, params: Params, support: Batch, key: Array, trained: Params
) -> None:
    """Checks that a training ends with finite fast weights.

    Args:
        adaptation: the training.
        params: what it started from.
        support: what it learned from.
        key: as it was given to `adaptation.adapt`.
        trained: what it returned.

    Raises:
        ValueError: weights that are not finite, with the first step whose loss is not finite where
            the training is a single `inner_loop`.
    """
    if all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(trained.fast)):
        return
    where = "its weights are not finite"
    if adaptation.inner is not None:
        losses = np.asarray(jax.jit(_losses, static_argnums=0)(adaptation, params, support, key))
        finite = np.isfinite(losses)
        if not finite.all():
            where = f"the loss of step {finite.argmin() + 1} of {len(losses)} is not finite"
        elif len(losses):
            where = f"its last step, {len(losses)}, gives weights that are not finite"
    raise ValueError(
        f"The training diverges: {where}. Take a smaller step size, clip gradients, or look at the "
        "examples of that step; a label that is no class gives NaN, too."
    )


def _losses(adaptation: Adaptation, params: Params, support: Batch, key: Array) -> Array:
    """The loss before every step, [steps]."""
    assert adaptation.inner is not None
    inner: Inner = adaptation.inner(params, support)
    gradient = jax.grad(inner.loss)

    def step(carry: PyTree, key: Array) -> tuple[PyTree, Array]:
        descent = descend(gradient, inner, key[None], start=carry)
        return (descent.fast, descent.optimizer), inner.loss(carry[0], inner.inputs, key)

    start = (inner.fast, inner.optimizer.init(inner.fast))
    return jax.lax.scan(step, start, inner.step_keys(key))[1]
