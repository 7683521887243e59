"""What each training example and hyperparameter was worth, through a whole training."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import numpy as np

from metajax._checked import checked
from metajax._checks import check_loss_value
from metajax.diagnostics.smoothness import ROUGH, metasmoothness
from metajax.diagnostics.trainings import (
    check_queries,
    check_trained,
    check_training,
    float_weights,
)
from metajax.types import Adaptation, Array, Batch, Loss, Params, PyTree, Size


class Attribution(NamedTuple):
    """What the loss L of each query owes to the training.

    Attributes:
        examples: [queries, examples], ∂L/∂wᵢ with wᵢ the weight of a training example. It is
            negative where the example lowers the loss. To first order, the loss changes by
            -wᵢ ∂L/∂wᵢ where the example is left out.
        slow: leaves [queries, ...], ∂L/∂slow: hyperparameters, weights of tokens, whatever else
            the training reads from there.
        rule: leaves [queries, ...], ∂L/∂rule.
        loss: [queries], L.
        smoothness: of the training, as `metasmoothness` measures it, or NaN. Below 0.9 the training
            is rough: its derivative is right, and says little about examples that are left out.
    """

    examples: Array
    slow: PyTree
    rule: PyTree
    loss: Array
    smoothness: float

    def __repr__(self) -> str:
        """One line, such as "8 queries, 2000 examples, metasmoothness 0.97"."""
        queries, examples = self.examples.shape
        line = f"{queries} queries, {examples} examples"
        if math.isnan(self.smoothness):
            return line
        line = f"{line}, metasmoothness {self.smoothness:.2f}"
        if self.smoothness < ROUGH:
            line += ": a rough training, whose derivative predicts little"
        return line


@checked
def attribute(
    adaptation: Adaptation,
    loss: Loss,
    params: Params,
    support: Batch,
    queries: PyTree,
    key: Array,
    *,
    queries_at_once: Size | None = None,
    smoothness_step: float | None = 0.1,
) -> Attribution:
    """The effect of every training example on the loss of every query, through the whole training.

    The training is the adaptation: with the order of its data and all random draws, it is a
    function θ(w, slow, rule) of the weights w of the support set. It runs forward once. Each query
    then takes one backward pass, ∂L(θ)/∂(w, slow, rule), and these run side by side.

    The adaptation decides how the backward pass is made, and is exact where its strategy is. In
    long trainings, give its `inner_loop` `differentiate=mixed_mode()`, or `unroll(remat=2)` where
    even one copy of the weights for each step is too much. Under `first_order()` no example has
    any effect.

    Args:
        adaptation: the training, an `inner_loop`. It starts from `params.fast`.
        loss: (params, batch, key) -> (scalar, metrics), of a query.
        params: start, slow weights and rule.
        support: the examples to learn from. Weights that are None are ones.
        queries: a `Batch` whose leaves are [queries, examples, ...]. For each row of a batch by
            itself, take `jax.tree.map(lambda leaf: leaf[:, None], batch)`.
        key: `split(key)` gives the key of the training and that of the query losses, as in
            `query_loss`, so that `query_loss(adaptation, loss)` with it is the same training.
        queries_at_once: queries whose backward passes run side by side; None takes all.
        smoothness_step: step of `metasmoothness`, which takes three trainings more. None leaves it
            out.

    Raises:
        ValueError: params that are not floats, negative weights, queries without an axis of queries
            or of unequal number, an adaptation with `path`; a training that diverges, with the
            first step whose loss is not finite; a derivative that is not finite, or is zero for
            all examples.

    >>> import jax.numpy as jnp, optax
    >>> from metajax.inner import inner_loop
    >>> from metajax.losses import squared_error
    >>> loss = squared_error(lambda params, x, key, reference: params.fast * x)
    >>> support = Batch(x=jnp.ones(3), y=jnp.array([1.0, 2.0, 6.0]))
    >>> queries = Batch(x=jnp.ones((1, 1)), y=jnp.full((1, 1), 3.5))
    >>> adaptation = inner_loop(loss, optax.sgd(0.5), steps=1)
    >>> params = Params(jnp.array(0.0), ())
    >>> found = attribute(adaptation, loss, params, support, queries, jax.random.key(0))
    >>> found.examples.round(2).tolist()
    [[0.67, 0.33, -1.0]]

    Source: Engstrom et al. 2025, arXiv 2503.13751; Ilyas and Engstrom 2025, arXiv 2504.16430.
    """
    check_training(adaptation, params, support)
    number = check_queries(support, queries)
    adapt_key, query_key = jax.random.split(key)

    @jax.jit
    def derivatives(params: Params, support: Batch, queries: PyTree) -> PyTree:
        def train(weight: Array, slow: PyTree, rule: PyTree) -> Params:
            start = params._replace(slow=slow, rule=rule)
            return adaptation.adapt(start, support._replace(weight=weight), adapt_key)

        trained, pull = jax.vjp(train, float_weights(support, params), params.slow, params.rule)

        def of_query(query: Batch) -> PyTree:
            value = lambda trained: check_loss_value(loss(trained, query, query_key))
            result, slope = jax.value_and_grad(value)(trained)
            return result, pull(slope)

        return trained, jax.lax.map(of_query, queries, batch_size=queries_at_once or number)

    trained, found = derivatives(params, support, queries)
    check_trained(adaptation, params, support, adapt_key, trained)
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found)):
        raise ValueError(
            "The training ends with finite weights, but a query loss or its derivative through the "
            "training is not finite: give the optimizer a term under its square root "
            "(eps_root=1e-8), take a smaller step size, compute in float64, or look for labels of "
            "queries that are no class."
        )
    values, (examples, slow, rule) = found
    if not np.any(examples):
        raise ValueError(
            "No example has any effect on a query: the strategy is first_order(), or the loss of "
            "the training does not read batch.weight."
        )
    smoothness = math.nan
    if smoothness_step is not None:
        smoothness = metasmoothness(adaptation, params, support, key, step=smoothness_step)
    return Attribution(examples, slow, rule, values, smoothness)
