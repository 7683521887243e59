"""Meta-learners in which a network reads the task and writes weights, or the answer itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.flatten_util import ravel_pytree

from metajax._checked import checked
from metajax._class_means import weighted_one_hot
from metajax._tree import keep_rows
from metajax.algorithms.learners import MakeLoss, Net, as_encoder, as_features, loss_of, with_part
from metajax.algorithms.neural_processes import check_reader, with_a_row
from metajax.inner import (
    amortize,
    chain,
    gradient_memory,
    low_rank,
    memory_head,
    prototypes,
    with_low_rank,
    written_head,
)
from metajax.inner.heads import absent_bias, embed_support
from metajax.losses import cross_entropy
from metajax.nets import functional, join_params
from metajax.outer import query_loss
from metajax.types import Apply, Array, Batch, Gaussian, Learner, Params, PyTree, Size


@checked
def meta_net(
    net: nnx.Module,
    ways: int,
    writer: nnx.Module,
    *,
    loss: MakeLoss = cross_entropy,
    inductive: bool = False,
) -> Learner:
    """MetaNet: a net writes fast weights of the head from the loss gradient of every example.

    A query reads the fast weights of the examples that it is like:
    logits = f(x) (W + Σᵢ aᵢ m(∇_W lᵢ)) + b + Σᵢ aᵢ m(∇_b lᵢ) with aᵢ = softmaxᵢ cos(f(x), f(xᵢ)).
    lᵢ is the cross-entropy of example i, whatever the loss of the query set is. In the paper the
    inner layers have fast weights, too, and a second net with fast weights of its own makes the
    keys.

    Args:
        net: a Flax module with `embed` and `head`.
        ways: number of classes of a task, and outputs of the head.
        writer: the net m from [numbers, 2], size and sign of each derivative g, to [numbers, 1],
            such as `MLP(2, (20,), 1, rngs=rngs)`. The size is log|g| / 10 down to a least one.
        loss: what makes the loss of the network, such as `cross_entropy`.
        inductive: whether statistics of norms come from the support set only.

    Source: Munkhdalai and Yu 2017, arXiv 1703.00837.

    Checked against: the formula in NumPy.
    """
    embed, _, params = as_encoder(net, "head")
    write, writer_params = functional(writer)
    adaptation = gradient_memory(embed, write, join_params(writer_params), ways)
    params = adaptation.init(params, jax.random.key(0))
    apply = memory_head(embed)
    task_loss = query_loss(adaptation, loss_of(loss, apply), inductive=inductive)
    return Learner(apply, params, adaptation, task_loss)


@checked
def snail(
    net: Net,
    ways: int,
    reader: nnx.Module,
    *,
    loss: MakeLoss = cross_entropy,
    entry: str = "context",
    inductive: bool = False,
) -> Learner:
    """SNAIL-style attention: a net attends from the query to labelled features, and answers.

    The paper's net also convolves over the order of the examples, which has no meaning here. Labels
    are read as one-hot vectors, so that renumbering the classes can change the answers.

    Args:
        net: a Flax module with `embed` and `head`, or any net whose outputs are features [n, d].
        ways: number of classes of a task.
        reader: a net with methods `read(x, y, weight)` and `predict(x, context)`, of d inputs and
            `ways` outputs, such as `nets.TransformerProcess(d, ways, rngs=rngs)`. Where it predicts
            a `Gaussian`, its mean is the logits.
        loss: what makes the loss of the network, such as `cross_entropy`.
        entry: the entry of `params.fast` that is written.
        inductive: whether statistics of norms come from the support set only.

    Raises:
        ValueError: a reader without `read` and `predict`.

    Source: Mishra et al. 2018, arXiv 1707.03141.

    Checked against: the formula with a transformer, by loops in NumPy.
    """
    check_reader(reader)
    embed, params = as_features(net, entry)
    of_reader, initial = functional(reader)
    apply_reader: Callable[..., Any] = of_reader
    params = with_part(params, "reader", join_params(initial))
    reader_params = lambda params: Params({}, params.slow["reader"])

    def encode(params: Params, support: Batch, key: Array) -> PyTree:
        support = with_a_row(support)  # of weight 0, where there is none
        features_NxD = embed_support(embed, params, support, key)
        classes_NxW = weighted_one_hot(support, ways).astype(features_NxD.dtype)
        weight_N = classes_NxW.sum(axis=1)
        features_NxD = keep_rows(weight_N > 0, features_NxD)  # zeros elsewhere
        labels_NxW = (classes_NxW > 0).astype(features_NxD.dtype)
        rows = {"y": labels_NxW, "weight": weight_N}
        read = apply_reader(reader_params(params), features_NxD, key, method="read", **rows)
        # The bias is very low for a class without support.
        return {"read": read, "bias": absent_bias(classes_NxW)}

    def predict(params: Params, context: PyTree, features: Array) -> Array:
        found = apply_reader(
            reader_params(params), features, method="predict", context=context["read"]
        )
        logits = found.mean if isinstance(found, Gaussian) else found
        return logits + context["bias"][None]

    adaptation = amortize(lambda params, key: (), encode, entry=entry)
    apply = written_head(embed, predict, entry=entry)
    task_loss = query_loss(adaptation, loss_of(loss, apply), inductive=inductive)
    return Learner(apply, params, adaptation, task_loss)


@checked
def described_low_rank(
    net: nnx.Module,
    describe: nnx.Module,
    ways: int,
    writer: Callable[[int], nnx.Module],
    *,
    rank: Size = 4,
    loss: MakeLoss = cross_entropy,
    inductive: bool = False,
) -> Learner:
    """A network writes LoRA factors of the body from a description of the task.

    W ← W + down · up in every layer of the body, whose factors are a start plus the output of a net
    that reads the mean description of the classes. The head is that of class means.

    Args:
        net: a Flax module with `embed` and `head`.
        describe: Flax module, support.info -> [ways, width], such as features of class names.
        ways: number of classes of a task.
        writer: number of outputs -> Flax module from [1, width] to [1, outputs], such as
            `lambda outputs: MLP(width, (64,), outputs, rngs=rngs)`.
        rank: columns of "down".
        loss: what makes the loss of the network, such as `cross_entropy`.
        inductive: whether statistics of norms come from the support set only.

    Raises:
        ValueError: a body without layers; when traced, a support set without info.

    Source: the factors, Hu et al. 2021, arXiv 2106.09685; a network that writes them from a text,
    Charakorn et al. 2025, arXiv 2506.06105.

    Checked against: the formula, written out.
    """
    embed, apply, params = as_encoder(net, "head")
    start = low_rank(params.slow, rank, jax.random.key(0))
    size = ravel_pytree(start)[0].size
    read, of_description = functional(describe)
    write, of_writer = functional(writer(size))
    rule = {"describe": join_params(of_description), "writer": join_params(of_writer)}
    changed_embed: Apply = with_low_rank(embed)  # type: ignore[assignment]
    changed_apply: Apply = with_low_rank(apply)  # type: ignore[assignment]

    def encode(params: Params, support: Batch, key: Array) -> PyTree:
        if not jax.tree.leaves(support.info):
            raise ValueError(
                "The support set has no info on its classes; make the data set with "
                "data.dataset(..., info=...)."
            )
        described_WxE = read(Params({}, params.rule["describe"]), support.info, key)
        mean_1xE = jnp.mean(described_WxE, axis=0, keepdims=True)
        moved = write(Params({}, params.rule["writer"]), mean_1xE)[0]
        flat, unravel = ravel_pytree(params.fast["low_rank"])
        return unravel(flat + moved.astype(flat.dtype))

    adaptation = chain(
        factors=amortize(lambda params, key: rule, encode, entry="low_rank"),
        head=prototypes(changed_embed, ways),
    )
    params = adaptation.init(params, jax.random.key(0))
    params = params._replace(fast={**params.fast, "low_rank": start})
    task_loss = query_loss(adaptation, loss_of(loss, changed_apply), inductive=inductive)
    return Learner(changed_apply, params, adaptation, task_loss)
