"""An adaptation that computes fast weights from the support set in one pass."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from metajax._tree import row_weights
from metajax.types import Adaptation, Array, Batch, Params, PyTree


def amortize(
    init: Callable[[Params, Array], PyTree],
    encode: Callable[[Params, Batch, Array], PyTree],
    *,
    entry: str,
) -> Adaptation:
    """Writes what an encoder makes of the support set: fast[entry] = encode(support), learned through the query loss.

    A context vector makes it a neural process, a head makes the encoder a hypernetwork; with `modulate` and an inner
    loop it is MMAML. The encoder's own weights are the rule, and it sees all of `params`, such as a slow body to read
    the examples with.

    Args:
        init: (params, key) -> the encoder's weights, which come to stand in `params.rule`; () where it has none.
        encode: (params, support, key) -> what to write, of any shape. `support.weight` is given, and rows of weight 0
            are zeros, so that what stood there reaches nothing; the encoder has to let them count nothing.
        entry: of `params.fast`, which is a dict. The others stay.

    Raises:
        ValueError: on adaptation, fast weights that are no dict, or a rule that was never initialised.

    >>> mean = lambda params, support, key: support.weight @ support.y / support.weight.sum()
    >>> adaptation = amortize(lambda params, key: (), mean, entry="context")
    >>> support = Batch(x=jnp.zeros((3, 1)), y=jnp.array([[1.0], [3.0], [jnp.nan]]), weight=jnp.array([1.0, 1.0, 0.0]))
    >>> adaptation.adapt(Params(fast={}, slow={}), support, jax.random.key(0)).fast["context"].tolist()
    [2.0]

    Source: neural processes, Garnelo et al. 2018, arXiv 1807.01613; hypernetworks, Ha et al. 2016, arXiv 1609.09106.
    """

    def adapt(params: Params, support: Batch, key: Array) -> Params:
        if not isinstance(params.fast, dict):
            raise ValueError(
                f"params.fast must be a dict to write {entry!r} into, got {type(params.fast).__name__}."
            )
        if not jax.tree.leaves(params.rule) and jax.tree.leaves(jax.eval_shape(init, params, key)):
            raise ValueError(
                "params.rule is empty; call params = adaptation.init(params, key) first."
            )
        return params._replace(
            fast={**params.fast, entry: encode(params, _without_padding(support), key)}
        )

    return Adaptation(lambda params, key: params._replace(rule=init(params, key)), adapt)


def _without_padding(support: Batch) -> Batch:
    """The support set with its weights, and zeros where they are 0."""
    weight = row_weights(support)

    def clear(leaf: Array) -> Array:
        return jnp.where(
            (weight > 0).reshape(-1, *(1,) * (leaf.ndim - 1)), leaf, jnp.zeros_like(leaf)
        )

    return support._replace(
        x=jax.tree.map(clear, support.x), y=jax.tree.map(clear, support.y), weight=weight
    )
