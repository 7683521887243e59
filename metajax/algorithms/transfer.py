"""Transfer learning: pretraining on the union of all classes, then adapting to a task."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import optax
from flax import nnx

from metajax._checked import checked
from metajax._checks import shapes
from metajax.algorithms.learners import (
    MakeLoss,
    Net,
    as_encoder,
    as_function,
    embed_of,
    loss_of,
)
from metajax.differentiate import first_order
from metajax.inner import (
    chain,
    identity,
    inner_loop,
    learned,
    low_rank,
    prototypes,
    with_low_rank,
)
from metajax.losses import cross_entropy
from metajax.nets import join_params, split_params
from metajax.nets.division import weight_paths
from metajax.outer import query_loss, supervised
from metajax.types import Apply, Count, Learner, Params, Size


@checked
def pretraining(net: Net, *, loss: MakeLoss = cross_entropy) -> Learner:
    """Ordinary supervised training on the union of all classes, one head for all of them.

    Train it on `data.batches`. `with_pretrained_body` then makes it the start of `fine_tuning`.

    Args:
        net: a Flax module or (apply, params), with an output for every class.
        loss: what makes the loss of the network, such as `cross_entropy`.

    Source: as a baseline of meta-learning, Chen et al. 2019, arXiv 1904.04232.

    Checked against: nothing of its own; it is ordinary supervised training.
    """
    apply, params = as_function(net)
    return Learner(apply, params, identity(), supervised(loss_of(loss, apply)))


@checked
def fine_tuning(
    net: nnx.Module,
    ways: int,
    *,
    loss: MakeLoss = cross_entropy,
    rate: float = 1e-3,
    steps: Count = 20,
    part: Callable[[str], bool] | None = None,
    inductive: bool = False,
) -> Learner:
    """Fine-tuning: from the head of class means, a few steps of Adam on the support set.

    Set its params by `with_pretrained_body` from what `pretraining` learned. The rate is stored in
    `params.rule["descent"]`, so that one compiled function evaluates many rates. With steps=0 it is
    the nearest class mean of frozen features.

    Args:
        net: a Flax module with `embed` and `head`.
        ways: number of classes of a task.
        loss: what makes the loss of the network, such as `cross_entropy`.
        rate: step size of Adam, which has `eps_root=1e-8`.
        steps: number of steps.
        part: path of a weight, such as "head/kernel" -> whether it changes, as `in_part` makes it:
            `in_part("head")` freezes the body, and `in_part("blocks/3", "head")` everything before
            the last block. None changes all weights.
        inductive: whether statistics of norms come from the support set only.

    Source: as a baseline of meta-learning, Chen et al. 2019, arXiv 1904.04232. Theirs trains a new
    head for frozen features by about 100 steps of SGD; the start, the optimizer and the defaults
    here are our own.

    Checked against: what is frozen stays; with no steps, the nearest class mean.
    """
    apply, params = as_function(net, fast=part)
    of_net = loss_of(loss, apply)
    adam = learned(functools.partial(optax.adam, eps_root=1e-8), rate)
    adaptation = chain(
        head=prototypes(embed_of(apply), ways),
        descent=inner_loop(of_net, adam, steps=steps, differentiate=first_order()),
    )
    params = adaptation.init(params, jax.random.key(0))
    return Learner(apply, params, adaptation, query_loss(adaptation, of_net, inductive=inductive))


@checked
def low_rank_fine_tuning(
    net: nnx.Module,
    ways: int,
    *,
    loss: MakeLoss = cross_entropy,
    rank: Size = 4,
    rate: float = 1e-3,
    steps: Count = 20,
    inductive: bool = False,
    seed: int = 0,
) -> Learner:
    """Fine-tuning of low-rank factors (LoRA) of a frozen body, and of the head.

    The layers of the body are W + down · up, of which a task changes both factors. Otherwise it is
    `fine_tuning`, and its params are set by `with_pretrained_body`, too.

    Args:
        net: a Flax module with `embed` and `head`.
        ways: number of classes of a task.
        loss: what makes the loss of the network, such as `cross_entropy`.
        rank: columns of "down".
        rate: step size of Adam, which has `eps_root=1e-8`.
        steps: number of steps.
        inductive: whether statistics of norms come from the support set only.
        seed: of "down", which is random; "up" starts at 0.

    Raises:
        ValueError: a body without layers.

    Source: Hu et al. 2021, arXiv 2106.09685.

    Checked against: the formula with Adam, written out.
    """
    embed, apply, params = as_encoder(net, "head")
    factors = low_rank(params.slow, rank, jax.random.key(seed))
    changed_embed: Apply = with_low_rank(embed)  # type: ignore[assignment]
    changed_apply: Apply = with_low_rank(apply)  # type: ignore[assignment]
    of_net = loss_of(loss, changed_apply)
    adam = learned(functools.partial(optax.adam, eps_root=1e-8), rate)
    adaptation = chain(
        head=prototypes(changed_embed, ways),
        descent=inner_loop(of_net, adam, steps=steps, differentiate=first_order()),
    )
    params = params._replace(fast={**params.fast, "low_rank": factors})
    params = adaptation.init(params, jax.random.key(0))
    task_loss = query_loss(adaptation, of_net, inductive=inductive)
    return Learner(changed_apply, params, adaptation, task_loss)


@checked
def with_pretrained_body(learner: Learner, pretrained: Params, *, head: str = "head") -> Learner:
    """The learner with pretrained weights in all parts of the net but the head.

    Low-rank factors that the learner adds to the net stay, too.

    Args:
        learner: such as `fine_tuning(...)`; its head stays.
        pretrained: what `pretraining` learned, for the same net with another head.
        head: the part of the net that is not taken over.

    Raises:
        ValueError: a learner without this head, or pretrained weights of another net: the parts
            that differ.
    """
    weights = join_params(pretrained)
    own = join_params(learner.params)
    if head not in own:
        raise ValueError(f"The learner has no part {head!r}; its parts are {sorted(own)}.")
    stays = {head, "low_rank"}
    body = {name: part for name, part in weights.items() if name not in stays}
    found = {name: shapes(part) for name, part in body.items()}
    expected = {name: shapes(part) for name, part in own.items() if name not in stays}
    differing = sorted(name for name in found | expected if found.get(name) != expected.get(name))
    if differing:
        of_pretrained = {name: found.get(name, "missing") for name in differing}
        of_learner = {name: expected.get(name, "missing") for name in differing}
        raise ValueError(
            f"These parts differ. The pretrained net has {of_pretrained}; the learner has "
            f"{of_learner}."
        )
    is_fast = set(weight_paths(learner.params.fast))
    kept = {name: part for name, part in own.items() if name in stays}
    merged = learner.params._replace(fast={**body, **kept}, slow={})
    params = split_params(merged, lambda path: path in is_fast)
    return learner._replace(params=params)
