"""What attributions ask of a training: weights, queries, and that it ends."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from metajax._checks import check_rows, shapes
from metajax._tree import row_weights
from metajax.differentiate.strategies import Inner, descend
from metajax.types import Adaptation, Array, Batch, Params, PyTree


def float_weights(support: Batch, params: Params) -> Array:
    """The weight of each example in the dtype of the params, float[examples]."""
    return row_weights(support).astype(jnp.result_type(*jax.tree.leaves(params)))


def check_queries(queries: PyTree) -> int:
    """Checks that queries have an axis of their own, and returns their number.

    Raises:
        ValueError: they have not, or leaves differ in the number of queries.
    """
    if any(jnp.ndim(leaf) < 2 for leaf in jax.tree.leaves(queries)):
        raise ValueError(
            "Every leaf of queries must be [queries, examples, ...], got "
            f"{shapes(queries)}; jax.tree.map(lambda leaf: leaf[:, None], batch) makes each row of "
            "a batch a query."
        )
    return check_rows(queries, "queries")


def check_trained(
    adaptation: Adaptation, params: Params, support: Batch, key: Array, trained: Params
) -> None:
    """Checks that a training ends with finite weights.

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
    if all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(trained)):
        return
    where = "its weights are not finite"
    if adaptation.inner is not None:
        losses = np.asarray(jax.jit(_losses, static_argnums=0)(adaptation, params, support, key))
        finite = np.isfinite(losses)
        where = f"the loss of step {finite.argmin() + 1} of {len(losses)} is not finite"
        if finite.all():
            where = f"its last step, {len(losses)}, gives weights that are not finite"
    raise ValueError(
        f"The training diverges: {where}. Take a smaller step size, clip gradients, or look at the "
        "examples of that step."
    )


def _losses(adaptation: Adaptation, params: Params, support: Batch, key: Array) -> Array:
    """The loss before every step, [steps]."""
    assert adaptation.inner is not None
    inner: Inner = adaptation.inner(params, support)._replace(path=False)
    gradient = jax.grad(inner.loss)

    def step(carry: PyTree, key: Array) -> tuple[PyTree, Array]:
        descent = descend(gradient, inner, key[None], start=carry)
        return (descent.fast, descent.optimizer), inner.loss(carry[0], inner.inputs, key)

    start = (inner.fast, inner.optimizer.init(inner.fast))
    return jax.lax.scan(step, start, jax.random.split(key, inner.steps))[1]
