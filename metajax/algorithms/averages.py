"""Learners whose answer is a mean: of several trained nets, or of augmented copies of a query.

Both return a `Learner` for `predict` and `evaluate`, and one may be made of the other. Their task
loss is the query loss of the mean. What the task loss of the learner itself adds is not part of it,
such as the evidence of `dkt`, or the queries that `transductive` adapts to: put `transductive`
around the mean instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from metajax._checked import checked
from metajax._checks import shapes
from metajax._tree import along
from metajax.algorithms.learners import MakeLoss, loss_of
from metajax.losses import cross_entropy
from metajax.outer import query_loss
from metajax.types import Adaptation, Array, Batch, Gaussian, Learner, Params, PyTree, Size


@checked
def ensemble(
    learner: Learner,
    members: Sequence[Params],
    *,
    loss: MakeLoss = cross_entropy,
    inductive: bool = False,
) -> Learner:
    """Several trained nets as one: each adapts by itself, and the answer is the mean of outputs.

    1/M Σₘ apply(adapt(paramsₘ, support), x). The softmax of mean logits is the normalised geometric
    mean of the probabilities.

    Args:
        learner: what all members were trained with.
        members: what it learned, such as from several seeds.
        loss: what makes the loss of the query set, such as `cross_entropy`.
        inductive: whether statistics of norms come from the support set only.

    Returns:
        A learner whose params are those of all members, leaves [members, ...].

    Raises:
        ValueError: no members, or members that differ in structure, dtype or shape.

    >>> from flax import nnx
    >>> from metajax.algorithms import protonets
    >>> one, two = (protonets(nnx.Linear(3, 4, rngs=nnx.Rngs(seed)), 2) for seed in range(2))
    >>> both = ensemble(one, [one.params, two.params])
    >>> both.params.slow["kernel"].shape
    (2, 3, 4)

    Checked against: the mean of its members, one by one.
    """
    found = [shapes(member) for member in members]
    differing = [member for member in found if member != found[0]]
    if differing or not found:
        raise ValueError(
            "Members must be one or more params of the same net, got "
            f"{[found[0], differing[0]] if differing else 'none'}."
        )

    def init(params: Params, key: Array) -> Params:
        return jax.vmap(learner.adaptation.init, (0, None))(params, key)

    def adapt(params: Params, support: Batch, key: Array) -> Params:
        return jax.vmap(learner.adaptation.adapt, (0, None, None))(params, support, key)

    def apply(
        params: Params,
        x: PyTree,
        key: Array | None = None,
        *,
        reference: Array | None = None,
    ) -> Any:
        answer = lambda member: learner.apply(member, x, key, reference=reference)
        return _mean(jax.vmap(answer)(params))

    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)
    adaptation = Adaptation(init, adapt)
    task_loss = query_loss(adaptation, loss_of(loss, apply), inductive=inductive)
    return Learner(apply, stacked, adaptation, task_loss)


@checked
def augmented_queries(
    learner: Learner,
    augmentation: Callable[[PyTree, Array], PyTree],
    copies: Size = 8,
    *,
    seed: int = 0,
    loss: MakeLoss = cross_entropy,
    inductive: bool = False,
) -> Learner:
    """Test-time augmentation: the mean of the outputs for a query and for augmented copies of it.

    The support set is adapted to as it is, and so are its rows where statistics of norms come from
    them. Draws depend on the seed and on the number of the row.

    Args:
        learner: whose answers are averaged.
        augmentation: (x, key) -> x of one example, such as `data.affine(degrees=10)`.
        copies: augmented copies of each query, besides the query itself.
        seed: of the augmentation.
        loss: what makes the loss of the query set, such as `cross_entropy`.
        inductive: whether statistics of norms come from the support set only.

    Returns:
        A learner with the same params.

    >>> from flax import nnx
    >>> from metajax.algorithms import protonets
    >>> plain = protonets(nnx.Linear(3, 4, rngs=nnx.Rngs(0)), 2)
    >>> steadier = augmented_queries(plain, lambda x, key: -x, copies=1)
    >>> head = {"head": {"kernel": jnp.ones((4, 2)), "bias": jnp.ones(2)}}
    >>> steadier.apply(plain.params._replace(fast=head), jnp.ones((5, 3)))[0].tolist()
    [1.0, 1.0]

    Checked against: the mean over its copies, one by one.
    """

    def apply(
        params: Params,
        x: PyTree,
        key: Array | None = None,
        *,
        reference: Array | None = None,
    ) -> Any:
        rows = len(jax.tree.leaves(x)[0])

        def augmented(copy_key: Array) -> PyTree:
            changed = jax.vmap(augmentation)(x, jax.random.split(copy_key, rows))
            if reference is None:
                return changed
            keep = lambda own, new: jnp.where(along(reference, own), own, new)
            return jax.tree.map(keep, x, changed)

        keys = jax.random.split(jax.random.key(seed), copies)
        all_x = jax.tree.map(
            lambda own, others: jnp.concatenate([own[None], others]), x, jax.vmap(augmented)(keys)
        )
        answer = lambda x: learner.apply(params, x, key, reference=reference)
        return _mean(jax.vmap(answer)(all_x))

    task_loss = query_loss(learner.adaptation, loss_of(loss, apply), inductive=inductive)
    return Learner(apply, learner.params, learner.adaptation, task_loss)


def _mean(outputs: Any) -> Any:
    """The mean over the leading axis of every array of the outputs.

    Of normal distributions, it is the mean and the variance of their mixture in equal parts.
    """

    def mean(part: Any) -> Any:
        if isinstance(part, Gaussian):
            variance = part.variance.mean(axis=0) + part.mean.var(axis=0)
            return Gaussian(part.mean.mean(axis=0), variance)
        return part.mean(axis=0)

    return jax.tree.map(mean, outputs, is_leaf=lambda part: isinstance(part, Gaussian))
