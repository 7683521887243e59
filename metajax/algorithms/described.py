"""Meta-learners that read side information about the classes, such as their names or a graph."""

from __future__ import annotations

from collections.abc import Callable

import jax
import optax
from flax import nnx

from metajax._checked import checked
from metajax.algorithms.learners import MakeLoss, Net, as_encoder, as_function, loss_of, with_part
from metajax.differentiate import Strategy
from metajax.inner import chain, inner_loop
from metajax.losses import cross_entropy
from metajax.modalities import (
    Describe,
    adaptive_prototypes,
    cross_modal_prototypes,
    described_head,
)
from metajax.nets import functional, join_params
from metajax.outer import query_loss
from metajax.types import Array, Count, Learner, Params, PyTree, Size


@checked
def am3(
    net: Net,
    describe: nnx.Module,
    ways: int,
    width: Size,
    *,
    loss: MakeLoss = cross_entropy,
    entry: str = "head",
    inductive: bool = False,
) -> Learner:
    """AM3: class means mixed with features of the class from its description.

    cₖ = λₖ pₖ + (1 - λₖ) wₖ with the mean pₖ of the shots, w = describe(info) and λₖ = σ(h·wₖ + b).
    h and b are in `params.rule` and start at 0, which is λ = ½; in the paper a net with a hidden
    layer computes λ. A class without shots has cₖ = wₖ, which is zero-shot classification.

    Args:
        net: a Flax module with `embed` and `head`, or any net whose outputs are features.
        describe: Flax module, support.info -> [ways, width].
        ways: number of classes of a task.
        width: of the features.
        loss: what makes the loss of the network, such as `cross_entropy`.
        entry: the entry of `params.fast` that the head is written into.
        inductive: whether statistics of norms come from the support set only.

    Source: Xing et al. 2019, arXiv 1902.07104.

    Checked against: the mixture in NumPy; the description alone without shots.
    """
    embed, apply, params = as_encoder(net, entry)
    params, of_classes = _with_describe(params, describe)
    adaptation = adaptive_prototypes(embed, of_classes, ways, width, entry=entry)
    params = adaptation.init(params, jax.random.key(0))
    task_loss = query_loss(adaptation, loss_of(loss, apply), inductive=inductive)
    return Learner(apply, params, adaptation, task_loss)


@checked
def cross_modal_adaptation(
    net: Net,
    describe: nnx.Module,
    ways: int,
    *,
    loss: MakeLoss = cross_entropy,
    entry: str = "head",
    inductive: bool = False,
) -> Learner:
    """Cross-modal adaptation: the description of a class is one more shot of it.

    cₖ = (Σᵢ [yᵢ = k] f(xᵢ) + describe(info)ₖ) / (nₖ + 1). The paper fits a linear head to the same
    rows by gradient descent, on frozen features of CLIP.

    Args:
        net: a Flax module with `embed` and `head`, or any net whose outputs are features.
        describe: Flax module, support.info -> [ways, d], as wide as the features.
        ways: number of classes of a task.
        loss: what makes the loss of the network, such as `cross_entropy`.
        entry: the entry of `params.fast` that the head is written into.
        inductive: whether statistics of norms come from the support set only.

    Source: Lin et al. 2023, arXiv 2301.06267.

    Checked against: the class means in NumPy.
    """
    embed, apply, params = as_encoder(net, entry)
    params, of_classes = _with_describe(params, describe)
    adaptation = cross_modal_prototypes(embed, of_classes, ways, entry=entry)
    task_loss = query_loss(adaptation, loss_of(loss, apply), inductive=inductive)
    return Learner(apply, params, adaptation, task_loss)


@checked
def fumi(
    net: nnx.Module,
    describe: nnx.Module,
    ways: int,
    width: Size,
    *,
    loss: MakeLoss = cross_entropy,
    hidden: Size = 64,
    inner_rate: float = 0.01,
    inner_steps: Count = 5,
    differentiate: Strategy | None = None,
    inductive: bool = False,
) -> Learner:
    """FuMI: a network writes the head from descriptions of the classes, and MAML goes on from it.

    (kernelₖ, biasₖ) = B gelu(A wₖ + a) + b with w = describe(info). The network A, a, B, b is in
    `params.rule["head"]` and `describe` is slow; the net, head included, is fast. Rates and widths
    are our own.

    Args:
        net: a Flax module with a linear `head` that reads features [n, width]; all weights are
            fast.
        describe: Flax module, support.info -> [ways, width].
        ways: number of classes of a task.
        width: of the features.
        loss: what makes the loss of the network, such as `cross_entropy`.
        hidden: width of the network that writes the head.
        inner_rate: step size on the mean loss.
        inner_steps: number of steps of gradient descent.
        differentiate: how derivatives pass through the steps; None is `unroll()`.
        inductive: whether statistics of norms come from the support set only.

    Source: Jackson et al. 2022, arXiv 2210.04843.

    Checked against: the head and its descent, written out.
    """
    apply, params = as_function(net)
    params, of_classes = _with_describe(params, describe)
    of_net = loss_of(loss, apply)
    adaptation = chain(
        head=described_head(of_classes, ways, width, hidden=hidden),
        descent=inner_loop(
            of_net, optax.sgd(inner_rate), steps=inner_steps, differentiate=differentiate
        ),
    )
    params = adaptation.init(params, jax.random.key(0))
    return Learner(apply, params, adaptation, query_loss(adaptation, of_net, inductive=inductive))


def _with_describe(params: Params, describe: nnx.Module) -> tuple[Params, Describe]:
    """The params with those of `describe` among the slow ones, and `describe` as a function."""
    read: Callable[..., Array]
    read, weights = functional(describe)
    params = with_part(params, "describe", join_params(weights))

    def of_classes(params: Params, info: PyTree, key: Array | None = None) -> Array:
        return read(Params({}, params.slow["describe"]), info, key)

    return params, of_classes
