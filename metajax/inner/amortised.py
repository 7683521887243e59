"""An adaptation that computes fast weights from the support set in one pass of an encoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import jax

from metajax._checked import checked
from metajax._checks import check_fast_entry
from metajax._tree import keep_rows, row_weights
from metajax.types import Adaptation, Array, Batch, Params, PyTree

EncodeSupport: TypeAlias = Callable[[Params, Batch, Array], PyTree]
"""(params, support, key) -> what is written into the fast weights."""


@checked
def amortize(
    init: Callable[[Params, Array], PyTree], encode: EncodeSupport, *, entry: str
) -> Adaptation:
    """Writes what an encoder computes from the support set: fast[entry] = encode(support).

    The encoder is learned through the query loss. If it writes a context vector, this is a neural
    process; if it writes a head, the encoder is a hypernetwork; with `modulate` and an inner loop
    it is MMAML. The encoder's own weights are `params.rule`. It sees all of `params`, for example a
    slow body that reads the examples.

    Args:
        init: (params, key) -> the encoder's weights, which are stored in `params.rule`; () where it
            has none.
        encode: (params, support, key) -> what to write, of any shape. `support.weight` is never
            None, and rows of weight 0 are zeros. The encoder must give these rows no influence.
        entry: the entry of `params.fast` to write. The other entries stay.

    Raises:
        ValueError: on adaptation, fast weights that are not a dict, or a rule that was not
            initialised.

    >>> import jax.numpy as jnp
    >>> mean = lambda params, support, key: support.weight @ support.y / support.weight.sum()
    >>> adaptation = amortize(lambda params, key: (), mean, entry="context")
    >>> y, weight = jnp.array([[1.0], [3.0], [jnp.nan]]), jnp.array([1.0, 1.0, 0.0])
    >>> support = Batch(jnp.zeros((3, 1)), y, weight)
    >>> adapted = adaptation.adapt(Params(fast={}, slow={}), support, jax.random.key(0))
    >>> adapted.fast["context"].tolist()
    [2.0]

    Source: neural processes, Garnelo et al. 2018, arXiv 1807.01613; hypernetworks, Ha et al. 2016,
    arXiv 1609.09106.
    """

    @checked
    def adapt(params: Params, support: Batch, key: Array) -> Params:
        check_fast_entry(params, entry)
        has_weights = jax.tree.leaves(jax.eval_shape(init, params, key))
        if has_weights and not jax.tree.leaves(params.rule):
            raise ValueError(
                "params.rule is empty; call params = adaptation.init(params, key) first."
            )
        written = encode(params, without_padding(support), key)
        return params._replace(fast={**params.fast, entry: written})

    return Adaptation(lambda params, key: params._replace(rule=init(params, key)), adapt)


def without_padding(support: Batch) -> Batch:
    """The support set with its weights, and zeros in the rows of weight 0."""
    weight = row_weights(support)
    x, y = keep_rows(weight > 0, (support.x, support.y))
    return support._replace(x=x, y=y, weight=weight)
