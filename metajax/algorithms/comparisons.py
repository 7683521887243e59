"""Meta-learners that compare queries with class means by a learned measure."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.flatten_util import ravel_pytree

from metajax._checked import checked
from metajax._tree import reference_rows
from metajax.algorithms.learners import MakeLoss, Net, as_encoder, as_features, loss_of, with_part
from metajax.inner import (
    chain,
    film,
    gaussian_prototypes,
    mean_features,
    modulate,
    modulated,
    precision_head,
    predicted_head,
    prototypes,
    relation_head,
)
from metajax.losses import cross_entropy, one_hot_error
from metajax.nets import functional, join_params
from metajax.outer import query_loss
from metajax.types import Apply, Array, Batch, Learner, Params, PyTree


@checked
def relation_nets(
    net: Net,
    ways: int,
    relation: nnx.Module,
    *,
    loss: MakeLoss = one_hot_error,
    entry: str = "head",
    inductive: bool = False,
) -> Learner:
    """Relation networks: a second net scores every pair of a class and a query.

    logitsₖ = g([cₖ, f(x)]) with the class mean cₖ, and scoreₖ = σ(logitsₖ). With several shots, the
    paper sums features, and this takes their mean. The paper's g convolves maps of features, and
    this one reads vectors.

    Args:
        net: a Flax module with `embed` and `head`, or any net whose outputs are features [n, d].
        ways: number of classes of a task.
        relation: the net g from [pairs, 2 d] to [pairs, 1], such as
            `MLP(2 * d, (8,), 1, rngs=rngs)`.
        loss: what makes the loss of the network; the paper's is the squared error of the scores.
        entry: the entry of `params.fast` that the means are written into.
        inductive: whether statistics of norms come from the support set only.

    Source: Sung et al. 2018, arXiv 1711.06025.

    Checked against: the formula in NumPy.
    """
    embed, params = as_features(net, entry)
    relate, relation_params = functional(relation)
    params = with_part(params, "relation", join_params(relation_params))
    adaptation = mean_features(embed, ways, entry=entry)
    apply = relation_head(embed, relate, part="relation", entry=entry)
    task_loss = query_loss(adaptation, loss_of(loss, apply), inductive=inductive)
    return Learner(apply, params, adaptation, task_loss)


@checked
def gaussian_protonets(
    net: Net,
    ways: int,
    *,
    loss: MakeLoss = cross_entropy,
    entry: str = "head",
    inductive: bool = False,
) -> Learner:
    """Gaussian prototypical networks: every example has a precision, and so has every class.

    logitsₖ = -Σ_d Sₖ_d (f(x)_d - cₖ_d)² with Sₖ = Σᵢ [yᵢ = k] s(xᵢ), cₖ = Σᵢ [yᵢ = k] s(xᵢ) f(xᵢ) /
    Sₖ and s = 1 + softplus(r(x)). The net gives f and r. The author's code takes the distance where
    this takes its square, as prototypical networks do.

    Args:
        net: any net whose outputs are [n, 2 d], f and then r: a Flax module without a method
            `embed`, or (apply, params). A module with `embed` and `head` gives those of `embed`.
        ways: number of classes of a task.
        loss: what makes the loss of the network, such as `cross_entropy`.
        entry: the entry of `params.fast` that means and precisions are written into.
        inductive: whether statistics of norms come from the support set only.

    Source: Fort 2017, arXiv 1708.02735, with a diagonal covariance.

    Checked against: the formula in NumPy.
    """
    embed, params = as_features(net, entry)
    adaptation = gaussian_prototypes(embed, ways, entry=entry)
    apply = precision_head(embed, entry=entry)
    task_loss = query_loss(adaptation, loss_of(loss, apply), inductive=inductive)
    return Learner(apply, params, adaptation, task_loss)


@checked
def hypernetwork_head(
    net: Net,
    ways: int,
    writer: nnx.Module,
    *,
    loss: MakeLoss = cross_entropy,
    entry: str = "head",
    inductive: bool = False,
) -> Learner:
    """A hypernetwork: one network writes the head of another, from the mean features of each class.

    (wₖ, bₖ) = h(cₖ) and logitsₖ = f(x)·wₖ + bₖ.

    Args:
        net: a Flax module with `embed` and `head`, or any net whose outputs are features [n, d].
        ways: number of classes of a task.
        writer: the net h from [classes, d] to [classes, d + 1], such as
            `MLP(d, (64,), d + 1, rngs=rngs)`.
        loss: what makes the loss of the network, such as `cross_entropy`.
        entry: the entry of `params.fast` that the head is written into.
        inductive: whether statistics of norms come from the support set only.

    Source: Qiao et al. 2018, arXiv 1706.03466, whose net has no bias.

    Checked against: the formula in NumPy.
    """
    embed, apply, params = as_encoder(net, entry)
    write, writer_params = functional(writer)
    adaptation = predicted_head(embed, write, join_params(writer_params), ways, entry=entry)
    params = adaptation.init(params, jax.random.key(0))
    task_loss = query_loss(adaptation, loss_of(loss, apply), inductive=inductive)
    return Learner(apply, params, adaptation, task_loss)


@checked
def tadam(
    net: nnx.Module,
    ways: int,
    reader: Callable[[int], nnx.Module],
    *,
    loss: MakeLoss = cross_entropy,
    initial_gate: float = 0.01,
    inductive: bool = False,
) -> Learner:
    """TADAM: prototypes of features that the task itself scales and shifts, with a learned scale.

    logitsₖ = -a |f(x; γ, β) - cₖ|² up to a constant of each query. A net reads the features of the
    support set without modulation, and its output times a learned gate moves γ from 1 and β from 0
    in every layer but the head. The paper's auxiliary classification of all classes is not here.

    Args:
        net: a Flax module with `embed` and `head`.
        ways: number of classes of a task.
        reader: number of outputs -> Flax module that reads the features of the support set, a
            `Series` [1, n, d], such as `lambda outputs: DeepSets(d, outputs, rngs=rngs)`.
        loss: what makes the loss of the network, such as `cross_entropy`.
        initial_gate: each number of γ and β has its own gate, and all start here.
        inductive: whether statistics of norms come from the support set only.

    Raises:
        ValueError: no layer to modulate.

    Source: Oreshkin, Rodríguez and Lacoste 2018, arXiv 1805.10123.

    Checked against: the formula in NumPy; prototypical networks at a gate of 0.
    """
    embed, apply, params = as_encoder(net, "head")
    no_modulation = film(params.slow)
    size = ravel_pytree(no_modulation)[0].size
    read, reader_params = functional(reader(size))
    rule = {"reader": join_params(reader_params), "gate": jnp.full(size, initial_gate)}
    params = with_part(params, "log_scale", jnp.zeros(()))  # log a
    params = params._replace(fast={**params.fast, "modulation": no_modulation})
    task_embed: Apply = modulated(embed)  # type: ignore[assignment]

    def gated_read(rule: PyTree, rows: PyTree, key: Array) -> Array:
        return rule["gate"][None] * read(Params({}, rule["reader"]), rows, key)

    def features(params: Params, support: Batch, key: Array) -> Array:
        """Those that the reader reads, before anything is modulated."""
        return task_embed(params, support.x, key, reference=reference_rows(support))

    def scaled(
        params: Params, x: PyTree, key: Array | None = None, *, reference: Array | None = None
    ) -> Array:
        logits: Array = modulated(apply)(params, x, key, reference=reference)
        return jnp.exp(params.slow["log_scale"]) * logits

    adaptation = chain(
        modulation=modulate(gated_read, rule, items=features),
        head=prototypes(task_embed, ways),
    )
    params = adaptation.init(params, jax.random.key(0))
    task_loss = query_loss(adaptation, loss_of(loss, scaled), inductive=inductive)
    return Learner(scaled, params, adaptation, task_loss)
